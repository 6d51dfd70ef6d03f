"""Class weights and decision thresholds for rare labels.

With `class_weights="balanced"` the loss of a row is multiplied by n / (C · n_c): n training rows, n_c of them of its
class, C classes that occur (as in scikit-learn). Of several labels each known cell has the weight n / (2 · n_v),
n_v of n known rows having its value. The head then starts without the log shares, because weights remove them from the
optimum.

With `threshold="dev"` the probability from which on a class of two, or a label, is predicted is chosen on dev.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from lingo.data import TaskData
from lingo.metrics import known_labels
from lingo.trial import TrialConfig

Array = NDArray[np.float64]


def first_bias(config: TrialConfig, data: TaskData) -> Array:
    """The initial bias of a trial's head, `[num_labels]`, see `TaskData.first_bias`; 0 with balanced classes."""
    balanced = config.class_weights == "balanced" and data.kind != "regression"
    return np.zeros(data.num_labels) if balanced else data.first_bias


def target_weights(config: TrialConfig, data: TaskData, rows: NDArray[np.integer]) -> Array | None:
    """Weights of training rows in the loss, `[rows, num_labels]`: for classes the factor of each -log p, for labels
    that of each cell's loss; `None` if all weights are 1."""
    if config.class_weights == "none" or data.kind == "regression":
        return None
    if data.kind == "classification":
        return plain_weights(data, rows) * data.class_weights
    labels = np.asarray(data.train.labels[rows])
    return np.where(np.nan_to_num(labels) > 0.5, data.class_weights[1], data.class_weights[0])


def plain_weights(data: TaskData, rows: NDArray[np.integer]) -> Array:
    """The factors for which `target_weights` returns `None`."""
    if data.kind != "classification":
        return np.ones((len(rows), data.num_labels))
    return np.eye(data.num_labels)[data.train.labels[rows]]


def thresholds_of(kind: str, logits: Array, labels: NDArray[np.generic]) -> tuple[float, ...]:
    """Probabilities from which on class 1 of two classes, or each label, is predicted.

    For two classes the one with the largest MCC on these rows, for several labels the one with the largest F1 of each;
    of equal ones the nearest to ½. They are halfway between the outputs of two rows, and ½ if all labels are equal.

    Args:
        kind, logits, labels: As `lingo.metrics.score` takes them; the rows of dev.

    Returns:
        One number, or one for each label; none for other kinds of task and for more than two classes.
    """
    truth = np.asarray(labels)
    if kind == "classification" and logits.shape[1] == 2:
        return (_best(logits[:, 1] - logits[:, 0], truth == 1, _mcc),)
    if kind == "multilabel":
        seen, positive = known_labels(truth), truth.astype(np.float64) > 0.5
        columns = zip(logits.T, positive.T, seen.T, strict=True)
        return tuple(_best(odds[known], true[known], _f1) for odds, true, known in columns)
    return ()


Merit = Callable[[NDArray[np.int64], NDArray[np.int64], int, int], Array]


def _best(odds: Array, positive: NDArray[np.bool_], merit: Merit) -> float:
    """The threshold with the largest merit of (true positives, predicted positives, positives, rows)."""
    if not len(odds) or positive.all() or not positive.any() or not np.isfinite(odds).all():
        return 0.5
    order = np.argsort(-odds, kind="stable")
    ranked, hits = odds[order], np.cumsum(positive[order], dtype=np.int64)
    ends = np.flatnonzero(np.diff(ranked))  # a threshold must be between different outputs
    if not len(ends):
        return 0.5
    values = merit(hits[ends], ends + 1, int(positive.sum()), len(odds))
    cuts = (ranked[ends] + ranked[ends + 1]) / 2
    best = np.flatnonzero(values >= values.max() - 1e-12)
    return float(expit(cuts[best[np.abs(cuts[best]).argmin()]]))


def _mcc(true: NDArray[np.int64], predicted: NDArray[np.int64], positive: int, rows: int) -> Array:
    spread = np.sqrt(predicted * 1.0 * (rows - predicted) * positive * (rows - positive))
    return np.asarray((true * rows * 1.0 - predicted * positive) / np.maximum(spread, 1e-300))


def _f1(true: NDArray[np.int64], predicted: NDArray[np.int64], positive: int, rows: int) -> Array:
    return np.asarray(2 * true / (predicted + positive))


def decided(kind: str, logits: Array, thresholds: Sequence[float]) -> Array:
    """Logits shifted so that the threshold ½ decides as the thresholds on `logits`; ranks are unchanged."""
    if not thresholds:
        return logits
    odds = np.log(np.asarray(thresholds) / (1 - np.asarray(thresholds)))
    return logits - (np.array([0.0, odds[0]]) if kind == "classification" else odds)
