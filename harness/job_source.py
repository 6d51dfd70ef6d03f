"""Where jobs wait, who trains them and what they reported: the state behind the pool's one named actor.

Plain asyncio, no Ray: `harness.pool` runs a `JobSource` as an actor. Three parties call it:

- clients `submit` a job, `follow` it to its end and `release` it when they want no more;
- worker groups say `hello` once and `exchange` news for orders from then on;
- the driver reads every `events` entry in order, and may `interrupt` or `close`.

A job is held by one life of one group. Losing that life puts its jobs back at the head of the queue, to be
trained from the start; a report that repeats a number is dropped, so nobody sees the repetition.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from harness.jobs import OPEN, Event, Job, News, Orders, Report, Status

MAX_WARNINGS = 100


@dataclass
class _Entry:
    job: Job
    order: tuple[int, int]
    followed: bool
    seen: float
    status: Status = "queued"
    reports: list[Report] = field(default_factory=list)
    group: str | None = None
    losses: int = 0
    alone: bool = False


@dataclass
class _Group:
    life: str
    placement_group: str | None
    seen: float
    pid: int
    held: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    silent_lives: int = 0
    suspicion: str | None = None


class JobSource:
    """The queue, its leases and its event log.

    Args:
        client_s: Seconds without a `follow` after which a followed job's client counts as gone.
        lease_s: Seconds without an `exchange` after which a group counts as lost.
        max_losses: How often a job may lose its worker before it fails.
        max_silent_lives: How often a group may restart without one report before it is given up.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        *,
        client_s: float = 60.0,
        lease_s: float = 600.0,
        max_losses: int = 3,
        max_silent_lives: int = 6,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client_s, self._lease_s, self._clock = client_s, lease_s, clock
        self._max_losses, self._max_silent_lives = max_losses, max_silent_lives
        self._entries: dict[str, _Entry] = {}
        self._open: set[str] = set()
        self._queue: list[str] = []
        self._groups: dict[str, _Group] = {}
        self._broken: dict[str, str] = {}
        self._expected: set[str] = set()
        self._supervisors: dict[str, int] = {}
        self._warnings: list[str] = []
        self._failures: dict[str, int] = {}
        self._events: deque[Event] = deque()
        self._event_count = self._submitted = 0
        self._limit: int | None = None
        self._interrupted = self._closed = False
        self._changed = asyncio.Condition()

    # ---- clients

    async def submit(self, job: Job, *, priority: int = 0, followed: bool = True) -> None:
        """Queue a job: lower priorities first, then first come. A known id changes nothing."""
        if job.id in self._entries:
            return
        self._submitted += 1
        entry = _Entry(job, (priority, self._submitted), followed, self._clock())
        self._entries[job.id] = entry
        self._open.add(job.id)
        self._queue.append(job.id)
        self._queue.sort(key=lambda name: self._entries[name].order)
        self._log(entry, "queued")
        if self._interrupted or self._closed:
            self._end(entry, "interrupted")
        elif self._all_broken():
            self._fail(entry, self._broken_line())
        await self._notify()

    async def follow(self, job_id: str, after: int, wait_s: float) -> tuple[list[Report], Status]:
        """Reports above number `after`, once there are any or the job has ended, or after `wait_s`."""
        entry = self._entries[job_id]
        deadline = self._clock() + wait_s
        while True:
            entry.seen = self._clock()
            fresh = [report for report in entry.reports if report.number > after]
            if fresh or entry.status not in OPEN or not await self._wait(deadline):
                return fresh, entry.status

    async def release(self, job_id: str) -> None:
        """The client is done with this job: an open one is stopped, an ended one's reports are forgotten."""
        entry = self._entries.get(job_id)
        if entry is None:
            return
        if entry.status in OPEN:
            self._end(entry, "stopped")
            await self._notify()
        entry.reports.clear()

    # ---- worker groups

    async def started_by(self, group: str, pid: int) -> None:
        """The process that supervises a group's run, for messages and tests."""
        self._supervisors[group] = pid

    async def expect(self, groups: Sequence[str]) -> None:
        """Name the groups that are being started, so that a job fails once none of them can come up."""
        self._expected |= set(groups)

    async def hello(self, group: str, life: str, placement_group: str | None, pid: int = 0) -> bool:
        """A group (re)started: its last life's jobs go back to the queue. False if it must end instead."""
        known = self._groups.get(group)
        silent = known.silent_lives + 1 if known else 0
        await self.lost(group)
        self._failures.pop(group, None)
        self._groups[group] = _Group(life, placement_group, self._clock(), pid, silent_lives=silent)
        if silent > self._max_silent_lives:
            await self._give_up(
                group, f"worker group {group} ended {silent} times in a row without a report."
            )
        else:
            self._broken.pop(group, None)
        await self._notify()
        return not (self._closed or group in self._broken)

    async def exchange(self, news: News, wait_s: float) -> Orders:
        """Take a group's news; answer with orders at once, or as soon as there are any within `wait_s`."""
        group = self._groups.get(news.group)
        if group is None or group.life != news.life:
            return Orders(close=True)
        self._take_news(group, news)
        await self._notify()
        deadline = self._clock() + wait_s
        while True:
            group.seen = self._clock()
            self._expire()
            if self._closed or self._groups.get(news.group) is not group:
                return Orders(close=True)
            release = [name for name in news.held if name not in group.held]
            admit = self._take_jobs(news.group, group, news.room)
            if release or admit:
                await self._notify()
            if release or admit or not await self._wait(deadline):
                return Orders(release, admit)

    async def crashed(self, group_name: str, life: str, error: str) -> None:
        """A group's engine raised in training. One job: it failed. Several: each is tried again alone."""
        group = self._groups.get(group_name)
        if group is None or group.life != life:
            return
        names = sorted(group.held)
        for name in names:
            entry = self._entries[name]
            if len(names) == 1:
                self._fail(entry, error)
            else:
                entry.alone = True
                self._requeue(entry)
        await self._notify()

    async def suspect(self, group: str, error: str) -> None:
        """What to name as the reason if this life of the group ends now."""
        if group in self._groups:
            self._groups[group].suspicion = error

    async def warn(self, line: str) -> None:
        """A worker's warning for the user; each is kept once."""
        if line not in self._warnings and len(self._warnings) < MAX_WARNINGS:
            self._warnings.append(line)

    async def could_not_start(self, group: str, error: str, *, tries: int) -> bool:
        """A group's engine could not be made. True if it should try again, up to `tries` times in all."""
        self._failures[group] = self._failures.get(group, 0) + 1
        if self._failures[group] >= tries:
            await self._give_up(group, f"worker group {group} could not start: {error}")
        return group not in self._broken

    async def lost(self, group_name: str) -> str | None:
        """A life of a group is over: requeue its jobs. Returns the id of the placement group it lay in."""
        group = self._groups.get(group_name)
        if group is None:
            return None
        group.life = ""
        for name in sorted(group.held):
            entry = self._entries[name]
            entry.losses += 1
            if entry.losses >= self._max_losses:
                reason = group.suspicion or "killed from outside or out of memory?"
                self._fail(entry, f"lost its worker {entry.losses} times ({reason}).")
            else:
                self._requeue(entry)
        await self._notify()
        return group.placement_group

    # ---- the driver

    async def begin(self, limit: int | None) -> None:
        """Open for a new round of jobs, of which at most `limit` train at once (`None`: as many as fit)."""
        self._limit, self._interrupted = limit, False
        await self._notify()

    async def events(self, after: int, wait_s: float) -> tuple[list[Event], list[str]]:
        """What happened after event `after`, which is thereby acknowledged; and all warnings so far."""
        while self._events and self._events[0].number <= after:
            self._events.popleft()
        deadline = self._clock() + wait_s
        while not self._events and not self._closed and await self._wait(deadline):
            pass
        return list(self._events), self._warnings

    async def interrupt(self) -> None:
        """End every open job, and every job submitted before the next `begin`."""
        self._interrupted = True
        for entry in self._open_entries():
            self._end(entry, "interrupted")
        await self._notify()

    async def close(self) -> None:
        """End every open job and send all worker groups home."""
        self._closed = True
        await self.interrupt()

    async def state(self) -> dict[str, object]:
        """For progress and tests: jobs queued and held, groups up and given up, the processes of each."""
        return {
            "queued": len(self._queue),
            "held": {name: sorted(group.held) for name, group in self._groups.items()},
            "up": sorted(set(self._groups) - set(self._broken)),
            "broken": dict(self._broken),
            "supervisors": dict(self._supervisors),
            "workers": {name: group.pid for name, group in self._groups.items()},
            "placement_groups": {name: group.placement_group for name, group in self._groups.items()},
        }

    # ---- inside

    def _open_entries(self) -> list[_Entry]:
        return [self._entries[name] for name in sorted(self._open)]

    def _take_news(self, group: _Group, news: News) -> None:
        for report in news.reports:
            entry = self._entries.get(report.job)
            group.silent_lives = 0
            if entry is not None and report.job in group.held:
                self._record(entry, report)
        refused = [name for name in news.refused if name in group.held]
        for name in refused:
            if news.held:
                self._requeue(self._entries[name])
            else:
                self._fail(self._entries[name], "does not fit on an empty worker.")
        group.refused |= set(refused)

    def _record(self, entry: _Entry, report: Report) -> None:
        last = entry.reports[-1].number if entry.reports else 0
        if report.status == "running":
            if report.number > last:
                entry.reports.append(report)
                self._log(entry, "running")
            return
        entry.reports.append(_numbered(report, max(report.number, last + 1)))
        self._end(entry, report.status)

    def _take_jobs(self, name: str, group: _Group, room: int) -> list[Job]:
        taken: list[Job] = []
        for job_id in list(self._queue):
            if (
                len(taken) >= room
                or self._at_limit()
                or any(self._entries[held].alone for held in group.held)
            ):
                break
            entry = self._entries[job_id]
            if job_id in group.refused or (entry.alone and group.held):
                continue
            self._queue.remove(job_id)
            group.held.add(job_id)
            entry.group = name
            taken.append(entry.job)
            self._log(entry, "started")
        return taken

    def _at_limit(self) -> bool:
        return (
            self._limit is not None and sum(len(group.held) for group in self._groups.values()) >= self._limit
        )

    def _requeue(self, entry: _Entry) -> None:
        self._leave(entry)
        self._log(entry, "queued")
        self._queue.insert(0, entry.job.id)
        self._queue.sort(key=lambda name: self._entries[name].order)

    def _leave(self, entry: _Entry) -> None:
        group = self._groups.get(entry.group) if entry.group else None
        if group is not None:
            group.held.discard(entry.job.id)
            group.refused.clear()
        entry.group = None

    def _end(self, entry: _Entry, status: Status) -> None:
        self._leave(entry)
        self._open.discard(entry.job.id)
        if entry.job.id in self._queue:
            self._queue.remove(entry.job.id)
        self._log(entry, status)

    def _fail(self, entry: _Entry, error: str) -> None:
        last = entry.reports[-1].number if entry.reports else 0
        entry.reports.append(Report(job=entry.job.id, number=last + 1, status="failed", error=error))
        self._end(entry, "failed")

    async def _give_up(self, group: str, line: str) -> None:
        self._broken[group] = line
        if self._all_broken():
            for entry in self._open_entries():
                self._fail(entry, self._broken_line())
        await self._notify()

    def _all_broken(self) -> bool:
        return bool(self._broken) and (self._expected | set(self._groups)) <= set(self._broken)

    def _broken_line(self) -> str:
        return next(iter(self._broken.values()))

    def _expire(self) -> None:
        now = self._clock()
        for name in [name for name, group in self._groups.items() if now - group.seen > self._lease_s]:
            group = self._groups[name]
            for job_id in sorted(group.held):
                self._requeue(self._entries[job_id])
        for entry in self._open_entries():
            if entry.followed and now - entry.seen > self._client_s:
                self._fail(entry, f"its search client has not asked for it for {self._client_s:.0f} s.")

    def _log(self, entry: _Entry, status: Status) -> None:
        entry.status = status
        self._event_count += 1
        report = entry.reports[-1] if entry.reports else Report(job=entry.job.id, number=0, status="running")
        self._events.append(Event(self._event_count, entry.job, report, status))

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self, deadline: float) -> bool:
        """Sleep until something changed (True) or the deadline has passed (False)."""
        left = deadline - self._clock()
        if left <= 0:
            return False
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait(), min(left, 1.0))
            except TimeoutError:
                return self._clock() < deadline
        return True


def _numbered(report: Report, number: int) -> Report:
    return report if report.number == number else replace(report, number=number)
