"""A real model and real DNA: trained in a pack, exported, and used on the real test file, as a person would."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.data.prepared import prepare
from harness.data.tasks import TASKS
from lingo.backbones import load_backbone
from lingo.metrics import score
from lingo.predict import open_adapter
from lingo.prompts import prompt_for
from tests.support.trained_run import final_runs

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["mouse/2"])
def test_predictions_of_real_test_rows_are_the_engines(name: str, shared: Path, tmp_path: Path) -> None:
    source, data = shared / "models" / "stories260K", shared / "data" / "gue"
    file = data / name / "test.csv"
    for path in (source, file):
        if not path.exists():
            pytest.skip(f"no {path}")
    backbone, row, run = load_backbone(source), TASKS[name], tmp_path / "run"
    prepared = prepare(
        row,
        data,
        run / "data",
        tokenizer=backbone.tokenizer,
        pad_id=backbone.pad_id,
        prompt=prompt_for(row.domain),
        max_length=120,  # cuts some bases of every sequence
    )
    settings = {"epochs": 1, "batch_size": 16, "learning_rate": 5e-3, "delta_T": 10}
    (record,) = final_runs(run, row, prepared, source, method="lingo", seeds=(3,), marks=(), **settings)
    assert record.test is not None and record.test["mcc"] > 0.1, "it must have learned something"

    def run_command(*arguments: object) -> str:
        done = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "1000"})
        assert done.exit_code == 0, done.output
        return done.output

    text = run_command("export", run, "--task", name, "--method", "lingo", "--out", tmp_path / "adapter")
    assert "seed 3 of 1, the best on the dev split" in text
    out = tmp_path / "predictions.parquet"
    text = run_command("predict", "--adapter", tmp_path / "adapter", "--input", file, "--output", out)
    assert "328 predictions" in text and "328 sequences are longer than the model's input" in text
    ours, theirs = pq.read_table(out), pq.read_table(record.facts["predictions"])
    engine = np.stack([theirs["score_0"], theirs["score_1"]], axis=1)
    np.testing.assert_allclose(np.stack([ours["p_0"], ours["p_1"]], axis=1), engine, atol=1e-6)

    # Logits: of two classes their difference is what the engine's probabilities say.
    lines = [line.split(",") for line in file.read_text().splitlines()[1:]]
    logits = open_adapter(tmp_path / "adapter").logits([sequence for sequence, _ in lines])
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], np.log(engine[:, 1] / engine[:, 0]), atol=1e-5)
    labels = np.array([int(label) for _, label in lines])
    # Rounding may swap two neighbours in the order of a ranking metric.
    assert score("classification", logits, labels) == pytest.approx(dict(record.test), abs=2e-4)
