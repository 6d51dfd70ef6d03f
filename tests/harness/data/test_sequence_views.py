"""Both strands: as further training rows, as averaged predictions; and DeepSEA's task through the engine."""

import csv
import math

import numpy as np
import pytest

from harness.config.build import build
from harness.core.errors import InputError
from harness.data.deepsea.convert import convert
from harness.data.labelled_files import Rows
from harness.data.leakage import audit, audited
from harness.data.prepared import open_prepared, open_reverse_dev, open_reverse_test, open_test, prepare
from harness.data.quickstart import make_backbone
from harness.data.sequence_views import Concatenated, OtherStrand
from harness.data.sources import check_task, read_splits, training_rows
from harness.data.tasks import TASKS, strands_of
from harness.runs.jobs import Job
from harness.workers.packed_engine import LingoEngine
from lingo.backbones import load_backbone
from lingo.metrics import score
from lingo.sequences import reverse_complement
from lingo.strands import average_strands, label_scores
from tests.harness.data.test_deepsea import LABELS, human_like, one_hot, write_hdf5, write_names, write_v5
from tests.harness.data.test_prepared import ROW, letters_tokenizer, text, write_task

DEEPSEA = TASKS["deepsea/histone"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Converted data: train and dev on both strands, one training sequence twice and one in test as well."""
    folder = tmp_path_factory.mktemp("deepsea")
    rng = np.random.default_rng(5)
    write_names(folder)
    forward = {"train": human_like(rng, 24), "valid": human_like(rng, 10), "test": human_like(rng, 9)}
    forward["train"][3] = forward["train"][2]
    forward["test"][0] = forward["train"][5]
    forward["test"][1] = reverse_complement(forward["train"][6:7])[0]
    for (stem, sequences), write in zip(forward.items(), (write_hdf5, write_v5, write_v5), strict=True):
        labels = rng.integers(0, 2, (len(sequences), LABELS), dtype=np.uint8)
        labels[:, -1] = 0
        if stem != "test":
            sequences, labels = sequences + reverse_complement(sequences), np.concatenate([labels, labels])
        write(folder / f"{stem}.mat", stem, one_hot(sequences), labels)
    return convert(folder, folder / "out").folder.parents[1]


# --- preparation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strands", ["none", "train", "test", "both"])
def test_where_the_other_strand_is_prepared(tmp_path, strands):
    tokenizer = letters_tokenizer()
    data = write_task(tmp_path / "data", train="sequence,label\nAACG,1\nNCC,0\n")
    made = prepare(ROW, data, tmp_path / "p", tokenizer=tokenizer, pad_id=0, strands=strands)
    train = open_prepared(made.folder).train
    found = [text(tokenizer, row) for row in train.batch(range(len(train)))]
    doubled = strands in ("train", "both")
    assert found == ["AACG", "NCC"] + ["CGTT", "GGN"] * doubled
    assert train.labels.tolist() == [1, 0] + [1, 0] * doubled
    assert made.rows["train"] == training_rows(ROW, data, strands=strands) == len(train)
    for other, split in (
        (open_reverse_dev(made.folder), open_prepared(made.folder).dev),
        (open_reverse_test(made.folder), open_test(made.folder)),
    ):
        if strands in ("test", "both"):
            rows = range(len(split))
            texts = [text(tokenizer, row) for row in split.batch(rows)]
            assert [text(tokenizer, row) for row in other.batch(rows)] == reverse_complement(texts)
            assert other.labels.tolist() == split.labels.tolist()
        else:
            assert other is None


def test_limit_counts_sequences_and_not_strands(tmp_path):
    rows = "sequence,label\nACGTACGT,0\nTTTTACGA,1\nCCCCGGGG,0\nGATTACAG,1\nGGTTACAG,1\n"
    data = write_task(tmp_path / "data", train=rows)
    made = prepare(
        ROW, data, tmp_path / "p", tokenizer=letters_tokenizer(), pad_id=0, limit=4, strands="both"
    )
    assert made.rows == {"train": 8, "dev": 3, "test": 3}
    assert training_rows(ROW, data, limit=4, strands="both") == 8


def test_sequences_joined_and_turned_read_like_lists():
    first, second = ["AC", "GG", "T"], ["CCA", "N"]
    turned = OtherStrand(first)
    assert (turned[0], turned[1:], len(turned)) == ("GT", ["CC", "A"], 3)
    both, plain = Concatenated(first, second), first + second
    assert len(both) == 5
    for start in range(-6, 7):
        assert both[start : start + 3] == plain[start : start + 3]
        assert both[start:] == plain[start:]
        assert both[start::-2] == plain[start::-2]
    assert [both[i] for i in range(-5, 5)] == [plain[i] for i in range(-5, 5)]


def test_the_setting_and_the_tasks_own_way():
    assert [strands_of(TASKS[name], None) for name in ("deepsea/histone", "EMP/H3")] == ["both", "none"]
    assert strands_of(DEEPSEA, "none") == "none"
    given = {"tasks": ("EMP/H3",), "models": ("opt-125m",)}
    assert build(given).identity() == build({**given, "reverse_complement": None}).identity()
    assert build(given).identity() != build({**given, "reverse_complement": "test"}).identity()
    with pytest.raises(InputError, match=r"`--reverse-complement` must be .*train.* but got 'dev'"):
        build({**given, "reverse_complement": "dev"})


# --- DeepSEA -----------------------------------------------------------------------------------------------


def test_deepsea_without_its_data_says_how_to_make_it(tmp_path):
    (found,) = check_task(DEEPSEA, tmp_path)
    assert "prepare deepsea --source FOLDER" in found


def test_one_strand_of_each_pair_is_the_data(data_dir):
    splits = read_splits(DEEPSEA, data_dir)
    assert {name: len(rows.labels) for name, rows in splits.items()} == {"train": 24, "dev": 10, "test": 9}
    assert training_rows(DEEPSEA, data_dir, strands="both") == 48
    assert training_rows(DEEPSEA, data_dir, drop_leaks=True) == 22


def test_the_audit_by_hashes_agrees_with_the_audit_of_texts(data_dir):
    splits = read_splits(DEEPSEA, data_dir)
    marks = {}
    left, found = audited("deepsea", splits, marks, drop=True)
    plain = audit({name: Rows(rows.sequences[:], rows.labels) for name, rows in splits.items()}).to_dict()
    assert found == {**plain, "dropped": 2}
    assert plain["within"]["train"] == {"repeated": 1, "conflicting": 1, "reverse_complement": 0}
    assert plain["across"]["test in train"]["shared"] == 2
    assert len(left["train"].labels) == 22
    assert "changed split" in marks


def test_deepsea_through_preparation_and_engine(data_dir, tmp_path):
    model = make_backbone(tmp_path / "model")
    backbone = load_backbone(model)
    options = {"tokenizer": backbone.tokenizer, "pad_id": backbone.pad_id, "max_length": 48}
    made = prepare(DEEPSEA, data_dir, tmp_path / "prepared", strands="both", **options)
    data = open_prepared(made.folder)
    assert (data.kind, data.num_labels, data.metric) == ("multilabel", 104, "auroc")
    assert data.train.labels.shape == (48, 104)
    assert set(np.unique(data.train.labels)) == {0, 1}
    assert made.undefined_labels["test"][-1] == made.label_names[-1]
    engine = LingoEngine()
    config = {"method": "lora", "seed": 1, "epochs": 1, "batch_size": 8, "learning_rate": 1e-3}
    job = {"study": "study", "backbone": str(model), "data": str(made.folder), "config": config}
    engine.admit(Job(id="study/final/seed-1", stage="final", **job))
    while not (reports := engine.advance()):
        pass
    (report,) = reports
    assert report.status == "finished" and report.total_steps == 6
    assert 0 < report.test["auroc"] < 1 and 0 < report.test["auroc_median"] < 1
    assert report.test["undefined_labels"] == len(made.undefined_labels["test"]) >= 1
    labels = report.facts["test_labels"]
    assert labels["names"] == made.label_names
    assert math.isnan(labels["auroc"][-1])
    assert np.nanmean(labels["auroc"]) == pytest.approx(report.test["auroc"])
    assert np.nanmedian(labels["auprc"]) == pytest.approx(report.test["auprc_median"])


def test_test_scores_are_those_of_the_averaged_strands(data_dir, tmp_path, monkeypatch):
    model = make_backbone(tmp_path / "model")
    backbone = load_backbone(model)
    options = {"tokenizer": backbone.tokenizer, "pad_id": backbone.pad_id, "max_length": 48}
    made = prepare(DEEPSEA, data_dir, tmp_path / "prepared", strands="test", **options)
    engine, outputs = LingoEngine(), []
    config = {"method": "lora", "seed": 1, "epochs": 1, "batch_size": 8, "learning_rate": 1e-3}
    job = {"study": "study", "backbone": str(model), "data": str(made.folder), "config": config}
    engine.admit(Job(id="study/trial-0", stage="search", **job))
    predict = engine._pack.predict

    def spy(slot, split, **kwargs):
        outputs.append(predict(slot, split, **kwargs))
        return outputs[-1]

    monkeypatch.setattr(engine._pack, "predict", spy)
    while not (reports := engine.advance()):
        pass
    forward, reverse = outputs  # a job of the search measures dev alone
    assert not np.allclose(forward, reverse)
    mean = average_strands("multilabel", forward, reverse)
    expected = score("multilabel", mean, open_prepared(made.folder).dev.labels)
    assert reports[0].dev == pytest.approx(expected, nan_ok=True)


# --- averages and single labels ----------------------------------------------------------------------------


def test_averages_are_of_probabilities():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 6, 3)) * 4

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def softmax(x):
        return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)

    multilabel = average_strands("multilabel", one, other)
    assert np.allclose(sigmoid(multilabel), (sigmoid(one) + sigmoid(other)) / 2)
    classes = average_strands("classification", one, other)
    assert np.allclose(softmax(classes), (softmax(one) + softmax(other)) / 2)
    assert np.allclose(average_strands("regression", one, other), (one + other) / 2)
    for kind in ("multilabel", "classification"):
        assert np.allclose(average_strands(kind, one, other), average_strands(kind, other, one))
    assert np.allclose(average_strands("multilabel", one, one), one)


def test_averages_stay_finite_at_extremes_and_show_what_is_not():
    far = np.array([[800.0, -800.0, 40.0]])
    assert np.isfinite(average_strands("multilabel", far, -far)).all()
    assert np.allclose(average_strands("multilabel", far, -far), 0)
    broken = np.array([[np.nan, np.inf, 0.0]])
    assert np.isnan(average_strands("multilabel", broken, far)[0, :2]).all()
    with pytest.raises(ValueError, match="both strands"):
        average_strands("multilabel", far, far[:, :2])


def test_single_labels_of_real_rows(shared):
    path = shared / "data/deepsea/sample100_1000bp.csv"
    if not path.exists():
        pytest.skip(f"no {path}")
    with path.open(newline="") as file:
        labels = np.array([row[816:] for row in csv.reader(file)], dtype=np.uint8)
    logits = np.random.default_rng(0).normal(size=labels.shape)
    found = label_scores(logits, labels)
    assert sum(map(math.isnan, found["auroc"])) == 27
    whole = score("multilabel", logits, labels)
    assert np.nanmean(found["auroc"]) == pytest.approx(whole["auroc"])
    assert np.nanmedian(found["auprc"]) == pytest.approx(whole["auprc_median"])
    assert whole["undefined_labels"] == 27
