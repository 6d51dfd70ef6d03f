"""One target in three units, from its file to predictions of an export: the same scores, errors in the unit."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.data.find_tasks import find_task
from harness.data.prepared import prepare
from harness.data.quickstart import make_backbone
from harness.runs.record import Record
from harness.workers.single_engine import SimpleEngine
from lingo.backbones import load_backbone
from lingo.nucleotides import bare_bases
from tests.support.trained_run import final_runs

UNITS = {"z": (1.0, 0.0), "log2_offset8": (1.0, 8.0), "counts": (1000.0, 5000.0)}
"""Folders of the case: factor and offset of their targets. Counts are rounded to a tenth."""

ROWS = {"train": 160, "dev": 60, "test": 60}


def first_rows(source: Path, target: Path) -> Path:
    """The first rows of each split."""
    target.mkdir(parents=True)
    for split, count in ROWS.items():
        lines = (source / f"{split}.csv").read_text().splitlines()[: count + 1]
        (target / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return target


@pytest.mark.parametrize("method", ["lora", "kmer_logreg"])
def test_shift_and_scale_of_targets_change_the_unit_alone(method: str, shared: Path, tmp_path: Path) -> None:
    cases = shared / "cases" / "regression-scale"
    if not cases.is_dir():
        pytest.skip(f"no {cases}")
    model, records = make_backbone(tmp_path / "model"), {}
    backbone = load_backbone(model)
    packed = method == "lora"
    tokenizer, pad_id = (backbone.tokenizer, backbone.pad_id) if packed else (bare_bases(), 0)
    settings = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-2} if packed else {"k": 3, "C": 0.01}
    for name in UNITS:
        row, out = find_task(str(first_rows(cases / name, tmp_path / name))), tmp_path / f"run-{name}"
        prepared = prepare(row, tmp_path / name, out / "data", tokenizer=tokenizer, pad_id=pad_id)
        engine = None if packed else SimpleEngine()
        (records[name],) = final_runs(
            out, row, prepared, model, method=method, seeds=(1,), marks=(), engine=engine, **settings
        )
    same_scores(records)
    for name, record in records.items():
        if packed:
            exported_in_the_unit(tmp_path, name, record)


def same_scores(records: dict[str, Record]) -> None:
    plain = records["z"]
    assert plain.test is not None and np.isfinite(plain.test["pearson"])
    for name, (factor, offset) in UNITS.items():
        record = records[name]
        assert record.test is not None
        for ours, theirs in ((record.test, plain.test), (record.dev, plain.dev)):
            assert ours["pearson"] == pytest.approx(theirs["pearson"], abs=1e-3)
            assert ours["spearman"] == pytest.approx(theirs["spearman"], abs=1e-3)
            for error in ("mse", "loss"):
                assert ours[error] / factor**2 == pytest.approx(theirs[error], rel=1e-3)
        low, high = (edge / factor**2 for edge in record.facts["interval"]["mse"])
        assert [low, high] == pytest.approx(plain.facts["interval"]["mse"], rel=1e-3)
        found, first = (pq.read_table(one.facts["predictions"]) for one in (record, plain))
        for column in ("label", "score"):
            ours = (np.asarray(found[column]) - offset) / factor
            np.testing.assert_allclose(ours, np.asarray(first[column]), atol=5e-3)


def exported_in_the_unit(folder: Path, name: str, record: Record) -> None:
    """The record's predictions, from the file through `export`, with and without `--merge`, and `predict`."""

    def run(*arguments: object) -> None:
        done = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "1000"})
        assert done.exit_code == 0, done.output

    factor, offset = UNITS[name]
    for merge in ([], ["--merge"]):
        target, out = folder / f"{name}-{len(merge)}", folder / f"{name}-{len(merge)}.parquet"
        run(
            "export",
            folder / f"run-{name}",
            "--task",
            record.task,
            "--method",
            "lora",
            "--out",
            target,
            *merge,
        )
        run("predict", "--adapter", target, "--input", folder / name / "test.csv", "--output", out)
        values, theirs = pq.read_table(out)["value"], pq.read_table(record.facts["predictions"])["score"]
        np.testing.assert_allclose(values, theirs, atol=1e-4 * factor)
        about = json.loads((target / "lingo.json").read_text())["target"]
        train = [float(line.split(",")[1]) for line in (folder / name / "train.csv").read_text().split()[1:]]
        assert (about["mean"], about["sd"]) == pytest.approx((np.mean(train), np.std(train)))
        assert abs(about["mean"] - offset) < factor
