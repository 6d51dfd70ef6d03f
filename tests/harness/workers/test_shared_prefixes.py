"""Trials that share a prefix: trained once, and each as if it had trained alone."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness.runs.jobs import Job, Report
from harness.workers.packed_engine import LingoEngine
from lingo.pack import Pack
from tests.support.engine_runs import STEPS, engine, evaluations, make, make_job, numbers, train, until

LONG = {"initial_warmup_ratio": 0.45}
"""Of 24 steps: the budget falls from step 10 on, so that one evaluation lies in the prefix."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make(tmp_path_factory.mktemp("prefixes"))


@pytest.fixture
def job(made: tuple[Path, Path], tmp_path: Path) -> Callable[..., Job]:
    def make_one(number: int, **settings: Any) -> Job:
        one = make_job(made, tmp_path, f"study/trial-{number:04d}", **{**LONG, **settings})
        return replace(one, siblings=True)

    return make_one


def siblings(job: Callable[..., Job]) -> list[Job]:
    """First allocations at steps 12, 15, 11 and 12."""
    return [
        job(0, p=0.1, delta_T=4),
        job(1, p=0.3, delta_T=5),
        job(2, p=0.2, delta_T=11),
        job(3, bT=2, delta_T=4),
    ]


def unshared(job: Job) -> list[Report]:
    return train(engine(), replace(job, checkpoints=None, siblings=False))


def of(reports: list[Report], job: Job) -> list[Report]:
    return [report for report in reports if report.job == job.id]


def assert_same(ours: list[Report], theirs: list[Report]) -> None:
    """In packs of another shape the last bits of sums may differ; masks may not."""
    assert [(r.number, r.status, r.step) for r in ours] == [(r.number, r.status, r.step) for r in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, abs=1e-5)
        assert a.dev == pytest.approx(b.dev, abs=1e-5)
    assert ours[-1].facts["kept_ranks"] == theirs[-1].facts["kept_ranks"]
    assert ours[-1].facts["rank_trajectory"] == theirs[-1].facts["rank_trajectory"]


def slot_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many slots each step trains."""
    counts: list[int] = []
    real = Pack.step

    def step(self: Pack) -> None:
        counts.append(len(self.running))
        real(self)

    monkeypatch.setattr(Pack, "step", step)
    return counts


def test_a_pack_trains_the_prefix_once(job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = siblings(job)
    alone = {one.id: unshared(one) for one in jobs}
    counts = slot_steps(monkeypatch)
    reports = train(engine(4), *jobs)
    for one in jobs:
        assert_same(of(reports, one), alone[one.id])
    # Ten steps alone; the one that allocates at 11 has left; at 11 those of 12 leave; at last all four.
    assert counts == [1] * 10 + [2] * 1 + [4] * 13
    last = {one.id: of(reports, one)[-1].facts for one in jobs}
    trained = sum(facts["samples"] - facts["samples_shared"] for facts in last.values())
    assert trained == 16 * sum(counts) and sum(f["samples"] for f in last.values()) == 4 * 24 * 16


def test_the_prefix_is_bit_equal_across_time(job: Callable[..., Job]) -> None:
    """A later trial starts from the state that an earlier one left: the same pack shape, so the same bits."""
    first, second, *_ = siblings(job)
    train(engine(), first)
    reports = train(engine(), second)
    assert numbers(reports) == numbers(unshared(second))
    facts = reports[-1].facts
    assert facts["samples_shared"] == 11 * 16  # the state right before the first one's allocation at 12
    assert facts["rank_trajectory"] == unshared(second)[-1].facts["rank_trajectory"]
    third = job(5, p=0.2, delta_T=11)
    assert numbers(train(engine(), third)) == numbers(unshared(third))


def test_nobody_waits_for_a_trial_of_other_settings(job: Callable[..., Job]) -> None:
    worker = engine(4)
    for number, changed in enumerate(({}, {"seed": 2}, {"learning_rate": 1e-3}, {"method": "adalora"})):
        worker.admit(job(number, **changed))
    assert worker._pack and len(worker._pack.slots) == 4


def test_a_trial_starts_from_the_checkpoint_of_the_trial_that_it_is_forked_from(
    job: Callable[..., Job],
) -> None:
    """Without stored prefixes: the parent is under way, and has not allocated yet."""
    parent, child, *_ = (replace(one, siblings=False) for one in siblings(job))
    evaluations(engine(), parent, 1)  # step 6 of a prefix of 11
    forked = train(engine(), replace(child, parent=parent.id))
    assert numbers(forked) == numbers(unshared(child)) and forked[-1].facts["samples_shared"] == 6 * 16
    other = replace(job(7, p=0.1, delta_T=4, learning_rate=1e-3), siblings=False, parent=parent.id)
    assert train(engine(), other)[-1].facts["samples_shared"] == 0
    late = replace(job(8, p=0.2, delta_T=11), siblings=False, parent=parent.id)
    evaluations(engine(), parent, 3)  # its newest two checkpoints are from after its first allocation
    assert numbers(train(engine(), late)) == numbers(unshared(late))


def test_when_the_leader_goes_a_follower_leads(job: Callable[..., Job]) -> None:
    jobs = siblings(job)[:3]
    worker = engine(3)
    for one in jobs:
        worker.admit(one)
    reports = until(worker, lambda reports: len(reports) == 3)
    assert {report.job for report in reports} == {one.id for one in jobs}  # of the leader's one evaluation
    assert worker.free_slots(jobs[0]) == 0  # places are reserved
    worker.release(jobs[0].id)
    assert worker._pack and len(worker._pack.slots) == 1 and worker.free_slots(jobs[0]) == 1
    reports += until(worker, lambda reports: sum(r.status == "finished" for r in reports) == 2)
    for one in jobs[1:]:
        assert_same(of(reports, one), unshared(one))


def test_a_follower_that_goes_leaves_no_trace(job: Callable[..., Job]) -> None:
    jobs = siblings(job)[:2]
    worker = engine(2)
    for one in jobs:
        worker.admit(one)
    worker.release(jobs[1].id)
    assert worker.free_slots(jobs[0]) == 1
    reports = until(worker, lambda reports: any(r.status == "finished" for r in reports))
    assert {report.job for report in reports} == {jobs[0].id}
    assert numbers(reports)[-1][-2] == pytest.approx(numbers(unshared(jobs[0]))[-1][-2], abs=1e-5)


def test_a_sibling_that_comes_late_is_told_what_it_missed(job: Callable[..., Job]) -> None:
    first, second, *_ = siblings(job)
    worker: LingoEngine = engine(2)
    evaluations(worker, first, 1)  # step 6 of a prefix of 11
    worker.admit(second)
    assert worker._pack and len(worker._pack.slots) == 1
    reports = until(worker, lambda reports: sum(r.status == "finished" for r in reports) == 2)
    assert_same(of(reports, second), unshared(second))
    assert of(reports, second)[-1].facts["samples_shared"] == 11 * 16


def test_divergence_in_the_prefix_is_everybodys(job: Callable[..., Job]) -> None:
    jobs = siblings(job)[:2]
    worker = engine(2)
    for one in jobs:
        worker.admit(one)
    assert worker._pack
    worker._pack.bank.theta.fill_(float("nan"))
    reports = until(worker, lambda reports: bool(reports))
    assert sorted((report.job, report.status) for report in reports) == [(one.id, "failed") for one in jobs]
    assert worker.free_slots(jobs[0]) == 2 and STEPS == 6


def test_a_damaged_prefix_is_not_used(job: Callable[..., Job], tmp_path: Path) -> None:
    first, second, *_ = siblings(job)
    train(engine(), first)
    for path in tmp_path.rglob("prefixes/*/*/*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    reports = train(engine(), second)
    assert numbers(reports) == numbers(unshared(second)) and reports[-1].facts["samples_shared"] == 0


def test_methods_without_allocation_share_nothing(made: tuple[Path, Path], tmp_path: Path) -> None:
    make_lora = partial(make_job, made, tmp_path, method="lora")
    worker = engine(2)
    for number in range(2):
        worker.admit(make_lora(name=f"study/trial-{number}"))
    assert worker._pack and len(worker._pack.slots) == 2
