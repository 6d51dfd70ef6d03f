"""How often intervals over rows and seeds hold the true mean, on tasks whose true mean is known."""

import numpy as np
import pytest
from scipy.special import expit

from harness.runs.intervals import over_rows_and_seeds
from harness.workers.confidence import resampled
from lingo.metrics import score

ROWS, SEEDS, TASKS = 300, 3, 300


def accuracy(of_seeds: float, of_rows: float, rng: np.random.Generator) -> float:
    """True mean accuracy over seeds and rows."""
    draws = rng.normal(size=(2, 1_000_000))
    return float(expit(0.8 + of_rows * draws[0] + of_seeds * draws[1]).mean())


def right(of_seeds: float, of_rows: float, rng: np.random.Generator) -> np.ndarray:
    """Which rows each seed's model predicts rightly: rows differ in difficulty, seeds in luck, `[seeds, rows]`."""
    chance = expit(0.8 + of_rows * rng.normal(size=ROWS) + of_seeds * rng.normal(size=(SEEDS, 1)))
    return rng.random((SEEDS, ROWS)) < chance


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of_seeds", "of_rows", "rows_alone_fails"), [(1.0, 1.0, True), (0.5, 1.0, True), (0.1, 4.0, False)]
)
def test_a_nominal_95_percent_interval_covers_90_to_99_percent(of_seeds, of_rows, rows_alone_fails):
    rng = np.random.default_rng(7)
    truth, whole, plain = accuracy(of_seeds, of_rows, rng), 0, 0
    for _ in range(TASKS):
        hits = right(of_seeds, of_rows, rng)
        weights = rng.multinomial(ROWS, np.full(ROWS, 1 / ROWS), size=400) / ROWS
        drawn = hits @ weights.T
        found = over_rows_and_seeds(drawn.tolist(), hits.mean(axis=1).tolist(), (0.0, 1.0))
        assert found is not None
        whole += found[0] <= truth <= found[1]
        low, high = np.percentile(drawn, [2.5, 97.5], axis=1).mean(axis=1)
        plain += low <= truth <= high
    assert 0.90 <= whole / TASKS <= 0.99
    assert (plain / TASKS < 0.85) == rows_alone_fails


@pytest.mark.slow
def test_a_paired_difference_of_equal_methods_holds_zero_and_is_narrower_than_an_unpaired_one():
    rng, held, narrower = np.random.default_rng(3), 0, 0
    for _ in range(TASKS):
        difficulty = 3 * rng.normal(size=ROWS)
        hits = [
            rng.random((SEEDS, ROWS)) < expit(difficulty + 0.5 * rng.normal(size=(SEEDS, 1)))
            for _ in range(2)
        ]
        weights = rng.multinomial(ROWS, np.full(ROWS, 1 / ROWS), size=400) / ROWS
        a, b = (one @ weights.T for one in hits)
        scores = hits[0].mean(axis=1) - hits[1].mean(axis=1)
        low, high = over_rows_and_seeds((a - b).tolist(), scores.tolist(), (-1.0, 1.0))
        unpaired = over_rows_and_seeds((a - b[:, ::-1]).tolist(), scores.tolist(), (-1.0, 1.0))
        held += low <= 0 <= high
        narrower += high - low < unpaired[1] - unpaired[0]
    assert 0.90 <= held / TASKS <= 0.99 and narrower / TASKS > 0.6


def test_every_seed_and_method_has_the_same_resampled_rows():
    """A method against itself has no difference in any resample."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    logits = np.eye(2)[labels] + rng.normal(size=(200, 2))
    one, other = (
        resampled("classification", shift + logits, labels, rng=np.random.default_rng(95), resamples=50)[
            "mcc"
        ]
        for shift in (0.0, 3.0)
    )
    assert np.array_equal(one, other)


def test_limits_need_three_seeds_stay_in_the_range_and_repeat():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 40)
    seeds = [np.eye(2)[labels] * strength + rng.normal(size=(40, 2)) for strength in (5, 3, 0.1)]
    drawn = [
        resampled("classification", logits, labels, rng=np.random.default_rng(95), resamples=500)[
            "mcc"
        ].tolist()
        for logits in seeds
    ]
    scores = [score("classification", logits, labels)["mcc"] for logits in seeds]
    low, high = over_rows_and_seeds(drawn, scores, (-1.0, 1.0))
    assert -1 <= low < np.mean(scores) < high <= 1 and high == 1
    assert (low, high) == over_rows_and_seeds(drawn, scores, (-1.0, 1.0))
    assert over_rows_and_seeds(drawn[:2], scores[:2], (-1.0, 1.0)) is None
    assert over_rows_and_seeds(drawn, [*scores[:2], float("nan")], (-1.0, 1.0)) is None
    undefined = [[float("nan")] * 300 + one[300:] for one in drawn]
    assert over_rows_and_seeds(undefined, scores, (-1.0, 1.0)) is None
    assert over_rows_and_seeds([[0.5] * 9] * 3, [0.5] * 3, (-1.0, 1.0)) is None, "nothing makes a difference"
    alone = over_rows_and_seeds([drawn[2]] * 3, [scores[2]] * 3, (-1.0, 1.0))
    assert alone == pytest.approx(np.percentile(drawn[2], [2.5, 97.5])), "equal seeds: the rows remain"
