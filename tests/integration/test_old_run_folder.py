"""A run folder of version 0.1.0, whose driver was killed in the middle, is read and continued by this version."""

import csv
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness.cluster.results_archive import extract
from harness.data.quickstart import make_backbone
from lingo.checkpoint import digest

ROOT = Path(__file__).resolve().parents[2]
FIXTURE = ROOT / "tests" / "data" / "run_0_1_0"
TASK = "quickstart/promoter"
STUDY = f"{TASK}|quickstart-opt|lora"
STUDIES, TRIALS, FINALS = 6, 12, 6


def command(*words, seconds=200):
    """What `run_benchmark.py` prints; it must succeed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "1000"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "run_benchmark.py"), *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def out(tmp_path):
    """The folder, unpacked; the backbone's weights, which the file does not hold, are made from their seed again."""
    with tarfile.open(FIXTURE / "run.tar.xz") as packed:
        extract(packed, tmp_path)
    run = tmp_path / "run"
    made = make_backbone(tmp_path / "made")
    shutil.copy(made / "model.safetensors", run / "quickstart" / "model")
    if digest(run / "quickstart" / "model") != records(run)[f"{STUDY}/final/seed-0"]["backbone_digest"]:
        pytest.skip("PyTorch draws other random weights without AVX2")
    return run


def records(run):
    """The records of a folder by their ids, as they stand in their files."""
    found = [json.loads(file.read_text()) for file in (run / "records").glob("*.json")]
    return {record["id"]: record for record in found}


def test_its_numbers_are_reported(out, tmp_path):
    command("report", out, "--out", tmp_path / "report")
    with (tmp_path / "report" / "tables" / "scores_quickstart.csv").open(newline="") as lines:
        told = {(row["task"], row["method"]): row for row in csv.DictReader(lines)}
    finals = [record for record in records(out).values() if record["stage"] == "final"]
    assert finals
    for final in finals:
        row = told[final["task"], final["method"]]
        assert float(row["mean"]) == final["test"]["mcc"] and row["seeds"] == "1"


def test_its_best_configurations_are_found(out):
    told = json.loads(command("best", out, "--format", "json"))["configurations"]
    best = {"|".join((each["task"], each["backbone"], each["method"])): each for each in told}
    assert len(best) == STUDIES
    final = records(out)[f"{STUDY}/final/seed-0"]
    assert best[STUDY]["config"] == final["config"] and best[STUDY]["test"] == {"0": final["test"]["mcc"]}


def test_its_adapter_is_exported_and_predicts_what_was_measured(out, tmp_path):
    command("export", out, "--task", TASK, "--method", "lora", "--out", tmp_path / "adapter")
    source = out / "quickstart" / TASK / "test.csv"
    told = tmp_path / "told.parquet"
    command("predict", "--adapter", tmp_path / "adapter", "--input", source, "--output", told)
    measured = pq.read_table(next((out / "predictions").glob("*promoter*lora*.parquet")))
    for label in ("0", "1"):
        np.testing.assert_allclose(pq.read_table(told)[f"p_{label}"], measured[f"score_{label}"], atol=1e-5)


@pytest.mark.slow
def test_its_records_are_written_to_another_store(out, tmp_path):
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'other.db'}"
    command("sync", out, "--tracking-uri", uri)
    client = MlflowClient(uri)
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    told = {run.data.tags["x-config_hash"] for run in runs if run.data.tags["stage"] != "study"}
    assert told == {record["config_hash"] for record in records(out).values()}
    assert sum(run.data.tags["stage"] == "study" for run in runs) == STUDIES


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_is_resumed_to_its_end(out):
    before = {file: file.read_bytes() for file in (out / "records").iterdir()}
    (checkpoint,) = out.glob("checkpoints/*/step-*/job.json")
    begun = json.loads(checkpoint.read_text())["progress"]["reports"]
    printed = command("resume", out, "--max-concurrent", "1", "--pack", "1", seconds=600)
    assert f"{STUDIES} of {STUDIES} searches and {FINALS} of {FINALS} final runs are complete" in printed
    assert {file: file.read_bytes() for file in before} == before
    found = records(out)
    assert len(found) == TRIALS + FINALS and len(before) < len(found)
    continued = found[begun[0]["job"]]
    assert continued["status"] == "finished" and len(continued["history"]) > len(begun)
    for entry, report in zip(continued["history"], begun, strict=False):
        assert (entry["seconds"], entry["dev"]) == (report["seconds"], report["dev"]), "not trained again"
    assert "0 of" in command("sync", out)
