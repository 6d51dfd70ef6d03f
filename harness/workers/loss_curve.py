"""Training losses between the evaluations of a trial."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.runs.evaluations import Grid

POINTS = 20


class LossCurve:
    """Mean training loss of each of 20 equal parts of a trial, whenever it is evaluated.

    Args:
        total_steps: Steps of the whole trial; of one with fewer than 20 each is a part.
    """

    def __init__(self, total_steps: int) -> None:
        self._grid = Grid(total_steps, min(POINTS, total_steps))
        self._steps: list[int] = []
        self._losses: list[float] = []
        self._seconds: list[float] = []
        self._taken = self._last = 0.0

    def due(self, step: int) -> bool:
        """Whether a part ends with this step (from 1)."""
        return self._grid.due(step)

    def add(self, step: int, loss: float, seconds: float) -> None:
        """End a part.

        Args:
            loss: Sum of the losses since the last evaluation.
            seconds: Wall time since the trial's admission.
        """
        total = self._taken + loss
        self._losses.append((total - self._last) / (step - (self._steps[-1] if self._steps else 0)))
        self._steps.append(step)
        self._seconds.append(round(seconds, 3))
        self._last = total

    def taken(self, loss: float) -> None:
        """An evaluation has taken this sum of losses; the next one begins at 0."""
        self._taken += loss

    def facts(self) -> dict[str, Sequence[float]]:
        """`steps`, `losses` and `seconds` of the parts so far."""
        return {"steps": [*self._steps], "losses": [*self._losses], "seconds": [*self._seconds]}

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**self.facts(), "taken": self._taken, "last": self._last}

    def restore(self, saved: Mapping[str, Any] | None) -> None:
        """The inverse of `to_dict`; a checkpoint of an earlier version has none."""
        if saved is not None:
            self._steps, self._losses = list(saved["steps"]), list(saved["losses"])
            self._seconds, self._taken, self._last = list(saved["seconds"]), saved["taken"], saved["last"]
