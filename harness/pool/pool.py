"""The pool: resident worker groups that train jobs until it is closed, each a long-running Ray Train run.

A group has one start-up (about ten seconds); after that, each job costs one message. The driver supervises: Ray Train
restarts dead workers itself, and a run whose controller died is restarted by the driver.
"""

import logging
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from harness.core.errors import RunStopped
from harness.pool.engine import Engine
from harness.pool.job_log import JobLog
from harness.pool.job_queue import JobSource
from harness.pool.local_ray import local_ray, ray_processes
from harness.pool.machines import too_late
from harness.pool.ray_causes import PoolError
from harness.pool.resources import autoscaled, check_fit
from harness.pool.supervisor import (
    TOGETHER,
    Controllers,
    Supervisor,
    beside_the_driver,
    gone,
    placement_groups,
    restarted,
    run_settings,
    short,
    sweep,
)
from harness.runs.jobs import Event, Job

__all__ = ["Pool", "PoolError", "local_ray", "ray_processes"]

log = logging.getLogger(__name__)

CLOSE_S = 30.0
IDLE_GROUP_S = 60.0
"""Seconds that a group of an autoscaled cluster waits for work before it ends and its machine is released."""


class Pool:
    """Worker groups, and the job source between them and their clients. Create with `Pool.start`."""

    def __init__(
        self, source: Any, groups: Sequence[str], slots: int, run: dict[str, Any], scratch: Path
    ) -> None:
        self._source, self._groups, self.scratch = source, list(groups), scratch
        self.capacity = len(groups) * slots
        self.interrupted = False
        self._read = self._warned = 0
        self._log = JobLog()
        self._limit: int | None = None
        self._incarnation: str | None = None
        self._temporary = False
        self._closing = threading.Event()
        self._before = run["before"]
        self._controllers = [Controllers() for _ in groups[::TOGETHER]]
        self._supervisors = [
            Supervisor(name, source, run, scratch, self._closing, self._controllers[number // TOGETHER])
            for number, name in enumerate(groups)
        ]

    @classmethod
    def start(
        cls,
        make_engine: Callable[[int, int], Engine],
        *,
        groups: int = 1,
        workers_per_group: int = 1,
        cpus_per_worker: float = 1,
        gpus_per_worker: float = 0,
        slots: int = 1,
        scratch: Path | None = None,
        start_s: float = 300.0,
        client_s: float = 60.0,
        max_failures: int = 2,
    ) -> "Pool":
        """Start the groups and wait until one of them serves; the others continue to start.

        Args:
            make_engine: `(rank, world) -> Engine`, called in every worker process, again after a restart.
            slots: Jobs that one group may hold at once; the engine decides which fit together.
            scratch: Folder for Ray's files; by default a temporary one that is removed with the pool.
            start_s: Seconds to wait for the first group.
            client_s: Seconds after which the slot of a vanished search client is released.
            max_failures: Number of further attempts for a failed job, on another group if there is one.

        Raises:
            ValueError: If the groups do not fit on the machine.
            PoolError: If no group could start.
            RunStopped: If no machine of an autoscaled cluster came in time.
        """
        check_fit(groups, workers_per_group, cpus_per_worker, gpus_per_worker)
        temporary = scratch is None
        scratch = Path(scratch or tempfile.mkdtemp(prefix="lingo-pool-")).resolve()
        token = uuid.uuid4().hex[:8]
        source = (
            ray.remote(JobSource)
            .options(
                name=f"lingo-jobs-{token}",
                num_cpus=0,
                max_concurrency=10_000,
                max_restarts=-1,
                max_task_retries=-1,
                scheduling_strategy=beside_the_driver(),
            )
            .remote(
                client_s=client_s,
                max_failures=max_failures,
                restartable=True,
                idle_s=IDLE_GROUP_S if autoscaled() else None,
                gone=gone,
                restarted=restarted,
            )
        )
        run = {
            "make_engine": ray.put(
                make_engine
            ),  # pickled once here, so that workers need not import its module
            "workers": workers_per_group,
            "cpus": cpus_per_worker,
            "gpus": gpus_per_worker,
            "slots": slots,
            "settings": run_settings(),
            "before": frozenset(placement_groups()),
        }
        pool = cls(source, [f"group-{number}" for number in range(groups)], slots, run, scratch)
        pool._temporary = temporary
        try:
            pool._up(start_s)
        except BaseException:
            pool.close()
            raise
        return pool

    @property
    def handle(self) -> Any:
        """The job source's actor handle: picklable, for Tune clients."""
        return self._source

    @property
    def groups(self) -> int:
        """Worker groups, including those not running (yet)."""
        return len(self._groups)

    @property
    def open(self) -> dict[str, Event]:
        """The last event of each job that has not ended, by its id."""
        return self._log.open

    def begin(self, limit: int | None = None) -> None:
        """Start a round of jobs, of which at most `limit` train at once."""
        self.interrupted, self._limit = False, limit
        self._call("begin", limit)

    def submit(self, job: Job) -> None:
        """Queue a job whose reports the caller reads from `events`."""
        self._log.submitted(job)
        self._call("submit", job, followed=False)

    def events(self, wait_s: float = 0.5) -> list[Event]:
        """Events since the last call, in order, at the latest after `wait_s`; logs new warnings.

        A job source whose process died has been restarted by Ray and receives its state here; nothing is repeated to
        the caller. Checkpoints of jobs whose end was returned by an earlier call are removed.
        """
        events: list[Event]
        self._log.remove_checkpoints()
        self._restore_source()
        events, warnings = self._call("events", self._read, wait_s)
        for line in warnings[self._warned :]:
            log.warning("%s", line)
        self._warned = len(warnings)
        if events:
            self._read = events[-1].number
        return self._log.take(events)

    def interrupt(self) -> None:
        """End every open job as interrupted."""
        self.interrupted = True
        self._call("interrupt")

    def state(self) -> dict[str, Any]:
        """Counts of `JobSource.state`."""
        state: dict[str, Any] = self._call("state")
        return state

    def pid(self) -> int:
        """The process of the job source, for tests that kill it."""
        pid: int = self._call("pid")
        return pid

    def usage(self) -> dict[str, float]:
        """Use of the groups' time: busy_s, idle_s (without a job while one was queued), idle_share of both,
        empty_slots_share (of busy groups, while jobs were queued)."""
        usage: dict[str, float] = self._call("usage")
        return usage

    def close(self) -> None:
        """End open jobs, release the workers and remove all placement groups. May be called twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        try:
            self._call("close")
        except PoolError:
            log.debug("the job source was gone before the pool was closed")
        deadline = time.monotonic() + CLOSE_S
        for supervisor in self._supervisors:
            supervisor.join(max(0.0, deadline - time.monotonic()))
        for supervisor in self._supervisors:
            if supervisor.runs():
                log.warning("%s did not end within %.0f s and was killed", supervisor.name, CLOSE_S)
        for controllers in self._controllers:
            controllers.end()
        ray.kill(self._source)
        sweep([supervisor.shape for supervisor in self._supervisors], self._before)
        self._log.sweep()
        if self._temporary:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return ray.get(getattr(self._source, method).remote(*args, **kwargs))
        except RayError as error:
            raise PoolError(f"The worker pool lost its job source: {short(error)}") from error

    def _restore_source(self) -> None:
        """Send the driver's state to a restarted source."""
        incarnation = self._call("incarnation")
        if incarnation == self._incarnation:
            return
        if self._incarnation is not None:
            log.warning("the job source died and was restarted; its jobs are queued again")
            self._warned = 0
            self._call("expect", self._groups)
            self._call("begin", self._limit)
            if self.interrupted:
                self._call("interrupt")
            for job in self._log.own():
                self._call("submit", job, followed=False)
        self._incarnation = incarnation

    def _up(self, start_s: float) -> None:
        self._call("expect", self._groups)
        self._incarnation = self._call("incarnation")
        for supervisor in self._supervisors:
            supervisor.start()
        deadline = time.monotonic() + start_s
        while not (state := self.state())["up"]:
            if len(state["broken"]) == len(self._groups):
                raise PoolError(next(iter(state["broken"].values())))
            if time.monotonic() > deadline and autoscaled():
                raise RunStopped(too_late(start_s))
            if time.monotonic() > deadline:
                raise PoolError(f"No worker group started within {start_s:.0f} s.")
            time.sleep(0.1)
