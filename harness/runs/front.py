"""The Pareto front of a study's search: dev score against trained parameters. From records alone."""

import math
from collections.abc import Iterable, Mapping, Sequence

from harness.runs.record import Record
from harness.runs.selection import OBJECTIVES, joint_winner
from lingo.metrics import merit

FRONT_POINTS = 4
"""Points of a front that the final stage trains at most."""


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the Pareto-optimal (cost, score) points, by ascending cost; equal points are all kept.

    A point is dominated by one that costs no more and scores no less, and is better in one of the two. Points with NaN
    are never on the front.
    """
    known = [i for i, point in enumerate(points) if not any(map(math.isnan, point))]
    order = sorted(known, key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    for i in order:
        top = points[front[-1]] if front else (math.nan, -math.inf)
        if points[i][1] > top[1] or points[i] == top:
            front.append(i)
    return front


def front_of(records: Iterable[Record]) -> list[Record]:
    """The trials on the front of one study's search, by ascending parameters; of equal ones the earliest.

    Only trials that trained all epochs are on it. If there are none (a limit ended the search), it is the study's
    winner alone, see `joint_winner`.
    """
    records = list(records)
    whole = [
        (
            float(record.trained_parameters),
            merit(record.metric, record.dev.get(record.metric, math.nan)),
            record,
        )
        for record in sorted(records, key=lambda record: record.trial or 0)
        if (record.stage, record.status) == ("search", "finished") and record.trained_parameters is not None
    ]
    first: dict[tuple[float, float], Record] = {}
    for i in pareto_front([(cost, score) for cost, score, _ in whole]):
        first.setdefault(whole[i][:2], whole[i][2])
    return list(first.values() or joint_winner(records, {r.study: r.metric for r in records}).values())


def final_points(records: Iterable[Record], most: int = FRONT_POINTS) -> list[Record]:
    """The trials of a front that the final stage trains: both ends, and between them others at even distances along it.

    Args:
        records: Of one study.
        most: Their greatest number, at least two.
    """
    front = front_of(records)
    if len(front) <= most:
        return front
    return [front[round(place * (len(front) - 1) / (most - 1))] for place in range(most)]


def has_front(records: Iterable[Record]) -> bool:
    """Whether these records are of a study whose search had several objectives."""
    return any(record.facts.get(OBJECTIVES) for record in records)


def by_study(records: Iterable[Record]) -> Mapping[str, list[Record]]:
    """The records of each study."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.study, []).append(record)
    return found


def leading(records: Iterable[Record]) -> list[Record]:
    """The records of one study without the final runs of points of its front other than the one with the best score.

    That point stands for the study where it is compared with others.
    """
    records = list(records)
    tested = {record.trial for record in records if record.stage == "final" and record.trial is not None}
    if not tested:
        return records
    won = [record.trial for record in front_of(records) if record.trial in tested]
    return [
        record for record in records if record.stage != "final" or record.trial == (won or sorted(tested))[-1]
    ]
