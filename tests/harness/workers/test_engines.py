"""Each job goes to the engine of its method; baselines and methods of peft report and end as others do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.data.prepared import open_test, prepare
from harness.data.quickstart import make_backbone, make_data
from harness.data.tasks import TASKS
from harness.runs.jobs import Job, Report
from harness.workers.engines import Dispatch, make_engine
from harness.workers.single_engine import SimpleEngine
from lingo.adapter_folder import adapter_digest
from lingo.backbones import load_backbone
from lingo.fresh_names import fresh_name
from lingo.metrics import score
from lingo.nucleotides import bare_bases
from lingo.predict import open_adapter
from lingo.single import GradientTrial

SETTINGS: dict[str, Any] = {"seed": 1, "epochs": 2, "batch_size": 16}
OWN: dict[str, dict[str, Any]] = {
    "kmer_logreg": {"k": 4, "C": 1e-3},
    "onehot_cnn": {"filters": 8, "kernel_width": 9, "learning_rate": 3e-3},
    "lokr": {"rank": 4, "learning_rate": 3e-3},
    "lora": {"rank": 4, "learning_rate": 3e-3},
    "fmft": {"learning_rate": 1e-3},
    "probe": {"C": 0.1},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny backbone, and a task prepared for it (`tokens`) and for baselines (`bases`)."""
    folder = tmp_path_factory.mktemp("engines")
    model = make_backbone(folder / "model")
    backbone, data = load_backbone(model), make_data(folder / "data")
    options: dict[str, Any] = {"limit": 96}
    task = TASKS["quickstart/promoter"]
    tokens = prepare(
        task, data, folder / "p", tokenizer=backbone.tokenizer, pad_id=backbone.pad_id, **options
    )
    bases = prepare(task, data, folder / "p", tokenizer=bare_bases(), pad_id=0, **options)
    return {"model": model, "tokens": tokens.folder, "bases": bases.folder}


def job(made: dict[str, Path], method: str, name: str = "trial-0000", **more: Any) -> Job:
    simple = method in ("kmer_logreg", "onehot_cnn")
    return Job(
        id=f"study/{name}",
        study="study",
        stage="final" if name.startswith("final") else "search",
        backbone="none" if simple else str(made["model"]),
        data=str(made["bases" if simple else "tokens"]),
        config={"method": method, **SETTINGS, **OWN[method]},
        **more,
    )


def end(engine: Any, one: Job) -> list[Report]:
    reports: list[Report] = []
    engine.admit(one)
    for _ in range(1000):
        reports += engine.advance()
        if reports and reports[-1].status != "running":
            return reports
    raise AssertionError("the job did not end")


@pytest.mark.parametrize(
    ("method", "epochs"), [("kmer_logreg", [2]), ("onehot_cnn", [1, 2]), ("lokr", [1, 2])]
)
def test_a_job_reports_and_ends(made: dict[str, Path], method: str, epochs: list[int]) -> None:
    pytest.importorskip("peft")
    engine = make_engine(0, 1)
    reports = end(engine, job(made, method))
    assert [report.epoch for report in reports] == epochs
    assert [report.number for report in reports] == list(range(1, len(epochs) + 1))
    assert reports[-1].status == "finished" and reports[-1].test is None
    assert all(0 < report.dev["loss"] < 3 and 0 < report.train_loss < 3 for report in reports)
    facts = reports[-1].facts
    assert facts["trained_parameters"] > 0 and facts["data_digest"] and facts["device"]
    assert facts["samples"] == 96 * (1 if method == "kmer_logreg" else 2)
    again = end(engine, job(made, method, "final/seed-1"))
    assert [report.dev for report in again] == [report.dev for report in reports]
    assert again[-1].test is not None and "mcc" in again[-1].test
    engine.close()


def test_one_kind_of_job_at_a_time(made: dict[str, Path]) -> None:
    engine = make_engine(0, 1, pack=2)
    lora, other = job(made, "lora"), job(made, "lora", "trial-0001")
    assert engine.free_slots(lora) == 2
    engine.admit(lora)
    assert engine.free_slots(other) == 1
    assert [engine.free_slots(job(made, name)) for name in ("lokr", "onehot_cnn")] == [0, 0]
    engine.release(lora.id)
    engine.release("never heard of")
    assert [engine.free_slots(job(made, name)) for name in ("lokr", "onehot_cnn", "kmer_logreg")] == [1, 1, 1]
    engine.close()


def test_two_backbones_are_never_held_at_once(made: dict[str, Path]) -> None:
    closed: list[str] = []

    class Named(SimpleEngine):
        name = ""

        def close(self) -> None:
            closed.append(self.name)

    def maker(name: str) -> Any:
        def make() -> Named:
            engine = Named()
            engine.name = name
            return engine

        return make

    engine = Dispatch({name: maker(name) for name in ("pack", "peft", "simple")})
    for method in ("lora", "onehot_cnn", "lokr", "kmer_logreg", "lora"):
        assert engine.free_slots(job(made, method)) == 1
    assert closed == ["pack", "peft"]


def test_an_unknown_method_is_refused_with_a_line(made: dict[str, Path]) -> None:
    wrong = replace(job(made, "lora"), config={"method": "lorra", "seed": 0})
    with pytest.raises(ValueError, match="`method` must be one of"):
        make_engine(0, 1).admit(wrong)


def test_bad_settings_are_refused_with_all_reasons(made: dict[str, Path]) -> None:
    one = job(made, "onehot_cnn")
    wrong = replace(one, config={**one.config, "filters": 0, "dropout": 2.0})
    with pytest.raises(
        ValueError, match=r"`filters` must be a whole number, at least 1.*`dropout` must be at least 0"
    ):
        make_engine(0, 1).admit(wrong)


def test_patience_tests_the_weights_of_the_best_evaluation(made: dict[str, Path]) -> None:
    one = job(made, "onehot_cnn", "final/seed-1", patience=2)
    long = replace(one, config={**one.config, "epochs": 40, "learning_rate": 2e-2})
    reports = end(make_engine(0, 1), long)
    facts, losses = reports[-1].facts, [report.dev["loss"] for report in reports]
    assert len(reports) < 40 and reports[-1].status == "finished" and facts["weights"] == "best dev loss"
    assert facts["best_epoch"] == losses.index(min(losses)) + 1
    assert facts["stopped_epoch"] == len(reports) == facts["best_epoch"] + 2
    assert facts["best_dev"] == reports[facts["best_epoch"] - 1].dev


@pytest.mark.parametrize("method", ["onehot_cnn", "kmer_logreg"])
def test_the_best_evaluation_counts_where_patience_ends_nothing(made: dict[str, Path], method: str) -> None:
    one = job(made, method, "final/seed-1", patience=10, metric="mcc")
    reports = end(make_engine(0, 1), replace(one, config={**one.config, "epochs": 6}))
    facts = reports[-1].facts
    best = max(reports, key=lambda report: (report.dev["mcc"], -report.dev["loss"], -report.number))
    assert (facts["weights"], facts["stopped_epoch"]) == ("best dev mcc", 6)
    assert (facts["best_epoch"], facts["best_dev"]) == (best.epoch, best.dev)
    last = end(make_engine(0, 1), replace(one, patience=None))[-1]
    assert last.facts["weights"] == "last evaluation" and "best_epoch" not in last.facts


def test_a_final_job_of_peft_leaves_an_adapter_that_peft_loads(made: dict[str, Path], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from safetensors.torch import load_file

    folder = tmp_path / "adapters" / "seed-1"
    engine = make_engine(0, 1)
    *_, last = end(engine, replace(job(made, "lokr", "final/seed-1"), adapter=str(folder)))
    assert last.facts["adapter"] == str(folder)
    backbone = load_backbone(made["model"])
    model = peft.PeftModel.from_pretrained(backbone.model, str(folder)).eval()
    test = open_test(made["tokens"])
    ids, lengths = test.padded(range(len(test)), backbone.pad_id)
    with torch.no_grad():
        hidden = model.base_model(input_ids=torch.from_numpy(ids)).last_hidden_state
    pooled = hidden[torch.arange(len(ids)), torch.from_numpy(lengths) - 1]
    head = load_file(folder / "head.safetensors")
    logits = (pooled @ head["weight"].T + head["bias"]).numpy()
    assert last.test == pytest.approx(score("classification", logits, test.labels), abs=1e-4)
    # The same engine goes on with an untouched backbone.
    assert end(engine, job(made, "lokr"))[-1].dev == pytest.approx(last.dev, abs=1e-6)
    engine.close()


@pytest.mark.parametrize("method", ["onehot_cnn", "lokr"])
def test_divergence_ends_a_job_within_its_epoch(
    made: dict[str, Path], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    monkeypatch.setattr(GradientTrial, "_mean_loss", broken_from(20))
    one = job(made, method)
    engine = make_engine(0, 1)
    (failed,) = end(engine, replace(one, config={**one.config, "batch_size": 1}))
    why = "diverged: the training loss is not finite since step 21 of 192, learning rate 0.003."
    assert (failed.status, failed.error, failed.step, failed.epoch) == ("failed", why, 21, 0)
    assert engine.free_slots(one) == 1
    engine.close()


def broken_from(step: int) -> Any:
    """A loss that is not a number after so many steps."""
    real = GradientTrial._mean_loss

    def loss(self: GradientTrial, *args: Any) -> Any:
        return real(self, *args) * (float("nan") if self.step >= step else 1.0)

    return loss


@pytest.mark.parametrize("method", ["lora", "fmft", "probe", "lokr"])
def test_fresh_weights_are_drawn_by_the_worker(made: dict[str, Path], method: str) -> None:
    """Every kind of engine loads them by name; with the same seed the same, and nothing but the weights differs."""
    found = []
    for seed in (None, 0, 1, 0):
        source = str(made["model"]) if seed is None else fresh_name(str(made["model"]), seed)
        engine = make_engine(0, 1, frozen="fp32")
        found.append(end(engine, replace(job(made, method, "final/seed-0", alone=True), backbone=source))[-1])
        engine.close()
    digests = [one.facts["backbone_digest"] for one in found]
    assert len(set(digests)) == 3 and digests[1] == digests[3]
    assert found[1].test == found[3].test and found[0].test != found[1].test
    assert {one.status for one in found} == {"finished"}
    for fact in ("total_parameters", "trained_parameters", "data_digest", "backbone_type", "samples"):
        assert len({one.facts[fact] for one in found}) == 1


def test_a_final_job_of_a_probe_leaves_an_export_of_its_scores(made: dict[str, Path], tmp_path: Path) -> None:
    engine = make_engine(0, 1, frozen="fp32")
    last = end(engine, job(made, "probe", "final/seed-0", adapter=str(tmp_path / "probe")))[-1]
    engine.close()
    opened, test = open_adapter(tmp_path / "probe"), open_test(made["tokens"])
    assert adapter_digest(tmp_path / "probe") == last.facts["adapter_digest"]
    assert last.test is not None and opened.facts.layout == "probe"
    found = score("classification", opened._forward(test, None), test.labels)
    assert found["mcc"] == last.test["mcc"] and found["loss"] == pytest.approx(last.test["loss"], abs=1e-4)
