"""PiSSA (arXiv:2404.02948): LoRA that starts from a matrix's largest singular values, which W0 then lacks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lingo.methods.base import LowRank, Matrix, Products, Start

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Principal(LowRank):
    """W0 - s·P0 Q0 + s·P Q, s = α/r. A pack's W0 is that of all its trials, so s·P0 Q0 is subtracted beside it."""

    principal: ClassVar[bool] = True

    def start(
        self, config: Any, matrices: "Sequence[Matrix]", generator: "torch.Generator"
    ) -> "Iterator[Start]":
        """P = V·√(S/s) and Q = √(S/s)·Uᵀ of W0ᵀ = V S Uᵀ, cut to the rank: nothing is drawn."""
        from lingo.principal import principal

        for matrix in matrices:
            down, up = principal(matrix.layer, matrix.weight(), self.rank(config))
            root = self.scale(config) ** 0.5
            yield Start(down / root, up / root)

    def products(self, config: Any, *, tokens: float, d_in: int, d_out: int, needs_grad: bool) -> "Products":
        once = 2.0 * tokens * config.rank * (d_in + d_out)
        return Products(once, once * needs_grad)


METHOD = Principal(name="pissa", title="PiSSA", by_default=False)
