"""Input and output of the search for a study. Plain data."""

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
from harness.runs.record import Record
from harness.runs.selection import group_of

SearcherName = Literal["tpe", "random", "grid"]
SchedulerName = Literal["asha", "hyperband", "median", "none"]
Ended = Literal["finished", "stopped", "failed"]

CUT = "cut"
"""Fact in the last report of a job not stopped by the scheduler: `budget`, or the failed task."""


@dataclass(frozen=True, kw_only=True)
class Past:
    """A trial of the study that ended earlier, in this run or another.

    Attributes:
        number: Its number within the study.
        values: The searched settings.
        status: Final status; `stopped` by the scheduler or a limit.
        evaluations: Pairs of an epoch and the dev metric after it, in order.
    """

    number: int
    values: Mapping[str, Any]
    status: Ended
    evaluations: tuple[tuple[int, float], ...] = ()

    @classmethod
    def of(cls, record: Record, leaves: Iterable[str]) -> "Past":
        """The past trial described by a search record; its status must not be `killed`.

        Raises:
            ValueError: If the record is not of an ended search trial.
        """
        if record.trial is None or record.status not in ("finished", "stopped", "failed"):
            raise ValueError(f"{record.id}: is not a finished trial of a search.")
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
class SearchStudy:
    """One study to search.

    Attributes:
        key: `task|backbone|method`, unique.
        data: Folder of the prepared task.
        fixed: `TrialConfig` fields that are the same in every trial (seed, epochs, batch size …).
        space: The searched settings, already restricted to the study's steps.
        num_samples: Trials, the space's first points and `history` included: only the difference is run.
        seed: Seed of the sampler, and of the trials if `fixed` has none.
        metric: Name of a dev metric of which more is better.
        epochs: Reports of a trial that is not stopped; ASHA's `max_t`.
        reduction_factor: ASHA keeps one trial in this many at each rung, see `harness.search.schedulers.rungs`.
        group: Key of the search group, see `harness.runs.selection.group_of`; empty for a study of its own. The studies
            of a group share configurations: each of its trials is one job of every member, all with the same
            number, and its objective is the mean of the members' metrics at the same epoch. The first
            member's seed, first points, searcher, scheduler and siblings are the group's.
        searcher: `tpe` (multivariate), `random`, or `grid` (finite leaves only, in a seeded order).
        scheduler: `asha`, `hyperband` (asynchronous, brackets that differ in the first rung), `median` or `none`.
        siblings: Number of forks of the best configuration that has trained all epochs, which differ only in p, bT
            and delta_T and so share the start of their training.
        history: Earlier ended trials, known to the searcher and the scheduler.
        open: Numbers and complete configurations of trials that have started and not ended; they continue first.
        deterministic: Whether trials, decisions and scores are independent of the load: trials train alone, and
            nothing depends on the order of reports, see `harness.search.ordered_halving`.
        cost: Expected work of one trial in any unit that is the same for all studies: the longest go first.
        checkpoints: Folder of the trials' checkpoints; `None` for no checkpoints.
    """

    key: str
    backbone: str
    method: str
    data: str
    fixed: Mapping[str, Any]
    space: SearchSpace
    num_samples: int
    seed: int
    metric: str = "mcc"
    epochs: int
    reduction_factor: float = 2
    group: str = ""
    searcher: SearcherName = "tpe"
    scheduler: SchedulerName = "asha"
    siblings: int = 1
    deterministic: bool = False
    history: tuple[Past, ...] = ()
    open: tuple[tuple[int, Mapping[str, Any]], ...] = ()
    cost: float = 1.0
    checkpoints: str | None = None

    @classmethod
    def of(
        cls,
        prepared: PreparedStudy,
        benchmark: Benchmark,
        records: Iterable[Record],
        opened: Iterable[Job],
        out: Path,
    ) -> "SearchStudy":
        """A prepared study with the past that its records and the open jobs in the folder `out` tell of.

        Of trials that have begun and not ended without a file, the records say that they were killed.
        """
        study = prepared.study
        mine = [record for record in records if (record.study, record.stage) == (study.key, "search")]
        ended = {record.id: record for record in mine if record.status != "killed"}
        begun = {record.id: dict(record.config) for record in mine if record.status == "killed"}
        begun |= {job.id: job.config for job in opened if (job.study, job.stage) == (study.key, "search")}
        names = {"task": study.task.name, "backbone": study.backbone, "method": study.method}
        return cls(
            key=study.key,
            backbone=prepared.source,
            method=study.method,
            data=str(prepared.data),
            fixed=benchmark.of_trials,
            space=study.space,
            num_samples=study.trials(benchmark),
            seed=benchmark.seed,
            metric=study.task.metric,
            epochs=benchmark.epochs,
            group=group_of(benchmark.scope, family=study.task.family, **names),
            searcher=benchmark.searcher,
            scheduler=benchmark.scheduler,
            siblings=siblings_of(study.space, benchmark.siblings),
            deterministic=benchmark.deterministic,
            history=tuple(Past.of(record, study.space.leaves) for record in ended.values()),
            open=tuple((number_of(name), begun[name]) for name in sorted(begun.keys() - ended.keys())),
            cost=prepared.cost,
            checkpoints=str(RunFolder(out).checkpoints),
        )

    @property
    def search_group(self) -> str:
        """Key of the search group."""
        return self.group or self.key


def members_of(plans: Sequence[SearchStudy]) -> Mapping[str, list[SearchStudy]]:
    """The plans of each search group, in their order."""
    found: dict[str, list[SearchStudy]] = {}
    for plan in plans:
        found.setdefault(plan.search_group, []).append(plan)
    return found


@dataclass
class TrialOutcome:
    """End of a job: its configuration, status and reports. `stopped` is not a failure: the job was ended by the
    scheduler, or by a limit or the failure of another task of its trial, in which case the last report has the fact
    `cut`."""

    job: Job
    status: Ended
    reports: list[Report] = field(default_factory=list)
    error: str | None = None


def number_of(job_id: str) -> int:
    """7 of `…/trial-0007`."""
    return int(job_id.rsplit("-", 1)[1])
