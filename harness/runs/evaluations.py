"""When a trial is evaluated: after each of the equal parts into which an epoch is divided."""

import math
from dataclasses import dataclass

LONG_EPOCH = 2000
"""Steps of the longest epoch that is not divided unasked."""


def parts_of(steps: int, eval_steps: int | None) -> int:
    """The parts of an epoch of so many steps.

    Args:
        steps: Steps of an epoch.
        eval_steps: The most steps of a part; `None` for √(steps / 2,000) parts, rounded up, so that number and length
            grow alike: 1 up to 2,000 steps, 17 of 550,000.
    """
    if eval_steps is not None:
        return max(1, -(-steps // eval_steps))
    return math.isqrt(max(0, -(-steps // LONG_EPOCH) - 1)) + 1


@dataclass(frozen=True)
class Grid:
    """The evaluations of a trial.

    Attributes:
        steps: Steps of an epoch.
        parts: Evaluations in an epoch, the last one at its end.
    """

    steps: int
    parts: int = 1

    @property
    def most(self) -> int:
        """The most steps between two evaluations."""
        return -(-self.steps // self.parts)

    def due(self, step: int) -> bool:
        """Whether a part ends with this step (from 1)."""
        return step * self.parts // self.steps > (step - 1) * self.parts // self.steps

    def epoch(self, step: int) -> float:
        """Epochs up to the last evaluation in `step` steps: a whole number, or the same fraction for all tasks."""
        done = step * self.parts // self.steps
        return done // self.parts if done % self.parts == 0 else done / self.parts
