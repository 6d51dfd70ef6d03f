"""Intervals of scores, their text, and the criterion for scores that are no better than a constant prediction."""

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from harness.runs.record import Record
from lingo.metrics import RANGES, UNINFORMED, merit

LEAST_SEEDS = 3
"""Minimum number of seeds for a spread; fewer seeds are listed. Student's factor is 12.7 for two, 4.3 for three."""

EQUAL = 1e-12
"""Scores and spreads that differ by less are equal up to rounding."""

NO_BETTER = "no better than a constant"
"""Caveat of a final run whose test score a constant prediction reaches as well."""

Interval = tuple[float, float]


def range_of(metric: str) -> Interval:
    """Lowest and highest value of a metric; infinite for unknown metrics."""
    return RANGES.get(metric, (-math.inf, math.inf))


def usable(limits: Sequence[float] | None, metric: str) -> Interval | None:
    """Limits clipped to a metric's range; `None` if undefined or of zero width."""
    if not limits or not all(map(math.isfinite, limits)):
        return None
    lowest, highest = range_of(metric)
    low, high = max(limits[0], lowest), min(limits[1], highest)
    return (low, high) if high - low > EQUAL else None


def over_rows_and_seeds(
    resamples: Sequence[Sequence[float]], scores: Sequence[float], bounds: Interval
) -> Interval | None:
    """95 % interval of the mean score of a method over test rows and seeds: a bootstrap of both together.

    Every resample draws rows, the same for all seeds (whose scores on them are given), and seeds, both with
    replacement. A bootstrap of few seeds is too narrow; deviations of the drawn seeds' mean are therefore multiplied
    by √(n/(n-1)) · t/z, the ratio of Student's and the normal quantile (after Hesterberg 2015, arXiv:1411.5279). The
    interval is given by percentiles, extended to include the mean and clipped to the range. For a difference of two
    methods both arguments are the paired differences by seed.

    Args:
        resamples: Score of each seed in each resample of the rows, `[seeds, resamples]`; NaN where undefined.
        scores: Score of each seed.
        bounds: Lowest and highest possible mean.

    Returns:
        `None` for fewer than three seeds, an undefined score, more than half of the resamples undefined, or no
        variation.
    """
    from scipy.special import ndtri, stdtrit

    n = len(scores)
    if n < LEAST_SEEDS or any(map(math.isnan, scores)) or len({len(one) for one in resamples}) != 1:
        return None
    means = np.asarray(resamples, dtype=np.float64).mean(axis=0)
    seeds = np.random.default_rng(0).integers(0, n, (len(means), n))
    own = np.asarray(scores, dtype=np.float64)
    wider = math.sqrt(n / (n - 1)) * stdtrit(n - 1, 0.975) / ndtri(0.975)
    drawn = (means + wider * (own[seeds].mean(axis=1) - own.mean()))[~np.isnan(means)]
    if 2 * len(drawn) < len(means):
        return None
    low, high = np.percentile(drawn, [2.5, 97.5])
    low, high = max(min(low, own.mean()), bounds[0]), min(max(high, own.mean()), bounds[1])
    return (float(low), float(high)) if high - low > EQUAL else None


def limits_of(finals: Sequence[Record], metric: str) -> Interval | None:
    """95 % limits of the mean test score of a study's final runs.

    Over test rows and seeds if the runs have the fact `resamples`; for runs of earlier versions over test rows only,
    averaged over seeds. `None` for fewer than three seeds, and as in `over_rows_and_seeds`.
    """
    held = [(record.facts.get("resamples") or {}).get(metric) for record in finals]
    if finals and all(held):
        scores = [(record.test or {}).get(metric, math.nan) for record in finals]
        return over_rows_and_seeds([one for one in held if one], scores, range_of(metric))
    pairs = [usable((record.facts.get("interval") or {}).get(metric), metric) for record in finals]
    known = [pair for pair in pairs if pair is not None]
    if len(known) < max(LEAST_SEEDS, len(pairs)):
        return None
    lows, highs = zip(*known, strict=True)
    return statistics.fmean(lows), statistics.fmean(highs)


def difference_limits(a: Mapping[int, Record], b: Mapping[int, Record], metric: str) -> Interval | None:
    """95 % limits of the difference a - b of two methods on one test split over test rows and seeds, paired by both.

    Args:
        a, b: Final runs by seed; common seeds are used.

    Returns:
        `None` as in `over_rows_and_seeds`, without the fact `resamples`, and if the test rows differ, judged by the
        score of a constant prediction.
    """
    pairs = [(a[seed], b[seed]) for seed in sorted(a.keys() & b.keys())]
    drawn = [[(r.facts.get("resamples") or {}).get(metric) or [] for r in pair] for pair in pairs]
    same = all(x.facts.get("constant") == y.facts.get("constant") for x, y in pairs)
    if not same or not all(len(x) == len(y) > 0 for x, y in drawn):
        return None
    scores = [(x.test or {}).get(metric, math.nan) - (y.test or {}).get(metric, math.nan) for x, y in pairs]
    low, high = range_of(metric)
    differences = [[p - q for p, q in zip(x, y, strict=True)] for x, y in drawn]
    return over_rows_and_seeds(differences, scores, (low - high, high - low))


def brackets(low: float, high: float, digits: int = 3) -> str:
    """`[0.720, 0.750]`, with more digits if the two ends would look the same."""
    while digits < 9 and f"{low:.{digits}f}" == f"{high:.{digits}f}":
        digits += 1
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def all_equal(values: Sequence[float]) -> bool:
    """Whether there are several scores and all are equal."""
    return len(values) > 1 and max(values) - min(values) <= EQUAL


def why_none(values: Sequence[float]) -> str:
    """Why the scores of these seeds have no interval; empty if they have one."""
    if any(map(math.isnan, values)):
        return "undefined"
    if len(values) < LEAST_SEEDS:
        return f"{('no seed', 'one seed', 'two seeds')[len(values)]}, no interval"
    return "all seeds equal, no interval" if all_equal(values) else ""


def with_spread(values: Sequence[float], digits: int = 3) -> str:
    """The mean over seeds with its spread as text.

    `0.630 ± 0.062` (sample standard deviation) from three seeds on, `0.725 (0.610, 0.840)` for two,
    `0.500 (all 3 equal)` without spread, `0.500` for one seed, `undefined` if a score is; empty without scores.
    """
    if not values:
        return ""
    mean = statistics.fmean(values)
    text = f"{mean:.{digits}f}"
    if math.isnan(mean):
        return "undefined"
    if len(values) == 1:
        return text
    if all_equal(values):
        return f"{text} (both equal)" if len(values) == 2 else f"{text} (all {len(values)} equal)"
    if len(values) < LEAST_SEEDS:
        return f"{text} ({', '.join(f'{value:.{digits}f}' for value in values)})"
    return f"{text} ± {statistics.stdev(values):.{digits}f}"


# --- what a constant prediction reaches -------------------------------------------------------------------


def constant_level(metric: str, constants: Sequence[Mapping[str, float]] = ()) -> float:
    """The score of a constant prediction: mean of the measured ones (fact `constant`), else the value that holds for
    any labels; NaN if neither is known."""
    measured = [scores[metric] for scores in constants if scores.get(metric) is not None]
    return statistics.fmean(measured) if measured else UNINFORMED.get(metric, math.nan)


def no_better(metric: str, test: Mapping[str, float], constant: Mapping[str, float]) -> bool:
    """Whether a constant prediction is as good as a model: by `metric`, for a regression by its squared error.

    Args:
        metric: The selection metric.
        test: Test scores of the model; undefined ones are not compared.
        constant: Test scores of the constant prediction (`lingo.metrics.constant_scores`); may be empty.
    """
    return any(
        name in test and merit(name, test[name]) <= merit(name, constant_level(name, [constant]))
        for name in (metric, "mse")
    )


def is_collapsed(collapsed: int, runs: int) -> bool:
    """Whether a study counts as collapsed: at least half of its final runs predict the same for every row."""
    return collapsed > 0 and 2 * collapsed >= runs


def is_useful(
    metric: str,
    values: Sequence[float],
    *,
    collapsed: int = 0,
    constants: Sequence[Mapping[str, float]] = (),
) -> bool:
    """Whether a study is eligible as best: its score is defined, it is not collapsed, and on average above a constant
    prediction.

    Args:
        metric, values: Its test scores by seed.
        collapsed: Seeds whose model predicts the same for every row.
        constants: Measured scores of a constant prediction, for each seed.
    """
    if not values or any(map(math.isnan, values)) or is_collapsed(collapsed, len(values)):
        return False
    level = constant_level(metric, constants)
    return math.isnan(level) or merit(metric, statistics.fmean(values)) > merit(metric, level)
