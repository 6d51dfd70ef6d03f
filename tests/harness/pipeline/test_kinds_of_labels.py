"""Several targets, unknown labels and named classes, from the file to predictions of an export."""

import json
from pathlib import Path

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.data.find_tasks import find_task
from harness.data.prepared import prepare
from harness.data.quickstart import make_backbone
from harness.workers.single_engine import SimpleEngine
from lingo.backbones import load_backbone
from lingo.nucleotides import bare_bases
from tests.support.trained_run import final_runs

ROWS = 160


def table(kind: str) -> str:
    rng = np.random.default_rng(0)
    texts = ["".join(row) for row in rng.choice(list("ACGT"), (ROWS, 24))]
    share = np.array([text.count("G") / 24 for text in texts])
    if kind == "targets":
        head, cells = "seq;dev;hk", [f"{1000 * x:.2f};{1 - x:.4f}" for x in share]
    elif kind == "unknown":
        head = "seq;K562;H1"
        cells = [f"{int(x > 0.25)};{'' if i % 7 == 0 else int(x < 0.2)}" for i, x in enumerate(share)]
    else:
        head, cells = "seq;class", ["rich" if x > 0.25 else "poor" for x in share]
    return "\n".join([head, *(";".join(both) for both in zip(texts, cells, strict=True))]) + "\n"


OUTPUTS = {
    "targets": ["dev", "hk"],
    "unknown": ["p_K562", "p_H1"],
    "classes": ["prediction", "p_poor", "p_rich"],
}


@pytest.mark.parametrize("method", ["lora", "onehot_cnn"])
@pytest.mark.parametrize("kind", OUTPUTS)
def test_from_a_table_to_predictions(kind: str, method: str, tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_text(table(kind))
    asked = f"{source}?target=dev+hk" if kind == "targets" else str(source)
    row, out, model = find_task(asked), tmp_path / "run", make_backbone(tmp_path / "model")
    backbone, packed = load_backbone(model), method == "lora"
    tokenizer, pad_id = (backbone.tokenizer, backbone.pad_id) if packed else (bare_bases(), 0)
    prepared = prepare(row, tmp_path, out / "data", tokenizer=tokenizer, pad_id=pad_id)
    settings = {"epochs": 4, "batch_size": 16, "learning_rate": 1e-2}
    engine = None if packed else SimpleEngine()
    (record,) = final_runs(
        out, row, prepared, model, method=method, seeds=(1,), marks=(), engine=engine, **settings
    )
    assert record.error is None and np.isfinite(record.test["loss"])
    if kind == "targets":
        found = record.facts["test_targets"]
        assert found["names"] == ["dev", "hk"]
        assert record.test["pearson"] == pytest.approx(np.mean(found["pearson"]))
        assert found["mse"][0] < 1000**2, "in the unit of the file"
    if not packed:
        return
    kept = pq.read_table(out / record.facts["predictions"])
    assert kept.num_rows == prepared.rows["test"]
    adapter = out / record.facts["adapter"]
    assert json.loads((adapter / "lingo.json").read_text())["num_labels"] == 2
    arguments = ["--adapter", adapter, "--input", source, "--output", tmp_path / "p.csv", "--backbone", model]
    ended = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    assert ended.exit_code == 0, ended.output
    predicted = pa_csv.read_csv(tmp_path / "p.csv")
    assert predicted.column_names == ["row", *OUTPUTS[kind]]
    assert predicted.num_rows == ROWS
