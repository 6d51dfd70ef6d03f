"""The generated benchmark: the same bytes for a seed, learnable, loaded by the code for real data."""

import csv
import hashlib

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from harness.data.prepared import open_prepared, prepare
from harness.data.quickstart import E_BOX, GC_BOX, LENGTH, ROWS, make_backbone, make_data
from harness.data.tasks import SUITES, TASKS
from lingo.backbones import load_backbone
from lingo.prompts import prompt_for


def read(folder, task, split):
    with (folder / task / f"{split}.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [row["sequence"] for row in rows], np.array([int(row["label"]) for row in rows])


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    state = torch.get_rng_state()
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make_data(tmp_path / name, seed=seed)
        make_backbone(tmp_path / name / "model", seed=seed)
    first, second, other = (digests(tmp_path / name) for name in "abc")
    assert first == second
    same = {name for name in first if first[name] == other[name]}
    assert same == {"model/config.json", "model/tokenizer_config.json"}
    assert torch.equal(state, torch.get_rng_state())


def test_what_is_there_is_kept(tmp_path):
    make_data(tmp_path)
    make_backbone(tmp_path / "model")
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.is_file()}
    make_data(tmp_path)
    make_backbone(tmp_path / "model")
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


@pytest.mark.parametrize("task", SUITES["quickstart"])
def test_shape_balance_and_no_shared_rows(tmp_path, task):
    make_data(tmp_path)
    seen = []
    for split, rows in ROWS.items():
        sequences, labels = read(tmp_path, task, split)
        assert len(sequences) == rows
        assert abs(labels.mean() - 0.5) < 0.01
        assert {len(sequence) for sequence in sequences} == {LENGTH} == {TASKS[task].length}
        seen += sequences
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("task", SUITES["quickstart"])
def test_the_tasks_can_be_learned(tmp_path, task):
    make_data(tmp_path)
    counts = CountVectorizer(analyzer="char", ngram_range=(6, 6), lowercase=False, binary=True)
    train, labels = read(tmp_path, task, "train")
    dev, expected = read(tmp_path, task, "dev")
    model = LogisticRegression(max_iter=500).fit(counts.fit_transform(train), labels)
    assert model.score(counts.transform(dev), expected) > 0.8


def test_no_single_motif_gives_the_pair_away(tmp_path):
    make_data(tmp_path)
    sequences, labels = read(tmp_path, "quickstart/motif_pair", "train")
    for motif in (GC_BOX, E_BOX):
        has = np.array([motif in sequence for sequence in sequences])
        assert 0.4 < has[labels == 0].mean() < 0.6
        assert has[labels == 1].all()


def test_everything_goes_through_the_real_loading_code(tmp_path, capfd):
    make_data(tmp_path)
    backbone = load_backbone(make_backbone(tmp_path / "model"))
    assert not backbone.trained
    task = TASKS["quickstart/promoter"]
    prepared = prepare(
        task,
        tmp_path,
        tmp_path / "prepared",
        tokenizer=backbone.tokenizer,
        pad_id=backbone.pad_id,
        max_length=backbone.max_length,
        prompt=prompt_for(task.domain),
    )
    assert set(prepared.marks) == {"generated data"}
    assert prepared.rows == ROWS
    ids = open_prepared(prepared.folder).train.batch([0])[0]
    sequence = read(tmp_path, task.name, "train")[0][0]
    text = f"<s>Domain: DNA Promoter\nSequence: {sequence}\nAnnotation:"
    assert backbone.tokenizer.decode(ids.tolist()) == text
    assert capfd.readouterr().err == ""
