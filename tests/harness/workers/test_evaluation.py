"""Facts of test predictions: curves, confusion, collapse, and the rows themselves."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn import metrics

from harness.workers.evaluation import DECIDED, MOST_CURVES, POINTS, final_facts, write_predictions
from lingo.metrics import score

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 900)
LOGITS = np.stack([-LABELS, LABELS], axis=1) + RNG.normal(size=(900, 2))


def test_a_classification_has_confusion_curves_and_intervals() -> None:
    facts = final_facts("classification", LOGITS, LABELS)
    guess = LOGITS.argmax(1)
    assert facts["confusion"] == metrics.confusion_matrix(LABELS, guess).tolist()
    assert not facts["collapsed"]
    scores = score("classification", LOGITS, LABELS)
    for metric in ("mcc", "auroc", "auprc", "accuracy", "f1", "loss"):
        low, high = facts["interval"][metric]
        assert low < scores[metric] < high
    for name in ("roc", "pr"):
        (curve,) = facts[name].values()
        assert len(curve["x"]) == len(curve["y"]) <= POINTS
        assert list(facts[name]) == ["1"] and curve["x"] == sorted(curve["x"])
    roc = facts["roc"]["1"]
    assert metrics.auc(roc["x"], roc["y"]) == pytest.approx(scores["auroc"], abs=0.01)
    assert (roc["x"][0], roc["y"][0], roc["x"][-1], roc["y"][-1]) == (0, 0, 1, 1)


def test_one_class_for_everything_is_a_collapse() -> None:
    facts = final_facts("classification", np.array([[1.0, 0.0]] * 8), np.array([0, 1] * 4))
    assert facts["collapsed"] and facts["confusion"] == [[4, 0], [4, 0]]
    broken = final_facts("classification", np.full((8, 2), np.nan), np.array([0, 1] * 4))
    assert broken == {"collapsed": False, "interval": {}, "resamples": {}}


def test_what_train_says_of_every_row_is_scored_beside_the_model() -> None:
    facts = final_facts("classification", LOGITS, LABELS, train_labels=np.array([1, 1, 0]))
    assert facts["constant"]["accuracy"] == pytest.approx(LABELS.mean()) and facts["constant"]["mcc"] == 0.0
    numbers = final_facts(
        "regression", np.zeros((3, 1)), np.array([1.0, 2.0, 4.0]), train_labels=np.array([2.0])
    )
    assert numbers["constant"]["mse"] == pytest.approx(5 / 3)
    assert "constant" not in final_facts("classification", LOGITS, LABELS)


def test_many_labels_share_one_mean_curve_and_a_label_without_positives_has_none() -> None:
    labels = (RNG.random((300, MOST_CURVES + 2)) < 0.5).astype(np.uint8)
    labels[:, 0] = 0
    logits = labels + RNG.normal(size=labels.shape)
    names = [f"mark-{i}" for i in range(labels.shape[1])]
    facts = final_facts("multilabel", logits, labels, names=names)
    (title,) = facts["roc"]
    assert title == f"mean of {MOST_CURVES + 1} labels" and len(facts["pr"][title]["x"]) == POINTS
    assert facts["test_labels"]["names"] == names and np.isnan(facts["test_labels"]["auroc"][0])
    few = final_facts("multilabel", logits[:, :3], labels[:, :3], names=names[:3])
    assert list(few["roc"]) == ["mark-1", "mark-2"]


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_predictions_are_a_parquet_file_from_which_the_scores_follow(kind: str, tmp_path: Path) -> None:
    logits = LOGITS if kind != "regression" else LOGITS[:, :1]
    labels = {"classification": LABELS, "multilabel": np.eye(2, dtype=np.uint8)[LABELS]}.get(
        kind, LOGITS[:, 0].astype(np.float32)
    )
    path = tmp_path / "final.parquet"
    write_predictions(path, kind, logits, labels)
    table = pq.read_table(path)
    assert table["row"].to_pylist() == list(range(900)) and [p.name for p in tmp_path.iterdir()] == [
        path.name
    ]
    if kind == "classification":
        both = table["label"].to_numpy(), table["score_1"].to_numpy()
        assert metrics.roc_auc_score(*both) == pytest.approx(score(kind, logits, labels)["auroc"])
    elif kind == "multilabel":
        assert table["label_1"].to_pylist() == labels[:, 1].tolist()
        assert table["score_1"].to_numpy() == pytest.approx(1 / (1 + np.exp(-logits[:, 1])), abs=1e-6)
    else:
        assert table["score"].to_pylist() == logits[:, 0].tolist()


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(table: object, path: Path) -> None:
        path.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        write_predictions(tmp_path / "final.parquet", "classification", LOGITS, LABELS)
    assert list(tmp_path.iterdir()) == []


def test_probabilities_do_not_depend_on_thresholds_and_decisions_do():
    moved = LOGITS + np.array([0.0, 0.7])
    plain = final_facts("classification", LOGITS, LABELS)
    facts = final_facts("classification", LOGITS, LABELS, moved=moved)
    shifted = final_facts("classification", moved, LABELS)
    assert facts["reliability"] == plain["reliability"] != shifted["reliability"]
    assert facts["confusion"] == shifted["confusion"] and facts["roc"] == plain["roc"]
    for name, limits in facts["interval"].items():
        assert limits == (shifted if name in DECIDED else plain)["interval"][name], name
