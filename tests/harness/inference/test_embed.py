"""`embed`: one vector a sequence in each format, as plain features; mistakes in one line each."""

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.data.quickstart import make_backbone
from lingo.backbones import load_backbone
from lingo.features import Embedder

SEQUENCES = {"a": "ACGTACGTTAGC", "b": "acgtnNRYACGT", "c": "TTGACA"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_backbone(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "seqs.fa"
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in SEQUENCES.items()))
    return path


def embed(*words):
    return CliRunner().invoke(app, ["embed", *map(str, words)], terminal_width=200)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_vectors_are_those_of_the_embedder(model, table, tmp_path, suffix):
    output = tmp_path / f"out.{suffix}"
    done = embed(
        "--models", model, "--input", table, "--output", output, "--pooling", "mean", "--strands", "both"
    )
    assert done.exit_code == 0, done.output
    embedder = Embedder(load_backbone(model), pooling="mean", both_strands=True)
    wanted = embedder.compute(embedder.encode(list(SEQUENCES.values())))
    if suffix == "parquet":
        rows = pq.read_table(output).to_pylist()
        names, vectors = [row["id"] for row in rows], [row["embedding"] for row in rows]
    elif suffix == "jsonl":
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        names, vectors = [row["id"] for row in rows], [row["embedding"] for row in rows]
    else:
        rows = list(csv.reader(output.read_text().splitlines()))
        assert rows[0][:3] == ["row", "id", "e0"]
        names, vectors = [row[1] for row in rows[1:]], [list(map(float, row[2:])) for row in rows[1:]]
    assert names == list(SEQUENCES)
    np.testing.assert_allclose(vectors, wanted, atol=1e-5)


def test_all_mistakes_at_once_and_nothing_written(model, table, tmp_path):
    before = sorted(tmp_path.iterdir())
    done = embed(
        "--models",
        model,
        "--input",
        tmp_path / "no.fa",
        "--output",
        tmp_path / "x.txt",
        "--depth",
        2,
        "--max-length",
        0,
    )
    assert done.exit_code == 2
    for word in ("no.fa", "x.txt", "--depth", "--max-length"):
        assert word in done.output
    assert sorted(tmp_path.iterdir()) == before


def test_a_bad_record_is_refused_or_skipped(model, tmp_path):
    path, output = tmp_path / "bad.csv", tmp_path / "out.parquet"
    path.write_text("sequence\nACGT\nHELLO\nTTGA\n")
    refused = embed("--models", model, "--input", path, "--output", output)
    assert refused.exit_code == 2 and "line 3" in refused.output and not output.exists()
    assert embed("--models", model, "--input", path, "--output", output, "--on-error", "skip").exit_code == 0
    assert pq.read_table(output).column("row").to_pylist() == [1, 3]
