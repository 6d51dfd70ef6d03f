"""The pool: resident worker groups that train jobs until it is closed, each a Ray Train run that stays up.

A group costs one start-up (about ten seconds); after that a job costs one message. The driver supervises: Ray
Train restarts dead workers by itself, a run whose controller died is started again from here.
"""

import logging
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.engine import Engine
from harness.heard import Heard
from harness.job_source import JobSource
from harness.jobs import Event, Job

log = logging.getLogger(__name__)

HEADROOM = (
    0.95  # of a worker's CPUs are asked of Ray: Tune's clients (0.001 each) need room beside full groups
)
CLOSE_S = 30.0
IDLE_GROUP_S = 60.0
"""How long a group of an autoscaled cluster waits for work before it goes, and its machine with it."""

RESTARTS = 3  # of a whole Ray Train run, each within a minute of the last
RAY_SETTINGS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same everywhere
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "120",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "180",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "1",
}


class PoolError(RuntimeError):
    """The pool cannot work (any more); the message is one line for the user."""


@contextmanager
def local_ray(num_cpus: int, num_gpus: int | None = None) -> Iterator[None]:
    """A quiet Ray instance on this machine alone, for as long as the block lasts."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_worker_maximum_startup_concurrency", "16"
    )  # else Ray warns of our many small processes
    ray.init(
        address="local",
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield
    finally:
        ray.shutdown()


def try_ray(seconds: float = 60.0) -> str:
    """Start Ray on this machine, run one task on it and stop it again.

    Returns:
        Address of the node that ran the task.

    Raises:
        RayError, OSError, RuntimeError: As Ray does where it cannot start, or its task does not end in time.
    """
    with local_ray(1):
        answer: str = ray.get(ray.remote(ray.util.get_node_ip_address).remote(), timeout=seconds)
    return answer


class Pool:
    """Worker groups and the job source between them and their clients. Make one with `Pool.start`."""

    def __init__(
        self, source: Any, groups: Sequence[str], slots: int, run: dict[str, Any], scratch: Path
    ) -> None:
        self._source, self._groups, self._run, self.scratch = source, list(groups), run, scratch
        self.capacity = len(groups) * slots
        self.interrupted = False
        self._read = self._warned = 0
        self._heard = Heard()
        self._limit: int | None = None
        self._incarnation: str | None = None
        self._temporary = False
        self._closing = threading.Event()
        self._tasks: dict[str, Any] = {}
        self._before = set(placement_group_table())
        self._threads = [
            threading.Thread(target=self._supervise, args=(name,), name=name, daemon=True) for name in groups
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
        """Start the groups and wait until one of them serves; the others come up beside it.

        Args:
            make_engine: `(rank, world) -> Engine`, called in every worker process, again after a restart.
            slots: Jobs that one group may hold at once; the engine decides what fits together.
            scratch: Folder for Ray's own files; by default a temporary one that goes with the pool.
            start_s: Seconds to wait for the first group.
            client_s: Seconds after which the slot of a search client that vanished is free again.
            max_failures: How often a job that failed is tried again, on another group where there is one.

        Raises:
            ValueError: when the groups do not fit on the machine.
            PoolError: when no group could start.
        """
        from harness.cluster import autoscaled, check_fit

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
                scheduling_strategy=_beside_the_driver(),
            )
            .remote(
                client_s=client_s,
                max_failures=max_failures,
                restartable=True,
                idle_s=IDLE_GROUP_S if autoscaled() else None,
            )
        )
        run = {
            "make_engine": ray.put(make_engine),  # pickled once, here: workers need not import its module
            "workers": workers_per_group,
            "cpus": cpus_per_worker,
            "gpus": gpus_per_worker,
            "slots": slots,
            "settings": {name: os.environ.get(name, value) for name, value in RAY_SETTINGS.items()},
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
        """Worker groups, those that are not up (yet) included."""
        return len(self._groups)

    def begin(self, limit: int | None = None) -> None:
        """Open a round of jobs, of which at most `limit` train at once."""
        self.interrupted, self._limit = False, limit
        self._call("begin", limit)

    def submit(self, job: Job) -> None:
        """Queue a job whose news the caller reads from `events`."""
        self._heard.submitted(job)
        self._call("submit", job, followed=False)

    def events(self, wait_s: float = 0.5) -> list[Event]:
        """What happened since the last call, in order, at the latest after `wait_s`; logs new warnings.

        A job source whose process died has been started anew by Ray and is told here what it must know; nothing
        is repeated to the caller. Checkpoints of jobs whose end an earlier call gave are removed.
        """
        events: list[Event]
        self._heard.remove_checkpoints()
        self._restore_source()
        events, warnings = self._call("events", self._read, wait_s)
        for line in warnings[self._warned :]:
            log.warning("%s", line)
        self._warned = len(warnings)
        if events:
            self._read = events[-1].number
        return self._heard.take(events)

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
        """How the groups' time was used: busy_s, idle_s (without a job while one was queued), idle_share of both,
        empty_slots_share (of busy groups, while jobs were queued)."""
        usage: dict[str, float] = self._call("usage")
        return usage

    def close(self) -> None:
        """End open jobs, send the workers home, leave no placement group behind. May be called twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        try:
            self._call("close")
        except PoolError:
            log.debug("the job source was gone before the pool was closed")
        deadline = time.monotonic() + CLOSE_S
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        for name, task in self._tasks.items():
            if not ray.wait([task], timeout=0)[0]:
                log.warning("%s did not end within %.0f s and was stopped", name, CLOSE_S)
                ray.cancel(task, force=True)
        ray.kill(self._source)
        self._sweep()
        self._heard.sweep()
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
            raise PoolError(f"The worker pool's job source is gone: {_short(error)}") from error

    def _restore_source(self) -> None:
        """Tell a source that was started anew what the last one knew from here."""
        incarnation = self._call("incarnation")
        if incarnation == self._incarnation:
            return
        if self._incarnation is not None:
            log.warning("the job source died and was started anew; its jobs are queued again")
            self._warned = 0
            self._call("expect", self._groups)
            self._call("begin", self._limit)
            if self.interrupted:
                self._call("interrupt")
            for job in self._heard.open():
                self._call("submit", job, followed=False)
        self._incarnation = incarnation

    def _up(self, start_s: float) -> None:
        self._call("expect", self._groups)
        self._incarnation = self._call("incarnation")
        for thread in self._threads:
            thread.start()
        deadline = time.monotonic() + start_s
        while not (state := self.state())["up"]:
            if len(state["broken"]) == len(self._groups):
                raise PoolError(next(iter(state["broken"].values())))
            if time.monotonic() > deadline:
                raise PoolError(f"No worker group came up within {start_s:.0f} s.")
            time.sleep(0.1)

    def _supervise(self, name: str) -> None:
        """Keep one group's Ray Train run up until the pool closes."""
        starts: list[float] = []
        while not self._closing.is_set():
            starts = [at for at in starts if time.monotonic() - at < 60] + [time.monotonic()]
            try:
                self._tasks[name] = _fit.options(scheduling_strategy=_beside_the_driver()).remote(
                    self._source, name, self._run, str(self.scratch)
                )
                ray.get(self._tasks[name])
                if not self._wanted_again():
                    return
            except Exception as error:
                if self._closing.is_set():
                    return
                log.warning("%s ended and is started again: %s", name, _short(error))
                if not self._clear(name, len(starts) > RESTARTS, _short(error)):
                    return

    def _wanted_again(self) -> bool:
        """After a group was sent home: wait until jobs queue. False when the pool closes first."""
        while not self._closing.wait(1.0):
            if ray.get(self._source.wanted.remote()):
                return True
        return False

    def _clear(self, name: str, give_up: bool, error: str) -> bool:
        """Requeue a lost run's jobs, remove its placement group. False if it must not start again."""
        try:
            ray.get(self._source.lost.remote(name))
            self._sweep(name)
            if give_up:
                ray.get(self._source.could_not_start.remote(name, error, tries=1))
            return not give_up
        except RayError:
            return False

    def _sweep(self, *names: str) -> None:
        """Remove the placement groups that ended runs of these groups have left (by default of all groups).

        Told by their bundles, not by what the job source knows: it may have died with them, and a group that is
        started again would wait for ever for what nobody gives back.
        """
        shapes = [_bundle(self._run, name) for name in names or self._groups]
        for key, row in placement_group_table().items():
            bundles = [{kind: round(n, 4) for kind, n in each.items()} for each in row["bundles"].values()]
            ours = any(all(bundle == shape for bundle in bundles) for shape in shapes)
            if key not in self._before and row["state"] != "REMOVED" and ours:
                _remove(key)


@ray.remote(num_cpus=0, max_retries=0)
def _fit(source: Any, name: str, run: dict[str, Any], scratch: str) -> None:
    """One Ray Train run, in a process of its own; returns when its workers were sent home."""
    os.environ.update(run["settings"])
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from harness.group import serve

    ray.get(source.started_by.remote(name, os.getpid()))
    TorchTrainer(
        serve,
        train_loop_config={
            "source": source,
            "group": name,
            "slots": run["slots"],
            "make_engine": run["make_engine"],
            "threads": max(1, int(run["cpus"])),
        },
        torch_config=TorchConfig(backend="nccl" if run["gpus"] else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=run["workers"], use_gpu=run["gpus"] > 0, resources_per_worker=_bundle(run, name)
        ),
        run_config=RunConfig(
            name=f"{name}-{uuid.uuid4().hex[:8]}",
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=-1),
        ),
    ).fit()


def _beside_the_driver() -> NodeAffinitySchedulingStrategy:
    """What holds the run together lies where the driver does: worker nodes may be taken away at any time."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _bundle(run: dict[str, Any], name: str) -> dict[str, float]:
    """What a worker of this group asks of Ray: its CPUs differ from other groups' in the last digits, so that
    a placement group, which Ray Train gives no name, tells whose it is."""
    bundle = {"CPU": round(run["cpus"] * HEADROOM - int(name.rsplit("-", 1)[1]) * 1e-4, 4)}
    return bundle | {"GPU": run["gpus"]} if run["gpus"] else bundle


def _remove(key: str) -> None:
    try:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(key))))
    except (GetTimeoutError, RayError) as error:
        log.warning("could not remove placement group %s: %s", key, _short(error))


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
