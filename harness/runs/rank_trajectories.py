"""Rank trajectories (`facts["rank_trajectory"]` of a record) for display: ranks are constant between allocations."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def to_the_end(trajectory: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """A trajectory extended to the end of training with the ranks of the last allocation."""
    steps, ranks = list(trajectory["steps"]), list(trajectory["ranks"])
    end = max((int(entry["step"]) for entry in history), default=0)
    if steps and end > steps[-1]:
        steps, ranks = [*steps, end], [*ranks, ranks[-1]]
    return {**trajectory, "steps": steps, "ranks": ranks}


def held(trajectory: Mapping[str, Any]) -> Iterator[tuple[int, Sequence[int]]]:
    """(step, ranks) of every point; before each change a point with the previous ranks is inserted, so that lines
    between points are steps."""
    last: tuple[int, Sequence[int]] | None = None
    for step, ranks in zip(trajectory["steps"], trajectory["ranks"], strict=True):
        if last is not None and step - 1 > last[0] and ranks != last[1]:
            yield step - 1, last[1]
        yield step, ranks
        last = step, ranks
