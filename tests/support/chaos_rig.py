"""A benchmark under fire: its processes are killed in a seeded order while it goes on, and its results are read."""

import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from harness.runs.store import load

ROOT = Path(__file__).resolve().parents[2]
QUIET_S = 240.0
"""Longest time without a step after which a run counts as hung."""

OPTIONS: dict[str, Any] = {
    "tasks": ["quickstart/promoter"],
    "models": ["quickstart-opt"],
    "methods": ["lora", "ars"],
    "searcher": "random",
    "scheduler": "none",
    "limit": 64,
    "max_failures": 50,
}
"""Random search without early stopping: nothing in the results depends on who was faster."""


def driver_command(out: Path, options: Mapping[str, Any], seconds: float) -> list[str]:
    """The driver of `out`; a step takes so many seconds."""
    return [
        sys.executable,
        "-m",
        "tests.support.chaos_driver",
        str(out),
        json.dumps(dict(options)),
        str(seconds),
    ]


def environment() -> dict[str, str]:
    """That of every process of a rig."""
    ours = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **ours, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def undisturbed(out: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a run that nobody disturbs, with steps that take no time."""
    done = subprocess.run(
        driver_command(out, options, 0.0),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return table(out)


def table(out: Path) -> dict[str, Any]:
    """What the records say, without times and places: by id, everything that a score depends on or tells."""
    return {
        record.id: {
            "status": record.status,
            "config": record.config_hash,
            "dev": dict(record.dev),
            "test": record.test,
            "history": [(entry["epoch"], entry["step"], dict(entry["dev"])) for entry in record.history],
        }
        for record in load(out)
    }


class Tracking:
    """An MLflow server on loopback over SQLite, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._folder, self.uri = folder, f"http://127.0.0.1:{self._port}"
        self.store = f"sqlite:///{folder / 'mlflow.db'}"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()
        self.wait()

    def start(self) -> None:
        places = [
            "--backend-store-uri",
            self.store,
            "--artifacts-destination",
            str(self._folder / "artifacts"),
        ]
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        self._process = subprocess.Popen(
            [*command, "--workers", "1", *places],
            env=environment(),
            stdout=(self._folder / "log").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self, seconds: float = 90.0) -> None:
        """Until it answers."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.2)
        raise TimeoutError("the tracking server does not answer")

    def kill(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Rig:
    """A run with everything around it.

    Args:
        folder: Where it all lies.
        options: Settings of the benchmark.
        seconds: Of a step.
        seed: Of the order and the moments of the kills.
        cluster: A `ray.cluster_utils.Cluster` to run on; this machine's own Ray when `None`.
        tracking: A server to log to; the embedded store when `None`.
    """

    def __init__(
        self,
        folder: Path,
        options: Mapping[str, Any],
        *,
        seconds: float,
        seed: int,
        cluster: Any = None,
        tracking: Tracking | None = None,
    ) -> None:
        self.out = folder / "out"
        self._pids, self._log = folder / "out-pids", folder / "driver.log"
        self._options = dict(options)
        self._environment = environment()
        if cluster is not None:
            self._options["cluster"] = "auto"
            self._environment["RAY_ADDRESS"] = cluster.address
        if tracking is not None:
            self._options["tracking_uri"] = tracking.uri
        self._seconds, self._random = seconds, random.Random(seed)
        self._cluster, self._tracking = cluster, tracking
        self._driver: subprocess.Popen[bytes] | None = None
        self.kills: Counter[str] = Counter()
        self.own_ends: list[int] = []
        self.ways: dict[str, Callable[[], bool]] = {
            "driver": self._kill_driver,
            "worker group": self._kill_group,
            "job source": self._kill_source,
            "node": self._kill_node,
            "tracking server": self._kill_tracking,
        }

    def run(self, kills: Mapping[str, int], *, seconds: float = 1800.0) -> None:
        """Start, kill in a seeded order whenever there was progress since the last kill, and see it to its end."""
        order = [kind for kind, count in kills.items() for _ in range(count)]
        self._random.shuffle(order)
        end = time.monotonic() + seconds
        self._start()
        try:
            while time.monotonic() < end:
                code = self._wait_for_progress()
                if code == 0:
                    return
                if code is not None:
                    self.own_ends.append(code)
                    assert len(self.own_ends) < 5, self.printed()
                    self._start()
                elif order:
                    time.sleep(self._random.uniform(0.2, 2.0))
                    kind = order.pop(0)
                    if self.ways[kind]():
                        self.kills[kind] += 1
                    else:  # nobody of that kind was there, such as a job source not yet back: later again
                        order.append(kind)
            raise TimeoutError(f"the run did not end within {seconds:.0f} s:\n{self.printed()}")
        finally:
            if self._driver is not None and self._driver.poll() is None:
                self._driver.kill()

    def printed(self) -> str:
        """The last lines of the drivers."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-60:])

    def _start(self) -> None:
        self._driver = subprocess.Popen(
            driver_command(self.out, self._options, self._seconds),
            cwd=ROOT,
            env=self._environment,
            stdout=self._log.open("ab"),
            stderr=subprocess.STDOUT,
        )

    def _wait_for_progress(self) -> int | None:
        """Until a step was made after now, or the driver has ended: its exit code then."""
        assert self._driver is not None
        begun = time.time()
        deadline = time.monotonic() + QUIET_S
        while time.monotonic() < deadline:
            if (code := self._driver.poll()) is not None:
                return code
            if self._last_step() > begun:
                return None
            time.sleep(0.1)
        raise TimeoutError(f"no step for {QUIET_S:.0f} s after {dict(self.kills)}:\n{self.printed()}")

    def _last_step(self) -> float:
        found = [*self.out.glob("checkpoints/*/chain.json"), *self.out.glob("records/*.json")]
        times = []
        for path in found:
            try:
                times.append(path.stat().st_mtime)
            except OSError:
                continue
        return max(times, default=0.0)

    # --- ways to die ----------------------------------------------------------------------------------------

    def _kill_driver(self) -> bool:
        assert self._driver is not None
        self._driver.kill()
        self._driver.wait()
        self._start()
        return True

    def _kill_group(self) -> bool:
        alive = [int(path.name) for path in self._pids.iterdir() if _is_ray(int(path.name))]
        if not alive:
            return False
        os.kill(self._random.choice(sorted(alive)), signal.SIGKILL)
        return True

    def _kill_source(self) -> bool:
        found = [p for p in _family() if _title(p).startswith("ray::JobSource")]
        for process in found:
            process.kill()
        return bool(found)

    def _kill_node(self) -> bool:
        nodes = [node for node in self._cluster.list_all_nodes() if not node.head]
        self._cluster.remove_node(self._random.choice(nodes), allow_graceful=False)
        time.sleep(self._random.uniform(0.5, 2.0))
        self._cluster.add_node(num_cpus=1)
        return True

    def _kill_tracking(self) -> bool:
        assert self._tracking is not None
        self._tracking.kill()
        time.sleep(self._random.uniform(0.5, 5.0))
        self._tracking.start()
        return True


def _family() -> list[psutil.Process]:
    """All processes below this one: drivers, and Ray's, wherever they were started."""
    return psutil.Process().children(recursive=True)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _is_ray(pid: int) -> bool:
    try:
        return _title(psutil.Process(pid)).startswith("ray::")
    except psutil.Error:
        return False


def expected_ids(options: Mapping[str, Any]) -> set[str]:
    """Ids of every trial and final run of a benchmark."""
    found = set()
    for task in options["tasks"]:
        for method in options["methods"]:
            study = f"{task}|{options['models'][0]}|{method}"
            found |= {f"{study}/trial-{number:04d}" for number in range(options["num_samples"])}
            found |= {f"{study}/final/seed-{seed}" for seed in options["seeds"]}
    return found


def runs_of(uri: str) -> list[Any]:
    """All runs of a tracking store."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, max_results=5000))


def tracking_problems(runs: Sequence[Any], ids: set[str]) -> list[str]:
    """What is wrong with a mirror of these trials: doubled, missing or left running."""
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    keys = Counter(run.data.tags["lingo.key"] for run in runs)
    problems = [f"{count} runs of one key" for count in keys.values() if count > 1]
    problems += [f"{run.info.run_name} is {run.info.status}" for run in runs if run.info.status == "RUNNING"]
    if len(children) != len(ids):
        problems.append(f"{len(children)} runs of {len(ids)} trials")
    return problems


def differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """Ids whose rows differ, or that only one table has."""
    return sorted(name for name in {*left, *right} if not _same(left.get(name), right.get(name)))


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return left == right or (math.isnan(left) and math.isnan(right))
    if isinstance(left, dict) and isinstance(right, dict):
        return set(left) == set(right) and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)
