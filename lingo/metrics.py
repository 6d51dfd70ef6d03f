"""Scores of predictions, in float64. A score that the labels leave undefined is NaN, never a stand-in.

Higher is better for all but those of `LOWER_IS_BETTER`. SciPy and scikit-learn are imported by what computes with
them: most programs import this file for its names and ranges.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

NAN = float("nan")
LOWER_IS_BETTER = frozenset({"loss", "mse", "brier", "ece", "nll"})
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("accuracy", "f1", "auroc", "auprc", "auroc_median", "auprc_median"), (0.0, 1.0)),
    **dict.fromkeys(("mcc", "pearson", "spearman"), (-1.0, 1.0)),
    **dict.fromkeys(("brier", "ece"), (0.0, 1.0)),
    **dict.fromkeys(("loss", "mse", "nll"), (0.0, float("inf"))),
}
"""Lowest and highest value of each metric."""

UNINFORMED = {"mcc": 0.0, "auroc": 0.5, "auroc_median": 0.5, "pearson": 0.0, "spearman": 0.0}
"""Scores of a constant prediction that hold for any labels; other metrics depend on the labels."""

CALIBRATION_BINS = 15
"""Bins of equal width over [0, 1] of the expected calibration error, as in Guo et al. 2017 (arXiv:1706.04599)."""

Array = NDArray[np.float64]


def merit(metric: str, value: float) -> float:
    """A score oriented so that higher is better: errors change sign."""
    return -value if metric in LOWER_IS_BETTER else value


def constant_scores(
    kind: str, train_labels: NDArray[np.generic], labels: NDArray[np.generic]
) -> dict[str, float]:
    """Scores of a constant prediction chosen by the training labels: the baseline that a model must beat.

    The prediction is train's largest class, with the classes' shares of train as probabilities; of several labels
    their shares; of a regression train's mean.

    Args:
        kind, labels: As `score` takes them.
        train_labels: Labels of train, in the same form and unit.

    Returns:
        classification: `accuracy`, `f1`, `mcc`, `auroc`, `auprc`, `brier`, `ece`, `nll`; multilabel: `auroc`, `auprc`
        and their medians, `f1`, `brier`, `ece`, `nll`; regression: `pearson` and `spearman` (0: nothing is explained)
        and `mse`. NaN as in `score`.

    Raises:
        ValueError: If `kind` is unknown or the labels do not fit.
    """
    train, truth = np.asarray(train_labels), np.asarray(labels)
    if kind == "regression":
        error = float(np.mean((truth.astype(np.float64) - train.astype(np.float64).mean(axis=0)) ** 2))
        return {"pearson": 0.0, "spearman": 0.0, "mse": error}
    shares = _shares(kind, train, truth)
    odds = np.log(shares) if kind == "classification" else np.log(shares) - np.log1p(-shares)
    found = score(kind, np.tile(odds, (len(truth), 1)), truth)
    return {name: value for name, value in found.items() if name not in NO_LEVEL}


def _shares(kind: str, train: NDArray[np.generic], truth: NDArray[np.generic]) -> Array:
    """Share of each class, or of the positives of each label, in train; a share of 0 counts as half a row."""
    if kind == "multilabel":
        known = (~np.isnan(train.astype(np.float64))).sum(axis=0)
        rows = np.maximum(1, known)
        return (np.nansum(train.astype(np.float64), axis=0) / rows).clip(0.5 / rows, 1 - 0.5 / rows)
    classes = max(2, int(max(train.max(), truth.max())) + 1)
    counts = np.bincount(train.astype(np.int64), minlength=classes)
    return np.maximum(counts, 0.5) / len(train)


def score(kind: str, logits: NDArray[np.floating], labels: NDArray[np.generic]) -> dict[str, float]:
    """All metrics of a task kind.

    Args:
        kind: `classification` (logits `[n, classes]`, labels int `[n]`), `multilabel` (logits `[n, labels]`,
            labels 0/1 or NaN for unknown `[n, labels]`) or `regression` (outputs `[n, 1]` or `[n]`, labels float
            `[n]`; of several targets both `[n, targets]`).
        logits: Outputs of the head, before softmax or sigmoid.
        labels: True labels.

    Returns:
        classification: `accuracy`, `f1` (macro over the classes that occur in labels or predictions), `mcc`,
        `auroc` and `auprc` (of class 1 for two classes; macro one against the rest for more, NaN unless every
        class occurs), `brier` (half of the squared differences between probabilities and one-hot labels, summed over
        the classes: of two classes scikit-learn's `brier_score_loss`), `ece` (see `reliability`), `nll` (negative
        log-likelihood, nats) and `loss` (the same), `collapsed` (1.0 when a single class was predicted for
        everything; `mcc` is then 0, its limit and scikit-learn's convention). `mcc` is NaN when the labels
        have one class only.
        multilabel: `auroc`, `auprc`, `f1` (macro) and `auroc_median`, `auprc_median`, over labels that have both
        positives and negatives; `undefined_labels`, the number left out; `brier`, `ece`, `nll` and `loss` (mean
        binary cross-entropy) over known labels; `collapsed` (1.0 when every label is predicted the same for all rows).
        regression: `pearson`, `spearman` (NaN when either side is constant), `mse`, `loss` (the same),
        `collapsed` (1.0 when all outputs are equal); of several targets each is the mean over them.
        Without rows, or with logits that are not finite, every score is NaN.

    Raises:
        ValueError: If `kind` is unknown or the shapes do not fit.
    """
    if kind not in SCORES:
        raise ValueError(f"`kind` must be one of {', '.join(SCORES)}, but got {kind!r}.")
    outputs, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if kind == "regression":
        outputs = outputs.reshape(-1) if outputs.ndim == 2 and outputs.shape[1] == 1 else outputs
    fitting = outputs.shape == truth.shape if kind != "classification" else outputs.shape[:1] == truth.shape
    if not fitting or (outputs.ndim != 2 and kind != "regression") or outputs.ndim not in (1, 2):
        given = f"{list(outputs.shape)} and {list(truth.shape)}"
        raise ValueError(f"`logits` and `labels` of a {kind} task must fit together, but got {given}.")
    if not len(truth) or not np.isfinite(outputs).all():
        return dict.fromkeys(NAMES[kind], NAN)
    return SCORES[kind](outputs, truth)


def _classification(logits: Array, labels: NDArray[np.generic]) -> dict[str, float]:
    from scipy.special import log_softmax
    from sklearn import metrics

    truth = labels.astype(np.int64)
    classes = logits.shape[1]
    if truth.min() < 0 or truth.max() >= classes:
        raise ValueError(f"`labels` must be 0 to {classes - 1}, but got {truth.min()} to {truth.max()}.")
    predicted = logits.argmax(axis=1)
    auroc, auprc = _class_curves(logits, truth)
    nll = float(-np.take_along_axis(log_softmax(logits, axis=1), truth[:, None], axis=1).mean())
    return {
        "accuracy": float(metrics.accuracy_score(truth, predicted)),
        "f1": float(metrics.f1_score(truth, predicted, average="macro", zero_division=0)),
        "mcc": float(metrics.matthews_corrcoef(truth, predicted)) if np.ptp(truth) else NAN,
        "auroc": auroc,
        "auprc": auprc,
        "brier": float(squares("classification", logits, truth).mean()),
        "ece": calibration_error(reliability("classification", logits, truth)),
        "nll": nll,
        "loss": nll,
        "collapsed": float(np.ptp(predicted) == 0),
    }


def squares(kind: str, logits: Array, labels: NDArray[np.generic]) -> Array:
    """Brier score of each row, `[n]`: see `score`; of several labels the mean over those that are known."""
    from scipy.special import expit, softmax

    if kind == "classification":
        errors: Array = softmax(logits, axis=1) - np.eye(logits.shape[1])[labels.astype(np.int64)]
        return np.asarray((errors**2).sum(axis=1) / 2)
    known = known_labels(labels)
    errors = np.where(known, expit(logits) - (labels.astype(np.float64) > 0.5), 0)
    return np.asarray((errors**2).sum(axis=1) / np.maximum(1, known.sum(axis=1)))


def certainty(
    kind: str, logits: Array, labels: NDArray[np.generic]
) -> tuple[Array, NDArray[np.bool_], NDArray[np.int64]]:
    """Predicted probabilities, whether what they are for is so, and their bins, `[n]` each.

    Of a classification the probability of the predicted class, and whether it is right; of one label of several its
    probability, and whether it is positive.
    """
    from scipy.special import expit, softmax

    if kind == "classification":
        chances, right = softmax(logits, axis=1).max(axis=1), logits.argmax(axis=1) == labels
    else:
        chances, right = expit(logits), labels.astype(np.float64) > 0.5
    bins = np.minimum((chances * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    return chances, right, bins


def reliability(kind: str, logits: Array, labels: NDArray[np.generic]) -> dict[str, list[float]]:
    """How predicted probabilities compare with what is so (`certainty`), in `CALIBRATION_BINS` bins of equal width.

    Args:
        kind, logits, labels: As `score` takes them, of a classification or several labels; finite, with rows.

    Returns:
        Of each bin that has predictions: `predictions`, how many; `probability`, their mean; `observed`, the share of
        them that is so.
    """
    held = np.zeros((3, CALIBRATION_BINS))
    pairs = [(logits, labels)] if kind == "classification" else zip(logits.T, labels.T, strict=True)
    for outputs, truth in pairs:  # one label at a time, for the memory
        known = known_labels(truth)
        chances, right, bins = certainty(kind, outputs, truth)
        for place, weights in enumerate((None, chances[known], right[known].astype(np.float64))):
            held[place] += np.bincount(bins[known], weights=weights, minlength=CALIBRATION_BINS)
    counts, total, hits = held
    filled = counts > 0
    return {
        "predictions": counts[filled].tolist(),
        "probability": (total[filled] / counts[filled]).tolist(),
        "observed": (hits[filled] / counts[filled]).tolist(),
    }


def calibration_error(held: dict[str, list[float]]) -> float:
    """Expected calibration error: mean of |probability - observed| over the predictions of `reliability`."""
    counts, chances, seen = (np.asarray(held[name]) for name in ("predictions", "probability", "observed"))
    return float(np.average(np.abs(chances - seen), weights=counts)) if len(counts) else NAN


def _class_curves(logits: Array, truth: NDArray[np.int64]) -> tuple[float, float]:
    """(AUROC, AUPRC): of class 1 for two classes, macro one against the rest for more."""
    from scipy.special import logsumexp

    classes = logits.shape[1]
    if classes < 2 or len(np.unique(truth)) < classes:
        return NAN, NAN
    wanted = [1] if classes == 2 else range(classes)
    # Log-odds rank as probabilities do, but do not saturate.
    odds = [logits[:, c] - logsumexp(np.delete(logits, c, axis=1), axis=1) for c in wanted]
    curves = [_curves(score, truth == c) for score, c in zip(odds, wanted, strict=True)]
    return float(np.mean([auroc for auroc, _ in curves])), float(np.mean([auprc for _, auprc in curves]))


def _curves(scores: Array, positive: NDArray[np.bool_]) -> tuple[float, float]:
    from sklearn import metrics

    if positive.all() or not positive.any():
        return NAN, NAN
    return float(metrics.roc_auc_score(positive, scores)), float(
        metrics.average_precision_score(positive, scores)
    )


def _multilabel(logits: Array, labels: NDArray[np.generic]) -> dict[str, float]:
    known, positive = known_labels(labels), labels.astype(np.float64) > 0.5
    curves = np.array(
        [
            _curves(score[seen], truth[seen])
            for score, truth, seen in zip(logits.T, positive.T, known.T, strict=True)
        ]
    )
    defined = curves[~np.isnan(curves[:, 0])]
    mean, median = (f(defined, axis=0) if len(defined) else (NAN, NAN) for f in (np.mean, np.median))
    nll = _mean_known(np.logaddexp(0, logits) - logits * positive, known)
    hits, found, wanted = label_counts(logits, labels)
    both = (wanted.sum(axis=0) > 0) & (wanted.sum(axis=0) < known.sum(axis=0))
    f1 = 2 * hits.sum(axis=0)[both] / (found.sum(axis=0) + wanted.sum(axis=0))[both]
    return {
        "auroc": float(mean[0]),
        "auprc": float(mean[1]),
        "f1": float(f1.mean()) if both.any() else NAN,
        "auroc_median": float(median[0]),
        "auprc_median": float(median[1]),
        "undefined_labels": float(len(curves) - len(defined)),
        "brier": float(squares("multilabel", logits, labels).mean()),
        "ece": calibration_error(reliability("multilabel", logits, labels)),
        "nll": nll,
        "loss": nll,
        "collapsed": float((logits > 0).all(axis=0).tolist() == (logits > 0).any(axis=0).tolist()),
    }


def label_counts(
    logits: Array, labels: NDArray[np.generic]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Which known labels are predicted rightly as positive, predicted as positive, and positive, `[n, labels]` each."""
    known, positive = known_labels(labels), labels.astype(np.float64) > 0.5
    predicted = (logits > 0) & known
    return predicted & positive, predicted, positive & known


def known_labels(labels: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Which cells of a multi-label task are known, in the shape of `labels`."""
    return (
        np.asarray(~np.isnan(labels.astype(np.float64)))
        if labels.dtype.kind == "f"
        else np.ones(labels.shape, bool)
    )


def _mean_known(losses: Array, known: NDArray[np.bool_]) -> float:
    """The mean over rows of the mean over each row's known labels, as in training."""
    if known.all():
        return float(losses.mean())
    return float((np.where(known, losses, 0).sum(axis=1) / np.maximum(1, known.sum(axis=1))).mean())


def _regression(outputs: Array, labels: NDArray[np.generic]) -> dict[str, float]:
    from scipy import stats

    if outputs.ndim == 2:
        each = [_regression(*both) for both in zip(outputs.T, labels.T, strict=True)]
        return {name: float(np.mean([one[name] for one in each])) for name in NAMES["regression"]} | {
            "collapsed": float(all(one["collapsed"] for one in each))
        }
    truth = labels.astype(np.float64)
    constant = len(truth) < 2 or not np.ptp(truth) or not np.ptp(outputs)
    mse = float(np.mean((outputs - truth) ** 2))
    return {
        "pearson": NAN if constant else float(stats.pearsonr(outputs, truth).statistic),
        "spearman": NAN if constant else float(stats.spearmanr(outputs, truth).statistic),
        "mse": mse,
        "loss": mse,
        "collapsed": float(not np.ptp(outputs)),
    }


SCORES: dict[str, Callable[[Array, NDArray[np.generic]], dict[str, float]]] = {
    "classification": _classification,
    "multilabel": _multilabel,
    "regression": _regression,
}
NAMES: dict[str, tuple[str, ...]] = {
    "classification": (
        *("accuracy", "f1", "mcc", "auroc", "auprc", "brier", "ece", "nll", "loss", "collapsed"),
    ),
    "multilabel": (
        *("auroc", "auprc", "f1", "auroc_median", "auprc_median", "undefined_labels"),
        *("brier", "ece", "nll", "loss", "collapsed"),
    ),
    "regression": ("pearson", "spearman", "mse", "loss", "collapsed"),
}
NO_LEVEL = ("loss", "collapsed", "undefined_labels")
"""Scores that say nothing of how good a constant prediction is."""
