"""Studies on the pool: what is proposed, what is stopped, what an interrupt leaves."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from harness.config.search_space import Leaf, SearchSpace
from harness.pool.local_ray import local_ray
from harness.pool.pool import Pool
from harness.runs.jobs import Event, Job, Report
from harness.search.driver import run_search
from harness.search.proposals import Proposals
from harness.search.study import Past, SearchStudy, TrialOutcome
from tests.support import toy_engine
from tests.support.studies import search_study

QUALITY = SearchSpace(method="lora", leaves={"quality": Leaf(type="float", low=0, high=1)})


def study(
    key: str, *, space: SearchSpace = QUALITY, num_samples: int = 6, epochs: int = 4, **more: Any
) -> SearchStudy:
    toy = {"seconds": more.pop("seconds", 0.0), "warmup_ratio": 0.0, **more.pop("fixed", {})}
    key = key if "|" in key else f"{key}|b|lora"
    return search_study(key, space, num_samples, epochs=epochs, fixed=toy, **more)


def proposals(*plans: SearchStudy) -> list[Job]:
    """The first member's jobs of a group whose every trial gets the same result at once."""
    drawn = Proposals(plans)
    found = []
    for _ in range(drawn.left):
        proposal = drawn.next()
        found.append(proposal.jobs[0])
        drawn.report(proposal.number, 1, 0.5)
        drawn.ended(proposal.number, "finished")
    return found


def test_proposals_start_with_the_first_points_and_keep_bT_below_b0() -> None:
    ranks = {name: Leaf(type="int", low=2, high=16) for name in ("bT", "b0")}
    space = SearchSpace(method="ars", leaves=ranks, fixed={"alpha": 16.0})
    first = [{"b0": 12, "bT": 6}, {"b0": 8, "bT": 6}]
    jobs = proposals(study("a|b|ars", space=space, num_samples=40, first_points=first, seed=5))
    assert [{name: job.config[name] for name in ranks} for job in jobs[:2]] == first
    assert all(job.config["bT"] <= job.config["b0"] for job in jobs)
    assert len({(job.config["b0"], job.config["bT"]) for job in jobs}) > 20
    assert jobs[7].id == "a|b|ars/trial-0007" and jobs[7].study == "a|b|ars"
    assert jobs[7].config["method"] == "ars" and jobs[7].config["alpha"] == 16.0


def test_proposals_follow_the_seed() -> None:
    def drawn(seed: int) -> list[float]:
        return [job.config["quality"] for job in proposals(study("s", num_samples=20, seed=seed))]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_a_client_imports_nothing_heavy() -> None:
    heavy = ("torch", "optuna", "transformers", "mlflow", "sklearn")
    probe = (
        f"import sys, harness.search.trial_client; print([name for name in {heavy} if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout == "[]\n"
    probe = probe.replace("harness.search.trial_client", "optuna")  # the probe itself can fail
    assert "optuna" in subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    ray.cloudpickle.register_pickle_by_value(toy_engine)
    with local_ray(4):
        with Pool.start(partial(toy_engine.make, 1), groups=2) as started:
            yield started
        assert left_over(set()) == []


@pytest.fixture
def own_pool(pool: Pool) -> Iterator[Pool]:
    """Of one test: a second try must not find the jobs of the first."""
    with Pool.start(partial(toy_engine.make, 1), groups=2) as started:
        yield started


def left_over(before: set[str]) -> list[str]:
    table = ray.util.placement_group_table()
    return [key for key, row in table.items() if row["state"] != "REMOVED" and key not in before]


def quiet(event: Event) -> None:
    """Nothing to tell."""


def statuses(outcomes: Sequence[TrialOutcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]


@pytest.mark.ray
def test_thirty_trials_of_three_studies_on_two_groups(pool: Pool, capfd: pytest.CaptureFixture[str]) -> None:
    before = set(left_over(set()))
    plans = [study(f"thirty/{number}", num_samples=10, seed=number) for number in range(3)]
    plans[1] = study("thirty/1", num_samples=10, fixed={"refuse": True})
    told: dict[str, list[str]] = {}
    found = run_search(
        plans, pool, on_event=lambda event: told.setdefault(event.job.id, []).append(event.status)
    )
    assert sorted(found) == [plan.key for plan in plans]
    assert statuses(found["thirty/1|b|lora"]) == ["failed"] * 10  # rows, not the end of the study
    assert found["thirty/1|b|lora"][0].error == "`refuse` must be absent, but got true."
    for key in ("thirty/0|b|lora", "thirty/2|b|lora"):
        assert [outcome.job.id for outcome in found[key]] == [f"{key}/trial-{n:04d}" for n in range(10)]
        assert set(statuses(found[key])) <= {"finished", "stopped"} and "finished" in statuses(found[key])
    assert all(news[-1] in ("finished", "stopped", "failed") for news in told.values()) and len(told) == 30
    assert left_over(before) == []
    assert capfd.readouterr().out == ""


@pytest.mark.ray
def test_asha_stops_most_of_twenty_trials_and_leaves_nothing(pool: Pool) -> None:
    """Later trials are worse than earlier ones, so that the scheduler stops them as soon as it sees them."""
    before = set(left_over(set()))
    points = [{"quality": 1 - number / 20} for number in range(20)]
    plan = study("asha", num_samples=20, epochs=8, first_points=points, fixed={"linger_below": 0.92})
    (outcomes,) = run_search([plan], pool, on_event=quiet).values()
    assert len(outcomes) == 20
    assert statuses(outcomes).count("stopped") > 10
    assert all(len(outcome.reports) < 8 for outcome in outcomes if outcome.status == "stopped")
    assert outcomes[0].status == "finished" and len(outcomes[0].reports) == 8
    assert pool.state()["held"] == {"group-0": [], "group-1": []}
    assert pool.state()["queued"] == 0
    assert left_over(before) == []


@pytest.mark.ray
def test_a_worker_that_dies_does_not_end_the_study(pool: Pool, tmp_path: Path) -> None:
    plan = study("dies", num_samples=4, seconds=0.05, fixed={"die_once": str(tmp_path / "died")})
    (outcomes,) = run_search([plan], pool, on_event=quiet).values()
    assert (tmp_path / "died").exists()
    assert len(outcomes) == 4 and "failed" not in statuses(outcomes)


@pytest.mark.ray
def test_an_interrupt_returns_what_has_ended_and_the_pool_lives_on(pool: Pool) -> None:
    before = set(left_over(set()))
    ended: list[str] = []

    def interrupt(event: Event) -> None:
        job, status = event.job, event.status
        if status in ("finished", "stopped"):
            ended.append(job.id)
            if len(ended) == 2:
                raise KeyboardInterrupt

    found = run_search([study("cut", num_samples=500, seconds=0.05)], pool, on_event=interrupt)
    assert pool.interrupted
    assert {outcome.job.id for outcome in found["cut|b|lora"]} >= set(ended)
    assert len(found["cut|b|lora"]) < 20
    assert left_over(before) == []
    again = run_search([study("after", num_samples=2)], pool, max_concurrent=1, on_event=quiet)
    assert len(again["after|b|lora"]) == 2 and not pool.interrupted


@pytest.mark.ray
def test_a_wide_trial_is_one_configuration_on_all_tasks_and_falls_by_its_mean(own_pool: Pool) -> None:
    points = [{"quality": 0.9}, {"quality": 0.2}, {"quality": 0.95}]
    seen = tuple((epoch, 0.9 * epoch / 8) for epoch in range(1, 9))
    plans = [
        study(
            f"{task}|b|lora",
            num_samples=3,
            epochs=8,
            first_points=points,
            group="suite|b|lora",
            fixed={"linger_below": 0.5},
            history=(Past(number=0, values=points[0], status="finished", evaluations=seen),),
        )
        for task in "xy"
    ]
    found = run_search(plans, own_pool, on_event=quiet)
    for index, status in enumerate(("stopped", "finished")):
        jobs = [found[plan.key][index].job for plan in plans]
        assert [job.id for job in jobs] == [f"{plan.key}/trial-{index + 1:04d}" for plan in plans]
        assert {job.config["quality"] for job in jobs} == {points[index + 1]["quality"]}
        assert {found[plan.key][index].status for plan in plans} == {status}


@pytest.mark.ray
def test_a_wide_trial_falls_after_its_first_epochs_where_its_tasks_share_a_slot(
    pool: Pool, tmp_path: Path
) -> None:
    """One slot, three tasks: they take turns, and the first mean comes after three epochs, not after eleven."""
    seen = tuple((epoch, 0.9 * epoch / 5) for epoch in range(1, 6))
    points = [{"quality": 0.9}, {"quality": 0.2}]
    plans = [
        study(
            f"turns {task}|b|lora",
            num_samples=2,
            epochs=5,
            seconds=0.5,
            first_points=points,
            group="turns|b|lora",
            checkpoints=str(tmp_path),
            history=(Past(number=0, values=points[0], status="finished", evaluations=seen),),
        )
        for task in "xyz"
    ]
    told: list[tuple[str, int]] = []

    def note(event: Event) -> None:
        job, report, status = event.job, event.report, event.status
        if status == "running":
            told.append((job.study[6], report.epoch))

    found = run_search(plans, pool, max_concurrent=1, on_event=note)
    assert [statuses(found[plan.key]) for plan in plans] == [["stopped"]] * 3
    assert sorted(told[:3]) == [("x", 1), ("y", 1), ("z", 1)]
    assert len(told) <= 5  # what was under way while the mean was compared


@pytest.mark.ray
def test_a_task_that_fails_ends_the_trial_on_all_and_more_samples_run_the_difference(pool: Pool) -> None:
    def wide(task: str, **more: Any) -> SearchStudy:
        key = f"fails {task}|b|lora"
        return study(key, epochs=3, scheduler="none", group="fails|b|lora", **more)

    first = [
        wide("x", num_samples=2, seconds=60.0),
        wide("y", num_samples=2, fixed={"refuse": True}),
    ]
    told: dict[str, tuple[str, Report]] = {}
    found = run_search(
        first, pool, on_event=lambda event: told.update({event.job.id: (event.status, event.report)})
    )
    assert statuses(found[first[1].key]) == ["failed"] * 2
    for number, outcome in enumerate(found[first[0].key]):
        assert outcome.status == "stopped" and outcome.job.id.endswith(f"trial-{number:04d}")
        assert told[outcome.job.id][1].facts["cut"] == "fails y|b|lora failed"  # and no scheduler's decision

    ended = {plan.key: tuple(past(outcome) for outcome in found[plan.key]) for plan in first}
    half = Past(
        number=2, values={"quality": 0.7}, status="finished", evaluations=((1, 0.2), (2, 0.4), (3, 0.7))
    )
    again = [
        wide("x", num_samples=4, history=(*ended[first[0].key], half)),
        wide("y", num_samples=4, history=ended[first[1].key], open=((2, {"quality": 0.7, "epochs": 3}),)),
    ]
    more = run_search(again, pool, on_event=quiet)
    numbers = [[int(outcome.job.id[-4:]) for outcome in more[plan.key]] for plan in again]
    assert numbers == [[3], [2, 3]]  # of trial 2 only what was left
    assert [statuses(more[plan.key]) for plan in again] == [["finished"], ["finished"] * 2]
    assert more[again[1].key][0].job.config["quality"] == 0.7
    last = [outcomes[-1].job.config["quality"] for outcomes in more.values()]
    assert last[0] == last[1]


def past(outcome: TrialOutcome) -> Past:
    assert outcome.status in ("stopped", "failed")
    number = int(outcome.job.id[-4:])
    return Past(number=number, values={"quality": outcome.job.config["quality"]}, status=outcome.status)


@pytest.mark.ray
@pytest.mark.slow
def test_a_tuner_that_is_killed_goes_on_with_the_same_trials(pool: Pool) -> None:
    before = set(left_over(set()))
    told: dict[str, list[str]] = {}
    pids: list[int] = []

    def kill(event: Event) -> None:
        job, status = event.job, event.status
        told.setdefault(job.id, []).append(status)
        if not pids and sum("finished" in news for news in told.values()) == 3:
            pids.extend(process.pid for process in tuners())
            os.kill(pids[0], signal.SIGKILL)

    plan = study("killed", num_samples=12, epochs=3, seconds=0.1, seed=4, scheduler="none")
    (outcomes,) = run_search([plan], pool, on_event=kill).values()
    assert len(pids) == 1
    assert [outcome.job.id for outcome in outcomes] == [f"killed|b|lora/trial-{n:04d}" for n in range(12)]
    assert statuses(outcomes) == ["finished"] * 12
    assert all(news.count("finished") == 1 and news.count("started") == 1 for news in told.values())
    assert left_over(before) == []


def tuners() -> list[psutil.Process]:
    """The processes of the Tuners of this test's Ray."""
    mine = psutil.Process().children(recursive=True)
    return [process for process in mine if process.cmdline() and "ray::Tuner" in process.cmdline()[0]]


@pytest.mark.ray
def test_a_budget_ends_its_study_after_the_next_evaluations_and_leaves_the_others(own_pool: Pool) -> None:
    told: dict[str, list[tuple[str, Report]]] = {}
    over: set[str] = set()

    def watch(event: Event) -> None:
        job, report, status = event.job, event.report, event.status
        told.setdefault(job.id, []).append((status, report))
        if sum(news[-1][0] == "finished" for name, news in told.items() if name.startswith("dear")) == 2:
            over.add("dear|b|lora")

    plans = [
        study("dear", num_samples=200, epochs=3, seconds=0.1, scheduler="none"),
        study("cheap", num_samples=8, epochs=3, seconds=0.01, scheduler="none"),
    ]
    found = run_search(plans, own_pool, on_event=watch, cut=lambda: over)
    assert statuses(found["cheap|b|lora"]) == ["finished"] * 8
    assert 2 <= statuses(found["dear|b|lora"]).count("finished") < 60
    stopped = [outcome for outcome in found["dear|b|lora"] if outcome.status == "stopped"]
    assert stopped and len(found["dear|b|lora"]) < 80
    for outcome in stopped:
        status, report = told[outcome.job.id][-1]
        assert status == "stopped" and report.facts["cut"] == "budget"
