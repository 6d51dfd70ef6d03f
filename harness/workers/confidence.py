"""Bootstrap confidence intervals of test metrics over rows, vectorised: each resample is a row of weights.

Percentile intervals (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). All metrics use the
same resamples. A large test split is resampled in random blocks of rows with its scores in
bins, which keeps the spread of the metrics and costs seconds instead of hours.
"""

import warnings
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp
from scipy.stats import rankdata

from harness.runs.intervals import EQUAL, usable
from lingo.metrics import CALIBRATION_BINS, certainty, known_labels, label_counts, score, squares

Array = NDArray[np.float64]
Weights = NDArray[np.float64]

EXACT = 1_000_000
"""Rows × outputs up to which rows are drawn individually."""

BLOCKS, BINS = 1_000, 256
CHUNK = 4_000_000
"""Maximum number of weights in memory."""


def intervals(
    kind: str,
    logits: NDArray[np.floating],
    labels: NDArray[np.generic],
    *,
    rng: np.random.Generator,
    resamples: int = 1_000,
    level: float = 0.95,
    scores: Mapping[str, float] | None = None,
    values: Mapping[str, Array] | None = None,
) -> dict[str, list[float]]:
    """[low, high] of the metrics of `lingo.metrics.score` that depend on rows, over resampled rows.

    With few rows, the percentiles may exclude the score itself; the interval is extended to include it.

    Args:
        kind, logits, labels: As `lingo.metrics.score` takes them.
        rng: Random generator of the resamples.
        resamples, level: Number of resamples, and coverage of the interval.
        scores: The scores; computed if not given.
        values: What `resampled` gave; drawn from `rng` if not given.

    Returns:
        Metric → [low, high], with low < high. A metric is omitted if its score or more than half of the
        resamples are undefined, or if all resamples have the same score: constant predictions have MCC 0 and AUROC
        0.5 in every resample, perfect ones 1, which is uninformative about other rows. Empty without rows or with
        non-finite logits.
    """
    point = score(kind, logits, labels) if scores is None else scores
    edges = [50 * (1 - level), 50 * (1 + level)]
    found = {}
    if values is None:
        values = resampled(kind, logits, labels, rng=rng, resamples=resamples)
    for name, drawn in values.items():
        defined, own = drawn[~np.isnan(drawn)], point.get(name, np.nan)
        if np.isnan(own) or 2 * len(defined) < resamples:
            continue
        low, high = (float(edge) for edge in np.percentile(defined, edges))
        limits = usable([min(low, own), max(high, own)], name) if high - low > EQUAL else None
        if limits is not None:
            found[name] = list(limits)
    return found


def resampled(
    kind: str,
    logits: NDArray[np.floating],
    labels: NDArray[np.generic],
    *,
    rng: np.random.Generator,
    resamples: int,
) -> dict[str, Array]:
    """Metric → its score in each resample, `[resamples]`, NaN where undefined; arguments as of `intervals`."""
    outputs, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if not len(truth) or not np.isfinite(outputs).all():
        return {}
    sums = {"classification": _classification, "multilabel": _multilabel, "regression": _regression}[kind]
    chunks = list(sums(outputs, truth, _Resamples(outputs, resamples, rng)))
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


class _Resamples:
    """Chunks of weights [b, units]: number of draws of each unit (a row, or a block of rows)."""

    def __init__(self, outputs: Array, count: int, rng: np.random.Generator) -> None:
        self.rows = len(outputs)
        self.exact = outputs.size <= EXACT
        self.unit = np.arange(self.rows) if self.exact else rng.permutation(self.rows) % BLOCKS
        self.units = self.rows if self.exact else BLOCKS
        self._count, self._rng = count, rng

    def __iter__(self) -> Iterator[Weights]:
        size = max(1, CHUNK // self.units)
        for start in range(0, self._count, size):
            b = min(size, self._count - start)
            drawn = self._rng.integers(0, self.units, (b, self.units)) + np.arange(b)[:, None] * self.units
            yield np.bincount(drawn.ravel(), minlength=b * self.units).reshape(b, -1).astype(np.float64)

    def counts(self, cell: NDArray[np.int64], cells: int, weight: Array | None = None) -> Array:
        """[units, cells]: how many rows of each unit (or their weight) fall into each cell."""
        where = self.unit * cells + cell
        counts = np.bincount(where, weights=weight, minlength=self.units * cells)
        return counts.reshape(self.units, cells).astype(np.float64)

    def sums(self, values: Array) -> Array:
        """[units]: sum over the rows of each unit of `values`, [rows]."""
        return np.bincount(self.unit, weights=values, minlength=self.units).astype(np.float64)


class _Areas:
    """AUROC and average precision of one score under resampling; ties count half, as in scikit-learn."""

    def __init__(
        self,
        scores: Array,
        positive: NDArray[np.bool_],
        resamples: _Resamples,
        known: NDArray[np.bool_] | None = None,
    ) -> None:
        self._known: Array | None = None
        self._exact = resamples.exact
        if self._exact:
            self._order = np.argsort(scores, kind="stable")
            ordered = scores[self._order]
            self._starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
            self._positive = positive[self._order].astype(np.float64)
            if known is not None and not known.all():
                self._known = known[self._order].astype(np.float64)
        else:
            bins = ((rankdata(scores) - 1) * BINS / len(scores)).astype(np.int64)
            self._of_positive = resamples.counts(bins, BINS, positive.astype(np.float64))
            self._of_all = resamples.counts(bins, BINS, None if known is None else known.astype(np.float64))

    def __call__(self, weights: Weights) -> tuple[Array, Array]:
        """(AUROC, average precision) of each resample, [b]; NaN without positives or negatives."""
        if self._exact:
            drawn = weights[:, self._order] if self._known is None else weights[:, self._order] * self._known
            right = np.add.reduceat(drawn * self._positive, self._starts, axis=1)
            every = np.add.reduceat(drawn, self._starts, axis=1)
        else:
            right, every = weights @ self._of_positive, weights @ self._of_all
        wrong = every - right
        positives, negatives = right.sum(1), wrong.sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            below = np.cumsum(wrong, axis=1) - wrong / 2
            auroc = (right * below).sum(1) / (positives * negatives)
            above = np.cumsum(right[:, ::-1], axis=1) / np.cumsum(every[:, ::-1], axis=1)
            precision = np.where(right[:, ::-1] > 0, above, 0.0)
            auprc = (right[:, ::-1] * precision).sum(1) / positives
        undefined = (positives == 0) | (negatives == 0)
        return np.where(undefined, np.nan, auroc), np.where(undefined, np.nan, auprc)


def _classification(
    logits: Array, labels: NDArray[np.generic], draws: _Resamples
) -> Iterator[dict[str, Array]]:
    classes, truth = logits.shape[1], labels.astype(np.int64)
    cells = draws.counts(truth * classes + logits.argmax(axis=1), classes * classes)
    losses = draws.sums(-np.take_along_axis(log_softmax(logits, axis=1), truth[:, None], axis=1)[:, 0])
    errors = draws.sums(squares("classification", logits, truth))
    chances, right, bins = certainty("classification", logits, truth)
    gaps = draws.counts(bins, CALIBRATION_BINS, chances - right)
    wanted = [] if classes < 2 else [1] if classes == 2 else list(range(classes))
    odds = [logits[:, c] - logsumexp(np.delete(logits, c, axis=1), axis=1) for c in wanted]
    areas = [_Areas(score, truth == c, draws) for score, c in zip(odds, wanted, strict=True)]
    for weights in draws:
        table = (weights @ cells).reshape(-1, classes, classes)
        rows, nll = table.sum((1, 2)), weights @ losses / table.sum((1, 2))
        found = _of_table(table) | {
            "brier": weights @ errors / rows,
            "ece": np.abs(weights @ gaps).sum(1) / rows,
            "nll": nll,
            "loss": nll,
        }
        if areas:
            both = np.array([area(weights) for area in areas])
            found |= {"auroc": both[:, 0].mean(0), "auprc": both[:, 1].mean(0)}
        yield found


def _of_table(table: Array) -> dict[str, Array]:
    """Accuracy, macro F1 and MCC of confusion tables [b, truth, predicted] (Gorodkin 2004 for many classes)."""
    total, hit = table.sum((1, 2)), np.einsum("bii->bi", table)
    truths, guesses = table.sum(2), table.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        f1 = 2 * hit / (truths + guesses)
        covariance = hit.sum(1) * total - (truths * guesses).sum(1)
        spread_t = total**2 - (truths**2).sum(1)
        spread_g = total**2 - (guesses**2).sum(1)
        mcc = covariance / np.sqrt(spread_t * spread_g)
    mcc = np.where(spread_g == 0, 0.0, mcc)
    return {
        "accuracy": hit.sum(1) / total,
        "f1": _mean(np.where(truths + guesses > 0, f1, np.nan)),
        "mcc": np.where(spread_t == 0, np.nan, mcc),
    }


def _multilabel(logits: Array, labels: NDArray[np.generic], draws: _Resamples) -> Iterator[dict[str, Array]]:
    positive, known = labels.astype(np.float64) > 0.5, known_labels(labels)
    areas = [_Areas(logits[:, i], positive[:, i], draws, known[:, i]) for i in range(logits.shape[1])]
    losses = np.where(known, np.logaddexp(0, logits) - logits * positive, 0).sum(axis=1)
    losses = draws.sums(losses / np.maximum(1, known.sum(axis=1)))
    errors, rows = draws.sums(squares("multilabel", logits, labels)), draws.sums(np.ones(len(logits)))
    gaps, seen = np.zeros((draws.units, CALIBRATION_BINS)), draws.sums(known.sum(axis=1).astype(np.float64))
    for i in range(logits.shape[1]):
        chances, right, bins = certainty("multilabel", logits[:, i], labels[:, i])
        gaps += draws.counts(bins, CALIBRATION_BINS, np.where(known[:, i], chances - right, 0))
    hits, found, wanted, told = (
        np.stack([draws.sums(column.astype(np.float64)) for column in counts.T], axis=1)
        for counts in (*label_counts(logits, labels), known)
    )
    for weights in draws:
        nll = weights @ losses / (weights @ rows)
        positives, negatives = weights @ wanted, weights @ (told - wanted)
        with np.errstate(divide="ignore", invalid="ignore"):
            f1 = 2 * (weights @ hits) / (weights @ found + positives)
        both = np.array([area(weights) for area in areas])
        auroc, auprc = both[:, 0].T, both[:, 1].T
        yield {
            "auroc": _mean(auroc),
            "auprc": _mean(auprc),
            "f1": _mean(np.where((positives > 0) & (negatives > 0), f1, np.nan)),
            "auroc_median": _mean(auroc, median=True),
            "auprc_median": _mean(auprc, median=True),
            "brier": weights @ errors / (weights @ rows),
            "ece": np.abs(weights @ gaps).sum(1) / np.maximum(1, weights @ seen),
            "nll": nll,
            "loss": nll,
        }


def _mean(values: Array, *, median: bool = False) -> Array:
    """Mean or median of each row over its defined values, [b]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a row with only NaN is NaN
        found: Array = np.nanmedian(values, axis=1) if median else np.nanmean(values, axis=1)
    return found


def _regression(outputs: Array, labels: NDArray[np.generic], draws: _Resamples) -> Iterator[dict[str, Array]]:
    targets = list(zip(outputs.reshape(len(outputs), -1).T, labels.reshape(len(labels), -1).T, strict=True))
    for drawn in draws:
        weights = drawn[:, draws.unit]
        each = [_fit(weights, guess, truth.astype(np.float64)) for guess, truth in targets]
        yield {name: np.mean([one[name] for one in each], axis=0) for name in each[0]}


def _fit(weights: Weights, guess: Array, truth: Array) -> dict[str, Array]:
    """The metrics of one target in each resample."""
    return {
        "pearson": _correlation(weights, guess, truth),
        "spearman": _correlation(weights, _ranks(weights, guess), _ranks(weights, truth)),
        "mse": weights @ (guess - truth) ** 2 / weights.sum(1),
    }


def _correlation(weights: Weights, x: Array, y: Array) -> Array:
    """Pearson's correlation of x and y, [n] or [b, n], under weights [b, n]; NaN where one is constant."""
    (x, x_spread), (y, y_spread) = _centred(weights, x), _centred(weights, y)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Array = (weights * x * y).sum(1) / np.sqrt(x_spread * y_spread)
    return found


def _centred(weights: Weights, values: Array) -> tuple[Array, Array]:
    """Values minus their weighted mean, [b, n], and their weighted squares, [b]; NaN if these are only rounding
    errors."""
    values = values - values.mean(axis=-1, keepdims=True)
    largest = np.abs(values).max(axis=-1)
    total = weights.sum(1)
    values = values - (weights * values).sum(1, keepdims=True) / total[:, None]
    squares = (weights * values * values).sum(1)
    return values, np.where(squares > total * (1e-12 * largest) ** 2, squares, np.nan)


def _ranks(weights: Weights, values: Array) -> Array:
    """Mean rank of each value among the drawn ones, [b, n]."""
    kinds, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(kinds)))
    drawn = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(drawn, axis=1) - drawn / 2
    return middle[:, place]
