"""The queue of jobs, their holders and reports: the state of a job source and its transitions."""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.runs.jobs import OPEN, Event, Job, Report, Status, StatusUpdate

Kind = tuple[str, str]
"""Kind of a job, rejected as a whole by a group that trains another kind: a backbone and a method."""


def kind_of(job: Job) -> Kind:
    """Jobs of one kind fit next to the same others."""
    return job.backbone, str(job.config.get("method", ""))


@dataclass
class JobRow:
    """A submitted job.

    Attributes:
        order: Its priority and age.
        followed: Whether a client follows it; a client that stops asking counts as gone.
        losses: Lost workers in a row without a new evaluation.
        failures: One line per failed attempt.
        excluded: Groups on which it failed.
        alone: Whether it must be trained alone, to find out which of several jobs failed.
        trial, sync_epochs: Jobs of one `trial` take turns: after these epochs they wait for those behind.
        turn: The epoch after which it last waited.
        go: The last rung that it may pass.
    """

    job: Job
    order: tuple[int, int]
    followed: bool
    seen: float
    status: Status = "queued"
    reports: list[Report] = field(default_factory=list)
    group: str | None = None
    losses: int = 0
    failures: list[str] = field(default_factory=list)
    excluded: set[str] = field(default_factory=set)
    alone: bool = False
    trial: str = ""
    sync_epochs: Collection[float] = ()
    turn: float = 0
    go: float = 0

    @property
    def separate(self) -> bool:
        """Whether it is trained alone."""
        return self.alone or self.job.alone

    @property
    def waits(self) -> bool:
        """Whether it waits at a rung for a decision."""
        return self.epoch in self.job.rungs and self.go < self.epoch

    @property
    def place(self) -> tuple[int, float, int]:
        """Its place in the queue: the slowest job of a trial first."""
        return self.order[0], self.turn, self.order[1]

    @property
    def epoch(self) -> float:
        """The last epoch that it has evaluated."""
        return self.reports[-1].epoch if self.reports else 0

    @property
    def last(self) -> int:
        """Number of the latest report."""
        return self.reports[-1].number if self.reports else 0


@dataclass
class WorkerGroup:
    """One incarnation of a worker group.

    Attributes:
        seen, exchanged: When it last gave a sign of life, and when it last asked for commands.
        held: Jobs assigned to it and not ended.
        refused, kinds: Jobs, and kinds of jobs, that it cannot admit while it holds the same others.
        slots: Jobs that it can hold, as last reported.
        nodes: Ray's ids of the nodes of its workers.
        waited: Seconds without available jobs since its last job.
    """

    incarnation: str
    placement_group: str | None
    seen: float
    pid: int
    exchanged: float = 0.0
    held: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    kinds: set[Kind] = field(default_factory=set)
    slots: int = 1
    waited: float = 0.0
    silent_incarnations: int = 0
    suspicion: str | None = None
    nodes: Sequence[str] = ()


class Usage:
    """Use of the worker groups' time, updated at every change, in seconds of the source's clock.

    A group is busy while it holds a job, and idle while it holds none although one is queued. The time between two jobs
    by the group's own clock, minus the time without queued jobs, is also idle: the cost of messages.
    """

    def __init__(self, now: float) -> None:
        self._at = now
        self.busy = self.idle = self.filled = self.empty = 0.0

    def passed(self, now: float, groups: Iterable[WorkerGroup], *, queued: bool) -> None:
        """Count the time since the last call, in which nothing changed."""
        seconds, self._at = max(0.0, now - self._at), now
        for group in groups:
            if group.held:
                self.busy += seconds
                self.filled += seconds * len(group.held)
                self.empty += seconds * max(0, group.slots - len(group.held)) * queued

    def gap(self, group: WorkerGroup, seconds: float) -> None:
        """Add time without a job, by the group's own clock."""
        self.idle += max(0.0, seconds - group.waited)
        group.waited = 0.0

    def to_dict(self) -> dict[str, Any]:
        """`busy_s`, `idle_s` over all groups, `idle_share` of both together, and `empty_slots_share`: the
        share of the slots of busy groups that was empty while jobs were queued."""
        time, slots = self.busy + self.idle, self.filled + self.empty
        return {
            "busy_s": round(self.busy, 3),
            "idle_s": round(self.idle, 3),
            "idle_share": self.idle / time if time else 0.0,
            "empty_slots_share": self.empty / slots if slots else 0.0,
        }


class JobState:
    """Jobs, groups and events. `harness.pool.job_queue.JobSource` documents the arguments and is the public interface.

    Args:
        first_event: The number before that of the first event.
        settle_s: Seconds from now in which no job is given out while an expected group has not registered.
    """

    def __init__(
        self,
        *,
        client_s: float,
        lease_s: float,
        stuck_s: float,
        max_failures: int,
        first_event: int = 0,
        settle_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client_s, self._lease_s, self._stuck_s, self._clock = client_s, lease_s, stuck_s, clock
        self._max_failures = max_failures
        self._rows: dict[str, JobRow] = {}
        self._open: set[str] = set()
        self._queue: list[str] = []
        self._groups: dict[str, WorkerGroup] = {}
        self._broken: dict[str, str] = {}
        self._expected: set[str] = set()
        self._events: deque[Event] = deque()
        self._event_count, self._submitted = first_event, 0
        self._limit: int | None = None
        self._usage = Usage(clock())
        self._settled = clock() + settle_s

    def _open_rows(self) -> list[JobRow]:
        return [self._rows[name] for name in sorted(self._open)]

    def _count_time(self) -> None:
        queued = bool(self._queue) and not self._at_limit()
        self._usage.passed(self._clock(), self._groups.values(), queued=queued)

    def _adopt(self, job: Job, group: str) -> None:
        """A job that a group was training before this source was started."""
        if job.id not in self._rows:
            self._submitted += 1
            self._rows[job.id] = JobRow(job, (0, self._submitted), False, self._clock())
            self._open.add(job.id)
        row = self._rows[job.id]
        if row.status in OPEN and row.group is None:
            if job.id in self._queue:
                self._queue.remove(job.id)
            row.group = group
            self._groups[group].held.add(job.id)
            self._log(row, "started")

    def _take_update(self, name: str, group: WorkerGroup, update: StatusUpdate) -> None:
        group.slots = update.capacity + len(update.held)
        if update.idle:
            self._usage.gap(group, update.idle)
        for report in update.reports:
            row = self._rows.get(report.job)
            group.silent_incarnations = 0
            if row is not None and report.job in group.held:
                self._confirm(row)
                self._record(row, report)
        for job_id in [job_id for job_id in update.held if job_id in group.held]:
            self._confirm(self._rows[job_id])
        refused = [job_id for job_id in update.refused if job_id in group.held]
        for job_id in refused:
            if update.held or update.reports:
                self._requeue(self._rows[job_id])
            else:
                self._fail(self._rows[job_id], "does not fit on an empty worker.")
        if group.held:  # otherwise nothing that blocks them will end
            group.refused |= set(refused)
            group.kinds |= {kind_of(self._rows[job_id].job) for job_id in refused}

    def _confirm(self, row: JobRow) -> None:
        """A job has started once its group reports so; a rejected one never did."""
        if row.status == "queued":
            self._log(row, "started")

    def _record(self, row: JobRow, report: Report) -> None:
        if report.status == "running":
            if report.number > row.last:
                row.losses, row.alone = 0, False
                row.reports[-1:] = [*(one.brief() for one in row.reports[-1:]), report]
                self._log(row, "running")
                self._synchronise(row)
        elif report.status == "failed":
            self._retry(row, report)
        else:
            self._finish(row, report)

    def _synchronise(self, row: JobRow) -> None:
        """A job that is ahead of waiting jobs of its trial gives up its slot and continues later from its checkpoint:
        the trial can be compared once all its jobs have trained as many epochs."""
        waiting = [self._rows[name] for name in self._queue]
        behind = any(other.trial == row.trial and other.epoch < row.epoch for other in waiting)
        if row.epoch in row.sync_epochs and behind:
            row.turn = row.epoch
            self._requeue(row)

    def _make_room(self, group: WorkerGroup) -> None:
        """A job that waits at a rung for a job without a slot gives up its slot, and continues from its checkpoint."""
        for name in sorted(group.held):
            row = self._rows[name]
            if row.waits and any(_waits_for(row, self._rows[other]) for other in self._queue):
                self._requeue(row)

    def _retry(self, row: JobRow, report: Report) -> None:
        """After a failed attempt: try again, on another group if there is one, or give up."""
        where = row.group or "no group"
        row.failures.append(f"{where}: {report.error}")
        if report.hopeless or len(row.failures) > self._max_failures:
            self._finish(row, report)
            return
        row.excluded.add(where)
        self._requeue(row)

    def _finish(self, row: JobRow, report: Report) -> None:
        """The job's last report, with one line for each attempt that failed."""
        facts = report.facts | ({"failures": row.failures} if row.failures else {})
        row.reports.append(replace(report, number=max(report.number, row.last + 1), facts=facts))
        self._end(row, "finished" if report.status == "finished" else "failed")

    def _take_jobs(self, name: str, group: WorkerGroup, capacity: int) -> list[Job]:
        taken: list[Job] = []
        for job_id in list(self._queue):
            if (
                len(taken) >= capacity
                or self._at_limit()
                or self._settling()
                or any(self._rows[held].separate for held in group.held)
            ):
                break
            row = self._rows[job_id]
            unfit = job_id in group.refused or kind_of(row.job) in group.kinds or row.waits
            if unfit or (row.separate and group.held) or self._better_elsewhere(name, row):
                continue
            self._queue.remove(job_id)
            group.held.add(job_id)
            row.group = name
            taken.append(row.job)
        return taken

    def _better_elsewhere(self, name: str, row: JobRow) -> bool:
        """Whether a failed job can be tried on another group."""
        return name in row.excluded and any(
            other not in row.excluded and other not in self._broken and self._alive(group)
            for other, group in self._groups.items()
        )

    def _alive(self, group: WorkerGroup) -> bool:
        now = self._clock()
        heard = now - group.seen <= self._lease_s and now - group.exchanged <= self._stuck_s
        return bool(group.incarnation) and heard

    def _settling(self) -> bool:
        """Whether a job of the queue may be in training on a group that has not registered at this source."""
        known = set(self._groups) | set(self._broken)
        return self._clock() < self._settled and not (self._expected and self._expected <= known)

    def _at_limit(self) -> bool:
        return (
            self._limit is not None and sum(len(group.held) for group in self._groups.values()) >= self._limit
        )

    def _requeue(self, row: JobRow) -> None:
        self._leave(row)
        if row.status != "queued":
            self._log(row, "queued")
        self._queue.insert(0, row.job.id)
        self._queue.sort(key=lambda name: self._rows[name].place)

    def _leave(self, row: JobRow) -> None:
        group = self._groups.get(row.group) if row.group else None
        if group is not None:
            group.held.discard(row.job.id)
            group.refused.clear()
            group.kinds.clear()
        row.group = None

    def _end(self, row: JobRow, status: Status) -> None:
        self._leave(row)
        self._open.discard(row.job.id)
        if row.job.id in self._queue:
            self._queue.remove(row.job.id)
        self._log(row, status)

    def _fail(self, row: JobRow, error: str) -> None:
        self._finish(row, Report(job=row.job.id, number=row.last + 1, status="failed", error=error))

    def _all_broken(self) -> bool:
        return bool(self._broken) and (self._expected | set(self._groups)) <= set(self._broken)

    def _broken_line(self) -> str:
        return next(iter(self._broken.values()))

    def _expire(self) -> None:
        now = self._clock()
        for group in [group for group in self._groups.values() if group.held and not self._alive(group)]:
            self._count_time()
            for job_id in sorted(group.held):
                self._requeue(self._rows[job_id])
        for row in self._open_rows():
            if row.followed and now - row.seen > self._client_s:
                self._fail(row, f"its search client has sent no request for {self._client_s:.0f} s.")

    def _log(self, row: JobRow, status: Status) -> None:
        row.status = status
        self._event_count += 1
        report = row.reports[-1] if row.reports else Report(job=row.job.id, number=0, status="running")
        self._events.append(Event(self._event_count, row.job, report, status))


def _waits_for(row: JobRow, queued: JobRow) -> bool:
    """Whether the decision on a job may need the scores of a queued one: of its own trial, or of an earlier trial of
    its search group."""
    group, _, number = row.trial.rpartition("/")
    other, _, earlier = queued.trial.rpartition("/")
    return bool(group) and not queued.waits and group == other and int(earlier) <= int(number)
