"""Requests to a run: how they are asked, decided, refused and kept."""

import json
from dataclasses import asdict, replace

import pytest
from typer.testing import CliRunner

from harness.cli import steer
from harness.cli.main import app
from harness.config.added_trial import added_values, space_of
from harness.config.benchmark import Benchmark
from harness.config.search_space_file import read_space
from harness.core.errors import InputError
from harness.pipeline.recorder import AFTER_TEST_MARK, Recorder
from harness.pipeline.remaining import unsearched
from harness.pipeline.steering import Steering, paused_lines
from harness.runs.jobs import Event, Job, Report
from harness.runs.lock import only_driver
from harness.runs.requests import Added, Request, Requests, is_paused, stopped_in
from harness.runs.store import ResultStore
from tests.support.studies import prepared_study, recording

KEY = "mouse/2|toy|lora"
SPACE = read_space("lora").for_task("mouse/2")
ARS = read_space("ars").for_task("mouse/2").restrict(1000)
BENCHMARK = Benchmark.model_construct(
    suite="toy",
    tasks=("mouse/2",),
    models=("toy",),
    methods=("lora",),
    num_samples=3,
    searcher="tpe",
    scope="task",
)


def job(number, study=KEY):
    config = {"seed": 0, "epochs": 3, "learning_rate": 1e-3, "rank": 4}
    return Job(
        id=f"{study}/trial-{number:04d}", study=study, stage="search", backbone="b", data="d", config=config
    )


@pytest.fixture
def study(tmp_path):
    return prepared_study(tmp_path)


@pytest.fixture
def store(tmp_path, study):
    """Trial 0 has finished, trial 1 is under way."""
    store = ResultStore(tmp_path / "out", {})
    take = recording(store, [study])
    for one in (job(0), job(1)):
        take(one, Report(job=one.id, number=0, status="running"), "queued")
        take(one, Report(job=one.id, number=0, status="running"), "started")
        take(one, Report(job=one.id, number=1, status="running", epoch=1, dev={"mcc": 0.5}), "running")
    last = Report(job=job(0).id, number=2, status="finished", epoch=2, dev={"mcc": 0.6})
    take(job(0), last, "finished")
    return store


@pytest.fixture
def steering(study, store):
    return Steering([study], BENCHMARK, store)


def ask(store, **values):
    return Requests(store.out).ask(Request(**{"study": KEY, **values}))


def decided(steering, store, **values):
    asked = ask(store, **values)
    steering.turn(at_once=True)
    return next(one for one in Requests(store.out).load() if one.number == asked.number)


# --- what a configuration of one's own may be ------------------------------------------------------------------


def test_settings_that_are_not_given_are_those_of_another_trial_or_of_the_first_point():
    first = dict(ARS.first_points[0])
    assert added_values(ARS, {"p": "0.2", "delta_T": "100"}) == {**first, "p": 0.2, "delta_T": 100}
    parent = {**first, "learning_rate": 1e-3, "seed": 0, "epochs": 9}
    assert added_values(ARS, {"p": "0.2"}, parent=parent) == {**first, "learning_rate": 1e-3, "p": 0.2}
    assert type(added_values(ARS, {"delta_T": "100"})["delta_T"]) is int


def test_every_value_that_the_space_does_not_have_is_told_at_once():
    given = {"p": "0.5", "delta_T": "2.5", "b0": "many", "pp": "1", "alpha": "8"}
    with pytest.raises(InputError) as caught:
        added_values(ARS, given)
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 5
    assert "`--set p` must be a number from 0 to 0.3, but got 0.5" in text and "a whole number from 2" in text
    assert (
        "got many" in text
        and "Nearest known: p." in text
        and "`--set alpha` must be a searched setting" in text
    )
    with pytest.raises(InputError, match="b0"):
        added_values(ARS, {"b0": "4", "bT": "8"})
    with pytest.raises(InputError, match="must give learning_rate, rank as well"):
        added_values(replace(SPACE, first_points=()), {})


def test_a_search_space_comes_back_from_the_plan():
    assert space_of(json.loads(json.dumps(asdict(ARS)))) == replace(
        ARS, fixed={**ARS.fixed, "targets": list(ARS.fixed["targets"])}
    )


# --- decisions -------------------------------------------------------------------------------------------------


def test_a_trial_that_is_under_way_is_stopped_and_others_are_refused(steering, store):
    assert decided(steering, store, kind="stop", trial=1).state == "done"
    ended = decided(steering, store, kind="stop", trial=0)
    assert ended.state == "refused" and "has ended already: finished" in ended.reason
    assert "has not begun" in decided(steering, store, kind="stop", trial=2).reason
    assert stopped_in(steering.requests, [KEY]) == {1}


def test_what_a_user_changes_when_test_scores_could_be_read_is_a_caveat_of_later_final_runs(
    steering, store, study
):
    own = {"learning_rate": 2e-3, "rank": 5}
    decided(steering, store, kind="add", values=own)
    assert steering.after_test() == set(), "nobody could know a test score"

    def final(after_test=()):
        recorder = Recorder(store, [study], benchmark="custom", environment={})
        recorder.after_test = set(after_test)
        end = replace(job(0), id=f"{KEY}/final/seed-0", stage="final")
        last = Report(job=end.id, number=1, status="finished", epoch=1, dev={"mcc": 0.6}, test={"mcc": 0.1})
        recorder(Event(0, end, last, "started"))
        recorder(Event(0, end, last, "finished", reports=(last,)))
        return next(one for one in store.load() if one.id == end.id).marks

    assert AFTER_TEST_MARK not in final()
    decided(steering, store, kind="pause")
    assert steering.after_test() == set(), "a pause changes no trial"
    decided(steering, store, kind="more", num_samples=9)
    assert steering.after_test() == {KEY}
    again = Steering([study], BENCHMARK, store)
    again.turn()
    assert again.after_test() == {KEY}, "a later driver knows it"
    assert AFTER_TEST_MARK in final(again.after_test())


def test_added_trials_and_more_of_them_are_what_is_left_to_search(steering, store, study):
    own = {"learning_rate": 2e-3, "rank": 5}
    assert decided(steering, store, kind="add", values=own, trial=0).added == 3
    assert decided(steering, store, kind="more", num_samples=5).state == "done"
    assert decided(steering, store, kind="add", values=own).added == 6
    (steered,) = steering.studies()
    assert steered.samples == 5 and steered.trials(BENCHMARK) == 7
    assert steered.added == (Added(3, own, 0), Added(6, own, None))
    again = Steering([study], BENCHMARK, store)
    again.turn()
    assert again.studies() == [steered], "a later driver reads the same decisions"
    refused = decided(steering, store, kind="more", num_samples=5)
    assert refused.state == "refused" and "has 5" in refused.reason
    bad = decided(steering, store, kind="add", values={"rank": 99})
    assert bad.state == "refused" and "`--set rank`" in bad.reason and bad.added is None


def test_a_search_is_complete_with_its_own_trials_and_every_added_one(store, study):
    done = store.load()[0]
    ended = {n: replace(done, id=f"{KEY}/trial-{n:04d}", trial=n) for n in range(6)}
    steered = replace(study, added=(Added(4, {}),))

    def left(*numbers):
        return bool(unsearched([ended[n] for n in numbers], [steered], BENCHMARK))

    assert left(0, 1, 2) and left(0, 1, 4) and not left(0, 1, 2, 4)
    assert left(0, 1, 2, 3), "a trial of an earlier, larger search is not the added one"


def test_a_study_is_paused_until_it_is_unpaused(steering, store, study):
    assert not steering.is_paused(study)
    assert decided(steering, store, kind="pause").state == "done" and steering.is_paused(study)
    (line,) = paused_lines([study], BENCHMARK, store)
    assert KEY in line and "unpause" in line, "what a run says at its end"
    assert "paused already" in decided(steering, store, kind="pause").reason
    assert decided(steering, store, kind="unpause").state == "done" and not steering.is_paused(study)
    assert "not paused" in decided(steering, store, kind="unpause").reason
    assert not is_paused(steering.requests, [KEY]) and paused_lines([study], BENCHMARK, store) == []


def test_a_study_that_is_none_is_refused_and_a_damaged_request_is_passed_over(steering, store):
    assert "mouse/2|toy|lora" in decided(steering, store, kind="pause", study="mouse/2|toy|lara").reason
    (store.out / "requests" / "000002.json").write_text("{")
    (store.out / "requests" / "000009.json").write_text(
        json.dumps({"number": 3, "kind": "pause", "study": KEY})
    )
    steering.turn(at_once=True)
    assert [one.number for one in Requests(store.out).load()] == [1]
    assert ask(store, kind="pause").number == 3, "the damaged file keeps its number"


def test_a_queued_trial_that_is_stopped_has_a_record_with_what_was_seen_of_it(store, study):
    take = recording(store, [study])
    last = Report(job=job(1).id, number=0, status="running", facts={"cut": "user"})
    take(job(1), Report(job=job(1).id, number=0, status="running"), "queued")
    take(job(1), last, "stopped")
    record = next(one for one in store.load() if one.trial == 1)
    assert (record.status, record.facts["cut"], len(record.history)) == ("stopped", "user", 1)
    take(job(2), Report(job=job(2).id, number=0, status="running"), "queued")
    take(job(2), replace(last, job=job(2).id), "stopped")
    record = next(one for one in store.load() if one.trial == 2)
    assert (record.status, record.facts["cut"], list(record.history)) == ("stopped", "user", [])


# --- commands --------------------------------------------------------------------------------------------------


@pytest.fixture
def run(store, study):
    space = json.loads(json.dumps(asdict(study.space)))
    settings = Benchmark(
        suite="custom", tasks=("mouse/2",), models=("toy",), methods=("lora",), num_samples=3
    ).model_dump(mode="json")
    plan = {"settings": settings, "studies": [{"key": KEY, "space": space}]}
    (store.out / "plan.json").write_text(json.dumps(plan))
    return store.out


def called(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert "Traceback" not in result.output
    return result.exit_code, result.stdout, result.stderr


def test_commands_leave_requests_for_the_next_driver(run):
    for words in (
        ("stop-trial", run, f"{KEY}/trial-0001"),
        ("add-trial", run, KEY, "--set", "rank=5", "--from", f"{KEY}/trial-0000"),
        ("more", run, KEY, "--num-samples", 9),
        ("pause", run, KEY),
        ("unpause", run, KEY),
    ):
        code, text, error = called(*words)
        assert code == 0 and "waits for the run" in text, error
    asked = Requests(run).load()
    assert [one.kind for one in asked] == ["stop", "add", "more", "pause", "unpause"]
    assert [one.trial for one in asked] == [1, 0, None, None, None] and asked[2].num_samples == 9
    assert asked[1].values == {"learning_rate": 1e-3, "rank": 5}
    assert {(one.state, one.asked_by) for one in asked} == {("asked", "user")}


def test_commands_wait_for_a_driver_and_say_what_it_decided(run, steering, monkeypatch):
    monkeypatch.setattr(steer, "WAIT_S", 0.3)
    with only_driver(run):
        code, text, _ = called("pause", run, KEY)
        assert code == 0 and "not answered yet" in text
        monkeypatch.setattr(steer.time, "sleep", lambda seconds: steering.turn(at_once=True))
        monkeypatch.setattr(steer, "WAIT_S", 30.0)
        code, text, _ = called("stop-trial", run, f"{KEY}/trial-0001")
        assert code == 0 and "trial-0001 stops" in text
        code, _, error = called("stop-trial", run, f"{KEY}/trial-0000")
        assert code == 2 and "has ended already" in error


def test_mistakes_are_told_before_anything_is_asked(run, tmp_path):
    for words, told in (
        (("pause", run, "mouse/2|toy|lara"), "STUDY must be a study of the run"),
        (("stop-trial", run, "trial-1"), "as in `task|backbone|method/trial-0007`"),
        (("add-trial", run, KEY, "--set", "rank=99,lr=1"), "`--set rank`"),
        (("add-trial", run, KEY, "--set", "rank"), "NAME=VALUE"),
        (("add-trial", run, KEY, "--set", "rank=4,rank=5"), "once"),
        (("add-trial", run, KEY, "--set", "rank=4", "--from", f"{KEY}/trial-0009"), "a trial that has begun"),
        (("pause", tmp_path / "none", KEY), "RUN must be the output folder"),
    ):
        code, _, error = called(*words)
        assert code == 2 and told in error, (words, error)
    assert Requests(run).load() == []
    (run / "cluster.json").write_text("{}")
    code, _, error = called("pause", run, KEY)
    assert code == 2 and "on a cluster" in error
