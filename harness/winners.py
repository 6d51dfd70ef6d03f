"""What a benchmark still has to do, and which configuration of a study won: read from records alone."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

from harness.jobs import Job
from harness.ledger import Cell
from harness.results import Record
from harness.scopes import Scope, group_of, merge, trials_of
from harness.studies import has_ended
from lingo.methods import METHODS
from lingo.metrics import merit


def winner(records: Iterable[Record], study: str, metric: str) -> Record | None:
    """The search trial of `study` with the best last dev `metric` among those that trained all epochs.

    Higher is better (of an error: lower), of equals the earlier trial wins. Where no trial finished, the best of those
    that got furthest before they were stopped. `None` when no trial has a defined metric.
    """
    return joint_winner([record for record in records if record.study == study], {study: metric}).get(study)


def joint_winner(records: Iterable[Record], metrics: Mapping[str, str]) -> dict[str, Record]:
    """The winning trial of studies that share their configurations: its record by study, none without a winner.

    The best mean of the studies' `metrics` (by study key), see `winner`: over trials that all of them finished, else
    over stopped ones at the last epoch that all have seen.
    """
    return _best(_trials([record for record in records if record.study in metrics]), metrics) or {}


def winners(records: Iterable[Record], cells: Sequence[Cell], scope: Scope = "task") -> dict[str, Record]:
    """For each study the record of its search group's winning trial; studies of a group without one are left out.

    See `joint_winner`.
    """
    found: dict[str, Record] = {}
    records = list(records)
    for members in groups(cells, scope):
        metrics = {cell.study.key: cell.study.task.metric for cell in members}
        found |= joint_winner(records, metrics)
    return found


def group_of_record(record: Record, scope: str) -> str:
    """Key of the search group of a record's study."""
    wide: Scope = cast(Scope, scope)
    return group_of(
        wide, task=record.task, family=record.family, backbone=record.backbone, method=record.method
    )


def groups(cells: Sequence[Cell], scope: Scope) -> list[list[Cell]]:
    """The cells of each search group, see `harness.scopes.group_of`."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        task, backbone, method = cell.study.task, cell.study.backbone, cell.study.method
        key = group_of(scope, task=task.name, family=task.family, backbone=backbone, method=method)
        found.setdefault(key, []).append(cell)
    return list(found.values())


Trial = dict[str, Record]
"""The records of one configuration, by study."""


def _trials(records: Iterable[Record]) -> dict[int, Trial]:
    """The search records by the number of their trial."""
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
                scored.append(((not whole, 0 if whole else -epoch, -mean, number), trial))
    return min(scored, key=lambda pair: pair[0])[1] if scored else None


def _mean(trial: Trial, metrics: Mapping[str, str]) -> tuple[int, float]:
    """The last epoch that every record of the trial has evaluated, and the mean metric there, more being better."""
    epoch = min(record.history[-1]["epoch"] if record.history else 0 for record in trial.values())
    values = []
    for study, record in trial.items():
        dev = [entry["dev"] for entry in record.history if entry["epoch"] == epoch] or [record.dev]
        values.append(merit(metrics[study], dev[-1].get(metrics[study], math.nan)))
    return epoch, math.fsum(values) / len(values)


def unsearched(
    records: Sequence[Record],
    cells: Sequence[Cell],
    num_samples: int,
    *,
    scope: Scope = "task",
    searcher: str = "tpe",
) -> list[Cell]:
    """The studies of search groups without `num_samples` ended trials (a grid: without all of its points).

    A trial has ended when every member's has, or when one failed or was stopped; one that was killed from
    outside has not.
    """
    left: list[Cell] = []
    for members in groups(cells, scope):
        keys = {cell.study.key for cell in members}
        ended = sum(
            has_ended([record.status for record in trial.values()], len(keys))
            for trial in _trials([record for record in records if record.study in keys]).values()
        )
        space = merge([cell.study.space for cell in members])
        if ended < trials_of(space, searcher=searcher, num_samples=num_samples):
            left += members
    return left


def missing(records: Sequence[Record], cells: Sequence[Cell], seeds: Sequence[int]) -> list[tuple[Cell, int]]:
    """The (study, seed) pairs without a finished final run."""
    have = {
        (record.study, record.seed)
        for record in records
        if (record.stage, record.status) == ("final", "finished")
    }
    return [(cell, seed) for cell in cells for seed in seeds if (cell.study.key, seed) not in have]


def final_jobs(
    records: Sequence[Record],
    cells: Sequence[Cell],
    seeds: Sequence[int],
    adapters: Path | None = None,
    *,
    scope: Scope = "task",
    checkpoints: Path | None = None,
    patience: int | None = None,
) -> list[Job]:
    """The final runs still to do, of studies that have a winner; their adapters go below `adapters`.

    Args:
        checkpoints, patience: See `harness.jobs.Job`.
    """
    best = winners(records, cells, scope)
    jobs = []
    for cell, seed in missing(records, cells, seeds):
        won = best.get(cell.study.key)
        if won is not None:
            jobs.append(
                Job(
                    id=f"{cell.study.key}/final/seed-{seed}",
                    study=cell.study.key,
                    stage="final",
                    backbone=cell.source,
                    data=str(cell.data),
                    config={**won.config, "seed": seed},
                    adapter=_adapter_folder(adapters, cell, seed),
                    checkpoints=str(checkpoints) if checkpoints else None,
                    alone=True,
                    patience=patience,
                    metric=cell.study.task.metric,
                )
            )
    return jobs


def _adapter_folder(adapters: Path | None, cell: Cell, seed: int) -> str | None:
    """`<task>/<backbone>/<method>/seed-<n>`; none for full fine-tuning, whose result is a whole model."""
    study = cell.study
    if adapters is None or METHODS[study.method].adapter == "none":
        return None
    names = [re.sub(r"[^\w.-]+", "_", name) for name in (study.task.name, study.backbone, study.method)]
    return str(adapters.joinpath(*names, f"seed-{seed}"))
