"""Input and output of the search for a study. Plain data."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.config.benchmark import Benchmark
from harness.config.scopes import siblings_of
from harness.config.studies import PreparedStudy
from harness.runs.jobs import Job, Report
from harness.runs.layout import RunFolder
from harness.runs.record import Record
from harness.runs.selection import group_of

Ended = Literal["finished", "stopped", "failed"]

CUT = "cut"
"""Fact in the last report of a job not stopped by the scheduler: `budget`, `user`, or the failed task."""


@dataclass(frozen=True, kw_only=True)
class Past:
    """A trial of the study that ended earlier, in this run or another.

    Attributes:
        number: Its number within the study.
        values: The searched settings.
        status: Final status; `stopped` by the scheduler or a limit.
        evaluations: Pairs of an epoch and the dev metric after it, in order.
        parameters: Trained parameters; `None` where they were not counted.
    """

    number: int
    values: Mapping[str, Any]
    status: Ended
    evaluations: tuple[tuple[float, float], ...] = ()
    parameters: int | None = None

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
                (entry["epoch"], float(entry["dev"].get(record.metric, math.nan))) for entry in record.history
            ),
            parameters=record.trained_parameters,
        )


@dataclass(frozen=True, kw_only=True)
class SearchStudy(PreparedStudy):
    """A study to search: with the benchmark's settings, and what is known of its trials.

    Attributes:
        benchmark: The settings. Of `num_samples` only what `history` lacks is run.
        group: Key of the search group, see `harness.runs.selection.group_of`; empty for a study of its own. The studies
            of a group share configurations: each of its trials is one job of every member, all with the same
            number, and its objective is the mean of the members' metrics at the same epoch. The first
            member's seed, first points, searcher, scheduler and siblings are the group's.
        history: Earlier ended trials, known to the searcher and the scheduler.
        open: Numbers and complete configurations of trials that have started and not ended; they continue first.
        reduction_factor: ASHA keeps one trial in this many at each rung, see `harness.search.schedulers.rungs`.
        checkpoints: Folder of the trials' checkpoints; `None` for no checkpoints.
    """

    benchmark: Benchmark
    group: str = ""
    history: tuple[Past, ...] = ()
    open: tuple[tuple[int, Mapping[str, Any]], ...] = ()
    reduction_factor: float = 2
    checkpoints: str | None = None

    @classmethod
    def of(
        cls,
        study: PreparedStudy,
        benchmark: Benchmark,
        records: Iterable[Record],
        opened: Iterable[Job],
        out: Path,
    ) -> "SearchStudy":
        """A study with the past that its records and the open jobs in the folder `out` tell of.

        Of trials that have begun and not ended without a file, the records say that they were killed.
        """
        of_study = [record for record in records if (record.study, record.stage) == (study.key, "search")]
        ended = {record.id: record for record in of_study if record.status != "killed"}
        begun = {record.id: dict(record.config) for record in of_study if record.status == "killed"}
        begun |= {job.id: job.config for job in opened if (job.study, job.stage) == (study.key, "search")}
        names = {"task": study.task.name, "backbone": study.backbone, "method": study.method}
        return cls(
            **vars(study),
            benchmark=benchmark,
            group=group_of(benchmark.scope, family=study.task.family, **names),
            history=tuple(Past.of(record, study.space.leaves) for record in ended.values()),
            open=tuple((number_of(name), begun[name]) for name in sorted(begun.keys() - ended.keys())),
            checkpoints=str(RunFolder(out).checkpoints),
        )

    @property
    def search_group(self) -> str:
        """Key of the search group."""
        return self.group or self.key

    @property
    def siblings(self) -> int:
        """Number of forks of the best configuration that has trained all epochs, which differ only in p, bT and delta_T
        and so share the start of their training."""
        return siblings_of(self.space, self.benchmark.siblings)

    @property
    def deterministic(self) -> bool:
        """Whether trials, decisions and scores are independent of the load: trials train alone, and nothing depends on
        the order of reports, see `harness.search.ordered_halving`."""
        return self.benchmark.deterministic


def members_of(studies: Sequence[SearchStudy]) -> Mapping[str, list[SearchStudy]]:
    """The studies of each search group, in their order."""
    found: dict[str, list[SearchStudy]] = {}
    for study in studies:
        found.setdefault(study.search_group, []).append(study)
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
