"""What the Gaussian process is told: stopped, failed and running trials, and `bT` within `b0`."""

from dataclasses import replace

import pytest
from optuna.trial import FixedTrial

from harness.config.search_space import Leaf, SearchSpace
from harness.search.gaussian_process import Shares, _share, estimate, propose
from harness.search.proposals import Proposals
from harness.search.study import Past
from tests.support.studies import search_study

RATE = SearchSpace(method="lora", leaves={"learning_rate": Leaf(type="float", low=0.0, high=1.0)})
RANKS = SearchSpace(
    method="ars",
    leaves={
        "b0": Leaf(type="int", low=4, high=16),
        "bT": Leaf(type="int", low=2, high=8, step=2),
    },
)


def past(number, rate, *scores, status="finished"):
    evaluations = tuple(enumerate(scores, 1))
    return Past(number=number, values={"learning_rate": rate}, status=status, evaluations=evaluations)


def parabola(*rates):
    return [past(number, rate, 1 - (rate - 0.7) ** 2) for number, rate in enumerate(rates)]


def test_it_proposes_near_the_best_and_not_what_is_running():
    ended = parabola(0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    first = propose(RATE, ended, [], seed=3, start=3)
    assert first == propose(RATE, ended, [], seed=3, start=3)
    assert first["learning_rate"] == pytest.approx(0.7, abs=0.1)
    beside = propose(RATE, ended, [first], seed=3, start=3)
    assert abs(beside["learning_rate"] - first["learning_rate"]) > 1e-3


def test_a_stopped_trial_counts_with_the_change_that_the_finished_ones_had():
    ended = [past(0, 0.1, 0.2, 0.5), past(1, 0.2, 0.3, 0.4), past(2, 0.3, 0.6, status="stopped")]
    assert estimate(ended[2], ended) == pytest.approx(0.6 + (0.3 + 0.1) / 2)
    assert estimate(ended[2], ended[2:]) == 0.6
    assert estimate(ended[0], ended) == 0.5
    assert estimate(past(3, 0.4, 0.9, status="failed"), ended) is None


def test_failed_trials_keep_it_away():
    good = parabola(0.0, 0.2, 0.4, 0.6)
    failed = [past(number, 0.7 + number / 100, status="failed") for number in range(4, 30, 4)]
    near = propose(RATE, good, [], seed=0, start=3)["learning_rate"]
    assert near > 0.6
    assert propose(RATE, good + failed, [], seed=0, start=3)["learning_rate"] < 0.7


def test_trials_outside_the_space_are_left_out():
    foreign = Past(number=9, values={"rank": 3}, status="finished", evaluations=((1, 5.0),))
    ended = parabola(0.0, 0.2, 0.4, 0.6)
    assert propose(RATE, [*ended, foreign], [], seed=0, start=3) == propose(RATE, ended, [], seed=0, start=3)


@pytest.mark.parametrize("space", [RANKS, replace(RANKS, leaves={"bT": RANKS.leaves["bT"]}, fixed={"b0": 6})])
def test_a_share_gives_back_the_value_that_it_came_from(space):
    for b0 in range(4, 17) if "b0" in space.leaves else [6]:
        for bT in range(2, min(8, b0) + 1, 2):
            values = {"b0": b0, "bT": bT} if "b0" in space.leaves else {"bT": bT}
            assert space.suggest(Shares(FixedTrial(values | _share(space, values)))) == values


def response(config):
    return -((config["b0"] - 11) ** 2) - (config["bT"] - 6) ** 2


def run(proposals, told, last=99):
    while proposals.left and len(told) < last:
        proposal = proposals.next()
        config = proposal.jobs[0].config
        told[proposal.number] = {name: config[name] for name in RANKS.leaves}
        proposals.report(proposal.number, 1, response(config) / 2)
        if proposal.number % 3 == 2:
            proposals.ended(proposal.number, "stopped")
        else:
            proposals.report(proposal.number, 4, response(config))
            proposals.ended(proposal.number, "finished")
    return told


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_search_that_goes_on_proposes_what_it_would_have_proposed(deterministic):
    def plan(**more):
        options = {"epochs": 4, "searcher": "gp", "deterministic": deterministic, "first_points": ()}
        return search_study("t|b|ars", RANKS, 9, **options, **more)

    whole = run(Proposals([plan()]), {})
    history = tuple(
        Past(
            number=number,
            values=whole[number],
            status="stopped" if number % 3 == 2 else "finished",
            evaluations=((1, response(whole[number]) / 2), (4, response(whole[number])))[
                : 1 + (number % 3 != 2)
            ],
        )
        for number in range(7)
    )
    rest = run(Proposals([plan(history=history)]), {})
    assert rest == {number: whole[number] for number in (7, 8)}
    assert all(one["bT"] <= one["b0"] for one in whole.values())
