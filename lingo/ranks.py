"""Rank allocation for all slots at once: importance, budget and masks.

Importance is equations 1 to 3 of the paper (AdaLoRA, arXiv:2303.10512, equations 8 to 10), the budget is cubic,
and the mask is equation 4. Everything that a step needs from the host (which slots allocate, their budgets, the draws)
is known beforehand, so nothing here waits for the device.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lingo.layout import Layout
from lingo.streams import stream
from lingo.trial import TrialConfig


@dataclass(frozen=True)
class BudgetSchedule:
    """The cubic budget of one trial, in singular values over all its matrices. Steps count from 1.

    Attributes:
        start, end: Budget b0·M before, bT·M after the budget phase (M adapted matrices).
        first, last: The budget falls strictly between these steps; T = `last` is the final allocation.
        every: ΔT, steps between allocations.
    """

    start: int
    end: int
    first: int
    last: int
    every: int

    @classmethod
    def of(cls, config: TrialConfig, *, matrices: int, total_steps: int) -> "BudgetSchedule":
        """The schedule of a trial. Raises `ValueError` if it would never allocate before T."""
        problems = config.problems(total_steps=total_steps)
        if problems:
            raise ValueError(" ".join(problems))
        first, last = config.budget_phase(total_steps)
        return cls(config.b0 * matrices, config.bT * matrices, first, last, config.delta_T)

    def budget(self, step: int) -> int:
        """b_t = bT + (b0 - bT)·(1 - (t - t_initial)/(T - t_initial))³, rounded down (paper section 4.3.3)."""
        if step <= self.first:
            return self.start
        if step >= self.last:
            return self.end
        left = (1 - (step - self.first) / (self.last - self.first)) ** 3
        return int((self.start - self.end) * left + self.end)

    def allocates(self, step: int) -> bool:
        """Whether masks are drawn after this step (for the last time at T)."""
        return step == self.last or (self.first < step < self.last and step % self.every == 0)

    def before(self, step: int) -> int:
        """Number of allocations before `step`, of those up to T."""
        return max(0, (min(step, self.last) - 1) // self.every - self.first // self.every)

    def first_allocation(self) -> int:
        """The first step that allocates; before it p, bT and ΔT change nothing."""
        following = (self.first // self.every + 1) * self.every
        return min(following, self.last)


def draw(config: TrialConfig, step: int, *, ranks: int) -> Tensor:
    """R ~ Bernoulli(p) of equation 4 for one slot at one step: bool [ranks], from the trial's own stream."""
    uniform = torch.rand(ranks, generator=stream(config.seed, "sampling", step), dtype=torch.float64)
    return uniform < config.p


class Importance:
    """Smoothed sensitivity and uncertainty of every adapter weight, rows [K, factors]."""

    def __init__(self, layout: Layout, *, capacity: int, like: Tensor) -> None:
        self.layout = layout
        shape = (capacity, layout.factors)
        self.sensitivity = torch.zeros(shape, device=like.device, dtype=like.dtype)
        self.uncertainty = torch.zeros(shape, device=like.device, dtype=like.dtype)

    def update(self, theta: Tensor, grad: Tensor, toward: Tensor, toward_u: Tensor) -> None:
        """Equations 1 to 3 on the leading rows: Ī ← Ī + (1-β1)(I - Ī), Ū ← Ū + (1-β2)(|I - Ī| - Ū), I = |w·∂w|.

        `theta` (after the optimiser's step, as peft does) and `grad` are [n, ≥ factors]; `toward` = 1 - β1 and
        `toward_u` = 1 - β2 are [n, 1], 0 for slots whose averages do not change. `grad` is overwritten: a new tensor
        of this size would cost more than the arithmetic.
        """
        n, width = theta.shape[0], self.layout.factors
        mean, spread = self.sensitivity[:n], self.uncertainty[:n]
        now = grad[:, :width].mul_(theta[:, :width]).abs_()
        mean.lerp_(now, toward)
        # |I - Ī| in one pass: with a threshold of nothing, this loss is the distance.
        torch.ops.aten.smooth_l1_loss.out(now, mean, 0, torch.finfo(now.dtype).tiny, out=now)
        spread.lerp_(now, toward_u)

    def scores(self, rows: int, valid: Tensor) -> Tensor:
        """Triplet scores s(λ) + mean s(P column) + mean s(Q row), s = Ī·Ū: [rows, R], -inf where not `valid`."""
        layout, mean, spread = self.layout, self.sensitivity[:rows], self.uncertainty[:rows]
        total = layout.lam(mean) * layout.lam(spread)
        # By group: products that are averaged at once stay in the cache.
        for group in layout:
            part = layout.of_group(total, group)
            part.add_((layout.p(mean, group) * layout.p(spread, group)).mean(dim=2))
            part.add_((layout.q(mean, group) * layout.q(spread, group)).mean(dim=3))
        return total.masked_fill_(valid == 0, -math.inf)


@dataclass(frozen=True)
class Allocation:
    """Allocation of the slots of a pack at one step, [n, 1] columns and [n, R] draws, on the device.

    Attributes:
        now: 1 where the slot allocates at this step.
        budget: b_t.
        drawn: R of equation 4 (all 0 without sampling and at T).
        regrow: 1 where a singular value outside the top b_t may be drawn back (not in `published_code`).
        zero: 1 where λ itself is set to 0 (`in_place`, `published_code`), 0 where it is held.
        mask: 1 where the forward pass uses the mask from now on (`held`, and all from T on).
    """

    now: Tensor
    budget: Tensor
    drawn: Tensor
    regrow: Tensor
    zero: Tensor
    mask: Tensor

    def kept(self, scores: Tensor) -> Tensor:
        """Equation 4: inside the top b_t keep λ·(1-R), outside keep λ·R. 0/1 of the shape of `scores`."""
        place = torch.empty_like(scores)
        positions = torch.arange(scores.shape[1], device=scores.device, dtype=scores.dtype)
        order = torch.argsort(scores, dim=1, descending=True, stable=True)
        place.scatter_(1, order, positions.expand_as(scores))
        return torch.where(place < self.budget, 1 - self.drawn, self.drawn * self.regrow)

    def apply(self, scores: Tensor, *, lam: Tensor, keep: Tensor, valid: Tensor) -> Tensor:
        """Update λ and the forward mask in place. Returns the drawn masks [n, R]."""
        kept = self.kept(scores) * valid
        lam.mul_(torch.where((self.now * self.zero).bool(), kept, 1.0))
        keep.copy_(torch.where((self.now * self.mask).bool(), kept, keep))
        return kept
