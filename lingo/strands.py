"""Predictions averaged over both strands of a sequence, and scores of single labels."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_softmax
from sklearn import metrics

from lingo.metrics import known_labels

Array = NDArray[np.float64]
TINY = 1e-300


def average_strands(kind: str, forward: NDArray[np.floating], reverse: NDArray[np.floating]) -> Array:
    """Logits of the mean of the predictions on two strands, as DeepSEA predicts.

    Args:
        kind: As in `lingo.data.TaskData`; classification averages softmax probabilities, multilabel sigmoid
            probabilities, regression the outputs themselves.
        forward, reverse: Outputs of the head `[n, outputs]` on each sequence and on its reverse complement.

    Returns:
        float64 `[n, outputs]`; not finite where an output is not.

    Raises:
        ValueError: If the shapes differ.
    """
    if forward.shape != reverse.shape:
        raise ValueError(
            f"both strands must have as many predictions, but got {list(forward.shape)} and {list(reverse.shape)}."
        )
    one, other = np.asarray(forward, dtype=np.float64), np.asarray(reverse, dtype=np.float64)
    if kind == "regression":
        return (one + other) / 2
    if kind == "classification":
        return np.logaddexp(log_softmax(one, axis=1), log_softmax(other, axis=1)) - np.log(2)
    # log p - log(1 - p) of the mean, both sides without loss near 0 and 1.
    right = expit(one) + expit(other)
    wrong = expit(-one) + expit(-other)
    mean = np.log(np.maximum(right, TINY)) - np.log(np.maximum(wrong, TINY))
    return np.where(np.isfinite(one) & np.isfinite(other), mean, np.nan)


def label_scores(logits: NDArray[np.floating], labels: NDArray[np.generic]) -> dict[str, list[float]]:
    """`auroc` and `auprc` of each label of a multi-label task, NaN for labels without positives or negatives.

    Args:
        logits: `[n, labels]`.
        labels: 0 and 1, or NaN for unknown ones, `[n, labels]`.
    """
    found: dict[str, list[float]] = {"auroc": [], "auprc": []}
    known = known_labels(np.asarray(labels))
    for every, right, seen in zip(np.asarray(logits).T, np.asarray(labels).T > 0.5, known.T, strict=True):
        scores, truth = every[seen], right[seen]
        defined = truth.any() and not truth.all() and np.isfinite(scores).all()
        nan = float("nan")
        found["auroc"].append(float(metrics.roc_auc_score(truth, scores)) if defined else nan)
        found["auprc"].append(float(metrics.average_precision_score(truth, scores)) if defined else nan)
    return found
