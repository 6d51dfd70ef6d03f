"""What the search is told of a study, and what it hands back. Plain data."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.config.benchmark import Benchmark
from harness.config.scopes import siblings_of
from harness.config.search_space import SearchSpace
from harness.config.studies import PreparedStudy
from harness.runs.jobs import Job, Report
from harness.runs.layout import RunFolder
from harness.runs.open_trials import OpenTrials
from harness.runs.record import Record
from harness.runs.selection import group_of

SearcherName = Literal["tpe", "random", "grid"]
SchedulerName = Literal["asha", "hyperband", "median", "none"]
Ended = Literal["finished", "stopped", "failed"]

CUT = "cut"
"""Fact of a stopped job's last report where not the scheduler ended it: `budget`, or the task that failed."""


@dataclass(frozen=True, kw_only=True)
class Past:
    """A trial of the study that ended earlier, in this run or another.

    Attributes:
        number: Its number within the study.
        values: The searched settings.
        status: How it ended; `stopped` is the scheduler's decision or a budget's.
        evaluations: Pairs of an epoch and the dev metric after it, in order.
    """

    number: int
    values: Mapping[str, Any]
    status: Ended
    evaluations: tuple[tuple[int, float], ...] = ()

    @classmethod
    def of(cls, record: Record, leaves: Iterable[str]) -> "Past":
        """The past trial that a search record tells of; its status must not be `killed`.

        Raises:
            ValueError: when the record is not of an ended search trial.
        """
        if record.trial is None or record.status not in ("finished", "stopped", "failed"):
            raise ValueError(f"{record.id}: is no ended trial of a search.")
        return cls(
            number=record.trial,
            values={name: record.config[name] for name in leaves if name in record.config},
            status=record.status,
            evaluations=tuple(
                (int(entry["epoch"]), float(entry["dev"].get(record.metric, math.nan)))
                for entry in record.history
            ),
        )


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """One study to search.

    Attributes:
        key: `task|backbone|method`, unique.
        data: Folder of the prepared task.
        fixed: `TrialConfig` fields that are the same in every trial (seed, epochs, batch size …).
        space: The searched settings, already restricted to the study's steps.
        first_points: Configurations of the searched settings to try first, in this order.
        num_samples: Trials, first points and `history` included: only the difference is run.
        seed: Seed of the sampler; of the trials too where `fixed` names none.
        metric, mode: Name of a dev metric, and whether `max` or `min` is better.
        epochs: Reports of a trial that is not stopped; ASHA's `max_t`.
        reduction_factor: ASHA keeps one trial in this many at each rung, see `harness.search.schedulers.rungs`.
        group: Key of the search group, see `harness.runs.selection.group_of`; empty for a study of its own. The studies
            of a group get the same configurations: each of its trials is a job of every member, all with the
            same number, and its objective is the mean of the members' metrics at the same epoch. The first
            member's seed, first points, searcher, scheduler and siblings are the group's.
        searcher: `tpe` (multivariate), `random`, or `grid` (finite leaves only, in a seeded order).
        scheduler: `asha`, `hyperband` (asynchronous, brackets that differ in the first rung), `median` or `none`.
        siblings: Trials of the best configuration that has trained all epochs, which differ only in p, bT and
            delta_T and so share the start of their training.
        history: Trials that have ended before: the searcher and the scheduler know them.
        open: Numbers and whole configurations of trials that have begun and not ended: they go on first.
        deterministic: Whether trials, decisions and scores are to be the same whatever the load: trials train
            alone, and nothing depends on which of them reports first, see `harness.search.ordered_halving`.
        work: Expected work of one trial in any unit that is the same for all studies: the longest go first.
        checkpoints: Folder in which the trials keep their state to go on from; `None` keeps none.
    """

    key: str
    task: str
    backbone: str
    method: str
    data: str
    fixed: Mapping[str, Any]
    space: SearchSpace
    first_points: Sequence[Mapping[str, Any]] = ()
    num_samples: int
    seed: int
    metric: str = "mcc"
    mode: Literal["max", "min"] = "max"
    epochs: int
    reduction_factor: float = 2
    group: str = ""
    searcher: SearcherName = "tpe"
    scheduler: SchedulerName = "asha"
    siblings: int = 1
    deterministic: bool = False
    history: tuple[Past, ...] = ()
    open: tuple[tuple[int, Mapping[str, Any]], ...] = ()
    work: float = 1.0
    checkpoints: str | None = None

    @property
    def search_group(self) -> str:
        """Key of the search group."""
        return self.group or self.key


def members_of(plans: Sequence[StudyPlan]) -> Mapping[str, list[StudyPlan]]:
    """The plans of each search group, in their order."""
    found: dict[str, list[StudyPlan]] = {}
    for plan in plans:
        found.setdefault(plan.search_group, []).append(plan)
    return found


@dataclass
class TrialOutcome:
    """How a job ended: its configuration, status and reports. `stopped` is no failure: the scheduler ended it,
    or a budget or the failure of another task of its trial, and then the last report's fact `cut` says so."""

    job: Job
    status: Ended
    reports: list[Report] = field(default_factory=list)
    error: str | None = None


def study_plans(
    cells: Sequence[PreparedStudy], benchmark: Benchmark, records: Sequence[Record], out: Path
) -> list[StudyPlan]:
    """The plans of the studies in `cells`, with the past that records and open trials tell of."""
    opened = OpenTrials(out).load()
    return [
        _plan(cell, benchmark, _ended(records, cell), _open(records, opened, cell), out) for cell in cells
    ]


def options_of(benchmark: Benchmark) -> dict[str, Any]:
    """Settings that say how far a search goes, as `harness.pipeline.remaining.unsearched` takes them."""
    return {"scope": benchmark.scope, "searcher": benchmark.searcher}


def _ended(records: Sequence[Record], cell: PreparedStudy) -> list[Record]:
    return [
        record
        for record in records
        if (record.study, record.stage) == (cell.study.key, "search") and record.status != "killed"
    ]


def _open(
    records: Sequence[Record], opened: Sequence[Job], cell: PreparedStudy
) -> tuple[tuple[int, dict[str, Any]], ...]:
    """Numbers and configurations of trials that have begun and not ended; of those without a file from their
    records, which say that they were killed."""
    mine = [record for record in records if (record.study, record.stage) == (cell.study.key, "search")]
    ended = {record.id for record in mine if record.status != "killed"}
    found = {record.id: dict(record.config) for record in mine if record.status == "killed"}
    found |= {job.id: job.config for job in opened if (job.study, job.stage) == (cell.study.key, "search")}
    return tuple((number_of(name), config) for name, config in sorted(found.items()) if name not in ended)


def number_of(job_id: str) -> int:
    """7 of `…/trial-0007`."""
    return int(job_id.rsplit("-", 1)[1])


def _plan(
    cell: PreparedStudy,
    benchmark: Benchmark,
    ended: Sequence[Record],
    opened: tuple[tuple[int, dict[str, Any]], ...],
    out: Path,
) -> StudyPlan:
    study = cell.study
    names = {"task": study.task.name, "backbone": study.backbone, "method": study.method}
    return StudyPlan(
        key=study.key,
        task=study.task.name,
        backbone=cell.source,
        method=study.method,
        data=str(cell.data),
        fixed=benchmark.of_trials,
        space=study.space,
        first_points=study.space.first_points,
        num_samples=benchmark.num_samples,
        seed=benchmark.seed,
        metric=study.task.metric,
        epochs=benchmark.epochs,
        group=group_of(benchmark.scope, family=study.task.family, **names),
        searcher=benchmark.searcher,
        scheduler=benchmark.scheduler,
        siblings=siblings_of(study.space, benchmark.siblings),
        deterministic=benchmark.deterministic,
        history=tuple(Past.of(record, study.space.leaves) for record in ended),
        open=opened,
        work=cell.work,
        checkpoints=str(RunFolder(out).checkpoints),
    )
