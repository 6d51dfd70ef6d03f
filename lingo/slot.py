"""Host-side state of a trial in its slot, and the parameters of its next step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lingo.data import TaskData
from lingo.layout import Layout
from lingo.methods.base import RankUpdate
from lingo.ranks import BudgetSchedule
from lingo.streams import stream
from lingo.trial import TrialConfig

ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8


@dataclass(eq=False)
class Slot:
    """One trial of a pack.

    Attributes:
        config, data: What is trained, on what.
        paths: Module paths that this trial adapts; empty for full fine-tuning.
        row: Its row in the pack's tensors; changes when other trials start or end.
        step: Optimiser steps done.
        running: Whether `Pack.step` trains it; a paused or finished slot keeps its state.
    """

    config: TrialConfig
    data: TaskData
    paths: tuple[str, ...]
    row: int
    step: int = 0
    running: bool = True
    schedule: BudgetSchedule | None = None
    _order: tuple[int, NDArray[np.int64]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        problems = self.config.problems(total_steps=self.total_steps)
        if problems:
            raise ValueError("\n".join(problems))
        if self.svd:
            self.schedule = BudgetSchedule.of(
                self.config, matrices=len(self.paths), total_steps=self.total_steps
            )

    # --- what kind of trial -----------------------------------------------------------------------------

    @property
    def svd(self) -> bool:
        """Whether the adapter has singular values on a budget."""
        return self.config.kind.has_budget

    @property
    def rank(self) -> int:
        """Ranks of each adapted matrix: r of LoRA, b0 of the SVD forms, 0 for full fine-tuning."""
        return self.config.kind.rank(self.config)

    @property
    def rank_update(self) -> RankUpdate:
        """How singular values that are not kept are treated."""
        return self.config.rank_update or self.config.kind.rank_update

    @property
    def sampling(self) -> bool:
        """Whether equation 4 draws anything (p > 0 in a method that samples)."""
        return self.svd and self.config.kind.sampled and self.config.p > 0

    @property
    def scale(self) -> float:
        """Factor s of the update s · P Λ Q."""
        return self.config.kind.scale(self.config)

    @property
    def traits(self) -> frozenset[str]:
        """What a step must do for this trial in addition to LoRA: `lingo.methods`' `scales`, `lengths` and
        `principal`."""
        kind = self.config.kind
        found = {"principal": kind.principal, kind.outputs: True}
        return frozenset(name for name, holds in found.items() if holds) - {"none"}

    @property
    def dropout(self) -> float:
        """Dropout rate on the adapter's input, to a resolution of 2⁻¹⁶."""
        return self.config.drawn_dropout if self.paths else 0.0

    # --- position in training ---------------------------------------------------------------------------

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one pass over the training split; the last one may be smaller."""
        return math.ceil(len(self.data.train) / self.config.batch_size)

    @property
    def total_steps(self) -> int:
        """T_total."""
        return self.steps_per_epoch * self.config.epochs

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.step // self.steps_per_epoch

    @property
    def done(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.total_steps

    def batch(self) -> NDArray[np.int64]:
        """Rows of the training split in the next step, from the order of the present epoch."""
        epoch, place = divmod(self.step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            generator = stream(self.config.seed, "order", epoch)
            self._order = (epoch, torch.randperm(len(self.data.train), generator=generator).numpy())
        size = self.config.batch_size
        return self._order[1][place * size : (place + 1) * size]

    def learning_rate(self) -> float:
        """Learning rate of the next step: linear warm-up, then by default linear decay to 0 (paper section 4.4)."""
        warmup = math.ceil(self.config.warmup_ratio * self.total_steps)
        if self.step < warmup:
            return self.config.learning_rate * self.step / max(1, warmup)
        if self.config.lr_schedule == "constant":
            return self.config.learning_rate
        left = (self.total_steps - self.step) / max(1, self.total_steps - warmup)
        return self.config.learning_rate * max(0.0, left)

    def numbers(self) -> "StepNumbers[float]":
        """Parameters of the next step for the device."""
        config, t = self.config, self.step + 1
        schedule, update = self.schedule, self.rank_update
        counting = schedule is not None and t < schedule.last
        allocating = schedule is not None and schedule.allocates(t)
        return StepNumbers(
            step=float(t),
            max_norm=config.max_grad_norm if config.max_grad_norm is not None else math.inf,
            scale=self.scale / (1 - self.dropout),
            share=1 / (1 - self.dropout),
            sensitivity_rate=1 - config.beta1 if counting else 0.0,
            uncertainty_rate=1 - config.beta2 if counting else 0.0,
            orthogonality=config.orthogonality / (2 * len(self.paths)) if self.svd else 0.0,
            allocates=float(allocating),
            budget=float(schedule.budget(t)) if schedule is not None else 0.0,
            regrow=float(update != "published_code"),
            zero=float(update != "held"),
            mask=float(update == "held" or (schedule is not None and t >= schedule.last)),
        )

    def allocates(self) -> bool:
        """Whether the next step ends with an allocation."""
        return self.schedule is not None and self.schedule.allocates(self.step + 1)

    def samples(self) -> bool:
        """Whether that allocation draws R; the last one, at T, does not."""
        return self.schedule is not None and self.sampling and self.step + 1 < self.schedule.last

    def positions(self, layout: Layout) -> NDArray[np.int64]:
        """Positions of this trial's singular values among the R of a row, in canonical order."""
        sites = sorted(layout.site(path).number for path in self.paths)
        return np.array([s * layout.rank + r for s in sites for r in range(self.rank)], dtype=np.int64)


T = TypeVar("T")


class StepNumbers(NamedTuple, Generic[T]):
    """Parameters of one step of a slot (`float`), or of all slots on the device (columns [n, 1]).

    Attributes:
        step: t, counted from 1.
        max_norm: Norm to which the gradient is clipped; infinity for no clipping.
        scale: s of the update s · P Λ Q, over the share of inputs that dropout keeps.
        share: One over that share.
        sensitivity_rate, uncertainty_rate: 1 - β1 and 1 - β2 (equations 2 and 3); 0 outside the budget phase.
        orthogonality: Weight of the orthogonality term, over 2M.
        allocates: 1 where the step ends with an allocation.
        budget: b_t, in singular values.
        regrow: 1 where a singular value that was dropped may come back.
        zero: 1 where dropped singular values are set to 0.
        mask: 1 where the forward pass leaves dropped singular values out.
    """

    step: T
    max_norm: T
    scale: T
    share: T
    sensitivity_rate: T
    uncertainty_rate: T
    orthogonality: T
    allocates: T
    budget: T
    regrow: T
    zero: T
    mask: T


def stacked(slots: Sequence[Slot], *, device: torch.device, dtype: torch.dtype) -> StepNumbers[Tensor]:
    """The parameters of all slots, copied to the device at once."""
    host = torch.tensor([slot.numbers() for slot in slots], dtype=dtype)
    return StepNumbers(*host.to(device, non_blocking=True).split(1, dim=1))
