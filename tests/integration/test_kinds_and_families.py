"""Every kind of task on every family of backbones, through the real command: small data, tiny random weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from harness.runs.store import load
from tests.lingo.tiny import Checkpoints

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = ("opt", "llama", "gpt2", "bert", "esm", "dnabert2")
ROWS = {"train": 60, "dev": 24, "test": 24}
RUN = ["--limit", "24", "--epochs", "1", "--num-samples", "1", "--seeds", "0", "--batch-size", "8"]
pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]


def dna(rng, n, length=40):
    return ["".join(row) for row in rng.choice(list("ACGT"), (n, length))]


def write_task(folder, classes, rng):
    """A task in GUE's layout, every class in every split."""
    folder.mkdir(parents=True)
    for split, n in ROWS.items():
        rows = [f"{text},{i % classes}" for i, text in enumerate(dna(rng, n))]
        (folder / f"{split}.csv").write_text("\n".join(["sequence,label", *rows]) + "\n")


def write_own(path, rng, **columns):
    """A file of one's own; each column is a function of the sequence."""
    rows = [
        ",".join([text, *(str(of(text)) for of in columns.values())]) for text in dna(rng, sum(ROWS.values()))
    ]
    path.write_text("\n".join([",".join(["sequence", *columns]), *rows]) + "\n")
    return path


def write_deepsea(folder, shared):
    """The 100 real rows as the published files have them: HDF5 for train, MATLAB v5 for the others."""
    rows = [line.split(",") for line in (shared / "data/deepsea/sample100_1000bp.csv").read_text().split()]
    labels = np.array([row[1:] for row in rows], dtype=np.uint8)
    x = np.stack([np.array([list(row[0]) for row in rows]) == base for base in "AGCT"], axis=1)
    x = x.astype(np.uint8)
    folder.mkdir()
    (folder / "predictor.names").write_bytes((shared / "data/deepsea/predictor.names").read_bytes())
    with h5py.File(folder / "train.mat", "w") as file:
        file["trainxdata"], file["traindata"] = x[:60].transpose(2, 1, 0), labels[:60].T
    # Public dev files hold both strands, one half after the other; A, G, C, T read backwards is the other strand.
    both = np.concatenate([x[60:80], x[60:80, ::-1, ::-1]])
    savemat(folder / "valid.mat", {"validxdata": both, "validdata": np.concatenate([labels[60:80]] * 2)})
    savemat(folder / "test.mat", {"testxdata": x[80:], "testdata": labels[80:]})


def command(*arguments, code=0):
    """Run the real command; what it printed."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "run_benchmark.py"), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """Folders of tiny random models by family, each saying that it is untrained."""
    checkpoints = Checkpoints(tmp_path_factory.mktemp("models"))
    for family in FAMILIES:
        checkpoints(family)
        config = checkpoints.root / family / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"untrained": True}))
    return {family: checkpoints.root / family for family in FAMILIES}


def test_each_kind_of_task_on_each_family(tmp_path, backbones):
    rng = np.random.default_rng(0)
    for name, classes in (("splice/reconstructed", 3), ("virus/covid", 9)):
        write_task(tmp_path / "gue" / name, classes, rng)
    binary = write_own(tmp_path / "binary.csv", rng, label=lambda t: int("G" in t[:4]))
    several = write_own(
        tmp_path / "several.csv",
        rng,
        label_0=lambda t: int("GA" in t[:9]),
        label_1=lambda t: int("CC" in t[:9]),
    )
    number = write_own(tmp_path / "number.csv", rng, target=lambda t: t.count("G") / 4)
    out = tmp_path / "out"
    tasks = [binary, "splice/reconstructed", "virus/covid", several, number]
    command(
        *("--tasks", ",".join(map(str, tasks)), "--models", ",".join(map(str, backbones.values()))),
        *("--methods", "lora,kmer_logreg,onehot_cnn", "--data-dir", tmp_path / "gue", "--out", out, *RUN),
    )
    records = load(out)
    finals = [record for record in records if record.stage == "final"]
    names = ["own/binary", "splice/reconstructed", "virus/covid", "own/several", "own/number"]
    studies = {f"{name}|{family}|lora" for name in names for family in FAMILIES}
    studies |= {f"{name}|none|{method}" for name in names for method in ("kmer_logreg", "onehot_cnn")}
    assert {record.study for record in finals} == studies and len(finals) == len(studies)
    assert {record.status for record in records} == {"finished"}
    metric = {"own/several": "auroc", "own/number": "pearson", "virus/covid": "f1"}
    for record in finals:
        name, backbone, _ = record.study.split("|")
        assert metric.get(name, "mcc") in record.test and record.test["loss"] > 0
        assert ("untrained backbone" in record.marks) == (backbone != "none")
        assert record.facts["tokenization"] == ("bases" if backbone == "none" else "bbpe")
        assert record.trained_parameters


@pytest.fixture(scope="module")
def real_rows(tmp_path_factory, shared):
    """A data folder with DeepSEA, converted by the command, and one small task."""
    folder = tmp_path_factory.mktemp("real")
    write_deepsea(folder / "source", shared)
    command("prepare", "deepsea", "--source", folder / "source", "--out", folder / "data")
    write_task(folder / "data/mouse/2", 2, np.random.default_rng(1))
    return folder / "data"


@pytest.mark.parametrize(
    ("scheme", "prompt", "methods"), [("one_hot", "on", "lora,lokr"), ("kmer", "off", "lingo,loha")]
)
def test_tokenisation_and_prompt_on_a_real_model(tmp_path, real_rows, shared, scheme, prompt, methods):
    command(
        *("--tasks", "deepsea/histone,mouse/2", "--data-dir", real_rows, *RUN, "--epochs", 4),
        *("--models", shared / "models/stories260K", "--max-length", 96, "--methods", methods),
        *("--tokenization", scheme, "--prompt", prompt, "--out", tmp_path / "out"),
    )
    finals = [record for record in load(tmp_path / "out") if record.stage == "final"]
    assert len(finals) == 4 and all(record.status == "finished" for record in finals)
    for record in finals:
        assert (record.facts["tokenization"], record.facts["prompt"]) == (scheme, prompt == "on")
        assert Path(record.facts["adapter"]).is_dir() and Path(record.facts["predictions"]).is_file()
        if record.study.startswith("deepsea"):
            assert len(record.facts["test_labels"]["auroc"]) == 104
            assert record.facts["undefined_labels"]["test"]
