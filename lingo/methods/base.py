"""What the trainer, the search and the report need to know of a method."""

from dataclasses import dataclass
from typing import Literal

Adapter = Literal["none", "lora", "svd"]
RankUpdate = Literal["in_place", "held", "published_code"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way of adapting a backbone.

    Attributes:
        name: Name on the command line, in search spaces and in results.
        title: Name in tables and plots.
        adapter: `none` trains every weight, `lora` trains P and Q, `svd` trains P, Λ and Q.
        sampled: Whether equation 4 of the paper draws singular values at each allocation.
        prompt: Whether the sequence stands in the language prefix and suffix (paper section 4.3.1).
        rank_update: The default treatment of singular values that are not kept.
    """

    name: str
    title: str
    adapter: Adapter
    sampled: bool = False
    prompt: bool = False
    rank_update: RankUpdate = "in_place"
