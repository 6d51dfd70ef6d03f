"""The configuration of one trial."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np

from lingo.methods import METHODS, Method
from lingo.methods.base import RankUpdate

Frozen = Literal["fp32", "bf16", "4bit"]
"""Number type of the backbone's frozen weights."""

Precision = Literal["fp32", "bf16"]
"""How full fine-tuning computes: in float32, or in bfloat16 by autocast, with weights in float32 in both cases."""

Long = Literal["truncate", "center", "chunk"]
"""Handling of a sequence that is too long: its beginning, its middle, or all of it in chunks is read."""

LATER = {"later": True}
"""Metadata of settings of later versions, which are included in plain data only if they differ from their default, so
that digests of configurations do not change."""

DROPOUT_STEPS = 2**16
"""Rates of adapter dropout are multiples of 1/65536."""

FeaturePooling = Literal["auto", "mean", "first", "last", "max"]
FEATURE_POOLINGS: tuple[FeaturePooling, ...] = get_args(FeaturePooling)
"""Poolings of the states of a sequence's tokens; `auto` is that of the backbone's heads."""

HeadPooling = Literal["auto", "mean", "first", "last"]
HEAD_POOLINGS: tuple[HeadPooling, ...] = get_args(HeadPooling)
"""Poolings for the head of an adapted backbone."""

ALL_LINEAR = "all-linear"
"""Value of `targets` for all adaptable matrices."""

PAPER_MATRICES = ("W_q", "W_k", "W_v", "W_o", "W_f1", "W_f2")


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One configuration of one method. Defaults are those of paper section 4.4 and table S1.

    Attributes:
        method: A name in `lingo.methods.METHODS`.
        seed: Seed of every random stream of the trial (initialisation, data order, dropout, sampling).
        learning_rate: Peak learning rate of AdamW.
        batch_size: Sequences a step, over all workers.
        epochs: Passes over the training split.
        lr_schedule: `linear` (falls to 0 after the warm-up) or `constant`.
        warmup_ratio: Share of all steps with a linearly rising learning rate.
        weight_decay: Decoupled weight decay.
        max_grad_norm: Norm to which the trial's own gradient is clipped; `None` for no clipping.
        adapter_dropout: Dropout probability on the input of the low-rank product.
        alpha: Numerator of the adapter scale (α/r for LoRA, α/√r for rsLoRA, α/b0 for the SVD forms).
        rank: Rank of LoRA and of the methods of peft.
        b0, bT: Average rank per adapted matrix at the start and the end of the budget phase.
        delta_T: Steps between allocations (ΔT).
        beta1, beta2: Smoothing of sensitivity and uncertainty (equations 2 and 3).
        p: Bernoulli parameter of equation 4 (methods that sample only).
        initial_warmup_ratio: Share of all steps before the budget starts to fall.
        final_finetune_ratio: (T_total - T) / T_total: share of all steps after the last allocation.
        rank_update: `in_place`, `held` or `published_code`; `None` takes the method's default.
        orthogonality: Weight of the orthogonality term of the SVD forms.
        class_weights: `none`, or `balanced`: rare classes count as much as frequent ones, see `lingo.balance`.
        threshold: Probability from which on class 1 of two, or a label, is predicted: `0.5`, or chosen on `dev`.
        targets: Adapted matrices by the paper's names, see `PAPER_MATRICES`, by ends of their paths such as `q_proj`
            or `mlp.down_proj`, which are checked once the backbone is loaded, or `ALL_LINEAR`.
        k: Length of the counted k-mers (`kmer_logreg` only).
        C: Inverse strength of the L2 penalty of a linear model, as in scikit-learn (1/C for ridge regression).
        depth: Share of the backbone's layers whose states a probe reads; 1 for the output.
        pooling: How a sequence's states become the vector that the head reads, see `HEAD_POOLINGS`; of a probe, see
            `FEATURE_POOLINGS`.
        feature_scaling: `standard`, or `none`: a probe sees its features as they are.
        filters, kernel_width: Channels, and bases that the first layer sees (`onehot_cnn` only).
        dropout: Dropout probability before its last layer.
        lr_ratio: Learning rate of the second factor over that of the first (`lora_plus` only).
    """

    method: str
    seed: int
    learning_rate: float = 3e-5
    batch_size: int = 8
    epochs: int = 5
    lr_schedule: Literal["linear", "constant"] = "linear"
    warmup_ratio: float = 0.1
    weight_decay: float = 5e-3
    max_grad_norm: float | None = 1.0
    adapter_dropout: float = 0.05
    alpha: float = 32.0
    rank: int = 8
    b0: int = 12
    bT: int = 6
    delta_T: int = 100
    beta1: float = 0.85
    beta2: float = 0.85
    p: float = 0.05
    initial_warmup_ratio: float = 0.1
    final_finetune_ratio: float = 0.25
    rank_update: RankUpdate | None = None
    orthogonality: float = 0.5
    class_weights: Literal["none", "balanced"] = field(default="none", metadata=LATER)
    threshold: Literal["0.5", "dev"] = field(default="0.5", metadata=LATER)
    targets: tuple[str, ...] = ("W_q", "W_k", "W_v", "W_f1", "W_f2")
    k: int = 5
    C: float = 0.01
    filters: int = 64
    kernel_width: int = 11
    dropout: float = 0.2
    depth: float = 1.0
    pooling: str = "auto"
    feature_scaling: Literal["standard", "none"] = field(default="standard", metadata=LATER)
    lr_ratio: float = 16.0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrialConfig":
        """Build from plain data (JSON, YAML). Raises `ValueError` naming every unknown key."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(
                f"unknown trial settings {', '.join(unknown)}; known are {', '.join(sorted(known))}."
            )
        values = dict(values)
        if "targets" in values:
            values["targets"] = tuple(values["targets"])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_dict`; settings of later versions only if they have an effect."""
        values = asdict(self) | {"targets": list(self.targets)}
        read = self.kind.settings if self.method in METHODS else frozenset()
        unused = {"depth", "pooling", "lr_ratio"} - read
        if "depth" not in read and self.pooling == "auto":
            unused.add("pooling")
        unused |= {
            one.name for one in fields(self) if one.metadata == LATER and values[one.name] == one.default
        }
        return {name: value for name, value in values.items() if name not in unused}

    @property
    def kind(self) -> Method:
        """The method's row in the registry."""
        return METHODS[self.method]

    def problems(self, *, total_steps: int | None = None) -> list[str]:
        """Every rule that this configuration violates; empty if it is valid.

        With `total_steps` (T_total, from data, batch size and epochs) the schedules are checked as well: the
        learning rate must be above 0 somewhere, and a budget must allocate at least once before T.
        """
        if self.method not in METHODS:
            return [f"`method` must be one of {', '.join(METHODS)}, but got {self.method!r}."]
        found = [
            f"`{name}` must be {rule}, but got {value!r}."
            for name, value, holds, rule in self._rules()
            if not holds
        ]
        if problem := targets_problem(self.targets):
            found.append(f"`targets` {problem}")
        if self.kind.has_budget:
            found += self._budget_problems(total_steps)
        if total_steps == 1 and self.warmup_ratio > 0 and not found:  # a budget needs more steps anyway
            found.append(
                "training with a warm-up must have at least 2 steps (the first one's learning rate is 0), but got 1 "
                f"and warmup_ratio={self.warmup_ratio}; use more epochs or `warmup_ratio` 0."
            )
        return found

    @property
    def drawn_dropout(self) -> float:
        """`adapter_dropout` as packs draw it, rounded to a multiple of 2⁻¹⁶."""
        return round(self.adapter_dropout * DROPOUT_STEPS) / DROPOUT_STEPS

    def _rules(self) -> list[tuple[str, Any, bool, str]]:
        """(setting, value, whether it holds, what must hold). Numbers are checked as float32."""

        def real(name: str, low: float, high: float, rule: str, *, ends: tuple[bool, bool]) -> None:
            value = getattr(self, name)
            x = _single(value)
            above, below = x >= low if ends[0] else x > low, x <= high if ends[1] else x < high
            rules.append((name, value, above and below, rule))

        def whole(name: str, least: int = 1, most: int | None = None) -> None:
            value = getattr(self, name)
            holds = isinstance(value, int | np.integer) and bool(least <= value <= (most or value))
            rule = f"a whole number, at least {least}" + (f" and at most {most}" if most else "")
            rules.append((name, value, holds, rule))

        rules: list[tuple[str, Any, bool, str]] = []
        share, neither = "at least 0 and below 1", (False, False)
        real("learning_rate", 0, 10, "above 0 and below 10", ends=neither)
        whole("batch_size")
        whole("epochs")
        schedules = ("linear", "constant")
        rules.append(("lr_schedule", self.lr_schedule, self.lr_schedule in schedules, "linear or constant"))
        for name, choices in (("class_weights", ("none", "balanced")), ("threshold", ("0.5", "dev"))):
            rules.append((name, getattr(self, name), getattr(self, name) in choices, " or ".join(choices)))
        for name in ("warmup_ratio", "weight_decay", "adapter_dropout"):
            real(name, 0, 1, share, ends=(True, False))
        if rules[-1][2]:  # a rate that rounds to 1 would drop everything
            rule = f"at least 0 and at most {1 - 1 / DROPOUT_STEPS:.5f} (rates are multiples of 1/{DROPOUT_STEPS})"
            rules.append(("adapter_dropout", self.adapter_dropout, self.drawn_dropout < 1, rule))
        real("alpha", 0, np.inf, "above 0 and finite", ends=neither)
        real("orthogonality", 0, np.inf, "at least 0 and finite", ends=(True, False))
        if self.max_grad_norm is not None:
            real("max_grad_norm", 0, np.inf, "above 0, or none", ends=(False, True))
        if "rank" in self.kind.settings:
            whole("rank")
        if "lr_ratio" in self.kind.settings:
            real("lr_ratio", 1, 1000, "at least 1 and at most 1000", ends=(True, True))
        if "C" in self.kind.settings or not self.kind.needs_backbone:
            real("C", 0, 1e9, "above 0 and below 1e9", ends=neither)
        if "depth" in self.kind.settings:
            real("depth", 0, 1, "above 0 and at most 1", ends=(False, True))
            scaled = self.feature_scaling in ("standard", "none")
            rules.append(("feature_scaling", self.feature_scaling, scaled, "standard or none"))
        if "pooling" in self.kind.settings:
            poolings = FEATURE_POOLINGS if "depth" in self.kind.settings else HEAD_POOLINGS
            rule = f"one of {', '.join(poolings)}"
            rules.append(("pooling", self.pooling, self.pooling in poolings, rule))
        if not self.kind.needs_backbone:
            whole("k", 1, 8)
            whole("filters")
            whole("kernel_width")
            real("dropout", 0, 1, share, ends=(True, False))
        if self.kind.has_budget:
            whole("b0")
            whole("bT")
            whole("delta_T")
            for name in ("beta1", "beta2"):
                real(name, 0, 1, "above 0 and below 1", ends=neither)
            real("p", 0, 1, "at least 0 and at most 1", ends=(True, True))
            for name in ("initial_warmup_ratio", "final_finetune_ratio"):
                real(name, 0, 1, share, ends=(True, False))
            updates = (None, *get_args(RankUpdate))
            known = f"one of {', '.join(get_args(RankUpdate))}, or none"
            rules.append(("rank_update", self.rank_update, self.rank_update in updates, known))
        return rules

    def _budget_problems(self, total_steps: int | None) -> list[str]:
        found = []
        if self.b0 < self.bT:
            found.append(f"`b0` must be at least `bT`, but got b0={self.b0}, bT={self.bT}.")
        if total_steps is None or self.delta_T < 1:
            return found
        first, last = self.budget_phase(total_steps)
        fires = (last - 1) // self.delta_T * self.delta_T
        if total_steps < 2:
            found.append(f"training must have at least 2 steps, but got {total_steps}; use more epochs.")
        elif last - first < 2:
            share = int((1 - 2 / total_steps) * 1000) / 1000
            found.append(
                f"`initial_warmup_ratio` and `final_finetune_ratio` must leave some of {total_steps} steps "
                f"for the budget phase, but got {self.initial_warmup_ratio} and {self.final_finetune_ratio}; "
                f"use together at most {share} and `delta_T` of at most 1, or more epochs."
            )
        elif fires <= first:
            found.append(
                f"`delta_T` must let an allocation fall inside the budget phase, steps {first + 1} to "
                f"{last - 1} of {total_steps}, but got delta_T={self.delta_T}; use `delta_T` of at most "
                f"{largest_delta_T(first, last)}, more epochs, or smaller ratios."
            )
        return found

    def budget_phase(self, total_steps: int) -> tuple[int, int]:
        """(t_initial, T): the budget is b0 up to step t_initial and bT from step T on (steps count from 1)."""
        first = int(self.initial_warmup_ratio * total_steps)
        last = total_steps - int(self.final_finetune_ratio * total_steps)
        return first, last


def targets_problem(targets: tuple[str, ...]) -> str:
    """Problem of the names of matrices, for any backbone; empty if there is none."""
    wrong = [target for target in targets if not _may_be_matrix(target)]
    if targets and not wrong:
        return ""
    return (
        f"must be names of the paper ({', '.join(PAPER_MATRICES)}), endings of the backbone's module names, or "
        f"{ALL_LINEAR}, but got {', '.join(map(repr, wrong)) or 'nothing'}."
    )


def _may_be_matrix(target: Any) -> bool:
    """Whether it is a name of the paper, a possible part of a module's path, or the value for all."""
    if target == ALL_LINEAR:
        return True
    named = isinstance(target, str) and re.fullmatch(r"[A-Za-z]\w*(\.\w+)*", target) is not None
    return named and (target in PAPER_MATRICES or not target.startswith("W_"))


def _single(value: Any) -> float:
    """A number as float32, in which trials are trained: below 1 may become 1, above 0 may become 0."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def largest_delta_T(first: int, last: int) -> int:
    """The largest ΔT with a multiple strictly between `first` and `last` (last - first > 1)."""
    return last - 1
