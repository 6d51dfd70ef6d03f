"""Files that are broken in one way each, through the real command: one clear line, and nothing is left behind."""

import json
import shutil
import sys

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.data.quickstart import make_backbone
from tests.lingo.tiny import Checkpoints

LETTERS = {"train": "A", "dev": "C", "test": "G"}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test asks the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_backbone(tmp_path_factory.mktemp("whole") / "model")


@pytest.fixture
def model(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


@pytest.fixture
def gue(tmp_path):
    """A small task; the edit of a split's text is a test's own."""
    folder = tmp_path / "gue/mouse/2"
    folder.mkdir(parents=True)
    for split, letter in LETTERS.items():
        rows = [f"{letter}{'ACGTTGCA' * 3}{'ACGT'[row % 4]},{row % 2}" for row in range(24)]
        (folder / f"{split}.csv").write_text("\n".join(["sequence,label", *rows]) + "\n")
    return tmp_path / "gue"


def listing(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refusal(tmp_path, model, gue, *more):
    """The line that the command prints, after it was checked that it printed one and left nothing."""
    before = listing(tmp_path)
    options = ["--tasks", "mouse/2", "--data-dir", gue, "--models", model, "--methods", "lora", *more]
    result = CliRunner().invoke(app, [*map(str, options), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert listing(tmp_path) == before
    count, line = result.stderr.splitlines()
    assert count == "1 problem; nothing was started:"
    return line.strip()


# --- backbones -----------------------------------------------------------------------------------------


def empty_weights(folder):
    (folder / "model.safetensors").write_bytes(b"")
    return "model.safetensors", "holds no bytes"


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return "model.safetensors", "damaged"


def missing_shard(folder):
    """As a checkpoint of two shards of which one was not copied."""
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    return "model-00002-of-00002.safetensors", "missing"


def other_architecture(folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "unknown"}))
    return "`model_type` must be one that", "'unknown'"


def other_size(folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ffn_dim": 24}))
    return "has tensors of another shape", "fc1"


def more_layers(folder):
    path = folder / "config.json"
    layers = json.loads(path.read_text())["num_hidden_layers"]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": layers + 1}))
    return "lacks tensors", f"layers.{layers}."


FAULTS = [
    empty_weights,
    cut_weights,
    missing_shard,
    other_architecture,
    other_size,
    more_layers,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_broken_backbone(tmp_path, model, gue, fault):
    words = fault(model)
    line = refusal(tmp_path, model, gue)
    assert line.startswith(f"`--models`: {model}")
    assert all(word in line for word in words), line


# --- data ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "row", "words"),
    [
        ("dev", "ACGTXACGT,1", ("dev.csv, line 26", "'X' at position 5")),
        ("train", "ACGT", ("train.csv, line 26", "a row must have 2 fields as the header, but got 1")),
        ("train", "ACGT,1,0", ("train.csv, line 26", "but got 3")),
        ("test", ",1", ("test.csv, line 26", "empty")),
        ("test", "ACGT,2", ("test.csv, line 26", "from 0 to 1, but got '2'")),
    ],
)
def test_a_broken_row(tmp_path, model, gue, split, row, words):
    with (gue / f"mouse/2/{split}.csv").open("a") as file:
        file.write(row + "\n")
    line = refusal(tmp_path, model, gue)
    assert all(word in line for word in words), line


def test_a_broken_parquet_file(tmp_path, model, gue):
    (gue / "mouse/2/dev.csv").unlink()
    (gue / "mouse/2/dev.parquet").write_bytes(b"PAR1 and no more")
    assert "dev.parquet" in refusal(tmp_path, model, gue)


# --- what a machine or a backbone lacks ----------------------------------------------------------------


def test_a_prompt_for_a_model_of_dna(tmp_path, gue):
    Checkpoints(tmp_path / "models")("bert")
    line = refusal(tmp_path, tmp_path / "models/bert", gue, "--prompt", "on")
    assert line.startswith("`--prompt on` requires a language model, but the vocabulary of")


def test_libraries_that_are_not_there(tmp_path, model, gue, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    line = refusal(tmp_path, model, gue, "--methods", "lora,lokr")
    assert line.startswith("`--methods` lokr needs the library peft") and "lingo-bench[peft]" in line
    line = refusal(tmp_path, model, gue, "--frozen", "4bit")
    assert line.startswith("`--frozen 4bit` needs the library bitsandbytes") and "lingo-bench[4bit]" in line
