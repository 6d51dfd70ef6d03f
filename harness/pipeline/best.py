"""The best configuration of every study, from an output folder or from a tracking server."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.core.errors import InputError, command, nearest
from harness.runs.info import Setting
from harness.runs.intervals import is_useful, with_spread
from harness.runs.layout import RunFolder
from harness.runs.record import Record
from harness.runs.selection import SCOPE, group_of_record, joint_winner
from harness.runs.store import load
from lingo.metrics import merit


@dataclass(frozen=True, kw_only=True)
class BestConfiguration:
    """A study's best configuration.

    Attributes:
        task, backbone, method: The study.
        metric, score: The dev metric that selects, and its value.
        trial: `trial-0007`, its trial in the search.
        trials: Ended trials of the search.
        test: Test metric of the final runs of its configuration by seed; empty before the final stage.
        searched: Names of the settings that the search varied.
        config: The complete configuration.
        marks: Caveats.
    """

    task: str
    backbone: str
    method: str
    metric: str
    score: float
    trial: str
    trials: int
    test: Mapping[int, float]
    searched: Sequence[str]
    config: Mapping[str, Any]
    marks: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, in the form that `run --config` reads."""
        values = asdict(self) | {"searched": list(self.searched), "marks": list(self.marks)}
        values["test"] = {str(seed): value for seed, value in sorted(self.test.items())}
        return values

    @property
    def notes(self) -> list[str]:
        """Caveats in words: scores that a constant prediction reaches, and the marks."""
        low = [
            f"its {split} score is not above that of a constant prediction"
            for split, scores in (("dev", [self.score]), ("test", list(self.test.values())))
            if scores and not any(map(math.isnan, scores)) and not is_useful(self.metric, scores)
        ]
        return low + ([f"caveats: {', '.join(self.marks)}"] if self.marks else [])

    @property
    def tested(self) -> str:
        """Mean of the test metric over the seeds with its spread, and the number of seeds."""
        scores = list(self.test.values())
        if not scores:
            return "–"
        return f"{with_spread(scores)} ({len(scores)})"


def best_of(records: Iterable[Record], metric: str | None = None) -> list[BestConfiguration]:
    """The best configuration of each study that has one: tasks by their best score, their studies by score.

    If studies share their configurations, it is the one with the best mean, which the final stage trains.

    Args:
        records: Records of any number of studies, complete for studies that share their configurations.
        metric: A dev metric; `None` for that of each study's task.

    Raises:
        InputError: If no record has the metric.
    """
    records = list(records)
    known = {name for record in records for name in record.dev}
    if metric is not None and metric not in known:
        raise InputError(f"`--metric` must be a dev metric, but got {metric!r}.{nearest(metric, known)}")
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        scope = record.facts.get(SCOPE, "task")
        groups.setdefault((record.benchmark, group_of_record(record, scope)), []).append(record)
    found = [best for group in groups.values() for best in _best(group, metric)]
    usual = Counter(best.metric for best in found).most_common(1)
    top = {
        task: min(
            (best.metric != usual[0][0], -merit(best.metric, best.score))
            for best in found
            if best.task == task
        )
        for task in {best.task for best in found}
    }
    return sorted(
        found,
        key=lambda best: (
            top[best.task],
            best.task,
            best.metric,
            -merit(best.metric, best.score),
            best.backbone,
            best.method,
        ),
    )


def _best(group: Sequence[Record], metric: str | None) -> Iterator[BestConfiguration]:
    """The best configurations of the studies of one search group."""
    metrics = {record.study: metric or record.metric for record in group}
    for study, won in joint_winner(group, metrics).items():
        yield _shown([record for record in group if record.study == study], won, metrics[study])


def _shown(group: Sequence[Record], won: Record, metric: str) -> BestConfiguration:
    trials = [record for record in group if record.stage == "search" and record.status != "killed"]
    shown = {name: {json.dumps(record.config.get(name)) for record in trials} for name in won.config}
    return BestConfiguration(
        task=won.task,
        backbone=won.backbone,
        method=won.method,
        metric=metric,
        score=won.dev[metric],
        trial=won.id.rsplit("/", 1)[-1],
        trials=len(trials),
        test=_tests(group, won, metric),
        searched=[name for name, values in shown.items() if len(values) > 1],
        config=dict(won.config),
        marks=list(won.marks),
    )


def _tests(group: Iterable[Record], won: Record, metric: str) -> dict[int, float]:
    """Test scores of the winner's configuration by seed."""

    def settings(record: Record) -> str:
        values = {name: value for name, value in record.config.items() if name != "seed"}
        return json.dumps(values, sort_keys=True, default=list)

    return {
        record.seed: record.test[metric]
        for record in group
        if record.test is not None
        and metric in record.test
        and record.status == "finished"
        and settings(record) == settings(won)
    }


def select(records: Iterable[Record], **axes: Sequence[str]) -> list[Record]:
    """Records whose `task`, `backbone` and `method` are among the names given; an empty list selects all.

    Raises:
        InputError: with every name without a record.
    """
    records = list(records)
    problems = []
    for axis, names in axes.items():
        known = {getattr(record, axis) for record in records}
        problems += [
            f"`--{axis}` must name a {axis} of the results, but got {name!r}.{nearest(name, known)}"
            for name in names
            if name not in known
        ]
    if problems:
        raise InputError(problems)
    return [r for r in records if all(not names or getattr(r, axis) in names for axis, names in axes.items())]


def records_of(out: Path) -> list[Record]:
    """Records of an output folder.

    Raises:
        InputError: If it has none, or does not exist.
    """
    records = load(out) if RunFolder(out).records.is_dir() else []
    if not records:
        raise InputError(
            f"RUN must be the output folder of a benchmark, but {out} contains no records.{_inside(out)}"
        )
    try:
        scope = Setting.read(out).scope
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError):
        scope = "task"
    return [replace(record, facts={**record.facts, SCOPE: scope}) for record in records]


def _inside(folder: Path, most: int = 5) -> str:
    """The runs inside a folder that is not a run itself, as the end of a message."""
    try:
        found = sorted(one.parent for one in folder.glob("*/benchmark.json"))
    except OSError:
        return ""
    if not found:
        return ""
    more = f" and {len(found) - most} more (`{command('list', 'runs', folder)}`)" if len(found) > most else ""
    return f" It has the {'run' if len(found) == 1 else 'runs'} {', '.join(map(str, found[:most]))}{more}."
