"""Study-level metrics and tags: best configuration over time, counts, costs, final status."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.runs.front import final_points, front_of, has_front, leading
from harness.runs.intervals import is_useful, why_none
from harness.runs.layout import SUPERSEDED
from harness.runs.record import Record
from harness.runs.selection import OBJECTIVES, best_on_dev, joint_winner
from harness.tracking.tags import DIGEST, gpu_hours
from lingo.metrics import merit


@dataclass(frozen=True)
class Standing:
    """State of a study after a number of ended runs: metrics and tags of its run."""

    ended: int
    metrics: Mapping[str, float]
    tags: Mapping[str, Any]


class Summary:
    """Accumulates one study. Records may be repeated; the last one of an id counts."""

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self._records: dict[str, Record] = {}

    @property
    def records(self) -> list[Record]:
        """The current records, with only the study's metric of their evaluations."""
        return [record for record in self._records.values() if SUPERSEDED not in record.marks]

    def add(self, record: Record) -> None:
        """Add a record; data not needed by the summary is dropped."""
        kept = {name: record.facts.get(name) for name in KEPT}
        history = [
            {"epoch": entry["epoch"], "dev": _of(entry["dev"], self.metric)} for entry in record.history
        ]
        facts = {name: value for name, value in kept.items() if value is not None}
        self._records[record.id] = replace(record, history=history, facts=facts)

    def standing(self, best: Record | None) -> Standing:
        """Current state of the study, with the best trial so far."""
        records, everything = self.records, list(self._records.values())
        ended = sum(record.status != "killed" for record in everything)
        metrics = {**_counts(records), **_costs(everything)}
        tags: dict[str, Any] = {}
        if best is not None:
            metrics[f"best/{self.metric}"] = best.dev[self.metric]
            if best.trained_parameters is not None:
                metrics["trained_parameters"] = float(best.trained_parameters)
            useful = is_useful(self.metric, [best.dev[self.metric]])
            tags = best_tags(best) | {"best.above_constant": str(useful).lower()}
        if has_front(records):
            found = [one for one in front_of(records) if one.stage == "search"]
            tags["front.trials"] = ",".join(str(one.trial) for one in found)
            metrics["front/points"] = float(len(found))
        return Standing(ended, metrics | _tested(leading(records), self.metric), tags)


def leaders(summaries: Mapping[str, Summary]) -> dict[str, Record]:
    """The best trial of studies that share their configurations: its record by study.

    The final stage trains its configuration, whatever the best of a single study is.
    """
    metrics = {study: summary.metric for study, summary in summaries.items()}
    return joint_winner([record for each in summaries.values() for record in each.records], metrics)


def tested_merit(summary: Summary) -> tuple[str, str, float] | None:
    """(task, method, mean test score of which more is better) of a study that is above a constant prediction."""
    metric, finals = (
        summary.metric,
        [r for r in leading(summary.records) if (r.stage, r.status) == ("final", "finished")],
    )
    scores = [(record.test or {}).get(metric, math.nan) for record in finals]
    constants = [record.facts["constant"] for record in finals if record.facts.get("constant")]
    collapsed = sum(bool(record.facts.get("collapsed")) for record in finals)
    if not is_useful(metric, scores, collapsed=collapsed, constants=constants):
        return None
    return finals[0].task, finals[0].method, merit(metric, statistics.fmean(scores))


def best_tags(best: Record) -> dict[str, Any]:
    """The best configuration: one tag per setting, and as JSON with types."""
    values = {name: _text(value) for name, value in best.config.items() if name not in ("method", "seed")}
    return {
        "best.trial": best.id.rsplit("/", 1)[-1],
        "best.config": json.dumps(best.config, sort_keys=True),
        f"{DIGEST}best.config_hash": best.config_hash,
        **{f"best.{name}": value for name, value in values.items()},
    }


def study_end(records: Iterable[Record], seeds: Iterable[int]) -> str:
    """Final status of a study.

    `finished` if every seed has its final run, of a front those of each chosen point; `failed` if one of these failed,
    or if the search ended without a trainable configuration; otherwise `killed`: it was interrupted or reached a limit.
    """
    records = list(records)
    finals = {(record.trial, record.seed): record.status for record in records if record.stage == "final"}
    points = {one.trial for one in final_points(records)} if has_front(records) else {None}
    points = points or {trial for trial, _ in finals}  # of a control, which has no search
    if finals and all(finals.get((point, seed)) == "finished" for point in points for seed in seeds):
        return "finished"
    if "failed" in finals.values():
        return "failed"
    searched = {record.status for record in records if record.stage == "search"}
    return "failed" if searched == {"failed"} else "killed"


def champion(records: Iterable[Record]) -> Record | None:
    """The final run whose adapter stands for the study: of the finished ones that have one the best on dev."""
    return best_on_dev(
        record
        for record in leading(records)
        if record.stage == "final" and record.status == "finished" and record.facts.get("adapter")
    )


KEPT = ("flops", "device_seconds", "gpus", "adapter", "best_dev", "collapsed", "constant", OBJECTIVES)
"""Facts that a summary needs."""


def _of(scores: Mapping[str, float], metric: str) -> dict[str, float]:
    return {metric: scores[metric]} if metric in scores else {}


def _counts(records: list[Record]) -> dict[str, float]:
    search = [record.status for record in records if record.stage == "search"]
    finals = [record.status for record in records if record.stage == "final"]
    counts = {
        f"trials/{status}": search.count(status) for status in ("finished", "stopped", "failed", "killed")
    }
    return {name: float(count) for name, count in counts.items()} | {
        "finals/finished": float(finals.count("finished")),
        "finals/collapsed": float(sum(bool(record.facts.get("collapsed")) for record in records)),
    }


def _costs(records: list[Record]) -> dict[str, float]:
    flops = [record.facts["flops"] for record in records if "flops" in record.facts]
    hours = [found for record in records if (found := gpu_hours(record)) is not None]
    costs = {"hours": sum(record.seconds for record in records) / 3600}
    if flops:
        costs["gigaflops"] = sum(flops) / 1e9
    if hours:
        costs["gpu_hours"] = sum(hours)
    return costs


def _tested(records: list[Record], metric: str) -> dict[str, float]:
    """Mean of the test metric over the finished seeds, and its standard deviation for at least three seeds, unless all
    are equal."""
    scores = [
        record.test[metric]
        for record in records
        if record.status == "finished" and record.test is not None and metric in record.test
    ]
    if not scores:
        return {}
    found = {f"test/{metric}_mean": statistics.fmean(scores)}
    return found | ({} if why_none(scores) else {f"test/{metric}_sd": statistics.stdev(scores)})


def _text(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value
