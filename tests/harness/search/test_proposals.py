"""What a search group draws: numbers, history, grids, siblings, scopes; and that groups never mix."""

import math
import random
from dataclasses import replace

import pytest

from harness.config.scopes import grid, merge, search_problems
from harness.config.search_space import Leaf, SearchSpace
from harness.core.errors import InputError
from harness.runs.evaluations import Grid
from harness.runs.jobs import Job, Report
from harness.runs.requests import Added
from harness.runs.selection import group_of
from harness.search.proposals import Proposals, group_history
from harness.search.schedulers import (
    GroupSchedulers,
    SuccessiveHalving,
    bracket,
    brackets,
    first_rungs,
    rungs,
    sync_epochs,
)
from harness.search.searcher import GroupSearcher
from harness.search.study import Past
from harness.search.trial_client import EPOCH, METRIC, STATE, Client, _Member
from tests.support.studies import search_study

RATE = Leaf(type="float", low=1e-5, high=1e-2, log=True)
RANKS = {name: Leaf(type="int", low=2, high=16) for name in ("b0", "bT")}
ARS = SearchSpace(
    method="ars",
    leaves={
        "learning_rate": RATE,
        "p": Leaf(type="float", low=0, high=0.3),
        "delta_T": Leaf(type="int", low=2, high=50, log=True),
        **RANKS,
    },
)
LORA = SearchSpace(method="lora", leaves={"learning_rate": RATE})
COARSE = SearchSpace(
    method="ars",
    leaves={name: Leaf(type="int", low=2, high=8, step=2) for name in ("b0", "bT")}
    | {"p": Leaf(type="choice", choices=(0.0, 0.1))},
)


def plan(key="t|b|ars", space=ARS, num_samples=8, **more):
    return search_study(key, space, num_samples, **{"epochs": 4, **more})


def score(config):
    """A response that depends on the configuration alone."""
    return round(random.Random(repr(sorted(config.items()))).random(), 6)


def values(job, space=ARS):
    return {name: job.config[name] for name in space.leaves}


def run_all(proposals, told=None):
    """Draw and finish every trial, one at a time; their jobs by number."""
    told = {} if told is None else told
    while proposals.left:
        proposal = proposals.next()
        told[proposal.number] = proposal.jobs[0]
        proposals.report(proposal.number, 1, score(proposal.jobs[0].config) / 2)
        if proposal.number % 3 == 2:
            proposals.ended(proposal.number, "stopped")
        else:
            proposals.report(proposal.number, 4, score(proposal.jobs[0].config))
            proposals.ended(proposal.number, "finished")
    return told


def past_of(job, space=ARS):
    number = int(job.id[-4:])
    half = ((1, score(job.config) / 2),)
    if number % 3 == 2:
        return Past(number=number, values=values(job, space), status="stopped", evaluations=half)
    whole = (*half, (4, score(job.config)))
    return Past(number=number, values=values(job, space), status="finished", evaluations=whole)


@pytest.mark.parametrize("searcher", ["tpe", "random"])
def test_a_search_that_goes_on_proposes_what_it_would_have_proposed(searcher):
    whole = run_all(Proposals([plan(num_samples=24, searcher=searcher)]))
    history = tuple(past_of(whole[number]) for number in range(15))
    began = ((15, whole[15].config),)
    rest = run_all(Proposals([plan(num_samples=24, searcher=searcher, history=history, open=began)]))
    assert sorted(rest) == list(range(15, 24))
    assert all(rest[number] == whole[number] for number in rest)


def test_more_samples_run_the_difference_and_gaps_are_filled():
    first = run_all(Proposals([plan(num_samples=6)]))
    history = tuple(past_of(first[number]) for number in (0, 1, 2, 4, 5))
    more = Proposals([plan(num_samples=10, history=history)])
    assert more.left == 5
    assert sorted(run_all(more)) == [3, 6, 7, 8, 9]


def test_history_that_the_space_has_no_place_for_keeps_its_number_and_stops_nothing():
    history = (
        Past(number=0, values={"learning_rate": 7.0}, status="finished", evaluations=((1, 0.5),)),
        Past(number=1, values={}, status="failed"),
    )
    assert sorted(run_all(Proposals([plan(num_samples=4, history=history)]))) == [2, 3]


def shared(config):
    return {name: value for name, value in values(config).items() if name not in ("p", "bT", "delta_T")}


def best_of(told):
    """The best finished trial, as `run_all` ends them."""
    ended = {number: job for number, job in told.items() if number % 3 != 2}
    return max(ended, key=lambda number: (score(ended[number].config), -number))


def test_the_best_finished_trial_gets_siblings_that_differ_only_in_what_the_start_does_not_know():
    points = tuple({"learning_rate": rate, "p": 0.1, "delta_T": 5, "b0": 8, "bT": 4} for rate in (1e-4, 1e-3))
    drawn = run_all(Proposals([plan(num_samples=40, siblings=4, first_points=points)]))
    assert [values(drawn[number]) for number in (0, 1)] == list(points)
    siblings = 0
    for number in range(10, 40):  # after the first points and the even start
        before = {other: job for other, job in drawn.items() if other < number}
        leader = before[best_of(before)]
        family = [job for job in before.values() if shared(job) == shared(leader)]
        assert (shared(drawn[number]) == shared(leader)) == (len(family) < 4)
        siblings += len(family) < 4
        assert len({values(job)["p"] for job in family}) == len(family)
        assert all(values(job)["bT"] <= values(job)["b0"] for job in family)
    assert siblings >= 3


def test_siblings_of_a_search_that_goes_on_are_those_that_it_would_have_had():
    whole = run_all(Proposals([plan(num_samples=30, siblings=3)]))
    history = tuple(past_of(whole[number]) for number in range(15))
    rest = run_all(Proposals([plan(num_samples=30, siblings=3, history=history)]))
    assert all(rest[number] == whole[number] for number in range(15, 30))


def test_tpe_starts_with_draws_spread_evenly_over_every_setting():
    drawn = run_all(Proposals([plan(num_samples=24, seed=5)]))
    start = [values(drawn[number]) for number in range(8)]
    rates = sorted(math.log10(one["learning_rate"]) for one in start)
    assert [int((rate + 5) / 3 * 8) for rate in rates] == list(range(8))
    assert sorted(int(one["p"] / 0.3 * 8) for one in start) == list(range(8))
    assert all(2 <= one["bT"] <= one["b0"] <= 16 and 2 <= one["delta_T"] <= 50 for one in start)
    other = run_all(Proposals([plan(num_samples=24, seed=6)]))
    assert values(other[0]) != start[0]


def test_an_even_start_keeps_to_steps_and_choices():
    drawn = run_all(Proposals([plan(space=COARSE, num_samples=24)]))
    start = [values(drawn[number], COARSE) for number in range(8)]
    assert {one["b0"] for one in start} == {2, 4, 6, 8} and {one["p"] for one in start} == {0.0, 0.1}
    assert all(one["bT"] in (2, 4, 6, 8) and one["bT"] <= one["b0"] for one in start)


def test_methods_without_a_shared_start_have_no_siblings():
    drawn = run_all(Proposals([plan("t|b|lora", LORA, siblings=4)]))
    assert len({job.config["learning_rate"] for job in drawn.values()}) == 8


def test_a_grid_has_every_point_once_and_can_be_continued():
    points = ({"b0": 6, "bT": 4, "p": 0.1},)
    drawn = run_all(Proposals([plan(space=COARSE, num_samples=99, searcher="grid", first_points=points)]))
    found = [tuple(values(drawn[number], COARSE).items()) for number in range(len(drawn))]
    assert len(found) == len(set(found)) == 2 * (1 + 2 + 3 + 4)
    assert dict(found[0]) == points[0]
    assert all(dict(point)["b0"] >= dict(point)["bT"] for point in found)
    part = run_all(Proposals([plan(space=COARSE, num_samples=7, searcher="grid", first_points=points)]))
    assert all(part[number] == drawn[number] for number in part)


def test_what_a_grid_cannot_do_is_said_before_anything_starts():
    (line,) = search_problems(replace(LORA, source="lora.yaml"), searcher="grid")
    assert line == (
        "lora.yaml: `--searcher grid` needs finitely many values, but `learning_rate` is a continuous range; "
        "give it `step` or `choices`."
    )
    wide = SearchSpace(method="ars", leaves={**RANKS, "delta_T": Leaf(type="int", low=1, high=5000)})
    assert "at most 100000 points, but got 1125000" in search_problems(wide, searcher="grid")[0]
    with pytest.raises(InputError, match="continuous"):
        grid(LORA, seed=0)
    assert search_problems(COARSE, searcher="grid") == search_problems(LORA, searcher="tpe") == []


def test_a_float_grid_counts_both_ends():
    space = SearchSpace(
        method="lora", leaves={"adapter_dropout": Leaf(type="float", low=0, high=0.3, step=0.1)}
    )
    assert sorted(round(point["adapter_dropout"], 9) for point in grid(space, seed=0)) == [0, 0.1, 0.2, 0.3]


# ---- scopes


def test_groups_join_tasks_and_nothing_else():
    names = {"family": "EMP", "backbone": "b", "method": "ars"}
    keys = [group_of("family", task=task, **names) for task in ("EMP/H3", "EMP/H4")]
    assert keys[0] == keys[1] != group_of("family", task="EMP/H3", **{**names, "method": "lora"})
    assert group_of("task", task="EMP/H3", **names) == "EMP/H3|b|ars"
    assert group_of("suite", task="a", **names) == group_of("suite", task="b", **{**names, "family": "x"})


def test_a_shared_space_has_what_all_tasks_allow():
    caps = [400, 90, 250]
    spaces = [
        replace(
            ARS,
            leaves={**ARS.leaves, "delta_T": Leaf(type="int", low=2, high=cap, log=True)},
            fixed={"final_finetune_ratio": cap / 1000},
            first_points=({"delta_T": 300, "p": 0.1},),
        )
        for cap in caps
    ]
    shared = merge(spaces)
    assert shared.leaves["delta_T"].high == 90 and shared.first_points[0]["delta_T"] == 90
    low = replace(ARS, leaves={**ARS.leaves, "delta_T": Leaf(type="int", low=500, high=900)})
    with pytest.raises(InputError, match="`delta_T` must have values that all tasks of a scope share"):
        merge([spaces[0], low])


def wide_plans(**more):
    tasks = ("x", "y", "z")
    return [
        plan(
            f"{task}|b|ars",
            group="suite|b|ars",
            space=replace(ARS, fixed={"final_finetune_ratio": ratio}),
            **more,
        )
        for task, ratio in zip(tasks, (0.1, 0.2, 0.3), strict=True)
    ]


def test_a_wide_trial_is_the_same_configuration_on_every_task():
    proposals = Proposals(wide_plans(num_samples=3))
    proposal = proposals.next()
    assert [job.id for job in proposal.jobs] == [f"{task}|b|ars/trial-0000" for task in "xyz"]
    assert len({tuple(values(job).items()) for job in proposal.jobs}) == 1
    assert [job.config["final_finetune_ratio"] for job in proposal.jobs] == [0.1, 0.2, 0.3]


def test_history_of_a_wide_search_is_the_mean_and_half_ended_trials_go_on():
    def past(number, *scores, status="finished"):
        point = {"learning_rate": 1e-3, "p": 0.1, "delta_T": 5, "b0": 8, "bT": 4}
        return Past(number=number, values=point, status=status, evaluations=tuple(enumerate(scores, 1)))

    x, y, z = wide_plans(num_samples=4)
    config = {"learning_rate": 2e-3, "p": 0.1, "delta_T": 5, "b0": 8, "bT": 4, "seed": 7}
    plans = [
        replace(x, history=(past(0, 0.2, 0.4), past(1, 0.5), past(2, 0.9, 0.9))),
        replace(y, history=(past(0, 0.4, 0.6), past(1, status="failed")), open=((2, config),)),
        replace(z, history=(past(0, 0.6, 0.8), past(3, 0.1, status="stopped"))),
    ]
    ended, going = group_history(plans)
    assert [(trial.number, trial.status) for trial in ended] == [
        (0, "finished"),
        (1, "failed"),
        (3, "stopped"),
    ]
    assert [round(value, 9) for _, value in ended[0].evaluations] == [0.4, 0.6]
    (trial,) = going
    assert trial.number == 2 and set(trial.seen) == {"x|b|ars"} and set(trial.configs) == {"y|b|ars"}
    proposal = Proposals(plans).next()
    assert proposal.number == 2 and proposal.jobs[1].config == config
    assert proposal.jobs[2].config["learning_rate"] == 2e-3


def client_of(*members):
    client = object.__new__(Client)
    client._members, client._told = list(members), 0
    return client


def member(name, epochs=(), ended=None, status="running"):
    job = Job(id=name, study=name, stage="search", backbone="b", data="d", config={})
    made = _Member(job, "mcc")
    reports = [
        Report(job=name, number=epoch, status="running", epoch=epoch, dev={"mcc": value})
        for epoch, value in enumerate(epochs, 1)
    ]
    made.take(reports, ended or status)
    return made


def test_a_client_tells_the_mean_once_every_study_has_reported():
    slow, fast = member("a", [0.2]), member("b", [0.4, 0.8])
    client = client_of(slow, fast)
    first = client._result()
    assert (first[METRIC], first[EPOCH], first[STATE]) == (pytest.approx(0.3), 1, "running")
    assert client._result() is None
    slow.take([Report(job="a", number=2, status="finished", epoch=2, dev={"mcc": 0.4})], "finished")
    second = client._result()
    assert (second[METRIC], second["done"]) == (pytest.approx(0.6), False)  # the other job has not ended
    fast.ended = "finished"
    assert client._result() == {METRIC: -1e6, EPOCH: 0, STATE: "finished", "done": True}


def test_one_failure_ends_a_trial_and_an_undefined_score_is_a_bad_one():
    client = client_of(member("a", [0.2], "failed"), member("b", [0.4]))
    assert client._result()[STATE] == "failed" and client._result()["done"]
    assert client_of(member("a", [float("nan")]))._result()[METRIC] == -1.0
    assert client_of(member("a", [], "stopped"), member("b"))._result()[STATE] == "stopped"
    done = client_of(member("a", [0.5], "finished"))._result()
    assert (done[STATE], done["done"]) == ("finished", True)


# ---- schedulers, and both together


class FakeTrial:
    def __init__(self, name, config):
        self.trial_id, self.config, self.run_metadata = name, config, None


def play(plans, *, groups=1, slots=4, seed=0, quality=score):
    """A whole search without Ray: trials report in a random order. By group: {number: epochs seen}."""
    searcher = GroupSearcher(plans, groups=groups, slots=slots, spare=1)
    scheduler = GroupSchedulers(
        {key: members[0] for key, members in searcher.members.items()},
        {key: proposals.history for key, proposals in searcher.proposals.items()},
    )
    shuffle, running, seen, count = random.Random(seed), {}, {}, 0
    while True:
        config = searcher.suggest(f"trial {count}")
        if isinstance(config, dict):
            trial = FakeTrial(f"trial {count}", config)
            scheduler.on_trial_add(None, trial)
            running[trial.trial_id] = (trial, 0)
            count += 1
            continue
        if not running:
            assert config == searcher.FINISHED
            return seen
        name = shuffle.choice(sorted(running))
        trial, epoch = running[name]
        epoch += 1
        group, number = trial.config["group"], trial.config["number"]
        last = epoch == searcher.members[group][0].benchmark.epochs
        value = quality(trial.config["jobs"][0]["config"]) * epoch
        result = {METRIC: value, EPOCH: epoch, STATE: "finished" if last else "running"}
        seen.setdefault(group, {})[number] = epoch
        running[name] = (trial, epoch)
        if last or scheduler.on_trial_result(None, trial, result) == "STOP":
            running.pop(name)
            scheduler.on_trial_complete(None, trial, result)
            searcher.on_trial_complete(name, result)
        else:
            searcher.on_trial_result(name, result)


@pytest.mark.parametrize("name", ["asha", "hyperband", "median", "none"])
def test_every_scheduler_comes_to_an_end_with_more_trials_than_room(name):
    plans = [plan(f"{task}|b|ars", num_samples=30, epochs=8, scheduler=name) for task in "xy"]
    seen = play(plans, slots=3)
    for epochs in seen.values():
        assert sorted(epochs) == list(range(30))
        stopped = sum(epoch < 8 for epoch in epochs.values())
        assert stopped == 0 if name == "none" else 5 < stopped < 30


def test_groups_never_judge_each_other():
    """Beside a study that is far better, a study is searched and stopped exactly as when it is alone."""
    lone = plan("x|b|ars", num_samples=20, epochs=8)
    other = plan("y|b|ars", num_samples=20, epochs=8, seed=9)

    def quality(config):
        return score(config) + (1000 if config["seed"] == 9 else 0)

    together = play([lone, other], slots=1, quality=quality)
    assert min(len(epochs) for epochs in together.values()) == 20
    stops = sum(epoch < 8 for epoch in together["x|b|ars"].values())
    assert 5 < stops < 20  # not all, as they would be in one bracket
    searcher = GroupSearcher([lone, other], groups=1, slots=4, spare=1)
    studies = {id(proposals._study) for proposals in searcher.proposals.values()}
    assert len(studies) == 2


def test_rungs_know_the_trials_of_earlier_runs():
    good = tuple(
        Past(number=n, values={}, status="finished", evaluations=((1, 0.9), (2, 0.9), (4, 0.9)))
        for n in range(3)
    )
    now = plan(num_samples=4, epochs=4, history=good)
    for history, decision in ((good, "STOP"), ((), "CONTINUE")):
        scheduler = GroupSchedulers({now.key: now}, {now.key: history})
        trial = FakeTrial("new", {"group": now.key, "number": 3})
        scheduler.on_trial_add(None, trial)
        assert scheduler.on_trial_result(None, trial, {METRIC: 0.5, EPOCH: 1, STATE: "running"}) == decision


def judge(scheduler, number, epoch, value):
    return scheduler.on_trial_result(None, FakeTrial(str(number), {}), {METRIC: value, EPOCH: epoch})


def test_who_passed_a_rung_before_others_came_is_judged_again():
    halving = SuccessiveHalving([1, 4], 4)
    first = [judge(halving, number, 1, number / 10) for number in range(8)]  # ever better: all pass at first
    assert first == ["CONTINUE"] * 8
    second = [judge(halving, number, 2, 0.9) for number in range(7)]  # what they score now does not count
    assert second == ["STOP"] * 6 + ["CONTINUE"]
    assert judge(halving, 8, 1, 0.9) == judge(halving, 9, 1, 0.9) == "CONTINUE"
    assert judge(halving, 7, 2, 0.1) == "CONTINUE"  # judged among eight: that holds up to the next rung
    assert judge(halving, 7, 4, 0.1) == "CONTINUE" and judge(halving, 8, 4, 0.2) == "CONTINUE"
    assert judge(halving, 7, 5, 0.9) == "STOP"


def test_the_first_rung_lies_behind_the_warm_up_of_the_learning_rate():
    def at(epochs, factor=4, space=ARS, **fixed):
        return rungs(plan(space=replace(space, fixed=fixed), epochs=epochs, reduction_factor=factor))

    assert [at(epochs) for epochs in (1, 2, 5, 8, 10, 16)] == [[], [1], [1, 4], [2], [2, 8], [4]]
    assert at(8, 2) == [2, 4] and at(16, 2) == [4, 8]
    assert at(8, warmup_ratio=0.0) == at(8, warmup_ratio=0.05) == [1, 4] and at(8, warmup_ratio=0.5) == []
    assert rungs(plan(space=SearchSpace(method="kmer_logreg", leaves={}), epochs=8)) == [1, 2, 4]


def test_rungs_lie_at_evaluations_amid_an_epoch_where_studies_share_no_configuration():
    def at(epochs, parts, **more):
        return rungs(replace(plan(epochs=epochs, **more), evaluations=parts))

    bare = replace(ARS, fixed={"warmup_ratio": 0.0})
    assert at(5, 17, reduction_factor=4) == [1, 4] == at(5, 1, reduction_factor=4)
    assert at(2, 4) == [0.5, 1] and at(1, 8, space=bare) == [0.125, 0.25, 0.5]
    assert at(2, 4, group="suite") == at(2, 1)
    median = replace(plan(scheduler="median"), evaluations=4)
    assert brackets(median)[0]._grace_period == 0.25


def test_evaluations_amid_an_epoch_are_told_apart_and_come_back_from_records():
    study = replace(plan(num_samples=2), evaluations=3)
    proposals = Proposals([study])
    ended = proposals.next()
    assert ended.jobs[0].evaluations == 3
    curve = tuple((Grid(3, 3).epoch(step), step / 10) for step in range(1, 13))
    for epoch, value in (*curve, curve[0]):
        proposals.report(ended.number, epoch, value)
    proposals.ended(ended.number, "finished")
    assert proposals._pasts[ended.number].evaluations == curve
    (kept,) = Proposals([replace(study, history=(proposals._pasts[ended.number],))])._study.trials
    (told,) = proposals._study.trials
    assert kept.intermediate_values == told.intermediate_values
    assert list(kept.intermediate_values) == list(range(1, 13)) and kept.value == told.value == 1.2


def test_tasks_take_turns_where_their_scheduler_compares_and_can_go_on_later():
    def of(scheduler, method="ars", **more):
        made = {"epochs": 8, "scheduler": scheduler, "group": "suite", "checkpoints": "kept", **more}
        return sync_epochs([replace(plan(f"{task}|b|{method}", **made), method=method) for task in "xy"])

    assert of("asha") == [2, 3, 4, 5, 6, 7]
    assert of("hyperband", reduction_factor=2) == [1, 2, 4]
    assert of("median", epochs=3) == [1, 2]
    assert of("none") == of("asha", checkpoints=None) == of("asha", method="kmer_logreg") == []
    assert sync_epochs([plan("x|b|ars", checkpoints="kept")]) == []


def test_hyperbands_brackets_start_later_and_later_and_follow_the_seed():
    wide, other = (plan(epochs=9, scheduler="hyperband", reduction_factor=3, seed=seed) for seed in (0, 1))
    assert first_rungs(wide) == [1, 3, 9] and len(brackets(wide)) == 3
    drawn = [bracket(wide, number) for number in range(300)]
    assert drawn == [bracket(wide, number) for number in range(300)]
    assert drawn.count(0) > drawn.count(1) > drawn.count(2) > 0
    assert drawn != [bracket(other, number) for number in range(300)]


def test_a_closed_group_proposes_nothing_more():
    searcher = GroupSearcher([plan("x|b|ars"), plan("y|b|ars")], groups=1, slots=8, spare=0)
    assert searcher.suggest("0")["group"] == "x|b|ars"
    searcher.close({"x|b|ars"})
    assert {searcher.suggest(str(n))["group"] for n in range(1, 8)} == {"y|b|ars"}
    searcher.close({"y|b|ars"})
    assert searcher.suggest("9") == searcher.FINISHED


def with_added(studies, *added, samples=None):
    return [replace(study, added=added, samples=samples) for study in studies]


def test_a_trial_that_a_user_adds_comes_first_and_takes_no_number_from_the_search():
    undisturbed, steered = Proposals([plan(searcher="random")]), Proposals([plan(searcher="random")])
    own = {"learning_rate": 1e-3, "p": 0.2, "delta_T": 10, "b0": 8, "bT": 4}
    drawn = {number: values(undisturbed.next().jobs[0]) for number in range(8)}
    first = steered.next()
    steered.steer(with_added([plan(searcher="random")], Added(8, own, parent=0), samples=10))
    assert (steered.left, steered.total) == (10, 11)
    added = steered.next()
    job = added.jobs[0]
    assert (added.number, values(job), job.asked_by, job.parent) == (8, own, "user", first.jobs[0].id)
    later = [steered.next() for _ in range(steered.left)]
    assert [one.number for one in later] == [1, 2, 3, 4, 5, 6, 7, 9, 10]
    assert all(values(one.jobs[0]) == drawn[one.number] for one in later if one.number < 8)
    assert {(one.jobs[0].asked_by, one.jobs[0].parent) for one in later} == {("search", None)}


def test_a_resumed_search_has_the_trials_that_users_added():
    own = {"learning_rate": 1e-3, "p": 0.2, "delta_T": 10, "b0": 8, "bT": 4}
    past = tuple(Past(number=n, values=own, status="finished", evaluations=((4, 0.5),)) for n in (0, 8))
    members = with_added([plan(history=past, num_samples=8)], Added(8, own), Added(9, own))
    resumed = Proposals(members)
    assert (resumed.left, resumed.total, resumed.begun) == (8, 10, 2)
    assert [resumed.next().number for _ in range(8)] == [9, 1, 2, 3, 4, 5, 6, 7]


def test_in_a_deterministic_search_an_added_trial_waits_for_its_turn():
    own = {"learning_rate": 1e-3, "p": 0.2, "delta_T": 10, "b0": 8, "bT": 4}
    proposals = Proposals(
        with_added([plan(deterministic=True, searcher="random", num_samples=3)], Added(3, own))
    )
    assert [proposals.next().number for _ in range(4)] == [0, 1, 2, 3]


def test_a_paused_group_proposes_nothing_until_it_goes_on_and_running_trials_keep_the_search_open():
    studies = [plan("x|b|ars", num_samples=2), plan("y|b|ars", num_samples=2)]
    searcher = GroupSearcher(studies, groups=1, slots=8, spare=0)
    searcher.steer(studies, {"x|b|ars"})
    assert [searcher.suggest(str(n))["group"] for n in range(2)] == ["y|b|ars"] * 2
    assert searcher.suggest("2") is None, "trials are running: more may be asked for"
    searcher.steer(with_added(studies, samples=3), {"x|b|ars"})
    assert searcher.suggest("3")["group"] == "y|b|ars"
    for name in ("0", "1", "3"):
        searcher.on_trial_complete(name, {METRIC: 0.5, EPOCH: 4, STATE: "finished"})
    assert searcher.suggest("4") == searcher.FINISHED, "all that is left is paused"
    searcher.steer(with_added(studies, samples=3), set())
    assert searcher.suggest("5")["group"] == "x|b|ars"
