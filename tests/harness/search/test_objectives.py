"""Several objectives: the front of a synthetic study is found, and a search goes on as it would have."""

import math
import statistics
from dataclasses import replace

import pytest

from harness.config.search_space import Leaf, SearchSpace
from harness.runs.front import pareto_front
from harness.runs.jobs import Job, Report
from harness.search.objectives import front_values
from harness.search.proposals import Proposals
from harness.search.schedulers import brackets
from harness.search.study import Past
from harness.search.trial_client import PARAMETERS, Client, _Member
from tests.support.studies import search_study

SPACE = SearchSpace(
    method="lora",
    leaves={
        "learning_rate": Leaf(type="float", low=1e-5, high=1e-2, log=True),
        "rank": Leaf(type="int", low=2, high=16),
        "adapter_dropout": Leaf(type="float", low=0.0, high=0.5),
    },
)
BOTH = {"objectives": ("score", "parameters"), "scheduler": "none", "epochs": 4}


def parameters(rank):
    return 100 * rank + 50


def known_front(rank):
    """The best score that a rank can have: at the learning rate 1e-3 and without dropout."""
    return 0.9 - 1.2 / (rank + 1)


def outcome(config):
    """Score and trained parameters, which only the rank trades against each other."""
    distance = abs(math.log10(config["learning_rate"]) + 3)
    return known_front(config["rank"]) - 0.15 * distance - 0.2 * config["adapter_dropout"], parameters(
        config["rank"]
    )


def plan(num_samples=40, **more):
    return search_study("t|b|lora", SPACE, num_samples, **{**BOTH, **more})


def run_all(proposals, at_once=1):
    """Draw and end every trial in order, so many under way; their jobs and outcomes by number."""
    jobs, ends, running = {}, {}, []
    while proposals.left or running:
        while proposals.left and proposals.ready and len(running) < at_once:
            running.append(proposals.next())
        one = running.pop(0)
        jobs[one.number] = one.jobs[0]
        score, count = ends[one.number] = outcome(one.jobs[0].config)
        proposals.report(one.number, 1, score / 2, None)
        proposals.report(one.number, 4, score, count)
        proposals.ended(one.number, "failed" if one.number % 7 == 5 else "finished")
    return jobs, ends


def past_of(job):
    number = int(job.id[-4:])
    score, count = outcome(job.config)
    return Past(
        number=number,
        values={name: job.config[name] for name in SPACE.leaves},
        status="failed" if number % 7 == 5 else "finished",
        evaluations=((1, score / 2), (4, score)),
        parameters=count,
    )


def area(points):
    """Area below a front of (parameters, score), parameters in decimal logarithms up to the largest."""
    front = [points[i] for i in pareto_front(points)]
    ends = [math.log10(count) for count, _ in front] + [math.log10(parameters(17))]
    return sum((ends[i + 1] - ends[i]) * max(0.0, score) for i, (_, score) in enumerate(front))


KNOWN = area([(parameters(rank), known_front(rank)) for rank in range(2, 17)])


@pytest.mark.parametrize("at_once", [1, 8])
def test_the_search_covers_more_of_a_known_front_than_random_draws(at_once):
    def covered(searcher):
        found = [run_all(Proposals([plan(searcher=searcher, seed=seed)]), at_once)[1] for seed in range(4)]
        return [area([(count, score) for score, count in ends.values()]) / KNOWN for ends in found]

    tpe, random = covered("tpe"), covered("random")
    assert max(tpe + random) <= 1
    assert statistics.fmean(tpe) > 0.9 and min(tpe) > statistics.fmean(random)


def test_the_gaussian_process_covers_a_known_front():
    drawn, ends = run_all(Proposals([plan(12, searcher="gp", seed=1)]))
    _, others = run_all(Proposals([plan(12, searcher="random", seed=1)]))
    first, second = (area([(count, score) for score, count in found.values()]) for found in (ends, others))
    assert first > second and first / KNOWN > 0.9
    assert len({job.config["rank"] for job in drawn.values()}) > 5


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("searcher", ["tpe", "random"])
def test_a_search_that_goes_on_proposes_what_it_would_have_proposed(searcher, deterministic):
    more = {"searcher": searcher, "deterministic": deterministic}
    whole, _ = run_all(Proposals([plan(24, **more)]))
    history = tuple(past_of(whole[number]) for number in range(15))
    rest, _ = run_all(Proposals([plan(24, history=history, open=((15, whole[15].config),), **more)]))
    assert sorted(rest) == list(range(15, 24))
    assert all(rest[number] == whole[number] for number in rest)


def test_a_proposal_follows_what_was_told_of_parameters():
    whole, _ = run_all(Proposals([plan(16)]))
    history = [past_of(whole[number]) for number in range(15)]
    equal = [replace(past, parameters=7) for past in history]
    (one,), (other,) = (
        run_all(Proposals([plan(16, history=tuple(told))]))[0].values() for told in (history, equal)
    )
    assert one == whole[15] and one.config != other.config


def test_a_deterministic_search_does_not_depend_on_how_many_are_under_way():
    drawn = [run_all(Proposals([plan(20, deterministic=True)]), at_once)[0] for at_once in (1, 3)]
    assert drawn[0] == drawn[1]


def test_what_counts_for_a_front():
    past = Past(number=0, values={}, status="finished", evaluations=((1, 0.2), (4, 0.5)), parameters=1000)
    assert front_values(past) == [0.5, pytest.approx(3.0)]
    for worse in ({"status": "stopped"}, {"status": "failed"}, {"parameters": None}, {"evaluations": ()}):
        assert front_values(replace(past, **worse)) == []
    assert front_values(replace(past, evaluations=((1, -1.0),))) == []  # an undefined score


def test_no_trial_is_stopped_early():
    (scheduler,) = brackets(plan())
    assert type(scheduler).__name__ == "FIFOScheduler"


def test_a_client_tells_the_parameters_that_the_worker_has_counted():
    member = _Member(Job(id="x", study="t|b|lora", stage="search", backbone="b", data="d", config={}), "mcc")
    client = Client.__new__(Client)
    client._members, client._told = [member], 0
    told = [
        Report(job="x", number=n, status="running", epoch=n, dev={"mcc": 0.1 * n}, facts=facts)
        for n, facts in enumerate(({}, {"trained_parameters": 42}), 1)
    ]
    member.take(told[:1], "running")
    assert PARAMETERS not in client._result()
    member.take(told[1:], "finished")
    assert client._result()[PARAMETERS] == 42
