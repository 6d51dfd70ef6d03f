"""When a spread may stand as an interval, how a score is written with it, and when a study's score is of no use."""

import math
import statistics
from collections.abc import Mapping, Sequence

from lingo.metrics import RANGES, UNINFORMED, merit

LEAST_SEEDS = 3
"""Seeds from which a spread is shown; of fewer their scores are. Student's factor is 12.7 for two, 4.3 for three."""

EQUAL = 1e-12
"""Scores and spreads that differ by less are equal but for rounding."""

NO_BETTER = "no better than a constant"
"""Mark of a final run whose test score a constant prediction reaches as well."""

Interval = tuple[float, float]


def range_of(metric: str) -> Interval:
    """Lowest and highest value of a metric; infinite for one that is not known."""
    return RANGES.get(metric, (-math.inf, math.inf))


def usable(limits: Sequence[float] | None, metric: str) -> Interval | None:
    """Limits of a metric that can be shown, cut to its range; `None` for undefined ones and those without a width."""
    if not limits or not all(map(math.isfinite, limits)):
        return None
    lowest, highest = range_of(metric)
    low, high = max(limits[0], lowest), min(limits[1], highest)
    return (low, high) if high - low > EQUAL else None


def brackets(low: float, high: float, digits: int = 3) -> str:
    """`[0.720, 0.750]`, with more digits where the two ends would look the same."""
    while digits < 9 and f"{low:.{digits}f}" == f"{high:.{digits}f}":
        digits += 1
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def all_equal(values: Sequence[float]) -> bool:
    """Whether several scores are one and the same."""
    return len(values) > 1 and max(values) - min(values) <= EQUAL


def why_none(values: Sequence[float]) -> str:
    """Why the scores of these seeds have no interval; empty where they have one."""
    if any(map(math.isnan, values)):
        return "undefined"
    if len(values) < LEAST_SEEDS:
        return f"{('no seed', 'one seed', 'two seeds')[len(values)]}, no interval"
    return "all seeds equal, no interval" if all_equal(values) else ""


def with_spread(values: Sequence[float], digits: int = 3) -> str:
    """The mean over seeds, and what is known of its spread.

    `0.630 ± 0.062` (sample standard deviation) from three seeds on, `0.725 (0.610, 0.840)` for two,
    `0.500 (all 3 equal)` where there is no spread, `0.500` for one seed, `undefined` where a score is; empty without
    a score.
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
    """What a constant prediction scores: mean of what was measured (fact `constant`), else what holds for any labels.

    NaN where neither is known.
    """
    measured = [scores[metric] for scores in constants if scores.get(metric) is not None]
    return statistics.fmean(measured) if measured else UNINFORMED.get(metric, math.nan)


def no_better(metric: str, test: Mapping[str, float], constant: Mapping[str, float]) -> bool:
    """Whether a constant prediction is as good as a model: by `metric`, or of a regression by its squared error.

    Args:
        metric: The one that selects.
        test: Test scores of the model. What is undefined there is not compared.
        constant: Test scores of the constant prediction (`lingo.metrics.constant_scores`); may be empty.
    """
    return any(
        name in test and merit(name, test[name]) <= merit(name, constant_level(name, [constant]))
        for name in (metric, "mse")
    )


def is_collapsed(collapsed: int, runs: int) -> bool:
    """Whether a study counts as collapsed: at least half of its final runs predict one thing for every row."""
    return collapsed > 0 and 2 * collapsed >= runs


def is_useful(
    metric: str,
    values: Sequence[float],
    *,
    collapsed: int = 0,
    constants: Sequence[Mapping[str, float]] = (),
) -> bool:
    """Whether a study may be called best: defined, not collapsed, and on average above a constant prediction.

    Args:
        metric, values: Its test scores by seed.
        collapsed: Seeds whose model predicts one thing for every row.
        constants: What was measured of a constant prediction, of each seed.
    """
    if not values or any(map(math.isnan, values)) or is_collapsed(collapsed, len(values)):
        return False
    level = constant_level(metric, constants)
    return math.isnan(level) or merit(metric, statistics.fmean(values)) > merit(metric, level)
