"""rsLoRA (arXiv:2312.03732): LoRA at the scale α/√r, with which gradients do not shrink as the rank grows."""

import math
from dataclasses import dataclass
from typing import Any

from lingo.methods.base import LowRank


@dataclass(frozen=True, kw_only=True)
class RankStabilized(LowRank):
    """W0 + (α/√r)·P Q."""

    def scale(self, config: Any) -> float:
        """α/√r."""
        return float(config.alpha / math.sqrt(config.rank))

    def peft_settings(self, config: Any) -> dict[str, Any]:
        return {"use_rslora": True}


METHOD = RankStabilized(name="rslora", title="rsLoRA", by_default=False)
