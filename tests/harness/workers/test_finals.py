"""The end of a final job: patience, the best weights, the test split once, and what is kept."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from harness.runs.jobs import Job, Report
from harness.runs.record import Record
from harness.workers import epochs, evaluation, finals
from harness.workers.training import Training
from lingo.metrics import score
from tests.support.engine_runs import engine, evaluations, make, make_job, numbers, train


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make(tmp_path_factory.mktemp("finals"))


@pytest.fixture
def final(made: tuple[Path, Path], tmp_path: Path) -> Callable[..., Job]:
    def make_one(seed: int = 1, **settings: Any) -> Job:
        one = make_job(made, tmp_path, f"study/final/seed-{seed}", **{"seed": seed, **settings})
        return replace(one, predictions=str(tmp_path / "predictions"))

    return make_one


def scripted(monkeypatch: pytest.MonkeyPatch, scores: Sequence[float | dict[str, float]]) -> None:
    """Dev scores, or losses alone, as the test says, over the true others."""
    real = evaluation.dev_scores
    left = iter([one if isinstance(one, dict) else {"loss": one} for one in scores])
    monkeypatch.setattr(epochs, "dev_scores", lambda *args: real(*args) | next(left))


def test_patience_stops_and_tests_the_best_weights_once(
    final: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = evaluation.open_test
    monkeypatch.setattr(evaluation, "open_test", lambda folder: opened.append(folder) or real(folder))
    all_epochs = train(engine(), final(epochs=4, method="lora"))  # for comparison: no patience
    scripted(monkeypatch, [0.9, 0.5, 0.6, 0.7, 0.4, 0.3])
    lora = final(epochs=6, method="lora")
    reports = train(engine(), replace(lora, patience=2, checkpoints=None))
    last = reports[-1]
    assert [report.status for report in reports] == ["running"] * 3 + ["finished"]
    assert (last.facts["best_epoch"], last.facts["stopped_epoch"]) == (2, 4)
    assert last.facts["weights"] == "best dev loss"
    assert last.dev["loss"] == 0.7 and last.facts["best_dev"]["loss"] == 0.5
    assert len(opened) == 2 and all(report.test is None for report in reports[:-1])
    facts = all_epochs[-1].facts
    assert (facts["weights"], facts["stopped_epoch"]) == ("last evaluation", 4) and "best_epoch" not in facts
    # The weights tested are those after epoch 2: what a run of which only two epochs count predicts.
    scripted(monkeypatch, [0.9, 0.5, 0.6, 0.7, 0.8, 0.9])
    other = train(engine(), replace(lora, patience=1, checkpoints=None))
    assert other[-1].facts["stopped_epoch"] == 3 and other[-1].test == last.test


def test_patience_that_cannot_end_a_run_tests_the_best_weights_by_the_metric_of_the_study(
    final: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As with the defaults, ten evaluations and five epochs; of equal scores the lower loss."""
    scores = [{"mcc": 0.2, "loss": 0.3}, {"mcc": 0.8, "loss": 0.9}, {"mcc": 0.8, "loss": 0.7}]
    scores += [{"mcc": float("nan"), "loss": 0.1}, {"mcc": 0.7, "loss": 0.2}]
    scripted(monkeypatch, scores)
    cards: list[dict[str, Any]] = []
    monkeypatch.setattr(finals, "save_adapter", lambda *args: cards.append(args[-1]) or "digest")
    job = replace(final(epochs=5, method="lora"), patience=10, metric="mcc", checkpoints=None)
    reports = train(engine(), replace(job, adapter=str(tmp_path / "adapter")))
    last = reports[-1]
    assert len(reports) == 5 and (last.facts["best_epoch"], last.facts["stopped_epoch"]) == (3, 5)
    assert last.facts["weights"] == "best dev mcc" and cards[0]["dev"]["mcc"] == 0.8
    named = replace(job, study="task|backbone|lora")
    record = Record.of(named, reports, "finished", benchmark="x", family="x", metric="mcc", trial=None)
    assert (record.dev["mcc"], record.dev["loss"]) == (0.8, 0.7) and record.history[-1]["dev"]["mcc"] == 0.7
    assert "best_dev" not in record.facts and record.facts["best_epoch"] == 3
    scripted(monkeypatch, [{"loss": loss} for loss in (0.9, 0.8, 0.5, 0.6)])
    third = train(engine(), replace(job, patience=1, metric="loss"))  # the weights of epoch 3 by another way
    assert third[-1].facts["best_epoch"] == 3 and third[-1].test == last.test


@pytest.mark.parametrize("method", ["adalora", "ars"])
def test_methods_with_a_budget_choose_among_evaluations_from_the_last_allocation_on(
    final: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Eight epochs, patience two, b0 8 to bT 2: the lowest loss lies before T, where the ranks are above bT."""
    job = replace(final(epochs=8, method=method, b0=8, bT=2), patience=2, checkpoints=None)
    scripted(monkeypatch, [0.9, 0.1, 0.2, 0.3, 0.4, 0.7, 0.6, 0.65])
    *_, last = train(engine(), job)
    assert (last.facts["best_epoch"], last.facts["stopped_epoch"]) == (7, 8)  # T is step 36, epoch 6
    assert last.facts["weights"] == "best dev loss from step 36 on"
    ranks = list(last.facts["kept_ranks"].values())
    assert sum(ranks) / len(ranks) == 2
    scripted(monkeypatch, [0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    *_, last = train(engine(), replace(job, patience=1))
    assert (last.facts["best_epoch"], last.facts["stopped_epoch"]) == (6, 7)
    ranks = list(last.facts["kept_ranks"].values())
    assert sum(ranks) / len(ranks) == 2


def test_a_checkpoint_that_kept_weights_of_another_rule_is_not_gone_on_from(
    final: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As older versions left them: the best weights lie before T, those from T on are lost."""
    losses = [0.9, 0.1, 0.2, 0.3, 0.6, 0.5]
    job = replace(final(epochs=6), patience=10)
    scripted(monkeypatch, losses)
    undisturbed = train(engine(), replace(job, checkpoints=None))
    assert undisturbed[-1].facts["best_epoch"] == 6  # T is step 27, in epoch 5
    with monkeypatch.context() as older:
        older.setattr(Training, "counts_from", 0)
        scripted(monkeypatch, losses)
        evaluations(engine(), job, 5)
    assert len(list(Path(str(job.checkpoints)).rglob("job.json"))) == 3  # epochs 2, 4 and 5
    scripted(monkeypatch, losses[4:])
    resumed = train(engine(), job)
    assert numbers(resumed) == numbers(undisturbed)  # from epoch 4, whose weights do not count
    assert "lacks the weights of evaluation 5" in caplog.text


def test_the_best_weights_survive_an_interruption(
    final: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    losses = [0.9, 0.5, 0.6, 0.7, 0.8, 0.9]
    job = replace(final(epochs=6, method="lora"), patience=4)
    scripted(monkeypatch, losses)
    undisturbed = train(engine(), replace(job, checkpoints=None))
    assert undisturbed[-1].facts["best_epoch"] == 2
    scripted(monkeypatch, losses)
    evaluations(engine(), job, 5)
    (folder,) = (Path(str(job.checkpoints))).iterdir()
    kept = sorted(path.name for path in folder.iterdir())
    assert kept == ["step-00000012", "step-00000024", "step-00000030"]  # the best one and the two newest
    scripted(monkeypatch, losses[5:])
    resumed = train(engine(), job)
    assert numbers(resumed) == numbers(undisturbed)
    # Without the best weights, what came after them is of no use: one starts anew.
    scripted(monkeypatch, losses)
    evaluations(engine(), replace(job, id="study/final/seed-9"), 5)
    (spoilt,) = [path for path in Path(str(job.checkpoints)).rglob("step-00000012") if "seed-9" in str(path)]
    (spoilt / "job.json").unlink()
    scripted(monkeypatch, losses)
    again = train(engine(), replace(job, id="study/final/seed-9"))
    assert numbers(again) == numbers(undisturbed) and "is used" in caplog.text


def test_a_final_job_leaves_facts_and_predictions(final: Callable[..., Job], tmp_path: Path) -> None:
    last: Report = train(engine(), final())[-1]
    facts = last.facts
    assert last.test is not None
    assert facts["collapsed"] == bool(last.test["collapsed"])
    low, high = facts["interval"]["accuracy"]
    assert low <= last.test["accuracy"] <= high
    assert sum(map(sum, facts["confusion"])) == 96 and list(facts["roc"]) == list(facts["pr"]) == ["1"]
    assert (
        facts["flops"] == facts["flops_per_step"] * 24 and facts["reference_flops_per_step"] > facts["flops"]
    )
    assert (facts["samples"], facts["samples_shared"], facts["gpus"], facts["micro_batches"]) == (
        384,
        0,
        0,
        1,
    )
    trajectory = facts["rank_trajectory"]
    assert trajectory["steps"][0] == 0 and len(trajectory["paths"]) == len(trajectory["ranks"][0])
    assert sum(trajectory["ranks"][-1]) == sum(facts["kept_ranks"].values())
    assert trajectory["ranks"][0] == [12] * len(trajectory["paths"])
    table = pq.read_table(facts["predictions"])
    assert Path(facts["predictions"]).parent == tmp_path / "predictions"
    chances = table.select(["score_0", "score_1"]).to_pandas().to_numpy()
    assert (chances.argmax(1) == table["label"].to_numpy()).mean() == pytest.approx(last.test["accuracy"])
    assert score("classification", chances, table["label"].to_numpy())["mcc"] == pytest.approx(
        last.test["mcc"]
    )
    json.dumps(asdict(last))  # plain data


def test_a_disk_that_refuses_costs_files_and_not_the_result(
    final: Callable[..., Job],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = train(engine(), final())[-1]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(finals, "write_predictions", full)
    monkeypatch.setattr(finals, "save_adapter", full)
    job = replace(final(), adapter=str(tmp_path / "adapter"), checkpoints=None)
    last = train(engine(), job)[-1]
    assert last.test == expected.test and last.status == "finished"
    assert "predictions" not in last.facts and "adapter" not in last.facts
    assert (
        "No space left" in last.facts["predictions_error"] and "No space left" in last.facts["adapter_error"]
    )
    assert "no test predictions of study/final/seed-1" in caplog.text


def test_search_jobs_have_no_test_facts(made: tuple[Path, Path], tmp_path: Path) -> None:
    reports = train(engine(), partial(make_job, made, tmp_path)())
    for report in reports:
        assert not {"interval", "confusion", "roc", "predictions", "collapsed"} & set(report.facts)
        assert report.facts["samples"] == 96 * report.epoch and report.facts["flops_per_step"] > 0
