"""Trials that are evaluated several times in an epoch: the same training, seen and saved more often."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from harness.runs.jobs import Job, Report
from harness.workers import epochs, training
from harness.workers.checkpoints import Checkpoints
from harness.workers.engines import make_engine
from tests.support.engine_runs import engine, evaluations, make, make_job, numbers, train

PARTS = 4  # of 6 steps each: ends after 2, 3, 5 and 6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def job(made: tuple[Path, Path], tmp_path: Path) -> Callable[..., Job]:
    def one(name: str = "study/trial-0000", where: str = "out", **changes: object) -> Job:
        settings = {"adapter_dropout": 0.1, "epochs": 2, **changes}
        return replace(make_job(made, tmp_path / where, name, **settings), evaluations=PARTS)

    return one


def losses(report: Report) -> tuple[list[int], list[float]]:
    return report.facts["train_losses"]["steps"], report.facts["train_losses"]["losses"]


def test_an_epoch_has_so_many_evaluations_and_the_last_is_at_its_end(job: Callable[..., Job]) -> None:
    reports = train(engine(), job())
    assert [(r.number, r.epoch) for r in reports] == [(n, n / PARTS) for n in range(1, 2 * PARTS + 1)]
    assert [r.step for r in reports] == [2, 3, 5, 6, 8, 9, 11, 12]
    assert reports[-1].facts["evaluations_per_epoch"] == PARTS
    assert [isinstance(r.epoch, int) for r in reports] == [False, False, False, True] * 2


def test_evaluations_amid_an_epoch_change_no_weight_and_no_score(
    job: Callable[..., Job], tmp_path: Path
) -> None:
    often = replace(job("study/final/seed-1"), adapter=str(tmp_path / "often"))
    seldom = replace(often, evaluations=1, checkpoints=None, adapter=str(tmp_path / "seldom"))
    mine, theirs = train(engine(), often), train(engine(), seldom)
    digests = [one[-1].facts["adapter_digest"] for one in (mine, theirs)]
    assert [r.dev for r in mine[PARTS - 1 :: PARTS]] == [r.dev for r in theirs]
    assert mine[-1].test == theirs[-1].test
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("often", "seldom")]
    assert weights[0] == weights[1] and all(digests)
    assert losses(mine[-1])[1] == pytest.approx(losses(theirs[-1])[1], rel=1e-5)


@pytest.mark.parametrize(("method", "at"), [("lora", 1), ("ars", 6)])
def test_a_trial_that_is_killed_amid_an_epoch_ends_like_an_undisturbed_one(
    job: Callable[..., Job], method: str, at: int
) -> None:
    whole = train(engine(), job(where="undisturbed", method=method))
    seen = evaluations(engine(), job(method=method), at)  # and the worker is gone
    rest = train(engine(), job(method=method))
    known = [report for report in rest if report.number > at]
    assert numbers([*seen[:at], *known]) == numbers(whole)
    assert losses(rest[-1]) == losses(whole[-1])


def test_a_trial_saved_between_two_evaluations_loses_no_step(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(engine(), job(where="undisturbed"))
    monkeypatch.setattr("harness.workers.packed_engine.SLICE_S", 0.0)
    worker = engine()
    worker.admit(job())
    for _ in range(4):
        worker.advance()
    worker.save()
    folder = Checkpoints.of(job(), worker._files)
    assert folder is not None and next(folder.newest()).step == 4  # evaluated after 3, to be after 5
    rest = train(engine(), job())
    assert numbers([r for r in rest if r.number > 2]) == numbers(whole[2:])
    assert losses(rest[-1]) == losses(whole[-1])


def test_divergence_is_found_at_the_first_evaluation(job: Callable[..., Job]) -> None:
    worker = engine()
    seen = evaluations(worker, job(), 1)
    assert worker._pack is not None
    worker._pack.bank.theta.fill_(float("nan"))
    for _ in range(20):
        seen += worker.advance()
        if seen[-1].status != "running":
            break
    assert (seen[-1].status, seen[-1].number, seen[-1].epoch) == ("failed", 2, 0.5)
    assert "not finite since step 3 of 12" in str(seen[-1].error)


def test_patience_counts_evaluations(job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    script = iter([0.2, 0.5, 0.3, 0.4, 0.9, 0.9])
    monkeypatch.setattr(epochs, "dev_scores", lambda *_: {"mcc": next(script), "loss": 1.0})
    one = replace(job("study/final/seed-1", method="lora"), patience=2, metric="mcc")
    last = train(engine(), one)[-1]
    assert (last.number, last.epoch, last.facts["stopped_epoch"], last.facts["best_epoch"]) == (4, 1, 1, 0.5)


def test_a_network_baseline_is_evaluated_in_parts_as_well(made: tuple[Path, Path], tmp_path: Path) -> None:
    one = make_job(made, tmp_path, method="lokr", rank=4)
    config = {name: value for name, value in one.config.items() if name != "delta_T"}
    one = replace(one, config={**config, "epochs": 2}, checkpoints=None)
    pytest.importorskip("peft")
    ends = []
    for parts in (1, PARTS):
        worker, reports = make_engine(0, 1), []
        worker.admit(replace(one, evaluations=parts))
        while not reports or reports[-1].status == "running":
            reports += worker.advance()
        ends.append(reports)
    assert [r.epoch for r in ends[1]] == [n / PARTS for n in range(1, 9)]
    assert [r.dev for r in ends[1][PARTS - 1 :: PARTS]] == [r.dev for r in ends[0]]
    assert ends[1][0].facts["samples"] == 2 * one.config["batch_size"]
    assert losses(ends[1][-1])[0] == list(range(1, 13))


def test_a_long_trial_has_twenty_training_losses_even_with_one_evaluation(job: Callable[..., Job]) -> None:
    last = train(engine(), replace(job(epochs=5), evaluations=1))[-1]
    steps, means = losses(last)
    assert len(steps) == len(means) == training.LossCurve(30)._grid.parts == 20
    assert steps[-1] == last.step == 30
    gaps = [step - before for before, step in zip([0, *steps], steps, strict=False)]
    whole = sum(gap * mean for gap, mean in zip(gaps, means, strict=True)) / 30
    assert json.dumps(asdict(last)) and 0 < whole < 2


def test_a_follower_has_the_losses_of_the_start_that_it_shares(job: Callable[..., Job]) -> None:
    both = [job(f"study/trial-{n:04d}", method="ars", delta_T=4, p=p) for n, p in enumerate((0.0, 0.3))]
    alone = [train(engine(), replace(one, checkpoints=None))[-1] for one in both]
    together = {r.job: r for r in train(engine(2), *both)}
    for one in alone:
        assert losses(together[one.job])[0] == losses(one)[0]
        assert losses(together[one.job])[1] == pytest.approx(losses(one)[1], rel=1e-4)
