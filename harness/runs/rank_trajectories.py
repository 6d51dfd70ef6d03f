"""Rank trajectories (`facts["rank_trajectory"]` of a record) for those who show them: ranks hold until allocations."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def to_the_end(trajectory: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """A trajectory with a last point where training ended, up to which the last allocation's ranks hold."""
    steps, ranks = list(trajectory["steps"]), list(trajectory["ranks"])
    end = max((int(entry["step"]) for entry in history), default=0)
    if steps and end > steps[-1]:
        steps, ranks = [*steps, end], [*ranks, ranks[-1]]
    return {**trajectory, "steps": steps, "ranks": ranks}


def held(trajectory: Mapping[str, Any]) -> Iterator[tuple[int, Sequence[int]]]:
    """(step, ranks) of every point, before each that changes the ranks those that held up to the step before: whoever
    joins the rows by lines draws no ramp."""
    last: tuple[int, Sequence[int]] | None = None
    for step, ranks in zip(trajectory["steps"], trajectory["ranks"], strict=True):
        if last is not None and step - 1 > last[0] and ranks != last[1]:
            yield step - 1, last[1]
        yield step, ranks
        last = step, ranks
