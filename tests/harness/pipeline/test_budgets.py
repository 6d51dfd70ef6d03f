"""Budgets: how they are written, what counts, and who is cut."""

from harness.pipeline.budgets import Budgets, Limits, Spent
from harness.runs.jobs import Job, Report


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def job(study, number=0):
    return Job(id=f"{study}/trial-{number}", study=study, stage="search", backbone="b", data="d", config={})


def report(name, number=0, **facts):
    return Report(job=name, number=number, status="running", facts=facts)


def tell(budgets, study, status, number=0, **facts):
    one = job(study, number)
    budgets.update(one, report(one.id, **facts), status)


def test_a_job_that_goes_on_later_counts_what_it_had_measured_once():
    budgets = Budgets(clock=Clock(), gpus_per_group=1)
    tell(budgets, "a", "started")
    tell(budgets, "a", "running", device_seconds=7.0)
    for seconds in (7.0, 9.0):
        tell(budgets, "a", "queued", device_seconds=7.0)  # waits for others, or has lost its worker
        tell(budgets, "a", "started", device_seconds=7.0)
        tell(budgets, "a", "running", device_seconds=seconds)
    assert budgets.spent("a").gpu_seconds == 9
    tell(budgets, "a", "queued", device_seconds=9.0)
    tell(budgets, "a", "started", device_seconds=9.0)
    tell(budgets, "a", "running", device_seconds=2.0)  # without a checkpoint
    assert budgets.spent("a").gpu_seconds == 11


def test_time_of_the_whole_runs_from_the_first_event_and_of_a_study_while_it_trains():
    clock = Clock()
    budgets = Budgets(overall=Limits(seconds=100), per_study=Limits(seconds=30), clock=clock)
    assert budgets.cut() == {}
    tell(budgets, "a", "started")
    clock.now += 20
    tell(budgets, "a", "finished")
    clock.now += 50  # nothing of a trains
    tell(budgets, "a", "started", 1)
    assert budgets.spent("a").seconds == 20 and budgets.cut() == {}
    clock.now += 10
    tell(budgets, "b", "queued")
    assert budgets.cut() == {"a": "time budget of 30 s of the study"}
    clock.now += 20
    assert set(budgets.cut()) == {"a", "b"} and "of the benchmark" in budgets.cut()["b"]
    assert budgets.cut(["c"])["c"] == "time budget of 100 s of the benchmark"


def test_measured_seconds_are_booked_and_estimated_in_between():
    clock = Clock()
    budgets = Budgets(per_study=Limits(gpu_hours=1), groups=1, gpus_per_group=2, clock=clock)
    for number in (0, 1):
        tell(budgets, "a", "started", number)
    clock.now += 600
    assert budgets.spent("a").gpu_seconds == 1200  # two jobs share one group of two GPUs
    for number in (0, 1):
        tell(budgets, "a", "running", number, device_seconds=250.0, gpus=2)
    assert budgets.spent("a").gpu_seconds == 1000
    tell(budgets, "a", "finished", 0, device_seconds=900.0, gpus=2)
    assert budgets.spent("a").gpu_seconds == 2300 and budgets.cut() == {}
    clock.now += 700
    assert budgets.cut() == {"a": "budget of 1 GPU-hours of the study"}
    tell(budgets, "a", "running", 1, device_seconds=251.0, gpus=2)
    assert set(budgets.cut()) == {"a"}  # who is cut stays cut


def test_money_is_the_machines_time_and_a_studys_its_share():
    clock = Clock()
    before = {"a": Spent(seconds_paid=3600)}
    budgets = Budgets(
        overall=Limits(cost=20),
        per_study=Limits(cost=5),
        price_per_hour=4,
        groups=2,
        before=Spent(seconds_paid=3600),
        before_of=before,
        clock=clock,
    )
    tell(budgets, "a", "started")
    tell(budgets, "b", "started")
    clock.now += 1800
    assert budgets.cost() == 6 and budgets.cost("a") == 5 and budgets.cost("b") == 1
    assert set(budgets.cut()) == {"a"}
    clock.now += 14400
    assert set(budgets.cut()) == {"a", "b"}


def test_a_job_that_lost_its_worker_is_counted_once_more():
    clock = Clock()
    budgets = Budgets(clock=clock)
    tell(budgets, "a", "started")
    clock.now += 5
    tell(budgets, "a", "queued")
    clock.now += 5
    tell(budgets, "a", "started")
    clock.now += 5
    tell(budgets, "a", "failed")
    assert budgets.spent("a").seconds == 10
