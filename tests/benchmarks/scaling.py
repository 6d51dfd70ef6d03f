"""How throughput grows with worker groups, and how many trials a simulated cluster keeps at work.

    python tests/benchmarks/scaling.py [--groups 1,2,4,8] [--nodes 16] [--slots 4] [--trials 2000] [--train]

Trials sleep instead of training, so that the machine's few cores do not decide the figures: what is left is what
the service itself costs. Efficiency of G groups is their trials a second against G times those of one group, in the
same run. The simulated cluster has real Ray nodes on one machine with made-up CPUs; its worker groups are plain
tasks that speak with the job source as Ray Train's workers do, so that sixteen of them fit into memory. Its slots
busy are trials x seconds of a trial / (slots x wall), from the first trial's start to the last one's end.
"""

import argparse
import os
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray
from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))

from harness.config.search_space import Leaf, SearchSpace  # noqa: E402
from harness.pool import pool as pools  # noqa: E402
from harness.pool import supervisor  # noqa: E402
from harness.pool.local_ray import local_ray  # noqa: E402
from harness.pool.pool import Pool  # noqa: E402
from harness.pool.supervisor import Controllers  # noqa: E402
from harness.runs.jobs import Event  # noqa: E402
from harness.search.driver import run_search  # noqa: E402
from harness.search.study import SearchStudy  # noqa: E402
from tests.benchmarks.search_rows import Row, tell  # noqa: E402
from tests.support import toy_engine  # noqa: E402
from tests.support.studies import search_study  # noqa: E402

EPOCHS = 4
HEAD = ("ray::Controller", "ray::Tuner")
"""Titles of the head's processes begin so: those that control groups, and the one with Tune and the clients."""
SAMPLE_AT = 20


def study(trials: int, seconds: float) -> SearchStudy:
    """Trials of four epochs that sleep `seconds` in all; none is stopped early."""
    space = SearchSpace(method="lora", leaves={"quality": Leaf(type="float", low=0, high=1)})
    toy = {"seconds": seconds / EPOCHS}
    return search_study("toy|none|lora", space, trials, epochs=EPOCHS, fixed=toy, scheduler="none")


@dataclass
class Clock:
    """When the first trial began and the last one ended, on the driver's clock."""

    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    memory: dict[str, list[float]] = field(default_factory=dict)
    """PSS of processes of the head in MiB after `SAMPLE_AT` trials, by the beginning of their titles."""

    def __call__(self, event: Event) -> None:
        if event.status == "started":
            self.starts.append(time.perf_counter())
        if event.status == "finished":
            self.ends.append(time.perf_counter())
            if len(self.ends) == SAMPLE_AT:
                self.memory = {word: [pss(each) for each in processes(word)] for word in HEAD}
            if not self.ended % 200:
                print(f"{self.ended} trials ended after {self.wall:.0f} s", file=sys.stderr)

    @property
    def ended(self) -> int:
        return len(self.ends)

    @property
    def wall(self) -> float:
        return self.ends[-1] - self.starts[0]

    def busy(self, slots: int, seconds: float) -> tuple[float, float]:
        """(seconds until as many trials had begun as there are slots, share of the slots' time from then to the last
        start that was slept in trials): the start of most clients and the last trials' ends apart."""
        full, last = self.starts[slots - 1], self.starts[-1]
        within = sum(full < end <= last for end in self.ends)
        return full - self.starts[0], within * seconds / (slots * (last - full))


def searched(pool: Pool, trials: int, seconds: float) -> Clock:
    """Search on a pool whose groups are all up."""
    deadline = time.monotonic() + 600
    while len(pool.state()["up"]) < pool.groups:
        assert time.monotonic() < deadline, "not all groups came up"
        time.sleep(0.2)
    clock = Clock()
    run_search([study(trials, seconds)], pool, on_event=clock)
    assert clock.ended == trials, f"{clock.ended} of {trials} trials ended"
    return clock


def group_rows(counts: list[int], each: int, seconds: float, say: Any) -> Iterator[Row]:
    """Trials a second of 1, 2, … Ray Train groups, and their efficiency."""
    alone = 0.0
    with local_ray(max(counts)):
        for count in counts:
            say(f"{count} worker groups …")
            with Pool.start(partial(toy_engine.make, 1), groups=count, start_s=600) as pool:
                clock = searched(pool, count * each, seconds)
            rate = count * each / clock.wall
            alone = alone or rate / count
            share = 100 * rate / (count * alone)
            ideal = 100 * each * seconds / clock.wall
            yield Row(f"{count} groups: trials a second", rate, "1/s")
            yield Row(f"{count} groups: efficiency", share, "%", ">= 90", share >= 90)
            yield Row(f"{count} groups: of the time that trials sleep", ideal, "%")


@ray.remote(num_cpus=0, max_retries=0)
def light_group(source: Any, name: str, run: dict[str, Any], scratch: str) -> None:
    """A worker group without Ray Train: the same loop, in one process."""
    from harness.pool.worker_group import _serve

    ray.get(source.started_by.remote(name, os.getpid()))
    engine = ray.get(run["make_engine"])(0, 1)
    _serve(engine, source, name, uuid.uuid4().hex, 0, 1, run["slots"])


def _light(self: Controllers, *given: Any) -> Any:
    return light_group.options(scheduling_strategy="SPREAD").remote(*given)


@contextmanager
def simulated(nodes: int, slots: int, train: bool = False) -> Iterator[Pool]:
    """A cluster of `nodes` Ray nodes on this machine, a light group, or a real one, of `slots` slots for each."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "2")
    os.environ.setdefault(
        "RAY_worker_register_timeout_seconds", "600"
    )  # or slow starts are killed and begun anew
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would let other work of this machine decide
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # a process for every CPU that nobody has
    size = {"num_cpus": slots, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=size)
    fit, beside = Controllers.fit, supervisor.beside_the_driver
    try:
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=slots, object_store_memory=80 * 2**20)
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        if not train:
            Controllers.fit = _light  # type: ignore[assignment,method-assign]
            supervisor.beside_the_driver = lambda: "SPREAD"  # type: ignore[assignment,return-value]
            pools.beside_the_driver = supervisor.beside_the_driver
        with Pool.start(partial(toy_engine.make, slots), groups=nodes, slots=slots, start_s=600) as pool:
            yield pool
    finally:
        Controllers.fit, supervisor.beside_the_driver = fit, beside  # type: ignore[method-assign]
        pools.beside_the_driver = beside
        ray.shutdown()
        cluster.shutdown()


def pss(process: psutil.Process) -> float:
    """Memory in MiB, shared pages divided among those that share them."""
    return float(process.memory_full_info().pss) / 2**20


def processes(word: str) -> list[psutil.Process]:
    """This user's Ray processes whose title has `word`."""
    found = []
    for process in psutil.process_iter(["cmdline", "uids"]):
        if word in " ".join(process.info["cmdline"] or ()):
            found.append(process)
    return found


def cluster_rows(nodes: int, slots: int, trials: int, seconds: float, say: Any) -> Iterator[Row]:
    """Slots busy, trials a second and memory on the simulated cluster."""
    say(f"a simulated cluster of {nodes} nodes …")
    with simulated(nodes, slots) as pool:
        say(f"{trials} trials on {nodes * slots} slots …")
        before = psutil.Process().memory_info().rss
        clock = searched(pool, trials, seconds)
        source = psutil.Process(pool.pid())
        spent = source.cpu_times()
        usage = pool.usage()
    whole = 100 * trials * seconds / (nodes * slots * clock.wall)
    filling, share = clock.busy(nodes * slots, seconds)
    yield Row(f"{nodes} nodes, {nodes * slots} slots: trials", trials, "")
    yield Row("slots busy, from the first start to the last end", whole, "%", ">= 90", whole >= 90)
    yield Row("slots busy, while trials were queued", 100 * share, "%", ">= 90", share >= 0.9)
    yield Row("until as many trials had begun as there are slots", filling, "s")
    yield Row("trials a second", trials / clock.wall, "1/s")
    yield Row("groups without a job while one was queued", 100 * usage["idle_share"], "%")
    cpu = 1000 * (spent.user + spent.system) / trials
    yield Row("job source: processor time of a trial", cpu, "ms")
    yield Row("driver: growth of its memory", (psutil.Process().memory_info().rss - before) / 2**20, "MiB")
    (tuner,) = clock.memory["ray::Tuner"]
    yield Row("Tune and all clients: memory (PSS)", tuner, "MiB")
    yield Row("of which a slot", tuner / (nodes * slots), "MiB", "<= 40", tuner / (nodes * slots) <= 40)


def memory_rows(nodes: int, slots: int, say: Any) -> Iterator[Row]:
    """Memory of the head for each group that Ray Train starts."""
    with simulated(nodes, slots, train=True) as pool:
        say(f"{nodes} groups of Ray Train …")
        clock = searched(pool, nodes * slots, 0.4)
    control = clock.memory["ray::Controller"]
    each = sum(control) / nodes
    yield Row(f"{nodes} groups of {slots} slots: processes that control them", len(control), "")
    yield Row("memory (PSS) of the largest of them", max(control), "MiB")
    yield Row("memory (PSS) on the head for each group", each, "MiB", "<= 410", each <= 410)
    yield Row("Tune and all clients: memory (PSS)", sum(clock.memory["ray::Tuner"]), "MiB")


def saturation_rows(nodes: int, slots: int, trials: int, say: Any) -> Iterator[Row]:
    """Trials a second where trials take no time: what the head can hand out at most."""
    with simulated(nodes, slots) as pool:
        say(f"{trials} trials that take no time …")
        clock = searched(pool, trials, 0.0)
    rate = trials / clock.wall
    yield Row(f"{nodes * slots} slots, trials of no length: trials a second", rate, "1/s")


def model_rows(rate: float) -> Iterator[Row]:
    """Shortest trials, in seconds, with which a head of this rate keeps 90 % of the slots busy."""
    for nodes, gpus, pack in ((1, 8, 4), (16, 8, 4), (64, 8, 1), (64, 8, 4)):
        slots = nodes * gpus * pack
        needed = 0.9 * slots / rate
        yield Row(f"{nodes} nodes x {gpus} GPUs x packs of {pack}: a trial must last", needed, "s")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--groups", default="1,2,4,8", help="numbers of worker groups; empty for none")
    parser.add_argument("--each", type=int, default=10, help="trials of each group")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a trial there")
    parser.add_argument("--nodes", type=int, default=16, help="of the simulated cluster; 0 for none")
    parser.add_argument("--slots", type=int, default=4, help="of each node")
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--trial-seconds", type=float, default=20.0, help="length of a trial there")
    parser.add_argument("--burst", type=int, default=400, help="trials that take no time; 0 for none")
    parser.add_argument("--train", action="store_true", help="measure the head's memory with real groups")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    ray.cloudpickle.register_pickle_by_value(toy_engine)
    say = Console(stderr=True).print
    rows: list[Row] = []
    counts = [int(part) for part in given.groups.split(",") if part]
    try:
        rows += group_rows(counts, given.each, given.seconds, say) if counts else []
        if given.nodes and given.train:
            rows += memory_rows(given.nodes, given.slots, say)
        if given.nodes and given.trials:
            rows += cluster_rows(given.nodes, given.slots, given.trials, given.trial_seconds, say)
        if given.nodes and given.burst:
            rows += saturation_rows(given.nodes, given.slots, given.burst, say)
            rows += model_rows(rows[-1].value)
    finally:  # what was measured stays, also when the rest is cut off
        tell(rows, given.json)


if __name__ == "__main__":
    main()
