"""The statistics of the report: spread over seeds, paired tests, ranks and fronts. NaN where undefined."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from harness.runs.intervals import EQUAL, LEAST_SEEDS, Interval, all_equal, range_of, why_none

NAN = float("nan")
LEVEL = 0.95
"""Level of every interval."""

LEAST_BLOCKS = 6
"""Minimum blocks for distinguishing ranks: 5 wins of 5 have p = 0.06 in a two-sided sign test, 6 of 6 have 0.03."""

UNBOUNDED: Interval = (-math.inf, math.inf)
Alternative = Literal["two-sided", "greater", "less"]


def mean(values: Sequence[float]) -> float:
    """Mean; NaN without values or if one is NaN."""
    return statistics.fmean(values) if values else NAN


def sd(values: Sequence[float]) -> float:
    """Sample standard deviation (n - 1); NaN for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 and not any(map(math.isnan, values)) else NAN


def difference_range(metric: str) -> Interval:
    """Lowest and highest difference of two scores in a metric."""
    low, high = range_of(metric)
    return low - high, high - low


def t_interval(values: Sequence[float], bounds: Interval = UNBOUNDED, level: float = LEVEL) -> Interval:
    """Student's interval of the mean over seeds, clipped to the range of the metric.

    (NaN, NaN) for fewer than three values, where Student's factor (12.7 for two) makes it wider than the range of most
    metrics, and for equal values, which do not measure a spread. Clipping does not reduce coverage, since the true mean
    is within the range. An unbounded scale (logit, Fisher's z) would also respect the range, but is undefined for
    scores of 0 or 1, and is centred on a different mean than the one shown.

    Args:
        bounds: Lowest and highest possible mean (`harness.runs.intervals.range_of`).
    """
    if len(values) < LEAST_SEEDS or all_equal(values):
        return NAN, NAN
    return _around(mean(values), sd(values) / math.sqrt(len(values)), len(values) - 1, bounds, level)


def over_random(
    metric: str, pretrained: Mapping[int, float], random: Mapping[int, float]
) -> tuple[list[float], Interval]:
    """(differences of the scores by seed, in the seeds that both have; 95 % interval of their mean over seeds)."""
    by = [pretrained[seed] - random[seed] for seed in sorted(pretrained.keys() & random.keys())]
    return by, t_interval(by, difference_range(metric))


def _around(
    centre: float, error: float, df: float, bounds: Interval = UNBOUNDED, level: float = LEVEL
) -> Interval:
    if not (error > EQUAL and df > 0 and bounds[0] <= centre <= bounds[1]):
        return NAN, NAN
    half = float(stats.t.ppf((1 + level) / 2, df)) * error
    return max(centre - half, bounds[0]), min(centre + half, bounds[1])


@dataclass(frozen=True)
class Estimate:
    """A mean over datasets with its uncertainty over seeds.

    Attributes:
        mean: The estimate.
        low, high: 95 % interval of the mean over seeds.
        single_low, single_high: 95 % prediction interval of a single new run (one seed per dataset), with which a
            published number without a spread is compared.
        datasets: Datasets averaged.
        seeds: Minimum number of seeds of a dataset.
        error, df: Standard error of the mean, and its degrees of freedom.
        why: Reason why there is no interval; empty if there is one.
        points: For a single dataset, its values by seed.
    """

    mean: float
    low: float = NAN
    high: float = NAN
    single_low: float = NAN
    single_high: float = NAN
    datasets: int = 1
    seeds: int = 0
    error: float = NAN
    df: float = NAN
    why: str = ""
    points: tuple[float, ...] = ()


def estimate(groups: Sequence[Sequence[float]], bounds: Interval = UNBOUNDED) -> Estimate:
    """Mean over datasets of the means over seeds; only seeds are a source of error, the datasets are fixed.

    With s_d² and n_d of dataset d of D, the variance of the mean is Σ s_d²/n_d / D², that of a single run
    Σ s_d²(1 + 1/n_d) / D²; degrees of freedom by Welch and Satterthwaite. Intervals as in `t_interval`: for at
    least three seeds of each dataset, not all equal, and clipped to `bounds`.

    Args:
        groups: For each dataset its values (or paired differences) by seed.
        bounds: Lowest and highest possible value.
    """
    if not groups or not all(groups):
        return Estimate(NAN, datasets=len(groups), why="not measured")
    centre, fewest = mean([mean(group) for group in groups]), min(map(len, groups))
    found = Estimate(
        centre, datasets=len(groups), seeds=fewest, points=tuple(groups[0]) if len(groups) == 1 else ()
    )
    short = min(groups, key=len)
    if math.isnan(centre) or fewest < LEAST_SEEDS or all(map(all_equal, groups)):
        return replace(found, why=why_none(short) if centre == centre else "undefined")
    parts = [(sd(group) ** 2, len(group)) for group in groups]
    error, df = _welch([(s2 / n, n - 1) for s2, n in parts], len(groups))
    one = _welch([(s2 * (1 + 1 / n), n - 1) for s2, n in parts], len(groups))
    low, high = _around(centre, error, df, bounds)
    single_low, single_high = _around(centre, *one, bounds)
    why = "" if low == low else "all seeds equal, no interval"
    return replace(
        found, low=low, high=high, single_low=single_low, single_high=single_high, error=error, df=df, why=why
    )


def _welch(parts: Sequence[tuple[float, int]], count: int) -> tuple[float, float]:
    """(standard error, degrees of freedom) of a mean of `count` terms with these (variance, df)."""
    total, below = sum(v for v, _ in parts), sum(v * v / df for v, df in parts)
    return math.sqrt(total) / count, total * total / below if below else float(sum(df for _, df in parts))


@dataclass(frozen=True)
class PairedTest:
    """A paired t-test of a - b.

    Attributes:
        n: Pairs.
        difference: Mean of a - b.
        low, high: 95 % interval of the mean difference (two-sided); NaN as in `t_interval`.
        t, p: Statistic and p-value; NaN for fewer than two pairs or equal differences.
    """

    n: int
    difference: float
    low: float
    high: float
    t: float
    p: float


def paired_t(
    a: Sequence[float],
    b: Sequence[float],
    alternative: Alternative = "two-sided",
    bounds: Interval = UNBOUNDED,
) -> PairedTest:
    """Student's paired t-test of values in the same order (as the paper's figures 4a and 4b, `greater`).

    Args:
        bounds: Lowest and highest possible difference.
    """
    differences = [x - y for x, y in zip(a, b, strict=True)]
    centre, spread = mean(differences), sd(differences)
    low, high = t_interval(differences, bounds)
    if not spread > EQUAL:  # NaN, or equal differences up to rounding
        return PairedTest(len(differences), centre, low, high, NAN, NAN)
    found = stats.ttest_rel(a, b, alternative=alternative)
    return PairedTest(len(differences), centre, low, high, float(found.statistic), float(found.pvalue))


def holm(ps: Sequence[float]) -> list[float]:
    """p-values adjusted for the family-wise error by Holm (1979), in the given order; NaN is kept and not counted."""
    known = sorted((p, i) for i, p in enumerate(ps) if not math.isnan(p))
    adjusted, highest = [NAN] * len(ps), 0.0
    for place, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - place)))
        adjusted[i] = highest
    return adjusted


@dataclass(frozen=True)
class Ranking:
    """Mean ranks with Friedman's test and Nemenyi's critical difference (Demšar 2006, JMLR 7, section 3.2.2).

    Attributes:
        names: In order of mean rank; 1 is best, ties share their mean rank.
        ranks: Mean rank of each.
        blocks: Datasets (x backbones) ranked.
        p: Friedman's p-value; NaN for fewer than three names or two blocks.
        critical: Mean ranks that differ by less cannot be distinguished at 5 %; infinite for too few blocks.
    """

    names: tuple[str, ...]
    ranks: tuple[float, ...]
    blocks: int
    p: float
    critical: float

    @property
    def tied(self) -> tuple[str, ...]:
        """The names that share the best mean rank."""
        return tuple(n for n, r in zip(self.names, self.ranks, strict=True) if r <= self.ranks[0] + 1e-9)

    @property
    def cliques(self) -> list[tuple[int, int]]:
        """Maximal ranges (first, last) of at least two names that cannot be distinguished."""
        runs: list[tuple[int, int]] = []
        for first in range(len(self.names)):
            last = max(
                i for i, r in enumerate(self.ranks) if r - self.ranks[first] < self.critical or i == first
            )
            if last > first and (not runs or last > runs[-1][1]):
                runs.append((first, last))
        return runs


def ranking(scores: Mapping[str, Sequence[float]]) -> Ranking:
    """Rank names within each block; higher scores are better.

    Args:
        scores: For each name its score in every block, in the same order; no NaN.
    """
    names = list(scores)
    blocks = min((len(values) for values in scores.values()), default=0)
    if not blocks:
        return Ranking(tuple(names), (), 0, NAN, NAN)
    table = np.array([scores[name] for name in names], dtype=float)
    ranks = stats.rankdata(-table, axis=0).mean(axis=1)
    order = sorted(range(len(names)), key=lambda i: (ranks[i], i))
    return Ranking(
        tuple(names[i] for i in order),
        tuple(float(ranks[i]) for i in order),
        blocks,
        _friedman(table),
        critical_difference(len(names), blocks),
    )


def _friedman(table: NDArray[np.float64]) -> float:
    if table.shape[0] < 3 or table.shape[1] < 2 or not np.ptp(table, axis=0).any():
        return NAN
    return float(stats.friedmanchisquare(*table).pvalue)


def critical_difference(names: int, blocks: int, alpha: float = 0.05) -> float:
    """Nemenyi's critical difference q_α √(k(k+1) / 6N), q_α from the studentized range over √2 (Demšar 2006).

    Infinite for fewer than `LEAST_BLOCKS` blocks, where its approximation is stronger than an exact test.
    """
    if names < 2:
        return NAN
    if blocks < LEAST_BLOCKS:
        return math.inf
    q = float(stats.studentized_range.ppf(1 - alpha, names, np.inf)) / math.sqrt(2)
    return q * math.sqrt(names * (names + 1) / (6 * blocks))
