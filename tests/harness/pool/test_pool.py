"""The resident pool on a real Ray instance: jobs get done whatever dies, and nothing is left behind."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from harness.pool.local_ray import local_ray
from harness.pool.pool import Pool
from harness.pool.ray_causes import PoolError
from harness.runs.jobs import Event, Job
from harness.search.driver import run_finals
from harness.search.study import TrialOutcome
from tests.support import toy_engine, toy_model

pytestmark = pytest.mark.ray

TOLD: dict[str, str] = {}


@pytest.fixture(scope="module", autouse=True)
def quiet_ray() -> Iterator[None]:
    for module in (toy_engine, toy_model):
        ray.cloudpickle.register_pickle_by_value(module)
    with local_ray(4):
        yield


@pytest.fixture(scope="module")
def pool(quiet_ray: None) -> Iterator[Pool]:
    with Pool.start(partial(toy_engine.make, 2), groups=2, slots=2) as started:
        yield started


def left_over() -> list[str]:
    return [key for key, row in ray.util.placement_group_table().items() if row["state"] != "REMOVED"]


@pytest.fixture(autouse=True)
def attempt() -> Iterator[None]:
    """A second try of a test has jobs of its own: the pool, which all tests share, knows those of the first."""
    TOLD["attempt"] = os.urandom(3).hex()
    yield


def job(name: str, **config: Any) -> Job:
    return Job(
        id=f"{TOLD['attempt']}/{name}",
        study="s",
        stage="final",
        backbone="b",
        data="d",
        config={"epochs": 3, **config},
    )


def finals(pool: Pool, jobs: Sequence[Job]) -> dict[str, TrialOutcome]:
    outcomes = run_finals(jobs, pool, on_event=lambda event: None)
    return {name.split("/", 1)[1]: outcome for name, outcome in outcomes.items()}


def wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_groups_work_side_by_side_and_reports_arrive_in_order(pool: Pool) -> None:
    wait_for(lambda: len(pool.state()["up"]) == 2)
    seen: dict[str, list[tuple[int, str]]] = {}

    def on_event(event: Event) -> None:
        job, report, status = event.job, event.report, event.status
        assert threading.current_thread() is threading.main_thread()
        seen.setdefault(job.id, []).append((report.number, status))

    jobs = [job(f"side/{number}", seconds=0.2) for number in range(8)]
    outcomes = run_finals(jobs, pool, on_event=on_event)
    assert {outcome.status for outcome in outcomes.values()} == {"finished"}
    assert len({outcome.reports[-1].facts["pid"] for outcome in outcomes.values()}) == 2
    expected = [(0, "queued"), (0, "started"), (1, "running"), (2, "running"), (3, "finished")]
    assert all(news == expected for news in seen.values())


def test_a_group_starts_no_process_of_which_there_is_no_use(pool: Pool) -> None:
    wait_for(lambda: len(pool.state()["up"]) == 2)
    names = [each.name() for each in psutil.Process().children(recursive=True)]
    started = [name for name in names if name.startswith("ray::")]
    # Linux cuts names of processes after 15 bytes
    assert sum(name.startswith("ray::RayTrainWo") for name in started) == 2
    assert sum(name.startswith("ray::Controller") for name in started) == 1
    spared = ("ray::TrainContr", "ray::DatasetMan", "ray::PlacementG", "ray::Synchroniz")
    assert not any(name.startswith(spared) for name in started)


def test_an_error_is_one_failed_report_and_the_others_go_on(pool: Pool) -> None:
    jobs = [job("error/refused", refuse=True), job("error/exploded", explode=True)]
    jobs += [job(f"error/good-{number}", seconds=0.1) for number in range(4)]
    outcomes = finals(pool, jobs)
    assert outcomes["error/refused"].error == "`refuse` must be absent, but got true."
    assert outcomes["error/exploded"].error == "RuntimeError: the loss exploded"
    assert all(outcomes[f"error/good-{number}"].status == "finished" for number in range(4))
    assert pool.state()["held"] == {"group-0": [], "group-1": []}


def test_warnings_of_workers_reach_the_log_once(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    finals(pool, [job("warns", warn="the loss is odd", seconds=0.05)])
    wait_for(lambda: pool.events(0.0) or "the loss is odd" in caplog.text)
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == ["the loss is odd"]


def test_a_killed_worker_costs_no_job(pool: Pool, tmp_path: Path) -> None:
    jobs = [job("killed", die_once=str(tmp_path / "died"), seconds=0.1), job("beside it", seconds=0.1)]
    outcomes = finals(pool, jobs)
    assert (tmp_path / "died").exists()
    for outcome in outcomes.values():
        assert outcome.status == "finished"
        assert [report.number for report in outcome.reports] == [1, 2, 3]


def test_a_killed_supervisor_is_replaced_and_leaves_no_placement_group(pool: Pool) -> None:
    wait_for(lambda: len(pool.state()["up"]) == 2 and len(left_over()) == 2)
    before = pool.state()["supervisors"]["group-0"]
    os.kill(before, signal.SIGKILL)
    jobs = [job(f"orphan/{number}", seconds=0.5) for number in range(4)]
    assert {outcome.status for outcome in finals(pool, jobs).values()} == {"finished"}
    wait_for(lambda: pool.state()["supervisors"]["group-0"] != before)
    wait_for(lambda: len(left_over()) == 2)


def test_a_group_and_the_job_source_that_die_together_leave_nothing_behind(pool: Pool) -> None:
    """As where the machine is short of memory: nobody is left who knew where the group lay."""
    wait_for(lambda: len(pool.state()["up"]) == 2)
    state = pool.state()
    for pid in (pool.pid(), state["supervisors"]["group-0"], state["workers"]["group-0"]):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    jobs = [job(f"together/{number}", seconds=0.5) for number in range(4)]
    assert {outcome.status for outcome in finals(pool, jobs).values()} == {"finished"}
    wait_for(lambda: set(pool.state()["up"]) == {"group-0", "group-1"})
    wait_for(lambda: len(left_over()) == 2)


def test_a_killed_job_source_is_replaced_and_nobody_trains_twice(pool: Pool) -> None:
    long, following = job("source/long", seconds=1.0), job("source/next", seconds=0.1)
    pool.submit(long)
    events: list[Any] = []
    # Where the test before killed a group, its silence is noticed after a while.
    wait_for(lambda: events.extend(pool.events(0.1)) or any(e.status == "running" for e in events), 150)
    source = pool.pid()
    time.sleep(0.4)  # the new source is up while the group is amid an epoch, and the other group is idle
    os.kill(source, signal.SIGKILL)
    pool.submit(following)
    wait_for(
        lambda: events.extend(pool.events(0.1)) or sum(event.status == "finished" for event in events) == 2,
        150,
    )
    assert pool.pid() != source
    for name in (long.id, following.id):
        told = [event for event in events if event.job.id == name]
        numbers = [event.report.number for event in told if event.status == "running"]
        assert numbers in ([1], [1, 2])  # a report that the dead source knew and nobody had read is lost
        assert (told[-1].status, told[-1].report.number) == ("finished", 3)
    workers = {e.report.facts["pid"] for e in events if e.job.id == long.id and e.report.number}
    assert len(workers) == 1  # it trained on meanwhile
    usage = pool.usage()
    assert usage["busy_s"] > 0 and 0 <= usage["idle_share"] <= 1


def test_two_workers_give_the_losses_of_one_and_survive_errors(quiet_ray: None) -> None:
    engine = toy_model.ToyModel(0, 1)
    engine.admit(job("alone", seed=3))
    alone = [engine.advance()[0].train_loss for _ in range(3)]
    with Pool.start(toy_model.ToyModel, workers_per_group=2, cpus_per_worker=0.5) as other:
        jobs = [job("together", seed=3), job("one rank refuses", seed=0, refuse_on=1)]
        outcomes = finals(other, [*jobs, job("explodes", seed=0, explode=True), job("after", seed=3)])
        held = left_over()
        ray.kill(other.handle)  # without its source, a group goes home by itself
        wait_for(lambda: len(left_over()) == len(held) - 1)
    assert outcomes["one rank refuses"].error == "rank 1 cannot take it."
    assert outcomes["explodes"].error == "RuntimeError: the loss exploded"
    for name in ("together", "after"):
        assert {report.facts["world"] for report in outcomes[name].reports} == {2}
        assert [report.train_loss for report in outcomes[name].reports] == pytest.approx(alone, rel=1e-12)
    assert alone[-1] < alone[0]


def test_a_group_that_cannot_start_says_why() -> None:
    with pytest.raises(PoolError, match="group-0 could not start: no weights in models/x"):
        Pool.start(toy_engine.make_none, cpus_per_worker=0.5)


def test_groups_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="must fit the cluster, but 3 x 2 workers with 1 CPU each need 6"):
        Pool.start(partial(toy_engine.make, 2), groups=3, workers_per_group=2)


def test_closing_while_jobs_run_ends_them_and_frees_everything(pool: Pool) -> None:
    """The last test: it closes the pool of the others."""
    for number in range(5):
        pool.submit(job(f"endless/{number}", epochs=10_000, seconds=0.1))
    events: list[Any] = []
    wait_for(lambda: events.extend(pool.events()) or any(event.status == "running" for event in events))
    pool.close()
    assert left_over() == []
    with pytest.raises(PoolError, match="lost its job source"):
        pool.submit(job("too late"))
    assert not pool.scratch.exists()
