"""Evaluation of predictions: metrics of a split; for the test split also intervals, curves and predictions per row."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn import metrics

from harness.data.prepared import open_reverse_dev, open_reverse_test, open_test
from harness.workers.confidence import intervals, resampled
from lingo.balance import decided, thresholds_of
from lingo.data import Split
from lingo.metrics import constant_scores, known_labels, reliability, score
from lingo.pack import Pack
from lingo.slot import Slot
from lingo.strands import average_strands, label_scores
from lingo.trial import TrialConfig

POINTS = 200
"""Maximum number of points of a curve."""

MOST_CURVES = 12
"""Maximum number of labels with separate curves; more are averaged into one."""

DECIDED = ("accuracy", "f1", "mcc", "collapsed")
"""Scores that depend on decisions, and so on thresholds; the others depend on probabilities alone."""

RESAMPLES, ROWS_SEED = 1_000, 95
"""Resamples of the test rows, and their seed: the same for every run, so that methods are compared on the same rows."""

TABLED = ("mcc", "auroc", "pearson")
"""Metrics of the tables and their comparisons, beside that of a study."""

Array = NDArray[np.float64]
Curve = dict[str, list[float]]


def dev_scores(pack: Pack, slot: Slot, folder: Path) -> dict[str, float]:
    """Metrics of a slot on the dev split of its prepared folder, averaged over both strands if used."""
    return score(slot.data.kind, *dev_predictions(pack, slot, folder))


def final_predictions(pack: Pack, slot: Slot, folder: Path) -> tuple[Array, NDArray[np.generic]]:
    """Read the test split: (logits, labels) of its rows. For the final stage only.

    Raises:
        InputError: If the folder has no test split.
    """
    test = open_test(folder)
    return _predict(pack, slot, test, open_reverse_test(folder)), test.labels


def _predict(pack: Pack, slot: Slot, split: Split, reverse: Split | None) -> Array:
    logits = pack.predict(slot, split)
    if reverse is None:
        return logits
    return average_strands(slot.data.kind, logits, pack.predict(slot, reverse))


def at_thresholds(
    config: TrialConfig,
    kind: str,
    logits: Array,
    labels: NDArray[np.generic],
    dev: Callable[[], tuple[Array, Any]],
) -> tuple[Array, dict[str, float], dict[str, Any]]:
    """Test outputs whose decisions at ½ are those at the thresholds of `config`, their scores, and facts.

    Args:
        logits, labels: Of the test split.
        dev: Gives outputs and labels of dev, on which thresholds are chosen.

    Returns:
        The outputs; the scores, of which loss and curves do not depend on thresholds; and, with `threshold="dev"`,
        `threshold` and `at_half`, the scores that change, at ½.
    """
    scores = score(kind, logits, labels)
    thresholds = thresholds_of(kind, *dev()) if config.threshold == "dev" and kind != "regression" else ()
    if not thresholds or not np.isfinite(logits).all():
        return logits, scores, {}
    moved = decided(kind, logits, thresholds)
    found = scores | {name: value for name, value in score(kind, moved, labels).items() if name in DECIDED}
    changed = {name: value for name, value in scores.items() if found[name] != value}
    return moved, found, {"threshold": list(thresholds), "at_half": changed}


def dev_predictions(pack: Pack, slot: Slot, folder: Path) -> tuple[Array, NDArray[np.generic]]:
    """(logits, labels) of the dev split, averaged over both strands if used."""
    dev = slot.data.dev
    return _predict(pack, slot, dev, open_reverse_dev(folder)), dev.labels


def final_facts(
    kind: str,
    logits: Array,
    labels: NDArray[np.generic],
    *,
    train_labels: NDArray[np.generic] | None = None,
    names: Sequence[str] = (),
    moved: Array | None = None,
    metric: str = "",
) -> dict[str, Any]:
    """Facts of test predictions: `collapsed`, `constant`, `interval`, `resamples`, `confusion`, `reliability`, `roc`,
    `pr` and `test_labels`.

    Args:
        kind, logits, labels: As `lingo.metrics.score` takes them.
        train_labels: Labels of train, in the unit of `labels`, for `constant`.
        names: Names of a multi-label task's labels.
        moved: Outputs whose decisions at ½ are those at thresholds (`at_thresholds`); `None` for `logits`. Decisions
            are counted from them, probabilities are those of `logits`.
        metric: The study's, for `resamples`.

    Returns:
        `collapsed`: the same class or value predicted for all rows. `constant`: scores of predicting train's largest
        class or mean for every row (`lingo.metrics.constant_scores`). `interval`: metric → [low, high], 95 %, 1,000
        resamples of rows; omitting metrics without one (`harness.workers.confidence.intervals`). `resamples`: of the
        study's metric and those that tables are in, the score in each of them: the same rows are drawn for every seed
        and method of a test split (`harness.runs.intervals.over_rows_and_seeds`). `confusion`: counts
        [truth][predicted] of a classification. `reliability`: see `lingo.metrics.reliability`. `roc`, `pr`: label →
        {"x", "y"} of at most 200 points; one mean curve for tasks of many labels. `test_labels`: names, auroc and auprc
        of each label of a multi-label task.
        `test_targets`: names, pearson, spearman and mse of each of several targets of a regression.
    """
    truth = np.asarray(labels)
    moved = logits if moved is None else moved
    scores = score(kind, moved, truth)
    facts: dict[str, Any] = {"collapsed": bool(scores.get("collapsed", 0.0) == 1.0)}
    if kind == "regression" and truth.ndim == 2:
        each = [score(kind, *both) for both in zip(logits.T, truth.T, strict=True)]
        found = {name: [one[name] for one in each] for name in ("pearson", "spearman", "mse")}
        facts["test_targets"] = {"names": list(names) or [str(i) for i in range(len(each))], **found}
    drawn = resampled(kind, logits, truth, rng=np.random.default_rng(ROWS_SEED), resamples=RESAMPLES)
    if moved is not logits:
        other = resampled(kind, moved, truth, rng=np.random.default_rng(ROWS_SEED), resamples=RESAMPLES)
        drawn |= {name: values for name, values in other.items() if name in DECIDED}
        scores = score(kind, logits, truth) | {name: scores[name] for name in DECIDED if name in scores}
    facts["interval"] = intervals(
        kind, logits, truth, rng=np.random.default_rng(), resamples=RESAMPLES, scores=scores, values=drawn
    )
    facts["resamples"] = {
        name: drawn[name].round(6).tolist() for name in dict.fromkeys((metric, *TABLED)) if name in drawn
    }
    if train_labels is not None:
        facts["constant"] = constant_scores(kind, train_labels, truth)
    if not np.isfinite(logits).all():
        return facts
    if kind != "regression" and len(truth):
        facts["reliability"] = reliability(kind, logits, truth)
    if kind == "classification":
        classes = range(logits.shape[1])
        table = metrics.confusion_matrix(truth, moved.argmax(axis=1), labels=list(classes))
        facts["confusion"] = table.tolist()
        chances = softmax(logits, axis=1)
        wanted = [1] if len(classes) == 2 else classes
        facts |= _curves({str(c): (truth == c, chances[:, c]) for c in wanted})
    if kind == "multilabel":
        facts["test_labels"] = {"names": list(names), **label_scores(logits, truth)}
        titles = list(names) or [str(i) for i in range(logits.shape[1])]
        seen = known_labels(truth)
        facts |= _curves(
            {name: (truth[seen[:, i], i] > 0.5, logits[seen[:, i], i]) for i, name in enumerate(titles)}
        )
    return facts


def _curves(scores: dict[str, tuple[NDArray[np.bool_], Array]]) -> dict[str, dict[str, Curve]]:
    """ROC and precision-recall curves of every label that has both kinds of rows."""
    defined = {name: both for name, both in scores.items() if both[0].any() and not both[0].all()}
    found: dict[str, dict[str, Curve]] = {"roc": {}, "pr": {}}
    for name, (positive, score_) in defined.items():
        fpr, tpr, _ = metrics.roc_curve(positive, score_)
        precision, recall, _ = metrics.precision_recall_curve(positive, score_)
        found["roc"][name] = _thin(fpr, tpr)
        found["pr"][name] = _thin(recall[::-1], precision[::-1])
    if len(defined) > MOST_CURVES:
        title = f"mean of {len(defined)} labels"
        return {kind: {title: _mean_curve(list(curves.values()))} for kind, curves in found.items()}
    return found


def _thin(x: Array, y: Array) -> Curve:
    """At most `POINTS` points of a curve, including both ends."""
    at = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).round().astype(int))
    return {"x": x[at].round(6).tolist(), "y": y[at].round(6).tolist()}


def _mean_curve(curves: Sequence[Curve]) -> Curve:
    """Vertical average on an even grid."""
    grid = np.linspace(0, 1, POINTS)
    mean = np.mean([np.interp(grid, curve["x"], curve["y"]) for curve in curves], axis=0)
    return {"x": grid.round(6).tolist(), "y": mean.round(6).tolist()}


def write_predictions(path: Path, kind: str, logits: Array, labels: NDArray[np.generic]) -> None:
    """A Parquet file with a row for each row of the test split, in the same order.

    Columns: `row`; of a classification `label` and `score_<class>` (probabilities), of a multi-label task
    `label_<i>` (null where unknown) and `score_<i>` (probabilities), of a regression `label` and `score`, of several
    targets `label_<i>` and `score_<i>`.
    """
    columns: dict[str, Any] = {"row": np.arange(len(labels), dtype=np.int64)}
    truth = np.asarray(labels)
    if kind == "multilabel":
        seen = known_labels(truth)
        for i in range(truth.shape[1]):
            columns[f"label_{i}"] = pa.array(np.nan_to_num(truth[:, i]).astype(np.int8), mask=~seen[:, i])
        columns |= {f"score_{i}": expit(logits[:, i]).astype(np.float32) for i in range(logits.shape[1])}
    elif kind == "classification":
        chances = softmax(logits, axis=1)
        columns |= {"label": truth} | {f"score_{c}": chances[:, c] for c in range(logits.shape[1])}
    elif truth.ndim == 2:
        columns |= {f"label_{i}": truth[:, i] for i in range(truth.shape[1])}
        columns |= {f"score_{i}": logits[:, i] for i in range(truth.shape[1])}
    else:
        columns |= {"label": truth, "score": logits.reshape(len(logits), -1)[:, 0]}
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        pq.write_table(pa.table(columns), temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
