"""Selection of winning configurations, and groups of studies that share them, from records only."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, cast

from harness.runs.record import Record
from lingo.metrics import merit

SCOPE = "scope"
"""Fact of a record for selection: which studies share their configurations."""

OBJECTIVES = "objectives"
"""Fact of a record whose search has several objectives, see `harness.runs.front`: their names."""


def joint_winner(records: Iterable[Record], metrics: Mapping[str, str]) -> dict[str, Record]:
    """The winning trial of studies that share their configurations: its records by study; empty without a winner.

    The trial with the best mean of the studies' last dev `metrics` (by study key), of equal ones the earlier (with
    several objectives that with the fewest trained parameters): among trials that all studies finished, else among
    stopped ones at their last common epoch. Higher is better, for errors lower.
    """
    return _best(trials_by_number([record for record in records if record.study in metrics]), metrics) or {}


def best_on_dev(finals: Iterable[Record]) -> Record | None:
    """The final run with the best dev score; of equal ones that with the smallest seed. Runs that predict the same for
    every dev row come last."""

    def worse(record: Record) -> tuple[bool, bool, float, int]:
        score = merit(record.metric, dev_score(record))
        collapsed = _kept_dev(record).get("collapsed") == 1.0
        return math.isnan(score), collapsed, -score if not math.isnan(score) else 0.0, record.seed

    return min(finals, key=worse, default=None)


def dev_score(record: Record) -> float:
    """Dev metric of the kept weights: with patience those of the best evaluation, else the last ones."""
    return _kept_dev(record).get(record.metric, math.nan)


def _kept_dev(record: Record) -> Mapping[str, float]:
    kept: Mapping[str, float] = record.facts.get("best_dev") or record.dev
    return kept


def group_of_record(record: Record, scope: str) -> str:
    """Key of the search group of a record's study."""
    wide: Scope = cast(Scope, scope)
    return group_of(
        wide, task=record.task, family=record.family, backbone=record.backbone, method=record.method
    )


Trial = dict[str, Record]
"""The records of one configuration, by study."""


def trials_by_number(records: Iterable[Record]) -> dict[int, Trial]:
    """The search records by trial number."""
    trials: dict[int, Trial] = {}
    for record in records:
        if record.stage == "search" and record.trial is not None:
            trials.setdefault(record.trial, {})[record.study] = record
    return trials


def _best(trials: Mapping[int, Trial], metrics: Mapping[str, str]) -> Trial | None:
    scored = []
    for number, trial in trials.items():
        if set(trial) == set(metrics) and all(r.status in ("finished", "stopped") for r in trial.values()):
            whole = all(record.status == "finished" for record in trial.values())
            epoch, mean = _mean(trial, metrics)
            if not math.isnan(mean):
                several = any(record.facts.get(OBJECTIVES) for record in trial.values())
                size = sum(record.trained_parameters or 0 for record in trial.values()) if several else 0
                scored.append(((not whole, 0 if whole else -epoch, -mean, size, number), trial))
    return min(scored, key=lambda pair: pair[0])[1] if scored else None


def _mean(trial: Trial, metrics: Mapping[str, str]) -> tuple[float, float]:
    """The last epoch that all records of the trial have evaluated, and the mean metric there, oriented so that higher
    is better."""
    epochs = [{entry["epoch"] for entry in record.history} for record in trial.values()]
    epoch = max(set.intersection(*epochs), default=0)
    values = []
    for study, record in trial.items():
        dev = [entry["dev"] for entry in record.history if entry["epoch"] == epoch] or [record.dev]
        values.append(merit(metrics[study], dev[-1].get(metrics[study], math.nan)))
    return epoch, math.fsum(values) / len(values)


Scope = Literal["task", "family", "suite"]


def group_of(scope: Scope, *, task: str, family: str, backbone: str, method: str) -> str:
    """Key of a study's search group: the studies with the same key share their configurations.

    `task` makes every study a group of its own (the study's key), `family` joins the tasks of a family,
    `suite` all tasks; backbones and methods never join.
    """
    whole = {"task": task, "family": f"family {family}", "suite": "suite"}[scope]
    return f"{whole}|{backbone}|{method}"


def has_ended(statuses: Sequence[str], members: int) -> bool:
    """Whether a trial of a group with this many studies has ended, by the statuses of its members' jobs. A failed or
    stopped member ends the trial; a killed or missing one does not."""
    over = any(status in ("failed", "stopped") for status in statuses)
    return over or (len(statuses) == members and all(status == "finished" for status in statuses))
