"""`predict`: from a file of sequences to a table of predictions, whole or not at all."""

import csv
import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from harness.cli.main import app
from harness.core.errors import InputError
from harness.inference import predict as predictions
from harness.inference.predict import predict_file
from lingo.export import export_adapter
from lingo.pack import Pack
from lingo.predict import Predictor, open_adapter
from lingo.prompts import Prompt
from tests.lingo import toy
from tests.lingo.tiny import Checkpoints, task, train

RANDOM = np.random.default_rng(3)
SEQUENCES = ["".join(RANDOM.choice(list("ACGTn"), size)) for size in RANDOM.integers(2, 70, 300)]
PROMPT = Prompt("GAT", "CAT")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An exported adapter of each kind of task."""
    root = tmp_path_factory.mktemp("adapters")
    backbone = Checkpoints(root / "models")("opt")
    folders = {}
    for kind, labels in (("classification", 3), ("multilabel", 4), ("regression", 1)):
        pack = Pack(backbone, max_rank=6, max_labels=labels)
        (slot,) = train(pack, task(backbone, kind=kind, labels=labels), [toy.trial("ars", 1)], 8)
        options: dict[str, Any] = {"prompt": PROMPT, "max_length": 40}
        options["labels"] = {
            "multilabel": ("one", "two", "one", "one"),
            "classification": ("a", "b", "c"),
        }.get(kind, ())
        folders[kind] = export_adapter(pack, slot, root / kind, card={}, **options)
        pack.close()
    return folders


def fasta(path: Path, sequences: list[str] = SEQUENCES) -> Path:
    path.write_text("".join(f">s{i}\n{text}\n" for i, text in enumerate(sequences)))
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        return list(csv.DictReader(path.open()))
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["predict", *map(str, arguments)], env={"COLUMNS": "1000"})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_each_kind_in_each_form(
    kind: str, ending: str, adapters: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "WINDOW", 64)
    out = tmp_path / f"out.{ending}"
    code, text = run("--adapter", adapters[kind], "--input", fasta(tmp_path / "x.fa"), "--output", out)
    assert code == 0 and "300 predictions" in text and "longer than the model's input" in text
    rows, wanted = rows_of(out), open_adapter(adapters[kind]).predict(SEQUENCES)
    assert [int(row["row"]) for row in rows] == list(range(1, 301))
    assert [row["id"] for row in rows] == [f"s{i}" for i in range(300)]
    columns = {
        "classification": ["p_a", "p_b", "p_c"],
        "multilabel": ["p_one", "p_two", "p_one.2", "p_one.3"],
        "regression": ["value"],
    }[kind]
    assert [name for name in rows[0] if name not in ("row", "id", "prediction")] == columns
    found = np.array([[float(row[name]) for name in columns] for row in rows])
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    if kind == "classification":
        assert [row["prediction"] for row in rows] == [list("abc")[i] for i in wanted.argmax(1)]
    assert names(tmp_path) == [f"out.{ending}", "x.fa"]


def test_each_form_of_input_gives_the_same(adapters: dict[str, Path], tmp_path: Path) -> None:
    fasta(tmp_path / "x.fa")
    (tmp_path / "y.csv.gz").write_bytes(
        gzip.compress("\n".join(["label,sequence", *(f"0,{text}" for text in SEQUENCES)]).encode())
    )
    pq.write_table(pa.table({"sequence": SEQUENCES, "id": range(300)}), tmp_path / "z.parquet")
    found = []
    for name in ("x.fa", "y.csv.gz", "z.parquet"):
        out = tmp_path / f"{name}.jsonl"
        assert run("--adapter", adapters["regression"], "--input", tmp_path / name, "--output", out)[0] == 0
        found.append(rows_of(out))
    assert [row.get("id") for row in (found[0][5], found[1][5], found[2][5])] == ["s5", None, "5"]
    values = [[row["value"] for row in rows] for rows in found]
    assert values[0] == values[1] == values[2]


def test_bad_records_are_refused_all_at_once(adapters: dict[str, Path], tmp_path: Path) -> None:
    source = fasta(tmp_path / "x.fa", ["ACGT", "", *["AC-T"] * 6, "GG"])
    code, text = run("--adapter", adapters["regression"], "--input", source, "--output", tmp_path / "o.csv")
    assert code == 2 and "6 problems; nothing was started" in text
    assert f"{source}, line 3 (s1): `sequence` must not be empty." in text
    assert "line 5 (s2)" in text and "'-' at position 3" in text
    assert "2 more invalid records; `--on-error skip` skips invalid records." in text
    assert names(tmp_path) == ["x.fa"]


def test_bad_records_are_skipped_and_listed(adapters: dict[str, Path], tmp_path: Path) -> None:
    source, out = fasta(tmp_path / "x.fa", ["ACGT", "", "AC-T", "GG"]), tmp_path / "o.csv"
    options = ["--adapter", adapters["regression"], "--output", out, "--on-error", "skip", "--input"]
    code, text = run(*options, source)
    assert code == 0 and "2 invalid records were skipped" in text
    assert [(row["row"], row["id"]) for row in rows_of(out)] == [("1", "s0"), ("4", "s3")]
    listed = rows_of(tmp_path / "o.csv.skipped.csv")
    assert [(row["place"], row["id"]) for row in listed] == [("line 3", "s1"), ("line 5", "s2")]
    assert run(*options, fasta(tmp_path / "good.fa", ["ACGT"]))[0] == 0
    assert names(tmp_path) == ["good.fa", "o.csv", "x.fa"], "a list of an earlier run does not stay"
    code, text = run(*options, fasta(tmp_path / "bad.fa", ["-"]))
    assert code == 0 and "0 predictions" in text and next(csv.reader(out.open())) == ["row", "id", "value"]


def test_every_problem_is_told_at_once(adapters: dict[str, Path], tmp_path: Path) -> None:
    code, text = run(
        *("--adapter", tmp_path / "none", "--input", tmp_path / "none.fa", "--batch-size", 0),
        *("--output", tmp_path / "no" / "o.xls"),
    )
    assert code == 2 and "4 problems" in text
    for words in (
        "is missing",
        "must end with .csv, .parquet, .jsonl",
        "does not exist",
        "at least 1",
    ):
        assert words in text
    source = fasta(tmp_path / "x.fa")
    for options, message in (
        (["--adapter", tmp_path, "--input", source], "`--adapter`: .*has no lingo.json"),
        (["--adapter", adapters["regression"], "--input", source, "--device", "tpu9"], "`--device` must be"),
        (["--adapter", adapters["regression"], "--input", source, "--backbone", tmp_path], "`--backbone`: "),
    ):
        code, text = run(*options, "--output", tmp_path / "o.csv")
        assert code == 2 and re.search(message, text), text
    assert names(tmp_path) == ["x.fa"]
    code, text = run("--adapter", adapters["regression"], "--input", source, "--output", source)
    assert code == 2 and "must end with" in text and source.exists()


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_what_fails_in_the_middle_leaves_the_earlier_output(
    adapters: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "WINDOW", 64)
    source, out = fasta(tmp_path / "x.fa"), tmp_path / "o.parquet"
    predict_file(adapters["regression"], source, out, quiet())
    before, calls, real = out.read_bytes(), [], Predictor.compute

    def third_fails(error: BaseException) -> Any:
        def compute(self: Predictor, *arguments: Any, **options: Any) -> Any:
            calls.append(1)
            if len(calls) == 3:
                assert len(list(tmp_path.glob(".o.parquet.*"))) == 1
                raise error
            return real(self, *arguments, **options)

        return compute

    for error, raised in (
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(28, "No space left on device"), InputError),
        (torch.OutOfMemoryError("no"), InputError),
    ):
        calls.clear()
        with monkeypatch.context() as patch, pytest.raises(raised):
            patch.setattr(Predictor, "compute", third_fails(error))
            predict_file(adapters["regression"], source, out, quiet(), on_error="skip")
        assert out.read_bytes() == before and names(tmp_path) == ["o.parquet", "x.fa"]


def test_a_damaged_input_leaves_nothing(adapters: dict[str, Path], tmp_path: Path) -> None:
    source = tmp_path / "x.fa.gz"
    source.write_bytes(gzip.compress(fasta(tmp_path / "x.fa").read_bytes() * 4)[:-9])
    for on_error in ("refuse", "skip"):
        with pytest.raises(InputError, match="is damaged or cannot be read"):
            predict_file(adapters["regression"], source, tmp_path / "o.csv", quiet(), on_error=on_error)  # type: ignore[arg-type]
    assert names(tmp_path) == ["x.fa", "x.fa.gz"]


def test_outputs_that_are_not_finite_are_said(
    adapters: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Predictor, "compute", lambda self, encoded, **_: np.full((encoded.count, 3), np.nan))
    for ending in ("csv", "jsonl", "parquet"):
        out = tmp_path / f"o.{ending}"
        done = predict_file(adapters["classification"], fasta(tmp_path / "x.fa", ["AC", "G"]), out, quiet())
        assert done.odd == 2
        assert all(row["prediction"] in (None, "") for row in rows_of(out))
    assert '"p_a": null' in (tmp_path / "o.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_predict_leaves_no_output(
    number: signal.Signals, adapters: dict[str, Path], tmp_path: Path
) -> None:
    source, out = fasta(tmp_path / "x.fa", SEQUENCES * 2000), tmp_path / "o.csv"
    command = ["run_benchmark.py", "predict", "--adapter", adapters["regression"], "--output", out]
    process = subprocess.Popen(
        [sys.executable, *map(str, command), "--input", str(source), "--on-error", "skip"],
        cwd=Path(__file__).resolve().parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while not list(tmp_path.glob(".o.csv.*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(process.pid, number)
    text = b"".join(process.communicate(timeout=60)).decode()
    assert not out.exists()
    if number == signal.SIGKILL:  # what nobody can tidy up has a hidden name, and the next one removes it
        assert len(list(tmp_path.glob(".o.csv.*"))) == 1
        predict_file(adapters["regression"], fasta(tmp_path / "x.fa"), out, quiet())
        assert names(tmp_path) == ["o.csv", "x.fa"]
    else:
        assert process.returncode == 130 and "Interrupted; no output was written." in text, text
        assert names(tmp_path) == ["x.fa"]
