"""Fronts of score against parameters: the points that are trained, what is left to do, and how they are shown."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from harness.config.build import build
from harness.config.plan import front_note
from harness.core.errors import InputError
from harness.inference.export import _of_trial
from harness.pipeline.recorder import Recorder, trial_of
from harness.pipeline.remaining import (
    final_jobs,
    missing,
    outdated,
    points,
    set_aside,
    winners,
    with_new_names,
)
from harness.pipeline.state import state_of
from harness.progress.live import Progress
from harness.report.leaderboard import leaderboard, plain
from harness.report.leaderboard import winners as told
from harness.report.outcomes import outcomes_of
from harness.report.run_results import RunResults
from harness.report.sections import front
from harness.runs.controls import control_name
from harness.runs.front import final_points, front_of, leading
from harness.runs.jobs import Event, Job, Report
from harness.runs.record import Record
from harness.runs.selection import joint_winner
from harness.runs.store import ResultStore
from tests.support.studies import prepared_study

STUDY = "mouse/2|toy|lora"
BOTH = ("score", "parameters")
ASKED = build(
    {"tasks": ("mouse/2",), "models": ("toy",), "methods": ("lora",), "seeds": (1, 2), "objectives": BOTH}
)
NAN = float("nan")


def trial(number, mcc, size, status="finished", **values):
    return Record(
        **{
            "id": f"{STUDY}/trial-{number:04d}",
            "benchmark": "b",
            "study": STUDY,
            "task": "mouse/2",
            "family": "mouse",
            "backbone": "toy",
            "method": "lora",
            "metric": "mcc",
            "stage": "search",
            "trial": number,
            "seed": 0,
            "status": status,
            "config": {"method": "lora", "rank": size, "learning_rate": 0.1**number, "seed": 0},
            "history": [{"epoch": 1, "step": 1, "seconds": 1.0, "train_loss": 0.5, "dev": {"mcc": mcc}}],
            "dev": {"mcc": mcc},
            "trained_parameters": size,
            "facts": {"objectives": list(BOTH)},
            **values,
        }
    )


def final(point, seed, mcc=0.5, **values):
    name = f"{STUDY}/final/point-{point.trial:04d}/seed-{seed}"
    config = {**point.config, "seed": seed}
    return replace(point, id=name, stage="final", seed=seed, config=config, test={"mcc": mcc}, **values)


LADDER = [trial(number, 0.1 * number, 100 * (number + 1)) for number in range(7)]
"""Seven trials, all on the front."""


def numbers(records):
    return [record.trial for record in records]


def test_the_front_is_that_of_finished_trials_and_of_equals_the_earliest():
    searched = [
        trial(0, 0.5, 300),
        trial(1, 0.5, 200),
        trial(2, 0.5, 200),
        trial(3, 0.9, 900),
        trial(4, 0.95, 100, "stopped"),
        trial(5, NAN, 50),
        trial(6, 0.8, None),
        trial(7, 0.4, 250),
        trial(8, 0.99, 10, "failed"),
    ]
    assert numbers(front_of(searched)) == numbers(front_of(searched[::-1])) == [1, 3]
    assert numbers(front_of([trial(0, 0.5, 300, "stopped"), trial(1, 0.6, 400, "stopped")])) == [1]
    assert front_of([trial(0, 0.5, 300, "failed")]) == []
    (error,) = front_of(
        [trial(0, 0, 1, metric="nll", dev={"nll": 0.3}), trial(1, 0, 2, metric="nll", dev={"nll": 0.4})]
    )
    assert error.trial == 0  # of an error lower is better


def test_at_most_four_points_with_both_ends():
    assert numbers(final_points(LADDER)) == [0, 2, 4, 6]
    assert numbers(final_points(LADDER[:4])) == [0, 1, 2, 3]
    assert numbers(final_points(LADDER[:5])) == [0, 1, 3, 4]
    assert numbers(final_points(LADDER[:1])) == [0]


def test_points_follow_from_dev_scores_and_parameters_alone():
    tests = [replace(one, test=None, seconds=9.0, facts={**one.facts, "flops": 1.0}) for one in LADDER]
    finals = [final(LADDER[1], 1, mcc=1.0), final(LADDER[3], 2, mcc=1.0)]
    assert numbers(final_points([*finals, *tests])) == numbers(final_points(LADDER))


def test_the_leader_is_the_winner_also_among_equal_scores():
    searched = [trial(0, 0.5, 300), trial(1, 0.7, 500), trial(2, 0.7, 400)]
    assert joint_winner(searched, {STUDY: "mcc"})[STUDY].trial == front_of(searched)[-1].trial == 2
    finals = [final(one, seed) for one in (searched[0], searched[2]) for seed in (1, 2)]
    assert [one.trial for one in leading([*searched, *finals]) if one.stage == "final"] == [2, 2]
    plain = [replace(one, facts={}) for one in searched]  # one objective: the earlier
    assert joint_winner(plain, {STUDY: "mcc"})[STUDY].trial == 1


@pytest.fixture
def study(tmp_path):
    return prepared_study(tmp_path)


def test_every_point_is_trained_on_every_seed(study, tmp_path):
    assert missing([], [study], ASKED) == [(study, None, 1), (study, None, 2)]
    done = [final(LADDER[0], 1), final(LADDER[4], 2), final(LADDER[6], 1, status="failed")]
    jobs = final_jobs([*LADDER, *done], [study], ASKED, tmp_path / "adapters")
    assert [job.id.removeprefix(f"{STUDY}/final/") for job in jobs] == [
        "point-0000/seed-2", "point-0002/seed-1", "point-0002/seed-2", "point-0004/seed-1",
        "point-0006/seed-1", "point-0006/seed-2",
    ]  # fmt: skip
    assert len({job.adapter for job in jobs}) == 6 and jobs[0].adapter.endswith("point-0000/seed-2")
    assert [(trial_of(job), job.config["rank"], job.config["seed"]) for job in jobs][1] == (2, 300, 1)
    one = build({"tasks": ("mouse/2",), "models": ("toy",), "methods": ("lora",), "seeds": (1, 2)})
    assert [job.id for job in final_jobs(LADDER, [study], one)] == [f"{STUDY}/final/seed-{n}" for n in (1, 2)]
    assert trial_of(final_jobs(LADDER, [study], one)[0]) is None


def test_a_control_is_that_of_the_point_with_the_best_score(study):
    control = replace(study, backbone=control_name("toy"))
    found = points(LADDER, [study, control], ASKED)
    assert numbers(found[study.key]) == [0, 2, 4, 6] and numbers(found[control.key]) == [6]


def test_points_that_left_the_front_are_set_aside_and_come_back_under_another_name(study, tmp_path):
    store = ResultStore(tmp_path / "out", {})
    for record in [*LADDER[:5], *(final(LADDER[number], 1) for number in (0, 1, 3, 4))]:
        store.append(record)
    assert outdated(store.load(), [study], ASKED) == []
    store.append(LADDER[5])
    store.append(LADDER[6])  # four of seven now: 0, 2, 4, 6
    old = outdated(store.load(), [study], ASKED)
    assert numbers(old) == [1, 3]
    set_aside(store, old)
    for number in (5, 6):
        store.append(replace(LADDER[number], dev={"mcc": 0.0}, history=[]), replace=True)
    jobs = final_jobs(store.load(), [study], ASKED)
    named = with_new_names(jobs, tmp_path / "out", winners(store.load(), [study]))
    assert f"{STUDY}/final/point-0001/trial-0004/seed-1" in {job.id for job in named}
    assert {trial_of(job) for job in named} == {0, 1, 3, 4}


def test_records_say_the_objectives_and_their_point(study, tmp_path):
    store = ResultStore(tmp_path / "out", {})
    recorder = Recorder(store, [study], benchmark="b", environment={}, objectives=BOTH)
    for name, stage in ((f"{STUDY}/trial-0003", "search"), (f"{STUDY}/final/point-0003/seed-1", "final")):
        job = Job(
            id=name, study=STUDY, stage=stage, backbone="b", data="d", config={"method": "lora", "seed": 1}
        )
        report = Report(job=name, number=1, status="finished", epoch=1, dev={"mcc": 0.1},
                        facts={"trained_parameters": 5})  # fmt: skip
        for number, status in enumerate(("queued", "started", "finished"), 1):
            recorder(Event(number, job, report, status, [report]))
    found = store.load()
    assert {record.stage: record.trial for record in found} == {"search": 3, "final": 3}
    assert {tuple(record.facts["objectives"]) for record in found} == {BOTH}
    assert {record.facts["early_stopping"] for record in found} == {"none"}


def whole():
    finals = [
        final(point, seed, 0.1 * point.trial + 0.01 * seed)
        for point in final_points(LADDER)
        for seed in (1, 2)
    ]
    return [*LADDER, *finals]


def test_the_leaderboard_has_a_row_for_each_point():
    rows = leaderboard(whole()[:-1], expected=[("mouse/2", "toy", "lora")], seeds=(1, 2))
    assert [(row.trial, row.trained_parameters, row.done) for row in rows] == [
        (0, 100, 2), (2, 300, 2), (4, 500, 2), (6, 700, 1),
    ]  # fmt: skip
    assert [row.best for row in rows] == [False, False, True, False]
    assert rows[2].to_dict()["trial"] == 4
    text = plain(rows)
    assert "lora trial 6" in text and "1 of 2" in text and "Pareto front" in text
    assert told(rows)[0].startswith("best of mouse/2: lora trial 4, MCC 0.415")
    (row,) = leaderboard([replace(one, facts={}, trial=None) for one in whole()[-2:]])
    assert row.trial is None and "trial" not in row.to_dict() and "trial" not in plain([row])


def test_points_without_final_runs_are_rows_too():
    rows = leaderboard(LADDER, expected=[("mouse/2", "toy", "lora")], seeds=(1, 2))
    assert [(row.trial, row.done, row.expected) for row in rows] == [(n, 0, 2) for n in (0, 2, 4, 6)]
    (row,) = leaderboard([], expected=[("mouse/2", "toy", "lora")], seeds=(1, 2))
    assert (row.trial, row.done) == (None, 0)


def run_of(records):
    return RunResults(folder=Path("r"), trials=records, settings={"seeds": [1, 2], "objectives": list(BOTH)})


def test_the_report_draws_the_front_and_compares_its_leader():
    run = run_of(whole())
    (outcome,) = outcomes_of([run])
    assert outcome.values == [pytest.approx(0.61), pytest.approx(0.62)] and outcome.parameters == 700
    (section,) = front.sections([run])
    picture, table = section.blocks
    (panel,) = picture.draw().axes[:1]
    lines = {line.get_label(): line for line in panel.lines}
    assert list(lines["trial of the search, dev"].get_xdata()) == [100 * (n + 1) for n in range(7)]
    assert "Pareto front" in lines and panel.get_xlabel() == "trained parameters"
    bars = [bar.lines[0].get_xydata().tolist() for bar in panel.containers]
    assert bars == [[[100 * (n + 1), pytest.approx(0.1 * n + 0.015)]] for n in (0, 2, 4, 6)]
    assert [(line["trial"], line["seeds"]) for line in table.data] == list(enumerate((2, 0, 2, 0, 2, 0, 2)))
    assert {line["test_sd"] for line in table.data} == {None}  # of two seeds there is none
    assert front.sections([run_of([replace(one, facts={}) for one in LADDER])]) == []


def test_an_export_takes_the_leader_or_the_point_that_is_named():
    def of(number):
        return {one.trial for one in _of_trial(whole(), number) if one.stage == "final"}

    assert of(None) == {6} and of(2) == {2}
    with pytest.raises(
        InputError, match=r"`--trial` must be a point of the front .*\(0, 2, 4, 6\), but got 5"
    ):
        of(5)


def test_progress_learns_how_many_final_runs_there_are(study):
    from harness.pipeline.stages import _finals_of, _goal

    goal = _goal(study, ASKED, [study], LADDER[:2])
    assert (goal.finals, goal.tested) == (4, 0)
    progress = Progress([goal], Console(quiet=True), wire=False)
    progress.expect(_finals_of(LADDER, [study], ASKED))
    assert progress.board().rows[0].finals == 8


def test_a_run_is_complete_with_the_final_runs_of_all_points(tmp_path):
    store = ResultStore(tmp_path, {"suite": "custom", "objectives": list(BOTH)})
    planned = {"key": STUDY, "source": "toy", "space": {"notes": []}}
    settings = {"num_samples": 7, "seeds": [1, 2]}
    (tmp_path / "plan.json").write_text(json.dumps({"settings": settings, "studies": [planned]}))
    for record in whole()[:-1]:
        store.append(record)
    store.write_table()
    found = state_of(tmp_path)
    assert (found.state, found.finals, found.finals_wanted) == ("incomplete", 7, 8)
    store.append(whole()[-1])
    store.write_table()
    assert state_of(tmp_path).state == "complete"


def test_it_is_said_that_no_trial_is_stopped_early():
    (line,) = front_note(ASKED)
    assert (
        "--objectives score,parameters" in line and "not stopped early" in line and "up to 4 points" in line
    )
    assert front_note(build({})) == []
