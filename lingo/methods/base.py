"""What the trainer, the search and the report need to know of a method."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Adapter = Literal["none", "lora", "svd", "peft"]
Engine = Literal["pack", "simple", "peft"]
RankUpdate = Literal["in_place", "held", "published_code"]

TRAINING = frozenset({"learning_rate", "lr_schedule", "warmup_ratio", "weight_decay", "max_grad_norm"})
ADAPTED = frozenset({"alpha", "adapter_dropout", "targets"})
BUDGETED = frozenset(
    {
        "b0",
        "bT",
        "delta_T",
        "beta1",
        "beta2",
        "initial_warmup_ratio",
        "final_finetune_ratio",
        "rank_update",
        "orthogonality",
    }
)


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way of solving a task: of adapting a backbone, or a simple baseline without one.

    Attributes:
        name: Name on the command line, in search spaces and in results.
        title: Name in tables and plots.
        adapter: `none` trains every weight, `lora` trains P and Q, `svd` trains P, Λ and Q, `peft` what a class of
            the library peft adds.
        sampled: Whether equation 4 of the paper draws singular values at each allocation.
        prompt: Whether the sequence stands in the language prefix and suffix (paper section 4.3.1).
        rank_update: The default treatment of singular values that are not kept.
        engine: What trains it: `pack` (`lingo.pack`), `peft` (`lingo.foreign`, one trial at a time) or `simple` (a
            baseline, one at a time).
        needs_backbone: Whether it adapts a pretrained model; a baseline reads the sequence's bases alone.
        own: Of a baseline, the settings of `lingo.trial.TrialConfig` that it reads.
        peft: Of `peft` methods, the configuration class of the library, `LoKrConfig`.
        arguments: Arguments of that class that are settings of the trial, by the settings' names.
        constants: Arguments of that class with one value.
    """

    name: str
    title: str
    adapter: Adapter
    sampled: bool = False
    prompt: bool = False
    rank_update: RankUpdate = "in_place"
    engine: Engine = "pack"
    needs_backbone: bool = True
    own: frozenset[str] = frozenset()
    peft: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> frozenset[str]:
        """The settings of a trial that mean something for this method and may stand in its search space."""
        if self.engine == "simple":
            return self.own
        if self.engine == "peft":
            return TRAINING | {"targets", *self.arguments.values()}
        found = TRAINING
        if self.adapter in ("lora", "svd"):
            found |= ADAPTED
        if self.adapter == "lora":
            found |= {"rank"}
        if self.adapter == "svd":
            found |= BUDGETED | ({"p"} if self.sampled else set())
        return found
