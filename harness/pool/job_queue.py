"""The job queue, the groups that hold jobs and their reports: the state of the pool's named actor.

Plain asyncio, no Ray: `harness.pool.pool` runs a `JobSource` as an actor. Three parties call it:

- clients `submit` a job, `follow` it to its end and `release` it;
- worker groups `register` once and `exchange` status updates for commands from then on;
- the driver reads every entry of `events` in order, and may `interrupt` or `close`.

A job is held by one incarnation of one group. Losing that incarnation puts its jobs back at the head of the queue, to
go on from their checkpoints; a report that repeats a number is dropped, so nobody sees the repetition. A job that
fails is tried again, on another group where there is one.

A source whose process died starts anew with nothing. Groups then register again with the jobs that they hold,
and train on meanwhile; clients and the driver submit all jobs again. Until every group has registered, or `settle_s`
has passed, it gives out no job: the group that trains it may not have had time to say so.
"""

import asyncio
import os
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence

from harness.pool.queue_state import JobRow, JobState, WorkerGroup
from harness.runs.jobs import OPEN, Commands, Event, Job, Report, Status, StatusUpdate

MAX_WARNINGS = 100


class JobSource(JobState):
    """The queue, its leases and its event log.

    Args:
        client_s: Seconds without a `follow` after which a followed job's client counts as gone.
        lease_s: Seconds without a sign of life (`heartbeat`, `exchange`) after which a group counts as lost. A host
            cut off the network is noticed by Ray after about a minute; this comes soon after.
        stuck_s: Seconds without an `exchange`, regardless of heartbeats, after which it counts as lost too.
        max_losses: Number of times in a row that a job may lose its worker without a new evaluation before it fails.
        max_failures: Number of further attempts for a failed job.
        idle_s: Seconds without a job after which a group is released while nothing is queued, so that an
            autoscaler can terminate its machine; the last group stays. `None` keeps all.
        max_silent_lives: Number of times that a group may restart without a report before it is given up.
        restartable: Start numbering events from the current time, so that a restarted source does not reuse numbers.
        gone: Whether one of these nodes has left the cluster. Losses with a machine count against neither the
            job nor the group.
        restarted: Whether an earlier process of this source died.
        settle_s: Seconds for which a restarted source gives out no job while a group has not registered. A group
            registers between two steps of training.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        *,
        client_s: float = 60.0,
        lease_s: float = 90.0,
        stuck_s: float = 1800.0,
        max_losses: int = 5,
        max_failures: int = 2,
        max_silent_lives: int = 6,
        restartable: bool = False,
        idle_s: float | None = None,
        gone: Callable[[Sequence[str]], bool] = lambda nodes: False,
        restarted: Callable[[], bool] = lambda: False,
        settle_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            client_s=client_s,
            lease_s=lease_s,
            stuck_s=stuck_s,
            max_failures=max_failures,
            first_event=time.time_ns() // 1000 if restartable else 0,
            settle_s=settle_s if restarted() else 0.0,
            clock=clock,
        )
        self._max_losses, self._max_silent_lives, self._gone = max_losses, max_silent_lives, gone
        self._incarnation = uuid.uuid4().hex
        self._supervisors: dict[str, int] = {}
        self._warnings: list[str] = []
        self._failures: dict[str, int] = {}
        self._idle_s = idle_s
        self._idle: dict[str, float] = {}
        self._interrupted = self._closed = False
        self._changed = asyncio.Condition()

    # ---- clients

    async def submit(
        self,
        job: Job,
        *,
        priority: int = 0,
        followed: bool = True,
        trial: str = "",
        sync_epochs: Collection[float] = (),
    ) -> None:
        """Queue a job: lower priorities first, then in order of submission. A known id has no effect.

        Args:
            followed: Whether a client will keep asking for it; without the client it is given up.
            trial, sync_epochs: After these epochs it makes room for jobs of the same trial that have not come as far
                and wait for a slot; it must keep checkpoints, from which it goes on.
        """
        if job.id in self._rows:
            known = self._rows[job.id]
            known.followed |= followed
            known.seen = self._clock()
            known.trial = known.trial or trial  # of one that a group told of
            known.sync_epochs = known.sync_epochs or sync_epochs
            return
        self._count_time()
        self._submitted += 1
        order = (priority, self._submitted)
        row = JobRow(job, order, followed, self._clock(), trial=trial, sync_epochs=sync_epochs)
        self._rows[job.id] = row
        self._open.add(job.id)
        self._queue.append(job.id)
        self._queue.sort(key=lambda name: self._rows[name].place)
        self._log(row, "queued")
        if self._interrupted or self._closed:
            self._end(row, "interrupted")
        elif self._all_broken():
            self._fail(row, self._broken_line())
        await self._notify()

    async def follow(self, job_id: str, after: int, wait_s: float) -> tuple[list[Report], Status]:
        """Reports above number `after`, once there are any or the job has ended, or after `wait_s`. `unknown` for
        a job that must be submitted again."""
        if job_id not in self._rows:
            return [], "unknown"
        row = self._rows[job_id]
        deadline = self._clock() + wait_s
        while True:
            row.seen = self._clock()
            fresh = [report for report in row.reports if report.number > after]
            if fresh or row.status not in OPEN or not await self._wait(deadline):
                return fresh, row.status

    async def proceed(self, epochs: Mapping[str, float]) -> None:
        """Let jobs that wait at a rung continue. Idempotent.

        Args:
            epochs: By job the last rung that it may pass.
        """
        for name, epoch in epochs.items():
            if name in self._rows:
                self._rows[name].go = max(self._rows[name].go, epoch)
        await self._notify()

    async def release(self, job_id: str) -> None:
        """The client no longer needs this job: an open one is stopped, reports of an ended one are dropped."""
        row = self._rows.get(job_id)
        if row is None:
            return
        if row.status in OPEN:
            self._end(row, "stopped")
            await self._notify()
        row.reports.clear()

    # ---- worker groups

    async def started_by(self, group: str, pid: int) -> None:
        """The process that supervises a group's run, for messages and tests."""
        self._supervisors[group] = pid

    async def expect(self, groups: Sequence[str]) -> None:
        """Register the groups that are being started, so that jobs fail once none of them can start."""
        self._expected |= set(groups)

    async def register(
        self,
        group: str,
        incarnation: str,
        placement_group: str | None,
        pid: int = 0,
        held: Sequence[Job] = (),
        nodes: Sequence[str] = (),
    ) -> bool:
        """A group (re)started: its last incarnation's jobs go back to the queue. False if it must end instead.

        Args:
            held: Jobs that it already trains, if this source was restarted.
            nodes: Nodes of its workers.
        """
        known = self._groups.get(group)
        silent = known.silent_incarnations + (not self._gone(known.nodes)) if known else 0
        await self.lost(group)
        self._failures.pop(group, None)
        now = self._clock()
        self._groups[group] = WorkerGroup(
            incarnation, placement_group, now, pid, exchanged=now, silent_incarnations=silent, nodes=nodes
        )  # fmt: skip
        for job in held:
            self._adopt(job, group)
        if silent > self._max_silent_lives:
            await self._give_up(
                group, f"worker group {group} ended {silent} times in a row without a report."
            )
        else:
            self._broken.pop(group, None)
        await self._notify()
        return not (self._closed or group in self._broken)

    async def exchange(self, update: StatusUpdate, wait_s: float) -> Commands:
        """Take a group's status; answer with commands at once, or as soon as there are any within `wait_s`."""
        group = self._groups.get(update.group)
        if group is None and not self._closed:
            return Commands(register=True)
        if group is None or group.incarnation != update.incarnation:
            return Commands(close=True)
        self._count_time()
        self._take_update(update.group, group, update)
        await self._notify()
        deadline = self._clock() + wait_s
        while True:
            group.seen = group.exchanged = self._clock()
            self._expire()
            if self._closed or self._groups.get(update.group) is not group:
                return Commands(close=True)
            if self._may_go(update.group, group):
                del self._groups[update.group]
                return Commands(close=True)
            self._make_room(group)
            release = [name for name in update.held if name not in group.held]
            admit = self._take_jobs(update.group, group, update.capacity)
            if release or admit:
                await self._notify()
            proceed = [
                name
                for name, epoch in update.waiting.items()
                if name in group.held and self._rows[name].go >= epoch
            ]
            woken = not (release or admit or proceed) and await self._wait(deadline)
            group.waited += 0.0 if group.held else self._clock() - group.exchanged
            if not woken:
                return Commands(release, admit, proceed=proceed)

    def _may_go(self, name: str, group: WorkerGroup) -> bool:
        """Whether a group has long been idle, nothing is queued, and there is another group."""
        if group.held or self._queue or self._idle_s is None:
            self._idle.pop(name, None)
            return False
        since = self._idle.setdefault(name, self._clock())
        if self._clock() - since < self._idle_s or len(self._groups) < 2:
            return False
        self._idle.pop(name)
        return True

    async def wanted(self) -> bool:
        """Whether jobs wait for a group."""
        return bool(self._queue) and not self._closed

    async def heartbeat(self, group_name: str, incarnation: str) -> None:
        """Heartbeat of a group that may be busy for long (an evaluation)."""
        group = self._groups.get(group_name)
        if group is not None and group.incarnation == incarnation:
            group.seen = self._clock()

    async def crashed(self, group_name: str, incarnation: str, error: str) -> None:
        """The engine of a group raised during training. A single job has failed; several are each tried again alone."""
        group = self._groups.get(group_name)
        if group is None or group.incarnation != incarnation:
            return
        self._count_time()
        names = sorted(group.held)
        for name in names:
            row = self._rows[name]
            if len(names) == 1:
                self._retry(row, Report(job=name, number=row.last + 1, status="failed", error=error))
            else:
                row.alone = True
                self._requeue(row)
        await self._notify()

    async def leave(self, update: StatusUpdate) -> None:
        """A group's last update before it leaves its machine: what it holds goes on elsewhere, as if never begun
        there."""
        group = self._groups.get(update.group)
        if group is None or group.incarnation != update.incarnation:
            return
        self._count_time()
        self._take_update(update.group, group, update)
        for name in sorted(group.held):
            self._requeue(self._rows[name])
        del self._groups[update.group]
        await self._notify()

    async def probable_cause(self, group: str, error: str) -> None:
        """What to name as the reason if this incarnation of the group ends now."""
        if group in self._groups:
            self._groups[group].suspicion = error

    async def warn(self, line: str) -> None:
        """Warning of a worker for the user; duplicates are dropped."""
        if line not in self._warnings and len(self._warnings) < MAX_WARNINGS:
            self._warnings.append(line)

    async def could_not_start(self, group: str, error: str, *, tries: int) -> bool:
        """The engine of a group could not be created. True if it should try again, up to `tries` times in total."""
        self._failures[group] = self._failures.get(group, 0) + 1
        if self._failures[group] >= tries:
            await self._give_up(group, f"worker group {group} could not start: {error}")
        return group not in self._broken

    async def lost(self, group_name: str) -> str | None:
        """An incarnation of a group is over: requeue its jobs. Returns the id of the placement group it lay in."""
        group = self._groups.get(group_name)
        if group is None:
            return None
        self._count_time()
        group.incarnation = ""
        with_machine = self._gone(group.nodes)
        for name in sorted(group.held):
            row = self._rows[name]
            if with_machine:
                self._requeue(row)
                continue
            row.losses += 1
            row.alone |= group.suspicion is not None or row.losses > 1
            reason = group.suspicion or "killed from outside or out of memory?"
            if row.losses >= self._max_losses:
                self._fail(row, f"lost its worker {row.losses} times ({reason}).")
            else:
                self._requeue(row)
        await self._notify()
        return group.placement_group

    # ---- the driver

    async def begin(self, limit: int | None) -> None:
        """Accept a new round of jobs, of which at most `limit` train at once (`None`: as many as fit)."""
        self._limit, self._interrupted = limit, False
        await self._notify()

    async def events(self, after: int, wait_s: float) -> tuple[list[Event], list[str]]:
        """Events after number `after`, which is thereby acknowledged, and all warnings so far."""
        while self._events and self._events[0].number <= after:
            self._events.popleft()
        deadline = self._clock() + wait_s
        while not self._events and not self._closed and await self._wait(deadline):
            self._expire()
        return list(self._events), self._warnings

    async def incarnation(self) -> str:
        """Identifies this start of the source."""
        return self._incarnation

    async def pid(self) -> int:
        """Of this process."""
        return os.getpid()

    async def usage(self) -> dict[str, float]:
        """Use of the groups' time, see `harness.pool.queue_state.Usage.to_dict`."""
        self._count_time()
        return self._usage.to_dict()

    async def interrupt(self) -> None:
        """End every open job, and every job submitted before the next `begin`."""
        self._count_time()
        self._interrupted = True
        for row in self._open_rows():
            self._end(row, "interrupted")
        await self._notify()

    async def close(self) -> None:
        """End every open job and release all worker groups."""
        self._closed = True
        await self.interrupt()

    async def state(self) -> dict[str, object]:
        """For progress and tests: jobs queued and held, groups up and given up, the processes of each."""
        return {
            "queued": len(self._queue),
            "held": {name: sorted(group.held) for name, group in self._groups.items()},
            "up": sorted(set(self._groups) - set(self._broken)),
            "broken": dict(self._broken),
            "usage": self._usage.to_dict(),
            "supervisors": dict(self._supervisors),
            "workers": {name: group.pid for name, group in self._groups.items()},
            "nodes": {name: list(group.nodes) for name, group in self._groups.items()},
            "placement_groups": {name: group.placement_group for name, group in self._groups.items()},
        }

    async def _give_up(self, group: str, line: str) -> None:
        self._broken[group] = line
        if self._all_broken():
            for row in self._open_rows():
                self._fail(row, self._broken_line())
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self, deadline: float) -> bool:
        """Wait until something changes (True) or the deadline has passed (False)."""
        left = deadline - self._clock()
        if left <= 0:
            return False
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait(), min(left, 1.0))
            except TimeoutError:
                return self._clock() < deadline
        return True
