"""LoRA+ (arXiv:2402.12354): LoRA whose second factor learns faster than the first.

As peft's `create_loraplus_optimizer` has it, the head's bias learns at the rate of the second factor too.
"""

from dataclasses import dataclass
from typing import Any

from lingo.methods.base import LowRank


@dataclass(frozen=True, kw_only=True)
class TwoRates(LowRank):
    """LoRA with a learning rate of its own for Q."""

    @property
    def settings(self) -> frozenset[str]:
        return super().settings | {"lr_ratio"}

    def rate_ratio(self, config: Any) -> float:
        """`lr_ratio`."""
        return float(config.lr_ratio)


METHOD = TwoRates(name="lora_plus", title="LoRA+", by_default=False)
