"""`list runs`, `show`, `status`, `compare` and `best` on a real run folder, that of version 0.1.0."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.cluster.results_archive import extract
from harness.core.errors import InputError
from harness.pipeline.compare import _interval, compare, predictions_of
from harness.runs.lock import driver_of, only_driver

PACKED = Path(__file__).resolve().parents[2] / "data" / "run_0_1_0" / "run.tar.xz"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    with tarfile.open(PACKED) as packed:
        extract(packed, folder)
    (out,) = {path.parent for path in folder.rglob("benchmark.json")}
    return out


def called(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert "Traceback" not in result.output
    return result.exit_code, result.stdout, result.stderr


def test_the_runs_of_a_folder_are_listed_and_best_names_them(run):
    code, text, _ = called("list", "runs", run.parent)
    assert code == 0 and run.name in text and "show" in text
    code, text, _ = called("list", "runs", run.parent, "--json")
    (one,) = json.loads(text)
    assert (one["state"], one["finals"], one["finals_wanted"], one["trials"]) == ("incomplete", 1, 6, 12)
    code, _, error = called("best", run.parent)
    assert code == 2 and f"It has the run {run}" in error
    code, _, error = called("list", "runs", run.parent / "none")
    assert code == 2 and "none is not a folder" in error


def test_a_run_is_shown_in_words_and_as_json(run):
    code, text, _ = called("show", run)
    assert code == 0 and "incomplete" in text and "test MCC" in text and "learning_rate=" in text
    code, text, _ = called("show", run, "--json")
    shown = json.loads(text)
    assert set(shown) == {"state", "settings", "leaderboard", "best", "failures"}
    assert all(len(row["test"]) == row["done"] for row in shown["leaderboard"])
    code, text, _ = called("best", run, "--json")
    assert json.loads(text)["configurations"] == shown["best"]


def test_the_state_of_a_run_follows_its_driver(run):
    assert driver_of(run) == ""
    code, text, _ = called("status", run)
    assert code == 1 and text.startswith("incomplete") and "resume" in text
    with only_driver(run):
        code, text, _ = called("status", run, "--json")
        assert (
            json.loads(text)["state"] == "running" and f"process {os.getpid()}" in json.loads(text)["driver"]
        )
    lock = run / "driver.lock"
    lock.write_text(json.dumps({"pid": 2**22 - 1, "host": os.uname().nodename, "since": "2026-01-01"}))
    assert driver_of(run) == "", "a driver that was killed"


def test_a_run_compared_with_itself_differs_by_nothing(run):
    found = compare(run, run)
    assert {one.difference for one in found} == {0.0} and not any(one.resolved for one in found)
    with pytest.raises(InputError, match="needs a task of nothing"):
        compare(run, run, ["nothing"])
    code, text, _ = called("compare", run, run, "--json")
    assert code == 0 and len(json.loads(text)) == len(found)


def test_a_difference_is_paired_by_test_rows(run, tmp_path):
    """The same rows with predictions by chance."""
    other = tmp_path / "other"
    shutil.copytree(run, other)
    files = sorted((other / "predictions").glob("*.parquet"))
    assert files, "the folder of version 0.1.0 has predictions"
    for path in files:
        table = pq.read_table(path)
        kind, _, labels = predictions_of(table)
        assert kind == "classification"
        right = np.random.default_rng(0).random(len(labels)) < 0.5
        chance = np.where(labels == 1, 1.0, 0.0) * right + np.where(labels == 1, 0.0, 1.0) * ~right
        table = table.set_column(table.schema.get_field_index("score_1"), "score_1", pa.array(chance))
        table = table.set_column(table.schema.get_field_index("score_0"), "score_0", pa.array(1 - chance))
        pq.write_table(table, path)
    found = compare(run, other)
    assert all(one.low is None and "needs 3 seeds" in one.why for one in found), "it has one seed"
    pq.write_table(pq.read_table(files[0]).slice(1), files[0])
    assert any(one.why == "the test rows differ" for one in compare(run, other))


def test_the_interval_of_a_difference_has_rows_and_seeds_and_needs_three():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)

    def told(strength):
        return "classification", strength * np.eye(2)[labels] + rng.normal(size=(300, 2)), labels

    pairs = [(told(2.0), told(0.5)) for _ in range(3)]
    low, high = _interval(pairs, "mcc")
    assert -2 <= low < high < 0
    assert _interval(pairs[:2], "mcc") == "an interval needs 3 seeds in common"
    assert (
        _interval([(one, one) for one, _ in pairs], "mcc") == "mcc is undefined, or the same in all resamples"
    )
    assert _interval([*pairs[:2], (pairs[2][0], None)], "mcc") == "predictions are missing"
