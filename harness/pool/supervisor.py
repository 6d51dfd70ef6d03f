"""Supervision of worker groups: each is a Ray Train run, restarted if it ends before the pool.

The runs of `TOGETHER` groups are controlled by one process, because such a process takes 0.25 GiB on the head.
"""

import logging
import os
import threading
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.core.host import cpu_stands_in

log = logging.getLogger(__name__)

HEADROOM = 0.95  # share of a worker's CPUs requested from Ray: Tune's clients (0.001 each) must fit beside full groups
TOGETHER = 8  # groups that one process controls: if it dies, they all start again
RESTARTS = 3  # of a whole Ray Train run, each within a minute of the last
RAY_SETTINGS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same everywhere
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "120",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "180",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",  # as Ray Train sets it for its controllers
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # see `harness.pool.worker_group.doomed`
    "RAY_AIR_NEW_OUTPUT": "1",
}


def run_settings() -> dict[str, str]:
    """Ray's settings in the processes of a run; the user's environment takes precedence."""
    return {name: os.environ.get(name, value) for name, value in RAY_SETTINGS.items()}


class Supervisor:
    """Keeps the run of one group alive, in a thread, until the pool closes.

    Args:
        name: Of the group: `group-<number>`.
        source: The job source's handle.
        run: Arguments of every run of the pool: make_engine, workers, cpus, gpus, slots, settings, before.
        scratch: Folder for Ray's own files.
        closing: Set when the pool closes.
        controllers: Where its runs are controlled.
    """

    def __init__(
        self,
        name: str,
        source: Any,
        run: dict[str, Any],
        scratch: Path,
        closing: threading.Event,
        controllers: "Controllers",
    ) -> None:
        self.name, self.shape = name, bundle(run, name)
        self._source, self._run, self._scratch, self._closing = source, run, scratch, closing
        self._controllers = controllers
        self._task: Any = None
        self._thread = threading.Thread(target=self._supervise, name=name, daemon=True)

    def start(self) -> None:
        """Start the first run."""
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait for the end of the last run."""
        if self._thread.is_alive():
            self._thread.join(seconds)

    def runs(self) -> bool:
        """Whether a run has not ended."""
        return self._task is not None and not ray.wait([self._task], timeout=0)[0]

    def _supervise(self) -> None:
        starts: list[float] = []
        while not self._closing.is_set():
            starts = [at for at in starts if time.monotonic() - at < 60] + [time.monotonic()]
            try:
                self._task = self._controllers.fit(self._source, self.name, self._run, str(self._scratch))
                ray.get(self._task)
                if not self._wanted_again():
                    return
            except Exception as error:
                if self._closing.is_set():
                    return
                if isinstance(error, RayActorError) and not isinstance(error, RayTaskError):
                    self._controllers.lost(self._task)
                log.warning("%s ended and is restarted: %s", self.name, short(error))
                if not self._clear(len(starts) > RESTARTS, short(error)):
                    return

    def _wanted_again(self) -> bool:
        """After a group was released: wait until jobs are queued. False if the pool closes first."""
        while not self._closing.wait(1.0):
            if ray.get(self._source.wanted.remote()):
                return True
        return False

    def _clear(self, give_up: bool, error: str) -> bool:
        """Requeue a lost run's jobs, remove its placement group. False if it must not start again."""
        try:
            ray.get(self._source.lost.remote(self.name))
            sweep([self.shape], self._run["before"])
            if give_up:
                ray.get(self._source.could_not_start.remote(self.name, error, tries=1))
            return not give_up
        except RayError:
            return False


class Controllers:
    """Runs of up to `TOGETHER` groups, controlled by one process on the driver's node, which is replaced if it dies."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._actor: Any = None
        self._tasks: set[Any] = set()

    def fit(self, source: Any, name: str, run: dict[str, Any], scratch: str) -> Any:
        """Start a run of a group; returns the reference of its end."""
        with self._lock:
            if self._actor is None:
                self._tasks = set()
                self._actor = (
                    ray.remote(Controller)
                    .options(
                        num_cpus=0, max_concurrency=TOGETHER + 1, scheduling_strategy=beside_the_driver()
                    )
                    .remote(run["settings"])
                )
            task = self._actor.fit.remote(source, name, run, scratch)
            self._tasks.add(task)
            return task

    def lost(self, task: Any) -> None:
        """The process of this run has died: the next run gets another one."""
        with self._lock:
            if task in self._tasks:
                self._end()

    def end(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._actor is not None:
            ray.kill(self._actor)
        self._actor = None


class Controller:
    """The process of `Controllers`, with a thread for each run."""

    def __init__(self, settings: dict[str, str]) -> None:
        os.environ.update(settings)
        # For each run Ray Train sets up the logging of the whole process, in which threads would lock each other out.
        os.environ["RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING"] = "0"
        from harness.pool.group_trainer import without_barrier

        without_barrier()

    def fit(self, source: Any, name: str, run: dict[str, Any], scratch: str) -> None:
        """One Ray Train run; returns when its workers were released."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig

        from harness.pool.group_trainer import GroupTrainer
        from harness.pool.worker_group import serve

        ray.get(source.started_by.remote(name, os.getpid()))
        # The controller of a killed run outlives it briefly and may reserve resources again.
        sweep([bundle(run, name)], run["before"])
        GroupTrainer(
            serve,
            train_loop_config={
                "source": source,
                "group": name,
                "slots": run["slots"],
                "make_engine": run["make_engine"],
                "threads": max(1, int(run["cpus"])),
            },
            torch_config=TorchConfig(backend="nccl" if run["gpus"] and not cpu_stands_in() else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=run["workers"], use_gpu=run["gpus"] > 0, resources_per_worker=bundle(run, name)
            ),
            run_config=RunConfig(
                name=f"{name}-{uuid.uuid4().hex[:8]}",
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=-1),
            ),
        ).fit()


def beside_the_driver() -> NodeAffinitySchedulingStrategy:
    """Controllers run on the driver's node, because worker nodes may be reclaimed at any time."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def gone(nodes: Collection[str]) -> bool:
    """Whether one of these nodes has left the cluster."""
    there = {row["NodeID"] for row in ray.nodes() if row["Alive"]}  # type: ignore[no-untyped-call]
    return bool(set(nodes) - there)


def restarted() -> bool:
    """Whether Ray has restarted this actor's process."""
    again: bool = ray.get_runtime_context().was_current_actor_reconstructed
    return again


def bundle(run: Mapping[str, Any], name: str) -> dict[str, float]:
    """Resources that a worker of this group requests from Ray: CPUs differ between groups in the last digits, which
    identifies their placement groups, because Ray Train does not name them."""
    shape = {"CPU": round(run["cpus"] * HEADROOM - int(name.rsplit("-", 1)[1]) * 1e-4, 4)}
    return shape | {"GPU": run["gpus"]} if run["gpus"] else shape


def placement_groups() -> dict[str, dict[str, Any]]:
    """Placement groups of this driver and its processes; a cluster may be used by others too."""
    mine = ray.get_runtime_context().get_job_id()  # the last bytes of a placement group's id
    table = placement_group_table().items()
    return {key: row for key, row in table if key.endswith(mine) and row["state"] != "REMOVED"}


def sweep(shapes: Sequence[Mapping[str, float]], before: Collection[str]) -> None:
    """Remove the placement groups of these shapes, except those that were there `before` the pool.

    They are identified by their bundles, not by the job source, which may have died with them: a restarted group
    would wait forever for resources that are not released.
    """
    for key, row in placement_groups().items():
        bundles = [{kind: round(n, 4) for kind, n in each.items()} for each in row["bundles"].values()]
        if key not in before and any(all(each == shape for each in bundles) for shape in shapes):
            _remove(key)


def _remove(key: str) -> None:
    try:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(key))))
    except (GetTimeoutError, RayError) as error:
        log.warning("could not remove placement group %s: %s", key, short(error))


def short(error: BaseException) -> str:
    """Last line of an error, which contains Ray's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
