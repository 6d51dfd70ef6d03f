"""What the search is told of a study, and what it hands back. Plain data."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.jobs import Job, Report
from harness.results import Record
from harness.spaces import SearchSpace

SearcherName = Literal["tpe", "random", "grid"]
SchedulerName = Literal["asha", "hyperband", "median", "none"]
Ended = Literal["finished", "stopped", "failed"]

CUT = "cut"
"""Fact of a stopped job's last report where not the scheduler ended it: `budget`, or the task that failed."""


def has_ended(statuses: Sequence[str], members: int) -> bool:
    """Whether a trial of a group of so many studies has ended, from what its members' jobs ended with.

    One that failed or was stopped ends the others; `killed` and a missing member are no ends.
    """
    over = any(status in ("failed", "stopped") for status in statuses)
    return over or (len(statuses) == members and all(status == "finished" for status in statuses))


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
        reduction_factor: ASHA keeps one trial in this many at each rung, see `harness.schedulers.rungs`.
        group: Key of the search group, see `harness.scopes.group_of`; empty for a study of its own. The studies
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
            alone, and nothing depends on which of them reports first, see `harness.in_order`.
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
