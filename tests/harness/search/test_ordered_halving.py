"""Early stopping and proposals of a deterministic search: the same whatever reports arrive first."""

import random
from dataclasses import replace

import pytest

from harness.search.ordered_halving import Halving, InOrder
from harness.search.proposals import LAG, Proposals
from harness.search.schedulers import rungs_of
from harness.search.searcher import GroupSearcher
from harness.search.study import Past
from harness.search.trial_client import EPOCH, METRIC, STATE
from tests.harness.search.test_proposals import ARS, LORA, plan, score


class Trial:
    """What Tune's schedulers see of a trial."""

    def __init__(self, key, number):
        self.trial_id, self.config = f"{key}-{number}", {"group": key, "number": number}


def value(config, epoch):
    return score(config) + epoch / 100


class Search:
    """A deterministic search without Ray: up to `at_once` trials train, and which one reports next is drawn."""

    def __init__(self, plans, *, at_once, seed):
        self.draw, self.at_once = random.Random(seed), at_once
        self.searcher = GroupSearcher(plans, groups=at_once, slots=1, spare=1)
        members = self.searcher.members
        history = {key: proposals.history for key, proposals in self.searcher.proposals.items()}
        self.go, self.stop = {}, set()
        self.scheduler = InOrder(members, history, self.go.update, self.stop.add)
        self.running, self.past = {}, {}

    def start(self):
        name = f"t{len(self.running)}-{self.draw.random()}"
        config = self.searcher.suggest(name)
        if isinstance(config, dict):
            trial = Trial(config["group"], config["number"])
            trial.config |= config
            self.scheduler.on_trial_add(None, trial)
            self.running[name] = [trial, 0]
        return isinstance(config, dict)

    def advance(self, name):
        """One evaluation of a trial, if it need not wait; its end, where it is over."""
        trial, epoch = self.running[name]
        job = trial.config["jobs"][0]
        if job["id"] in self.stop:
            return self.end(name, {STATE: "stopped", EPOCH: 0, METRIC: -1e6})
        if epoch in job["rungs"] and self.go.get(job["id"], 0) < epoch:
            return False
        epoch += 1 / job["evaluations"]
        self.running[name][1] = epoch
        self.past.setdefault(job["id"], []).append(epoch)
        done = epoch == job["config"]["epochs"]
        result = {EPOCH: epoch, METRIC: value(job["config"], epoch), STATE: "finished" if done else "running"}
        if done:
            return self.end(name, result)
        self.scheduler.on_trial_result(None, trial, result)
        self.searcher.on_trial_result(name, result)
        return True

    def end(self, name, result):
        trial, _ = self.running.pop(name)
        self.scheduler.on_trial_complete(None, trial, result)
        self.searcher.on_trial_complete(name, result)
        return True

    def run(self, until=None):
        while self.running or self.searcher.left:
            while len(self.running) <= self.at_once and self.start():
                pass
            if until is not None and len(self.past) >= until:
                return self.past
            names = self.draw.sample(sorted(self.running), len(self.running))
            assert any(self.advance(name) for name in names), "everybody waits"
        return self.past


def plans(scheduler="asha", evaluations=1, epochs=8, **more):
    both = {"deterministic": True, "scheduler": scheduler, "epochs": epochs}
    found = [
        plan(num_samples=20, space=ARS, **both, **more),
        plan(key="u|b|lora", num_samples=12, space=LORA, **both),
    ]
    return [replace(study, evaluations=evaluations) for study in found]


def outcome(search):
    """Configurations and epochs of every trial."""
    ended = {key: proposals._pasts for key, proposals in search.searcher.proposals.items()}
    return {
        (key, number): (past.values, past.status, past.evaluations)
        for key in ended
        for number, past in ended[key].items()
    }


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "none"])
def test_trials_stops_and_scores_do_not_depend_on_who_reports_first_nor_on_how_many_train(scheduler):
    found = []
    for at_once, seed in ((1, 0), (2, 1), (5, 2), (16, 3)):
        search = Search(plans(scheduler), at_once=at_once, seed=seed)
        search.run()
        found.append(outcome(search))
    assert len(found[0]) == 32 and all(one == found[0] for one in found)
    stopped = [status for _, status, _ in found[0].values() if status == "stopped"]
    assert bool(stopped) == (scheduler != "none")


def test_the_default_search_does_depend_on_it():
    """The check above can fail: without the order of the numbers the same draws give other trials."""
    found = []
    for seed in (1, 2, 3):
        told = Proposals([plan(num_samples=20, seed=2)])
        draw, running, seen = random.Random(seed), [], {}
        while told.left or running:
            if told.left and (len(running) < 4):
                proposal = told.next()
                seen[proposal.number] = proposal.jobs[0].config
                running.append(proposal.number)
                continue
            number = running.pop(draw.randrange(len(running)))
            told.report(number, 4, score(seen[number]))
            told.ended(number, "finished")
        found.append(seen)
    assert any(one != found[0] for one in found)


def test_trials_are_stopped_amid_an_epoch_whatever_reports_first():
    found = []
    for at_once, seed in ((1, 0), (5, 2)):
        search = Search(plans(evaluations=4, epochs=2), at_once=at_once, seed=seed)
        search.run()
        found.append(outcome(search))
    assert found[0] == found[1]
    ends = {past[-1][0] for _, status, past in found[0].values() if status == "stopped"}
    assert ends == {0.5, 1}


@pytest.mark.parametrize("ended", [3, 9, 15, 27])
def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(ended):
    whole = Search(plans(), at_once=3, seed=0)
    whole.run()
    first = Search(plans(), at_once=3, seed=5)
    first.run(until=ended)
    resumed = []
    for study in plans():
        proposals = first.searcher.proposals[study.key]
        begun = {
            t.config["number"]: t.config["jobs"][0]["config"]
            for t, _ in first.running.values()
            if t.config["group"] == study.key
        }
        resumed.append(
            replace(study, history=tuple(proposals._pasts.values()), open=tuple(sorted(begun.items())))
        )
    second = Search(resumed, at_once=2, seed=7)
    second.run()
    assert outcome(second) == outcome(whole)


def test_a_trial_waits_at_its_rung_for_the_earlier_ones_and_for_no_later_one():
    halving = Halving(plan(deterministic=True, epochs=8))
    (rung, *_) = rungs_of(plan(epochs=8), 0)
    halving.score(2, rung, 0.9)
    halving.score(1, rung, 0.1)
    assert halving.decide() == []
    halving.score(0, rung, 0.5)
    assert halving.decide() == [(0, rung, True), (1, rung, False), (2, rung, True)]
    halving.score(4, rung, 0.95)
    halving.end(3)  # failed before it came there
    assert halving.decide() == [(4, rung, True)]


def test_a_trial_that_lost_its_client_still_counts():
    search = InOrder({"t|b|ars": [plan(deterministic=True)]}, {}, dict, print)
    first = Trial("t|b|ars", 0)
    search.on_trial_error(None, first)
    search.on_trial_add(None, first)
    (rung, *_) = rungs_of(plan(), 0)
    decided = []
    search._proceed = decided.append
    search.on_trial_result(None, Trial("t|b|ars", 1), {EPOCH: rung, METRIC: 0.3, STATE: "running"})
    assert decided == []
    search.on_trial_result(None, first, {EPOCH: rung, METRIC: 0.2, STATE: "running"})
    assert set().union(*decided) == {"t|b|ars/trial-0000", "t|b|ars/trial-0001"}


def test_a_proposal_knows_the_trials_up_to_four_before_it_and_waits_for_them():
    study = plan(num_samples=20, deterministic=True)
    proposals = Proposals([study])
    begun = []
    while proposals.ready:
        begun.append(proposals.next())
    drawn = len(begun)
    assert drawn < 20
    for proposal in begun[: drawn - LAG + 1][::-1]:
        assert not proposals.ready
        proposals.report(proposal.number, 4, 0.5)
        proposals.ended(proposal.number, "finished")
    assert proposals.ready and proposals.next().number == drawn
    assert all(job.alone and list(job.rungs) == rungs_of(study, p.number) for p in begun for job in p.jobs)
    assert isinstance(proposals._pasts[0], Past)
