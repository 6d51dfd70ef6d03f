"""Rank trajectories: enough points, and steps wherever they are shown."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.report.sections.cost import _draw_trajectories
from harness.runs.rank_trajectories import held, to_the_end
from harness.tracking.artifacts import _ranks
from harness.workers.training import POINTS, Trajectory
from lingo.ranks import BudgetSchedule

HELD = {"steps": [0, 63, 64], "paths": ["layers.0.q", "layers.0.v"], "ranks": [[8, 8], [6, 5], [3, 1]]}
HISTORY = [{"step": 48}, {"step": 96}]


def points(schedule: BudgetSchedule) -> tuple[list[int], list[int]]:
    """(steps with an allocation, those of them that get a point)."""
    at = range(schedule.last + 20)
    slots: list[Any] = [
        SimpleNamespace(schedule=schedule, step=step, allocates=lambda s=step: schedule.allocates(s + 1))
        for step in at
    ]
    allocations = [slot.step + 1 for slot in slots if slot.allocates()]
    return allocations, [slot.step + 1 for slot in slots if Trajectory().due(slot)]


@pytest.mark.parametrize(("first", "last", "every"), [(5, 90, 1), (62, 64, 63), (100, 700, 10), (0, 98, 1)])
def test_every_allocation_gets_a_point(first: int, last: int, every: int) -> None:
    allocations, taken = points(BudgetSchedule(start=8, end=2, first=first, last=last, every=every))
    assert taken == allocations and len(taken) <= POINTS


@pytest.mark.parametrize(("last", "every"), [(200, 1), (3000, 7), (20_000, 3)])
def test_of_very_many_allocations_some_get_a_point_evenly(last: int, every: int) -> None:
    allocations, taken = points(BudgetSchedule(start=8, end=2, first=10, last=last, every=every))
    assert POINTS - 2 <= len(taken) <= POINTS < len(allocations)
    assert taken[0] == allocations[0] and taken[-1] == last
    gaps = np.diff([allocations.index(step) for step in taken])
    assert gaps.max() <= len(allocations) / (POINTS - 2) + 1


def test_ranks_hold_up_to_the_next_allocation_and_to_the_end() -> None:
    whole = to_the_end(HELD, HISTORY)
    assert (whole["steps"], whole["ranks"][-1]) == ([0, 63, 64, 96], [3, 1])
    assert list(held(whole)) == [(0, [8, 8]), (62, [8, 8]), (63, [6, 5]), (64, [3, 1]), (96, [3, 1])]
    assert to_the_end(HELD, []) == HELD  # nothing is known of the end


def test_trajectories_are_drawn_as_steps() -> None:
    """In the report and in MLflow, of old records too."""
    outcome: Any = SimpleNamespace(key=SimpleNamespace(task="mouse/2", backbone="toy", method="ars"))
    (panel,) = [
        axes for axes in _draw_trajectories([(outcome, to_the_end(HELD, HISTORY))]).axes if axes.lines
    ]
    (axes,) = _ranks(to_the_end(HELD, HISTORY), "title").axes
    for lines in (panel.lines, axes.lines):
        assert lines and {line.get_drawstyle() for line in lines} == {"steps-post"}
        assert list(lines[-1].get_xdata()) == [0, 63, 64, 96]
    assert list(panel.lines[0].get_ydata()) == [8, 5.5, 2, 2]
