"""Intervals against scipy's bootstrap and scikit-learn's metrics, resample by resample."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from harness.workers import confidence
from harness.workers.confidence import intervals, resampled
from lingo.metrics import score


def task(kind: str, rows: int = 160, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Outputs with ties that say something of the labels."""
    rng = np.random.default_rng(seed)
    if kind == "regression":
        truth = rng.normal(size=rows).round(1)
        return (truth + rng.normal(size=rows)).round(1)[:, None], truth.astype(np.float32)
    if kind == "multilabel":
        labels = (rng.random((rows, 3)) < 0.3).astype(np.uint8)
        return (labels + rng.normal(size=labels.shape)).round(1), labels
    classes = int(kind)
    labels = rng.integers(0, classes, rows)
    return (np.eye(classes)[labels] + rng.normal(size=(rows, classes))).round(1), labels


KINDS = ["2", "4", "multilabel", "regression"]


@pytest.mark.parametrize("name", KINDS)
def test_every_resample_has_the_score_of_its_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One resample at a time."""
    logits, labels = task(name, rows=60)
    kind = "classification" if name.isdigit() else name
    rows: list[np.ndarray] = []
    real = confidence._Resamples.__iter__

    def spied(self: Any) -> Any:
        for weights in real(self):
            rows.append(np.repeat(np.arange(len(labels)), weights[0].astype(int)))
            yield weights

    monkeypatch.setattr(confidence._Resamples, "__iter__", spied)
    for seed in range(5):
        found = resampled(kind, logits, labels, rng=np.random.default_rng(seed), resamples=1)
        chosen = rows.pop()
        expected = score(kind, logits[chosen], labels[chosen])
        assert found
        for metric, values in found.items():
            assert values == pytest.approx([expected[metric]], abs=1e-12), metric


def test_intervals_are_those_of_scipy() -> None:
    logits, labels = task("2", rows=400)
    found = intervals("classification", logits, labels, rng=np.random.default_rng(1))

    def accuracy(truth: np.ndarray, guess: np.ndarray, axis: int) -> np.ndarray:
        return (truth == guess).mean(axis=axis)

    theirs = stats.bootstrap(
        (labels, logits.argmax(1)), accuracy, paired=True, vectorized=True, n_resamples=1000,
        method="percentile", rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    assert found["accuracy"] == pytest.approx([theirs.low, theirs.high], abs=0.01)
    point = score("classification", logits, labels)
    assert all(low <= point[metric] <= high for metric, (low, high) in found.items())


def test_large_splits_in_blocks_and_bins_have_nearly_the_same_intervals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for kind in ("2", "multilabel"):
        logits, labels = task(kind, rows=6_000)
        logits = logits + np.random.default_rng(5).normal(size=logits.shape) * 1e-3
        name = "classification" if kind == "2" else kind
        exact = intervals(name, logits, labels, rng=np.random.default_rng(3))
        with monkeypatch.context() as patch:
            patch.setattr(confidence, "EXACT", 10)
            binned = intervals(name, logits, labels, rng=np.random.default_rng(4))
        for metric, edges in exact.items():
            width = edges[1] - edges[0]
            assert binned[metric] == pytest.approx(edges, abs=0.2 * width), metric


def test_seeds_repeat_and_undefined_scores_have_no_interval() -> None:
    logits, labels = task("2")
    once, again = (intervals("classification", logits, labels, rng=np.random.default_rng(9)) for _ in "ab")
    assert once == again
    one_class = intervals("classification", logits, np.zeros_like(labels), rng=np.random.default_rng(0))
    assert "mcc" not in one_class and "auroc" not in one_class
    assert one_class["accuracy"][0] > 0
    assert intervals("classification", logits * np.nan, labels, rng=np.random.default_rng(0)) == {}
