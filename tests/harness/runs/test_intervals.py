"""Intervals and spreads: which samples have one, that it holds its score and lies in the range, and the words."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from harness.report import stats
from harness.report.leaderboard import leaderboard, plain
from harness.report.outcomes import outcomes_of
from harness.report.run_results import RunResults
from harness.runs.intervals import LEAST_SEEDS, brackets, is_useful, no_better, range_of, usable, with_spread
from harness.tracking.study import Summary
from harness.workers.confidence import intervals
from lingo.metrics import NAMES, RANGES, constant_scores, score
from tests.support.paper_like import record

METRICS = sorted(RANGES)


@st.composite
def seeds_of(draw, most=6):
    """A metric, and scores of some seeds in its range, often equal or at its ends."""
    metric = draw(st.sampled_from(METRICS))
    low, high = range_of(metric)
    one = st.floats(low, min(high, 50.0)) | st.sampled_from([low, min(high, 50.0), 0.5])
    return metric, draw(st.lists(one, min_size=1, max_size=most))


def holds(mean, low, high, metric):
    lowest, highest = range_of(metric)
    return lowest <= low <= mean <= high <= highest and high > low


@settings(max_examples=100, deadline=None)
@example(("mcc", [0.603, 0.849]))
@example(("mcc", [0.0, 0.0, 0.0]))
@example(("auroc", [1.0, 1.0, 0.4]))
@given(seeds_of())
def test_an_interval_over_seeds_holds_its_mean_inside_the_range_or_is_not_there(given_):
    metric, values = given_
    found = stats.estimate([values], range_of(metric))
    low, high = stats.t_interval(values, range_of(metric))
    assert (found.why == "") == (low == low) == (found.low == found.low)
    if low != low:
        assert math.isnan(high) and math.isnan(found.high) and math.isnan(found.single_high)
        assert len(values) < LEAST_SEEDS or max(values) - min(values) <= 1e-9
        assert found.why in (
            "one seed, no interval",
            "two seeds, no interval",
            "all seeds equal, no interval",
        )
        return
    assert len(values) >= LEAST_SEEDS
    assume(low <= statistics.fmean(values) <= high)  # but for rounding at the range's ends
    assert holds(found.mean, low, high, metric)
    assert holds(found.mean, found.single_low, found.single_high, metric)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.floats(-1, 1), min_size=1, max_size=5), min_size=1, max_size=4))
def test_an_interval_over_datasets_needs_three_seeds_of_each(groups):
    found = stats.estimate(groups, (-1.0, 1.0))
    if min(map(len, groups)) < LEAST_SEEDS:
        assert math.isnan(found.low) and "seed" in found.why
    elif found.low == found.low:
        assert -1 <= found.low < found.high <= 1 and found.low <= found.mean <= found.high
    else:
        assert found.why == "all seeds equal, no interval"


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["classification", "multilabel", "regression"]),
    st.integers(1, 12),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["drawn", "constant", "faultless", "one label", "nearly constant"]),
)
def test_an_interval_over_rows_holds_its_score_inside_the_range_or_is_not_there(kind, rows, seed, case):
    rng = np.random.default_rng(seed)
    if kind == "classification":
        labels = rng.integers(0, 2, rows)
        logits = rng.normal(size=(rows, 2)).round(1)
    else:
        labels = rng.integers(0, 2, (rows, 3)) if kind == "multilabel" else rng.normal(size=rows).round(1)
        logits = rng.normal(size=(rows, 3 if kind == "multilabel" else 1)).round(1)
    if case == "constant":
        logits = np.full_like(logits, 0.1)
    if case == "nearly constant":
        logits = np.full_like(logits, 0.3) + 1e-17 * rng.normal(size=logits.shape)
    if case == "one label":
        labels = np.ones_like(labels)
    if case == "faultless":
        logits = np.eye(2)[labels] if kind == "classification" else labels.reshape(rows, -1).astype(float)
    found = intervals(kind, logits, labels, rng=rng, resamples=60)
    scores = score(kind, logits, labels)
    assert set(found) <= set(NAMES[kind])
    for name, (low, high) in found.items():
        assert holds(scores[name], low, high, name), name
    if case == "constant":
        assert not {"mcc", "auroc", "pearson", "spearman", "auprc"} & set(found) - {"auprc"}


def test_two_seeds_show_their_scores_and_three_their_spread():
    assert with_spread([0.603, 0.849]) == "0.726 (0.603, 0.849)"
    assert with_spread([0.61, 0.58, 0.7]) == "0.630 ± 0.062"
    assert (
        with_spread([0.0, 0.0, 0.0]) == "0.000 (all 3 equal)"
        and with_spread([0.5, 0.5]) == "0.500 (both equal)"
    )
    assert (with_spread([0.5]), with_spread([]), with_spread([0.5, math.nan])) == ("0.500", "", "undefined")


def test_limits_of_older_records_are_looked_at_again():
    assert usable([0.0, 0.0], "mcc") is None and usable([math.nan, math.nan], "mcc") is None
    assert usable(None, "mcc") is None and usable([-1.2, 2.3], "mcc") == (-1.0, 1.0)
    assert usable([-1.0, 2.0], "mse") == (0.0, 2.0) and usable([-7.0, 9.0], "another") == (-7.0, 9.0)
    assert brackets(0.50001, 0.50002) == "[0.50001, 0.50002]" and brackets(0.1, 0.2) == "[0.100, 0.200]"


def finals(scores, **values):
    rng = np.random.default_rng(0)
    return [
        record("EMP/H3", "opt-125m", "lora", "final", seed, value, rng, **values)
        for seed, value in enumerate(scores)
    ]


@pytest.mark.parametrize(
    ("scores", "limits", "words"),
    [
        ([0.603, 0.849], [0.5, 0.8], "0.726 (0.603, 0.849)"),
        ([0.5, 0.5, 0.5], [0.4, 0.8], "0.500 (all 3 equal) [0.400, 0.800]"),
        ([0.0, 0.0, 0.0], [0.0, 0.0], "0.000 (all 3 equal)"),
        ([math.nan] * 3, [math.nan, math.nan], "undefined"),
    ],
)
def test_no_table_shows_an_interval_that_is_none(scores, limits, words):
    made = [
        r.__class__(**{**r.__dict__, "facts": {**r.facts, "interval": {"mcc": limits}}})
        for r in finals(scores)
    ]
    text = plain(leaderboard(made))
    assert words in text and "nan" not in text
    (outcome,) = outcomes_of([RunResults(folder="run", trials=list(made))])
    assert math.isnan(outcome.interval[0])
    assert math.isnan(outcome.bootstrap[0]) == (limits[0] != 0.4)
    assert ("no [ ]: " in text) == (limits[0] != 0.4)


@pytest.mark.parametrize(("scores", "there"), [([0.2], False), ([0.2, 0.3], False), ([0.2, 0.3, 0.5], True)])
def test_mlflow_has_a_deviation_from_three_seeds_on(scores, there):
    summary = Summary("mcc")
    for item in finals(scores):
        summary.add(item)
    metrics = summary.standing(None).metrics
    assert metrics["test/mcc_mean"] == pytest.approx(statistics.fmean(scores))
    assert ("test/mcc_sd" in metrics) == there


# --- models of no use -------------------------------------------------------------------------------------


def test_what_a_constant_prediction_scores():
    labels = np.array([0, 0, 0, 1])
    found = constant_scores("classification", np.array([1, 1, 0]), labels)
    guess = score("classification", np.array([[0.0, 1.0]] * 4), labels)
    decided = ("accuracy", "f1", "mcc", "auroc", "auprc")
    assert [found[name] for name in decided] == pytest.approx([guess[name] for name in decided])
    assert found["accuracy"] == 0.25 and found["nll"] == pytest.approx(
        -np.log([1 / 3, 2 / 3]) @ [3 / 4, 1 / 4]
    )
    truth = np.array([1.0, 2.0, 4.0])
    assert constant_scores("regression", np.array([2.0, 4.0]), truth) == pytest.approx(
        {"pearson": 0.0, "spearman": 0.0, "mse": (4 + 1 + 1) / 3}
    )
    many = constant_scores("multilabel", np.eye(3), np.array([[0, 1, 1], [1, 1, 0], [0, 1, 0]]))
    assert many["auroc"] == 0.5 and many["auprc"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("metric", "test", "constant", "useless"),
    [
        ("mcc", {"mcc": 0.0}, {}, True),
        ("mcc", {"mcc": -0.1}, {}, True),
        ("mcc", {"mcc": 0.01}, {"mcc": 0.0}, False),
        ("mcc", {"mcc": math.nan}, {}, False),
        ("auroc", {"auroc": 0.5}, {}, True),
        ("accuracy", {"accuracy": 0.8}, {"accuracy": 0.8}, True),
        ("accuracy", {"accuracy": 0.8}, {}, False),
        ("pearson", {"pearson": 0.4, "mse": 2.0}, {"mse": 1.5}, True),
        ("pearson", {"pearson": 0.4, "mse": 1.0}, {"mse": 1.5}, False),
        ("pearson", {"pearson": -0.4, "mse": 1.0}, {}, True),
        ("mse", {"mse": 1.0}, {"mse": 1.5}, False),
        ("mse", {"mse": 1.5}, {"mse": 1.5}, True),
    ],
)
def test_a_model_that_a_constant_prediction_equals(metric, test, constant, useless):
    assert no_better(metric, test, constant) is useless
    if not (metric == "pearson" and "mse" in constant) and test[metric] == test[metric]:
        assert (
            is_useful(metric, [test[metric]] * 3, constants=[constant] * 3 if constant else []) is not useless
        )


def test_a_study_of_which_half_the_seeds_collapsed_is_of_no_use():
    assert not is_useful("mcc", [0.9, 0.0], collapsed=1)
    assert is_useful("mcc", [0.9, 0.9, 0.0], collapsed=1)
    assert not is_useful("mcc", [0.9, math.nan]) and not is_useful("mcc", [])
