"""VeRA (arXiv:2310.11454): one fixed random pair of factors for all matrices, scaled by trained vectors."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lingo.methods.base import TRAINING, LowRank, Matrix, Outputs, Start

if TYPE_CHECKING:
    import torch

FIRST = 0.1
"""First value of Λ, as in peft."""


@dataclass(frozen=True, kw_only=True)
class VectorBased(LowRank):
    """W0 + P Λ Q diag(b): P and Q are parts of a pair that all matrices share, Λ and b are trained."""

    outputs: ClassVar[Outputs] = "scales"

    @property
    def settings(self) -> frozenset[str]:
        return TRAINING | {"rank", "adapter_dropout", "targets"}

    def scale(self, config: Any) -> float:
        return 1.0

    def start(
        self, config: Any, matrices: "Sequence[Matrix]", generator: "torch.Generator"
    ) -> "Iterator[Start]":
        """P and Q uniform in ±√(6/d_in) and ±√(6/r), d_in of the widest matrix; Λ 0.1, b zero."""
        import torch

        rank = self.rank(config)
        widest, most = max(one.d_in for one in matrices), max(one.d_out for one in matrices)
        a, b = torch.empty(rank, widest), torch.empty(most, rank)
        for factor in (a, b):
            bound = math.sqrt(6 / factor.shape[1])
            factor.uniform_(-bound, bound, generator=generator)
        for one in matrices:
            yield Start(a[:, : one.d_in].t(), b[: one.d_out].t(), FIRST, torch.zeros(one.d_out))

    def size(self, rank: int, d_in: int, d_out: int) -> int:
        return rank + d_out


METHOD = VectorBased(name="vera", title="VeRA", by_default=False)
