"""What orchestration decides without Ray: winners, what is left, records of events, shapes, progress."""

import io
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from harness.config.benchmark import Benchmark
from harness.core.wording import duration
from harness.pipeline.remaining import final_jobs, missing, unsearched
from harness.pool.resources import local_layout
from harness.progress.live import Progress, StudyGoal
from harness.report.sections.caveats import meaning
from harness.runs.jobs import Job, Report
from harness.runs.record import Record
from harness.runs.selection import best_on_dev, joint_winner
from harness.runs.store import ResultStore
from harness.workers.best_epoch import best_of as best_epoch
from tests.support.studies import prepared_study, recording

NAN = float("nan")


def trial(number, mcc, status="finished", stage="search", study="mouse/2|toy|lora", seed=0):
    return Record(
        id=f"{study}/{stage}-{number}",
        benchmark="custom",
        study=study,
        task="mouse/2",
        family="mouse",
        backbone="toy",
        method="lora",
        metric="mcc",
        stage=stage,
        trial=number,
        seed=seed,
        status=status,
        config={"learning_rate": 10.0 ** -(number or 0), "seed": seed},
        dev={"mcc": mcc},
    )


def won(trials):
    return joint_winner(trials, {"mouse/2|toy|lora": "mcc"})["mouse/2|toy|lora"]


def test_the_winner_trained_all_epochs_and_of_equals_is_the_earlier():
    trials = [
        trial(0, 0.9, "stopped"),
        trial(1, 0.5),
        trial(2, NAN),
        trial(3, 0.7),
        trial(4, 0.7),
        trial(5, 0.8, "failed"),
    ]
    for order in (trials, trials[::-1]):
        assert won(order).trial == 3
    assert won(trials[:1]).trial == 0  # none finished: the best that was stopped
    assert joint_winner(trials, {"another|toy|lora": "mcc"}) == {}
    assert won([trial(1, 0.5), trial(3, 0.9, stage="final")]).trial == 1


def test_what_is_left_to_do(tmp_path):
    studies = [prepared_study(tmp_path)]
    records = [trial(0, 0.1), trial(1, 0.2, "stopped"), trial(2, 0.3, "failed"), trial(3, 0.4, "killed")]
    asked = SimpleNamespace(scope="task", searcher="tpe", num_samples=4)
    assert unsearched(records, studies, asked) == studies
    assert unsearched(records, studies, SimpleNamespace(**(vars(asked) | {"num_samples": 3}))) == []
    records += [trial(0, 0.5, stage="final", seed=7), trial(1, 0.5, "failed", stage="final", seed=8)]
    last = Benchmark(suite="custom", tasks=("mouse/2",), models=("toy",), seeds=(7, 8, 9))
    assert [seed for *_, seed in missing(records, studies, last)] == [8, 9]
    jobs = final_jobs(records, studies, last)
    assert [job.config["seed"] for job in jobs] == [8, 9]
    assert all(job.stage == "final" and job.config["learning_rate"] == 1.0 for job in jobs)
    assert final_jobs([trial(0, NAN)], studies, last) == []


def job(number=0, stage="search"):
    name = f"mouse/2|toy|lora/{'trial-' if stage == 'search' else 'final/seed-'}{number}"
    config = {"method": "lora", "seed": number, "learning_rate": 0.1}
    return Job(id=name, study="mouse/2|toy|lora", stage=stage, backbone="b", data="d", config=config)


def report(job, number, status="running", **values):
    return Report(job=job.id, number=number, status=status, epoch=number, dev={"mcc": number / 10}, **values)


@pytest.fixture
def told(tmp_path):
    records, store = [], ResultStore(tmp_path / "out", {"a": 1})
    environment = {"git_sha": "x"}
    return (
        recording(store, [prepared_study(tmp_path)], environment=environment, on_record=records.append),
        store,
        records,
    )


def test_a_record_for_every_end(told):
    take, store, told_of = told
    first, lost, queued = job(0), job(1), job(2)
    nothing = Report(job=first.id, number=0, status="running")
    for status in ("queued", "started"):
        take(first, nothing, status)
    take(first, report(first, 1), "running")
    take(first, report(first, 1), "running")
    last = report(first, 2, "finished", facts={"trained_parameters": 7, "samples": 80}, seconds=3.0)
    take(first, last, "finished")
    take(lost, nothing, "started")
    take(lost, replace(nothing, number=1, status="failed", error="out of memory"), "failed")
    take(queued, nothing, "queued")
    take(queued, nothing, "interrupted")
    records = {record.id: record for record in store.load()}
    assert set(records) == {first.id, lost.id}
    one = records[first.id]
    assert (one.status, one.trial, one.seconds, one.trained_parameters) == ("finished", 0, 3.0, 7)
    assert [entry["dev"]["mcc"] for entry in one.history] == [0.1, 0.2] and one.dev == {"mcc": 0.2}
    assert one.marks == ["smoke"] and one.family == "mouse" and one.environment == {"git_sha": "x"}
    # What was measured of the data is in every record; what a job measured itself comes first.
    assert one.facts == {"leaks": {"dropped": 3}, "samples": 80}
    assert records[lost.id].facts == {"leaks": {"dropped": 3}, "samples": 1}
    assert (records[lost.id].status, records[lost.id].error) == ("failed", "out of memory")
    assert [record.id for record in told_of] == [first.id, lost.id]


def test_a_final_run_that_kept_more_ranks_than_its_budget_is_a_failure(told, tmp_path, caplog):
    """Its scores are of weights that the budget does not allow."""
    _, store, _ = told
    take = recording(store, [prepared_study(tmp_path, "adalora")])
    for seed, kept in enumerate([{"q": 3, "v": 1}, {"q": 7, "v": 2}]):
        config = {"method": "adalora", "seed": seed, "b0": 8, "bT": 2}
        one = replace(job(seed, "final"), study="mouse/2|toy|adalora", config=config)
        take(one, Report(job=one.id, number=0, status="running"), "started")
        take(one, report(one, 1, "finished", test={"mcc": 0.9}, facts={"kept_ranks": kept}), "finished")
    good, bad = store.load()
    assert (good.status, good.test) == ("finished", {"mcc": 0.9})
    assert (bad.status, bad.test) == ("failed", None)
    assert (
        bad.error
        == "the mean kept rank must be at most bT = 2, but is 4.50: its scores do not belong to that budget."
    )
    assert bad.error in caplog.text


def test_full_fine_tuning_without_the_models_dropout_is_marked(told):
    take, store, _ = told
    one = job()
    take(one, Report(job=one.id, number=0, status="running"), "started")
    off = {"model_dropout": {"configured": 0.1, "used": 0.0}}
    take(one, report(one, 1, "finished", facts=off), "finished")
    (record,) = store.load()
    assert record.marks == ["smoke", "no model dropout"] and "dropout" in meaning("no model dropout")


def test_an_interrupted_trial_is_recorded_as_killed_and_replaced_when_run_again(told, tmp_path):
    take, store, _ = told
    one = job(0)
    for status in ("started", "interrupted"):
        take(one, Report(job=one.id, number=0, status="running"), status)
    assert [record.status for record in store.load()] == ["killed"]
    take = recording(store, [prepared_study(tmp_path)])  # of another run
    take(one, Report(job=one.id, number=0, status="running"), "started")
    take(one, report(one, 1, "finished"), "finished")
    assert [record.status for record in store.load()] == ["finished"]


@pytest.mark.parametrize(
    ("machine", "groups", "cpus"),
    [
        ({"cores": 2, "gibibytes": 12}, 2, 1),
        ({"cores": 8, "gibibytes": 64}, 8, 1),
        ({"cores": 8, "gibibytes": 64, "at_most": 2}, 2, 4),
        ({"cores": 8, "gibibytes": 64, "workers": 2}, 4, 1),
        ({"cores": 16, "gibibytes": 6.5}, 2, 8),
        ({"cores": 1, "gibibytes": 2}, 1, 1),
        ({"cores": 2, "gibibytes": 12, "workers": 3}, 1, 1),
        ({"cores": 16, "gibibytes": 200, "gpus": 4, "workers": 2}, 2, 4),
    ],
)
def test_worker_groups_fit_the_machine(machine, groups, cpus):
    lay = local_layout(**{"gpus": 0, "workers": 1} | machine)
    assert (lay.groups, lay.cpus) == (groups, cpus)
    assert lay.gpus == (1 if machine.get("gpus") else 0)


def goal(**changed):
    values = {"key": "mouse/2|toy|lora", "title": "mouse/2 lora", "metric": "mcc", "trials": 2, "finals": 1}
    return StudyGoal(**(values | {"epochs": 2, "cost": 1.0} | changed))


def test_progress_lines_count_and_estimate():
    now = [0.0]
    text = io.StringIO()
    progress = Progress([goal()], Console(file=text, width=200), every=10.0, clock=lambda: now[0])
    with progress:
        now[0] = 20.0
        one = job(0)
        progress.update(one, Report(job=one.id, number=0, status="running"), "started")
        now[0] = 30.0
        progress.update(one, report(one, 1), "running")
        now[0] = 40.0
        progress.update(one, report(one, 2, "finished"), "finished")
    line = text.getvalue().splitlines()[-1]
    assert "search 1/2 trials (0 stopped early), final 0/1" in line
    assert "highest dev mcc 0.200 (mouse/2 lora)" in line
    assert "about 40 s left" in line, "20 s since the first start for a third of the work"


def test_progress_counts_what_ended_before():
    """A run that goes on shows all of it; the time left follows from what this process has done."""
    now, text = [0.0], io.StringIO()
    before = goal(trials=4, finals=2, ended=2, stopped=1, failed=1, tested=1, best=0.7)
    progress = Progress([before], Console(file=text, width=200), every=5.0, clock=lambda: now[0])
    assert progress.board().left_s is None
    assert (
        "search 2/4 trials (1 stopped early), final 1/2, 0 running, 1 failed, highest dev mcc 0.700 (mouse/2 lora)"
        in (progress.line())
    )
    assert progress.board().done == pytest.approx(0.5)
    one = job(2)
    progress.update(one, Report(job=one.id, number=0, status="running"), "started")
    now[0] = 10.0
    progress.update(one, report(one, 2, "finished"), "finished")
    assert "search 3/4 trials" in progress.line() and "mcc 0.700" in progress.line()
    assert progress.board().left_s == pytest.approx(20.0), "10 s for a third of what was left"


def test_the_goal_of_a_run_that_goes_on_counts_its_records(tmp_path):
    from harness.pipeline.stages import _goal

    study = prepared_study(tmp_path)
    benchmark = Benchmark(
        suite="custom", tasks=("mouse/2",), models=("toy",), num_samples=4, seeds=(0, 1), epochs=2
    )

    def kept(number, stage, status, seed, *scores):
        history = [{"epoch": epoch, "dev": {"mcc": score}} for epoch, score in enumerate(scores, 1)]
        last = scores[-1] if scores else NAN
        return replace(trial(number, last, status, stage, seed=seed), history=history)

    records = [
        kept(0, "search", "finished", 0, 0.1, 0.6),
        kept(1, "search", "stopped", 0, 0.2),
        kept(2, "search", "failed", 0),
        kept(3, "search", "killed", 0, 0.9),
        kept(None, "final", "finished", 1, 0.8),
        kept(None, "final", "failed", 0),
        kept(None, "final", "finished", 7),
    ]
    found = _goal(study, benchmark, [study], records)
    assert (found.trials, found.ended, found.stopped, found.failed, found.best) == (4, 3, 1, 1, 0.6)
    assert (found.finals, found.tested) == (2, 1)
    done = _goal(study, benchmark, [], records[:1])
    assert (done.trials, done.ended) == (1, 1)


def test_the_live_table_shows_each_study():
    text = io.StringIO()
    console = Console(file=text, width=120, force_terminal=True)
    progress = Progress([goal(), goal(key="x|y|z", title="x z")], console)
    one = job(0)
    progress.update(one, report(one, 1), "stopped")
    console.print(progress.table())
    assert "mouse/2 lora" in text.getvalue() and "x z" in text.getvalue() and "1/2" in text.getvalue()


def test_durations():
    assert [duration(s) for s in (3, 89, 100, 5400, 11100)] == [
        "3 s",
        "89 s",
        "2 min",
        "1 h 30 min",
        "3 h 05 min",
    ]


def test_progress_shows_the_lowest_error():
    text, one = io.StringIO(), job(0)
    told = [replace(report(one, number), dev={"nll": error}) for number, error in ((1, 0.4), (2, 0.6))]
    progress = Progress([goal(metric="nll", best=0.5)], Console(file=text, width=200))
    for each in told:
        progress.update(one, each, each.status)
    assert "lowest dev nll 0.400 (mouse/2 lora)" in progress.line()


def test_errors_choose_trials_final_runs_and_weights_by_the_lowest():
    dev = [{"nll": 0.9, "mcc": 0.9}, {"nll": 0.2, "mcc": 0.1}, {"nll": NAN, "mcc": 0.5}]
    records = [replace(trial(number, 0.0), metric="nll", dev=scores) for number, scores in enumerate(dev)]
    study = records[0].study
    assert joint_winner(records, {study: "nll"})[study].trial == 1
    assert joint_winner(records, {study: "mcc"})[study].trial == 0
    assert best_on_dev(records) is records[1]
    assert best_epoch(enumerate(dev), "nll") == 1 and best_epoch(enumerate(dev), "mcc") == 0
