"""Machines that are taken away, with Ray's notice or without a word: trials go on elsewhere from their checkpoints,
and it counts against none of them."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from harness.pool.pool import Pool
from harness.runs.jobs import Job
from tests.support import chaos_engine

pytestmark = [pytest.mark.slow, pytest.mark.ray]
EPOCHS, STEP_S = 150, 0.25
MACHINE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
HEALTH = {
    "initial_delay_ms": "1000",
    "period_ms": "1000",
    "timeout_ms": "5000",
    "failure_threshold": "3",
}
"""Ray notices a lost machine in seconds instead of a minute or two."""

NOTICE_S = 3600
"""Nobody takes the machine away that soon: its jobs have left it because they were told."""


@pytest.fixture
def cluster(monkeypatch):
    """A head that trains nothing and three machines of one CPU."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_prestart_worker_first_driver", "0")
    for name, value in HEALTH.items():
        monkeypatch.setenv(f"RAY_health_check_{name}", value)
    head = {**MACHINE, "num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(3):
            cluster.add_node(**MACHINE)
        for module in (chaos_engine, sys.modules[__name__]):
            ray.cloudpickle.register_pickle_by_value(module)
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


class Patient(chaos_engine.ChainEngine):
    """Takes its time until a file is there."""

    def __init__(self, enough):
        super().__init__(1, STEP_S, None)
        self._enough = enough

    def advance(self):
        self._seconds = 0.0 if Path(self._enough).exists() else STEP_S
        return super().advance()


def make(enough, rank, world):
    return Patient(enough)


def undisturbed(job):
    """Scores of a job, epoch by epoch, where nothing happens."""
    engine = chaos_engine.ChainEngine(1, 0.0, None)
    engine.admit(replace(job, checkpoints=None))
    return [report.dev["mcc"] for _ in range(EPOCHS * chaos_engine.STEPS) for report in engine.advance()]


def take_away_with_notice(cluster, node):
    """What a cloud's notice of a spot machine's end becomes in Ray."""
    ray_program = str(Path(sys.executable).parent / "ray")
    command = [ray_program, "drain-node", "--address", cluster.address, "--node-id", node]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    subprocess.run([*command, "--deadline-remaining-seconds", str(NOTICE_S)], check=True, capture_output=True)


def test_trials_leave_machines_that_are_taken_away_and_lose_nothing(cluster, tmp_path):
    again = os.urandom(2).hex()  # a second try has jobs of its own
    jobs = [
        Job(
            id=f"{name}/{again}",
            study="s",
            stage="final",
            backbone="b",
            data="d",
            config={"epochs": EPOCHS, "name": name},
            checkpoints=str(tmp_path / "checkpoints"),
        )
        for name in ("told", "untold")
    ]
    enough, told = tmp_path / "enough", []
    with Pool.start(partial(make, str(enough)), groups=2, max_failures=0) as pool:

        def until(condition):
            deadline = time.monotonic() + 150
            while not condition():
                assert time.monotonic() < deadline, (told[-5:], pool.state())
                told.extend((event.job.id, event.status, event.report) for event in pool.events(0.2))

        def trains_on(job):
            """The node on which a job trains, if it trains."""
            state = pool.state()
            found = [state["nodes"][group][0] for group, held in state["held"].items() if job.id in held]
            return found[0] if found else None

        def evaluated(job, more=1):
            return sum(name == job.id and status == "running" for name, status, _ in told) >= more

        pool.begin()
        for job in jobs:
            pool.submit(job)
        until(lambda: all(evaluated(job) for job in jobs))
        first = [trains_on(job) for job in jobs]
        take_away_with_notice(cluster, first[0])
        until(lambda: trains_on(jobs[0]) not in (None, first[0]))
        (lost,) = [node for node in cluster.list_all_nodes() if node.node_id == trains_on(jobs[1])]
        cluster.remove_node(lost, allow_graceful=False)
        cluster.add_node(**MACHINE)  # as an autoscaler would
        until(lambda: trains_on(jobs[1]) not in (None, lost.node_id))
        enough.touch()
        until(lambda: {job.id for job in jobs} == {name for name, status, _ in told if status == "finished"})
    for job in jobs:
        ends = ("running", "finished")
        reports = [report for name, status, report in told if name == job.id and status in ends]
        assert [report.number for report in reports] == list(range(1, EPOCHS + 1))
        assert [report.dev["mcc"] for report in reports] == undisturbed(job)
        assert "failures" not in reports[-1].facts
