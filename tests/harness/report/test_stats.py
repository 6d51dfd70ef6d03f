"""The report's statistics against scipy, scikit-learn, published tables and brute force."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.report import stats
from harness.runs.front import pareto_front

RNG = np.random.default_rng(3)


def test_paired_t_is_scipys_with_its_interval():
    a, b = RNG.normal(0.7, 0.1, 10), RNG.normal(0.65, 0.1, 10)
    for alternative in ("two-sided", "greater", "less"):
        expected = scipy_stats.ttest_rel(a, b, alternative=alternative)
        found = stats.paired_t(list(a), list(b), alternative)
        assert (found.n, found.t, found.p) == (
            10,
            pytest.approx(expected.statistic),
            pytest.approx(expected.pvalue),
        )
    low, high = scipy_stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize(("a", "b"), [([], []), ([0.5], [0.4]), ([0.5, 0.6, 0.7], [0.4, 0.5, 0.6])])
def test_a_test_without_a_spread_is_undefined(a, b):
    found = stats.paired_t(a, b)
    assert math.isnan(found.p) and math.isnan(found.t)


def closed_bonferroni(ps):
    """Holm by its definition: the closure of Bonferroni's test over all subsets of hypotheses."""
    adjusted = []
    for i in range(len(ps)):
        subsets = itertools.chain.from_iterable(
            itertools.combinations(range(len(ps)), n) for n in range(1, len(ps) + 1)
        )
        adjusted.append(max(min(1.0, len(s) * min(ps[j] for j in s)) for s in subsets if i in s))
    return adjusted


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_the_closure_of_bonferroni(seed):
    ps = list(np.random.default_rng(seed).uniform(0, 0.3, 6))
    assert stats.holm(ps) == pytest.approx(closed_bonferroni(ps))


def test_holm_passes_over_what_is_undefined():
    assert stats.holm([0.01, math.nan, 0.04])[::2] == pytest.approx([0.02, 0.04])
    assert math.isnan(stats.holm([0.01, math.nan])[1])
    assert stats.holm([]) == []


@pytest.mark.parametrize(
    ("k", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (10, 3.164)]
)
def test_critical_difference_has_the_constants_of_demsar(k, q):
    """Table 5a of Demšar 2006; his constants are rounded to three decimals."""
    n = 30
    assert stats.critical_difference(k, n) == pytest.approx(q * math.sqrt(k * (k + 1) / (6 * n)), rel=5e-4)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_few_blocks_tell_nothing_apart(k):
    """With five pairs even one that wins all is not significant by the exact sign test; with six it is."""
    assert scipy_stats.binomtest(5, 5).pvalue > 0.05 > scipy_stats.binomtest(6, 6).pvalue
    assert stats.critical_difference(k, 5) == math.inf > stats.critical_difference(k, 6)
    won = stats.ranking({"a": [1.0] * 4, "b": [0.0] * 4})
    assert won.cliques == [(0, 1)]


def test_ranking_and_friedman():
    scores = RNG.normal(0, 1, (4, 12)) + np.array([[0.0], [0.5], [1.0], [2.0]])
    found = stats.ranking({name: list(row) for name, row in zip("abcd", scores, strict=True)})
    expected = dict(zip("abcd", scipy_stats.rankdata(-scores, axis=0).mean(axis=1), strict=True))
    assert dict(zip(found.names, found.ranks, strict=True)) == pytest.approx(expected)
    assert list(found.ranks) == sorted(found.ranks)
    assert found.p == pytest.approx(scipy_stats.friedmanchisquare(*scores).pvalue)


def test_ties_share_their_rank_and_bars_join_what_is_near():
    found = stats.ranking({"a": [1.0, 1.0], "b": [1.0, 0.5], "c": [0.0, 0.0]})
    assert found.ranks == (1.25, 1.75, 3.0)
    assert stats.Ranking(("a", "b", "c"), (1.0, 1.5, 3.0), 9, 0.1, 1.6).cliques == [(0, 1), (1, 2)]
    assert stats.Ranking(("a", "b", "c"), (1.0, 1.5, 3.0), 9, 0.1, 0.4).cliques == []


def brute_front(points):
    def beaten(p, q):
        return q[0] <= p[0] and q[1] >= p[1] and q != p

    return {i for i, p in enumerate(points) if not any(beaten(p, q) for q in points)}


@pytest.mark.parametrize("seed", range(20))
def test_pareto_front_is_what_nothing_beats(seed):
    rng = np.random.default_rng(seed)
    points = [(float(x), float(y)) for x, y in rng.integers(0, 6, (12, 2))]
    assert set(pareto_front(points)) == brute_front(points)


def test_pareto_front_leaves_out_what_is_unknown():
    assert pareto_front([(1.0, math.nan), (2.0, 0.5), (math.nan, 0.9)]) == [1]


def test_intervals_of_one_dataset_are_students():
    values = list(RNG.normal(0.5, 0.1, 5))
    low, high = scipy_stats.t.interval(0.95, 4, np.mean(values), scipy_stats.sem(values))
    found = stats.estimate([values])
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high)) == stats.t_interval(values)
    # One more run of the same kind: the interval is wider by sqrt(1 + n).
    assert found.single_high - found.mean == pytest.approx((high - found.mean) * math.sqrt(6))


def test_intervals_over_datasets_are_welchs():
    a, b = list(RNG.normal(0.5, 0.1, 5)), list(RNG.normal(0.6, 0.02, 4))
    found = stats.estimate([a, [-x for x in b]])
    expected = scipy_stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (2 * found.low, 2 * found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert found.mean == pytest.approx((np.mean(a) - np.mean(b)) / 2)


def test_the_single_run_interval_covers_single_runs():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(1500):
        draws = rng.normal(0, 0.01, (3, 6))
        found = stats.estimate(draws[:, :5].tolist())
        inside += found.single_low <= draws[:, 5].mean() <= found.single_high
    assert 0.93 < inside / 1500 < 0.975


def test_too_little_is_undefined():
    assert math.isnan(stats.estimate([]).mean) and math.isnan(stats.estimate([[0.5], []]).mean)
    one = stats.estimate([[0.5]])
    assert one.mean == 0.5 and math.isnan(one.low)
    assert math.isnan(stats.ranking({}).critical)
    assert math.isnan(stats.sd([0.5])) and math.isnan(stats.mean([]))
