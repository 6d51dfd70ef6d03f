"""`export`: the winner's adapter out of a run's folder, whole, the one that was measured, with its card."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModel
from typer.testing import CliRunner

from harness.cli.main import app
from harness.core.errors import InputError
from harness.data.labelled_files import read_rows
from harness.data.prepared import open_test, prepare
from harness.data.quickstart import make_backbone, make_data
from harness.data.tasks import TASKS
from harness.inference.card import result_of, score_table
from harness.inference.export import best_on_dev, choose, dev_score, export_choice
from harness.runs.intervals import limits_of
from harness.runs.layout import file_name
from harness.runs.record import Record
from harness.runs.store import load
from harness.workers.peft_engine import PeftEngine
from lingo.backbones import load_backbone
from lingo.embeddings import rows_of
from lingo.nucleotides import units_for
from lingo.predict import Predictor, open_adapter
from lingo.prompts import prompt_for
from tests.support.trained_run import final_runs

TASK = TASKS["quickstart/promoter"]
SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-2, "delta_T": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with three seeds of ars, two of lora with new tokens, one of fmft and one of lokr."""
    out = tmp_path_factory.mktemp("export") / "run"
    model = make_backbone(out / "quickstart" / "tiny")
    backbone, data = load_backbone(model), make_data(out / "quickstart")
    options: dict[str, Any] = {"pad_id": backbone.pad_id, "limit": 64}
    plain = prepare(
        TASK, data, out / "data", tokenizer=backbone.tokenizer, prompt=prompt_for(TASK.domain), **options
    )
    units = units_for("one_hot", backbone.tokenizer, rows_of(backbone))
    bases = prepare(TASK, data, out / "data", tokenizer=units, strands="both", **options)
    final_runs(out, TASK, plain, model, method="ars", seeds=(0, 1, 2), **SETTINGS)
    final_runs(out, TASK, bases, model, method="lora", seeds=(0, 1), **SETTINGS)
    final_runs(out, TASK, plain, model, method="fmft", seeds=(0,), **SETTINGS)
    final_runs(out, TASK, plain, model, method="lokr", seeds=(0,), engine=PeftEngine(), **SETTINGS)
    return out


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of that run, in another place than where it was trained."""
    return shutil.copytree(made, tmp_path / "moved")


def command(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "1000"})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_the_best_seed_on_dev_is_taken(run: Path) -> None:
    finals = {record.seed: record for record in load(run) if record.method == "ars"}
    best = max(finals.values(), key=lambda record: (record.dev["mcc"], -record.seed))
    code, text = command("export", run, "--task", TASK.name, "--method", "ars")
    folder = run / "exports" / "quickstart_promoter-tiny-ars"
    assert code == 0 and f"seed {best.seed} of 3, the best on the dev split" in text
    assert str(folder) in text and "caveats: smoke" in text
    about = json.loads((folder / "lingo.json").read_text())
    assert about["result"]["seed"] == best.seed == about["config"]["seed"]
    assert about["result"]["test"]["mcc"] == best.test["mcc"]  # type: ignore[index]
    assert set(about["result"]["seeds"]) == {"0", "1", "2"}
    other = next(seed for seed in finals if seed != best.seed)
    assert command("export", run, "--task", "promoter", "--method", "ars", "--seed", other)[0] == 0
    assert json.loads((folder / "lingo.json").read_text())["config"]["seed"] == other, "replaced whole"


def final(seed: int, dev: float, test: float, **facts: Any) -> Record:
    names = {
        "benchmark": "b",
        "study": "t|b|m",
        "task": "t",
        "family": "f",
        "backbone": "b",
        "method": "m",
    }
    return Record(
        id=f"t|b|m/final/seed-{seed}",
        **names,
        stage="final",
        trial=None,
        seed=seed,
        status="finished",
        metric="mcc",
        dev={"mcc": dev},
        test={"mcc": test},
        facts=facts,
    )


def test_seeds_are_never_chosen_by_test() -> None:
    finals = [final(0, 0.5, 0.9), final(1, 0.6, 0.1), final(2, 0.6, 0.8), final(3, float("nan"), 1.0)]
    assert best_on_dev(finals).seed == 1
    patient = final(4, 0.1, 0.0, best_dev={"mcc": 0.7})
    assert dev_score(patient) == 0.7 and best_on_dev([*finals, patient]).seed == 4
    collapsed = final(5, 0.9, 0.0, best_dev={"mcc": 0.9, "collapsed": 1.0})
    assert best_on_dev([*finals, collapsed]).seed == 1 and best_on_dev([collapsed]).seed == 5


def test_the_card_says_all(run: Path, tmp_path: Path) -> None:
    choice = choose(run, task=TASK.name, method="lora")
    folder = export_choice(choice, tmp_path / "out")
    card, record = ModelCard.load(folder / "README.md"), choice.record
    assert card.data.base_model == "backbone"
    scores = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert record.test is not None and scores["mcc"] == pytest.approx(record.test["mcc"], abs=1e-6)
    assert json.loads((folder / "lingo.json").read_text())["result"]["test_interval"] == {}
    assert "interval" not in card.text, "there are two seeds"
    for line in (
        f"| mcc, this seed | {record.test['mcc']:.4f} |",
        "| seeds | 0, 1 |",
        f"| data digest | {record.data_digest} |",
        f"| backbone digest | {record.backbone_digest} |",
        "| marks | smoke |",
        "| learning_rate | 0.01 |",
        f"| torch | {record.environment['versions']['torch']} |",
    ):
        assert line in card.text
    for words in (
        r"\*\*Caveat: smoke\.\*\*",
        r"random weights: for demonstrations",
        r"\| mcc, 2 seeds \| -?\d\.\d{4} \((-?\d\.\d{4}, -?\d\.\d{4}|both equal)\) \|",
        r"predict --adapter \. --input",
        r"Each base of the sequence is one token",
        r"mean of those of the sequence and of its reverse complement",
        r"the best on the dev split .*; test scores were not used",
    ):
        assert re.search(words, card.text), words


def test_intervals_of_a_card_are_those_of_the_leaderboard(tmp_path: Path) -> None:
    def scored(seed: int, score: float) -> Record:
        rows = np.random.default_rng(1).normal(0, 0.01, 200)
        resamples = {"mcc": (score + rows).tolist()}
        return final(seed, score, score, resamples=resamples, interval={"mcc": [0.1, 0.2]})

    finals = [scored(seed, score) for seed, score in enumerate((0.71, 0.74, 0.70))]
    limits = limits_of(finals, "mcc")
    assert limits is not None
    assert result_of(finals[0], finals, "")["test_interval"] == {"mcc": list(limits)}
    assert result_of(finals[0], finals[:2], "")["test_interval"] == {}
    text = score_table(finals[0], finals)["mcc, 3 seeds"]
    assert f"[{limits[0]:.4f}, {limits[1]:.4f}]" in text and "test rows and seeds" in text
    assert score_table(finals[0], finals[:2])["mcc, 2 seeds"] == "0.7250 (0.7100, 0.7400)"


def sequences_of(run: Path, record: Record, predictor: Predictor) -> list[str]:
    """The sequences of a record's test split, found by their tokens."""
    rows, problems = read_rows(run / "quickstart" / TASK.name / "test.csv", 2)
    assert not problems
    split = predictor.encode(rows.sequences).split
    ids = [tuple(row) for row in split.batch(range(len(rows.sequences)))]
    by_ids = dict(zip(ids, rows.sequences, strict=True))
    folder = next(p for p in (run / "data").iterdir() if p.name.endswith(record.data_digest[:16]))
    kept = open_test(folder)
    return [by_ids[tuple(row)] for row in kept.batch(range(len(kept)))]


@pytest.mark.parametrize("method", ["ars", "lora", "lokr"])
def test_predictions_are_those_of_the_engine(method: str, run: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "x", tmp_path / "out.parquet"
    code, text = command("export", run, "--task", TASK.name, "--method", method, "--out", folder)
    assert code == 0, text
    result = json.loads((folder / "lingo.json").read_text())["result"]
    record = next(record for record in load(run) if record.id == result["record"])
    sequences = sequences_of(run, record, open_adapter(folder))
    (tmp_path / "in.fa").write_text("".join(f">{i}\n{text}\n" for i, text in enumerate(sequences)))
    code, text = command("predict", "--adapter", folder, "--input", tmp_path / "in.fa", "--output", out)
    assert code == 0, text
    ours = pq.read_table(out)
    theirs = pq.read_table(run / "predictions" / Path(record.facts["predictions"]).name)
    assert len(theirs) == len(sequences) == 64
    for label in (0, 1):
        np.testing.assert_allclose(ours[f"p_{label}"], theirs[f"score_{label}"], atol=1e-5)
    assert np.ptp(np.asarray(ours["p_0"])) > 0.01


@pytest.mark.parametrize(
    "method", [*(pytest.param(m, marks=pytest.mark.slow) for m in ("ars", "lokr")), "lora"]
)
def test_the_cards_program_gives_the_same_in_a_fresh_process(method: str, run: Path, tmp_path: Path) -> None:
    """Plain peft and transformers, and nothing of this project, as the card says."""
    pytest.importorskip("peft")
    folder = export_choice(choose(run, task=TASK.name, method=method), tmp_path / "x")
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert "lingo" not in code.replace(str(run.parent), "")
    predictor = open_adapter(folder)
    if predictor.facts.both_strands:
        predictor.facts.__dict__["both_strands"] = False  # the program computes one strand
    sequences = ["ACGTTGCANNGT", "TTTTACG", "GATTACA" * 8]
    split = predictor.encode(sequences).split
    ids, lengths = split.padded(range(3), predictor.facts.pad_id)
    np.savez(tmp_path / "in.npz", ids=ids, lengths=lengths)
    program = f"""
import sys, numpy, torch
from transformers import BatchEncoding
held = numpy.load({str(tmp_path / "in.npz")!r})
ids, lengths = (torch.from_numpy(held[name]) for name in ("ids", "lengths"))
mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
inputs = BatchEncoding({{"input_ids": ids, "attention_mask": mask}})
torch.set_grad_enabled(False)
{code}
assert not [name for name in sys.modules if name.split(".")[0] in ("lingo", "harness")]
numpy.save({str(tmp_path / "out.npy")!r}, logits.numpy())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), predictor.logits(sequences), atol=1e-5)


@pytest.mark.parametrize("method", ["ars", "lora", "lokr"])
def test_a_merged_export_is_a_whole_model(method: str, run: Path) -> None:
    names = ["--task", TASK.name, "--method", method]
    for merge in ([], ["--merge"]):
        code, text = command("export", run, *names, *merge)
        assert code == 0, text
    adapter = run / "exports" / f"quickstart_promoter-tiny-{method}"
    merged = adapter.with_name(f"{adapter.name}-merged")
    sequences = ["ACGTTGCANNGT", "TTTTACG", "GATTACA" * 8]
    predictor = open_adapter(merged)
    np.testing.assert_allclose(
        predictor.logits(sequences), open_adapter(adapter).logits(sequences), atol=1e-5
    )
    assert (merged / "config.json").exists() and "from peft" not in (merged / "README.md").read_text()
    if not predictor.facts.both_strands:
        model, head = AutoModel.from_pretrained(merged).eval(), load_file(merged / "head.safetensors")
        ids, lengths = (
            torch.from_numpy(part)
            for part in predictor.encode(sequences).split.padded(range(3), predictor.facts.pad_id)
        )
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        with torch.no_grad():
            hidden = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        logits = hidden[torch.arange(3), lengths - 1] @ head["weight"].T + head["bias"]
        np.testing.assert_allclose(logits, predictor.logits(sequences), atol=1e-5)


def test_what_has_no_adapter_says_what_to_do(run: Path) -> None:
    code, text = command("export", run, "--task", TASK.name, "--method", "fmft")
    assert code == 2 and "full fine-tuning has no adapter" in text and "another method (" in text
    record = next(record for record in load(run) if record.method == "lokr")
    path = run / "records" / file_name(record.id)

    def refused(*words: str, **changes: Any) -> None:
        values = json.loads(path.read_text())
        path.write_text(json.dumps(values | changes))
        code, text = command("export", run, "--task", TASK.name, "--method", "lokr")
        path.write_text(json.dumps(values))
        assert code == 2 and "1 problem" in text and all(word in text for word in words), text
        assert not (run / "exports").exists()

    lost = {"adapter_error": "No space left on device"}
    refused("has no adapter (No space left on device)", f"remove {path}", f"resume {run}", facts=lost)
    refused("no finished final run yet (1 final failed)", f"resume {run}", status="failed")
    refused("is not the adapter that", "configuration differ", config={**record.config, "learning_rate": 0.5})
    refused("is not the adapter that", "data, backbone differ", data_digest="x", backbone_digest="y")
    shutil.rmtree(run / "adapters" / "quickstart_promoter" / "tiny" / "lokr")
    gone = {**record.facts, "adapter": "/gone/adapters/quickstart_promoter/tiny/lokr/seed-0"}
    refused("its adapter is no longer in", "; remove", facts=gone)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--task", "promotor", "--method", "ars"],
            "`--task` must be one of the results .* Nearest known: quickstart/promoter",
        ),
        (["--task", TASK.name, "--method", "arss"], "`--method` must be .*'arss'. Nearest known: ars"),
        (
            ["--task", TASK.name, "--method", "ars", "--backbone", "tine"],
            "`--backbone` must .* Nearest known: tiny",
        ),
        (
            ["--task", TASK.name, "--method", "ars", "--seed", "9"],
            r"finished final run \(0, 1, 2\), but got 9",
        ),
    ],
)
def test_names_that_the_run_does_not_have(options: list[str], words: str, made: Path) -> None:
    code, text = command("export", made, *options)
    assert code == 2 and re.search(words, text), text


def test_several_backbones_and_no_run(run: Path, tmp_path: Path) -> None:
    record = next(record for record in load(run) if record.method == "lokr")
    values = json.loads(record.to_json()) | {"backbone": "other", "id": "x", "study": "t|other|lokr"}
    (run / "records" / "x.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="`--backbone` must say which of other, tiny"):
        choose(run, task=TASK.name, method="lokr")
    code, text = command("export", tmp_path, "--task", "x", "--method", "ars")
    assert code == 2 and "must be the output folder of a run, but has no records" in text


def test_a_changed_or_damaged_adapter_is_not_exported(run: Path, tmp_path: Path) -> None:
    choice = choose(run, task=TASK.name, method="ars")
    # The first place is where it was trained, which the fixture's copy must not touch.
    folder = run / "adapters" / "quickstart_promoter" / "tiny" / "ars" / f"seed-{choice.record.seed}"
    choice = replace(choice, adapter=folder)
    weights = folder / "adapter_model.safetensors"
    held = weights.read_bytes()
    weights.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
    with pytest.raises(InputError, match="is not the file that was exported"):
        export_choice(choice, tmp_path / "x")
    weights.write_bytes(held)
    about = json.loads((folder / "lingo.json").read_text())
    (folder / "lingo.json").write_text(json.dumps(about | {"max_length": 3}))
    with pytest.raises(InputError, match="facts differ"):
        export_choice(choice, tmp_path / "x")
    (folder / "lingo.json").write_text(json.dumps(about, indent=2) + "\n")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    with pytest.raises(
        InputError, match="`--out`: an export's folder must be new, empty or an earlier export"
    ):
        export_choice(choice, tmp_path / "thesis")
    assert not (tmp_path / "x").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moved", "thesis"]
    export_choice(choice, tmp_path / "x")
