"""Scores of predictions, in float64. A score that the labels leave undefined is NaN, never a stand-in.

Higher is better for all but `loss` and `mse`. SciPy and scikit-learn are imported by what computes with them: most
programs import this file for its names and ranges.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

NAN = float("nan")
LOWER_IS_BETTER = frozenset({"loss", "mse"})
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("accuracy", "f1", "auroc", "auprc", "auroc_median", "auprc_median"), (0.0, 1.0)),
    **dict.fromkeys(("mcc", "pearson", "spearman"), (-1.0, 1.0)),
    **dict.fromkeys(LOWER_IS_BETTER, (0.0, float("inf"))),
}
"""Lowest and highest value of each metric."""

UNINFORMED = {"mcc": 0.0, "auroc": 0.5, "auroc_median": 0.5, "pearson": 0.0, "spearman": 0.0}
"""What the same prediction for every row scores, whatever the labels; other metrics depend on the labels."""

Array = NDArray[np.float64]


def merit(metric: str, value: float) -> float:
    """A score as a number of which more is better: errors with the opposite sign."""
    return -value if metric in LOWER_IS_BETTER else value


def constant_scores(
    kind: str, train_labels: NDArray[np.generic], labels: NDArray[np.generic]
) -> dict[str, float]:
    """What one prediction for every row, chosen by the training labels, scores: the least that a model must beat.

    The prediction is train's largest class, of several labels their shares, of a regression train's mean.

    Args:
        kind, labels: As `score` takes them.
        train_labels: Labels of train, in the same form and unit.

    Returns:
        classification: `accuracy`, `f1`, `mcc`, `auroc`, `auprc`; multilabel: `auroc`, `auprc` and their medians;
        regression: `pearson` and `spearman` (0: nothing is explained) and `mse`. NaN as in `score`.

    Raises:
        ValueError: If `kind` is unknown or the labels do not fit.
    """
    train, truth = np.asarray(train_labels), np.asarray(labels)
    if kind == "regression":
        error = float(np.mean((truth.astype(np.float64) - train.astype(np.float64).mean(axis=0)) ** 2))
        return {"pearson": 0.0, "spearman": 0.0, "mse": error}
    if kind == "multilabel":
        known = np.maximum(1, (~np.isnan(truth.astype(np.float64))).sum(axis=0))
        shares = np.nansum(truth.astype(np.float64), axis=0) / known
        shares = shares[(shares > 0) & (shares < 1)]
        mean, median = (f(shares) if len(shares) else NAN for f in (np.mean, np.median))
        area = 0.5 if len(shares) else NAN
        return {"auroc": area, "auroc_median": area, "auprc": float(mean), "auprc_median": float(median)}
    classes = int(max(train.max(), truth.max())) + 1
    outputs = np.tile(np.eye(max(classes, 2))[np.bincount(train.astype(np.int64)).argmax()], (len(truth), 1))
    found = score(kind, outputs, truth)
    return {name: value for name, value in found.items() if name not in ("loss", "collapsed")}


def score(kind: str, logits: NDArray[np.floating], labels: NDArray[np.generic]) -> dict[str, float]:
    """All metrics of a task kind.

    Args:
        kind: `classification` (logits `[n, classes]`, labels int `[n]`), `multilabel` (logits `[n, labels]`,
            labels 0/1 or NaN for unknown `[n, labels]`) or `regression` (outputs `[n, 1]` or `[n]`, labels float
            `[n]`; of several targets both `[n, targets]`).
        logits: Outputs of the head, before softmax or sigmoid.
        labels: What is right.

    Returns:
        classification: `accuracy`, `f1` (macro over the classes that occur in labels or predictions), `mcc`,
        `auroc` and `auprc` (of class 1 for two classes; macro one against the rest for more, NaN unless every
        class occurs), `loss` (cross-entropy, nats), `collapsed` (1.0 when a single class was predicted for
        everything; `mcc` is then 0, its limit and scikit-learn's convention). `mcc` is NaN when the labels
        have one class only.
        multilabel: `auroc`, `auprc` (macro) and `auroc_median`, `auprc_median`, over labels that have both
        positives and negatives; `undefined_labels`, the number left out; `loss` (mean binary cross-entropy);
        `collapsed` (1.0 when every label is predicted the same for all rows).
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
    return {
        "accuracy": float(metrics.accuracy_score(truth, predicted)),
        "f1": float(metrics.f1_score(truth, predicted, average="macro", zero_division=0)),
        "mcc": float(metrics.matthews_corrcoef(truth, predicted)) if np.ptp(truth) else NAN,
        "auroc": auroc,
        "auprc": auprc,
        "loss": float(-np.take_along_axis(log_softmax(logits, axis=1), truth[:, None], axis=1).mean()),
        "collapsed": float(np.ptp(predicted) == 0),
    }


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
    return {
        "auroc": float(mean[0]),
        "auprc": float(mean[1]),
        "auroc_median": float(median[0]),
        "auprc_median": float(median[1]),
        "undefined_labels": float(len(curves) - len(defined)),
        "loss": _mean_known(np.logaddexp(0, logits) - logits * positive, known),
        "collapsed": float((logits > 0).all(axis=0).tolist() == (logits > 0).any(axis=0).tolist()),
    }


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
    "classification": ("accuracy", "f1", "mcc", "auroc", "auprc", "loss", "collapsed"),
    "multilabel": ("auroc", "auprc", "auroc_median", "auprc_median", "undefined_labels", "loss", "collapsed"),
    "regression": ("pearson", "spearman", "mse", "loss", "collapsed"),
}
