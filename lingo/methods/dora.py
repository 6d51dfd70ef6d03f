"""DoRA (arXiv:2402.09353): LoRA with the length of each row of the adapted matrix learned apart."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lingo.methods.base import LowRank, Matrix, Outputs, Products, Start

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Decomposed(LowRank):
    """m/‖W0 + s·P Q‖ · (W0 + s·P Q), s = α/r, with a trained length m of each output's row.

    As in peft, the norm is a constant of the backward pass, and dropout takes its part of the difference to W0.
    """

    outputs: ClassVar[Outputs] = "lengths"

    def start(
        self, config: Any, matrices: "Sequence[Matrix]", generator: "torch.Generator"
    ) -> "Iterator[Start]":
        for matrix, first in zip(matrices, super().start(config, matrices, generator), strict=True):
            weight = matrix.weight()
            yield first._replace(outputs=(weight if weight.itemsize == 8 else weight.float()).norm(dim=1))

    def size(self, rank: int, d_in: int, d_out: int) -> int:
        return super().size(rank, d_in, d_out) + d_out

    def products(self, config: Any, *, tokens: float, d_in: int, d_out: int, needs_grad: bool) -> "Products":
        rank = config.rank
        norms = 2.0 * rank * (d_in * d_out + rank * (d_in + d_out))
        again = (
            2.0 * tokens * d_in * d_out * (config.adapter_dropout > 0)
        )  # the frozen product of dropped inputs
        return Products(norms + again, again * needs_grad)

    def peft_settings(self, config: Any) -> dict[str, Any]:
        return {"use_dora": True}


METHOD = Decomposed(name="dora", title="DoRA", by_default=False)
