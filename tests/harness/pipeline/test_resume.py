"""What lets a run go on after any death: open trials, one driver for each folder, settings from the folder."""

import io
import json
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from harness.cli.main import app
from harness.config.benchmark import Benchmark
from harness.config.build import build
from harness.config.plan import plan
from harness.core.atomic_files import Unwritable
from harness.core.errors import InputError, RunStopped
from harness.pipeline.interrupts import ctrl_c, outlived
from harness.pipeline.recorder import Recorder, let_go_of_ended
from harness.pipeline.remaining import final_jobs, outdated, set_aside, winners, with_new_names
from harness.pipeline.resume import stored_benchmark, take_over
from harness.pipeline.run import run_benchmark
from harness.pipeline.usage import budgets_of, read_usage, write_usage
from harness.runs.jobs import Job, Report
from harness.runs.layout import checkpoint_folder
from harness.runs.lock import only_driver
from harness.runs.open_trials import OpenTrials
from harness.runs.record import Record
from harness.runs.store import ResultStore
from harness.search.study import SearchStudy
from tests.support.studies import prepared_study, recording
from tests.support.task_files import listing, write_task

ROOT = Path(__file__).resolve().parents[3]
STUDY = "mouse/2|toy|lora"


def job(number=0, **changed):
    config = {"method": "lora", "seed": 0, "learning_rate": 0.1, "targets": ["W_q"]}
    values = {"study": STUDY, "stage": "search", "backbone": "b", "data": "d", "config": config}
    return Job(id=f"{STUDY}/trial-{number:04d}", **{**values, **changed})


def news(job, number=0, status="running", **values):
    return Report(job=job.id, number=number, status=status, dev={"mcc": 0.1} if number else {}, **values)


def test_paths_inside_a_run_that_has_moved_are_those_of_its_new_place(tmp_path):
    was, run = "/somewhere/run", tmp_path / "moved"
    run.mkdir()
    asked = build({"tasks": ("quickstart/promoter",), "models": ("quickstart-opt",)}).model_dump(mode="json")
    asked |= {
        "out": was,
        "data_dir": f"{was}/gue",
        "search_spaces": [f"{was}/a.yaml", "/somewhere/runs/b.yaml"],
    }
    asked |= {"tracking_uri": f"sqlite:///{was}/mlflow.db"}
    (run / "plan.json").write_text(json.dumps({"settings": asked}))
    found = stored_benchmark(run, {})
    assert (found.out, found.data_dir, found.tracking_uri) == (run, run / "gue", None)
    assert found.search_spaces == (run / "a.yaml", Path("/somewhere/runs/b.yaml"))
    asked |= {"tracking_uri": "sqlite:////other/mlflow.db", "data_dir": "/data"}
    (run / "plan.json").write_text(json.dumps({"settings": asked}))
    found = stored_benchmark(run, {})
    assert (found.data_dir, found.tracking_uri) == (Path("/data"), "sqlite:////other/mlflow.db")


def test_open_trials_are_there_until_they_end(tmp_path):
    trials = OpenTrials(tmp_path)
    assert trials.load() == []
    for number in (1, 0):
        trials.keep(job(number))
        trials.keep(job(number))
    assert OpenTrials(tmp_path).load() == [job(0), job(1)]
    again = OpenTrials(tmp_path)
    again.drop(job(0).id)
    again.drop("unknown")
    assert OpenTrials(tmp_path).load() == [job(1)]


def test_a_damaged_file_costs_its_own_trial_alone(tmp_path):
    trials = OpenTrials(tmp_path)
    trials.keep(job(1))
    (tmp_path / "open" / "cut.json").write_text('{"id": "half')
    (tmp_path / "open" / "list.json").write_text("[1]")
    assert OpenTrials(tmp_path).load() == [job(1)]


@pytest.fixture
def take(tmp_path):
    store = ResultStore(tmp_path / "out", {"a": 1})
    return recording(store, [prepared_study(tmp_path)])


@pytest.mark.parametrize(
    ("test", "constant", "marked"),
    [
        ({"mcc": 0.4}, {"mcc": 0.0}, False),
        ({"mcc": 0.0}, {"mcc": 0.0}, True),
        ({"mcc": -0.1}, None, True),
        ({"mcc": 0.4, "mse": 2.0}, {"mse": 1.9}, True),
        (None, None, False),
    ],
)
def test_a_final_run_that_a_constant_prediction_equals_is_marked(take, tmp_path, test, constant, marked):
    one = job(0, stage="final" if test else "search")
    facts = {"constant": constant} if constant else {}
    for status in ("queued", "started"):
        take(one, news(one), status)
    take(one, news(one, 1, "finished", test=test, facts=facts), "finished")
    (kept,) = ResultStore(tmp_path / "out", {"a": 1}).load()
    assert ("no better than a constant" in kept.marks) == marked


def test_the_recorder_keeps_what_has_not_ended(take, tmp_path):
    out = tmp_path / "out"
    jobs = [job(n, checkpoints=str(out / "checkpoints")) for n in range(4)]
    for one in jobs:
        checkpoint_folder(one.checkpoints, one.id).mkdir(parents=True)
        for status in ("queued", "started"):
            take(one, news(one), status)
    take(jobs[0], news(jobs[0], 1, "finished"), "finished")
    take(jobs[1], news(jobs[1]), "interrupted")
    take(jobs[2], news(jobs[2], 1, "failed", error="x"), "failed")
    kept = [jobs[1], jobs[3]]
    assert OpenTrials(out).load() == kept
    assert [checkpoint_folder(one.checkpoints, one.id).is_dir() for one in jobs] == [
        one in kept for one in jobs
    ]


def test_what_a_driver_killed_right_after_a_record_has_left_of_its_trial_goes(take, tmp_path, monkeypatch):
    out, folder = tmp_path / "out", tmp_path / "out" / "checkpoints"
    jobs = [job(n, checkpoints=str(folder)) for n in range(3)]
    for one in jobs:
        checkpoint_folder(folder, one.id).mkdir(parents=True)
        for status in ("queued", "started"):
            take(one, news(one), status)
    monkeypatch.setattr(Recorder, "_let_go", lambda *_: None)
    take(jobs[0], news(jobs[0], 1, "finished"), "finished")
    take(jobs[1], news(jobs[1]), "interrupted")
    records = ResultStore(out, {"a": 1}).load()
    let_go_of_ended(out, records)
    assert OpenTrials(out).load() == jobs[1:]
    assert [checkpoint_folder(folder, one.id).is_dir() for one in jobs] == [False, True, True]
    let_go_of_ended(out, [replace(drawn(prepared_study(tmp_path), n), id=jobs[n].id) for n in range(3)])
    assert not folder.exists() and OpenTrials(out).load() == []


def test_a_trial_that_a_budget_ended_is_marked(take, tmp_path):
    for number, evaluations in enumerate((0, 1)):
        one = job(number)
        take(one, news(one), "started")
        if evaluations:
            take(one, news(one, 1, facts={"samples": 8}), "running")
        take(one, news(one, evaluations, facts={"samples": 8, "cut": "budget"}), "stopped")
    for record in ResultStore(tmp_path / "out", {"a": 1}).load():
        assert record.status == "stopped" and record.marks == ["smoke", "cut by budget"]
        assert len(record.history) == record.trial


def test_a_disk_that_refuses_is_told_with_its_words(take, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    one = job()
    take(one, news(one), "queued")
    take(one, news(one), "started")
    monkeypatch.setattr("harness.runs.store.write_whole", full)
    with pytest.raises(Unwritable, match="No space left on device") as caught:
        take(one, news(one, 1, "finished"), "finished")
    assert caught.value.out == tmp_path / "out"
    assert OpenTrials(tmp_path / "out").load() == [one], "it goes on later"


HOLD = """
import sys
from harness.runs.lock import only_driver
with only_driver(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_drivers_never_write_one_folder_and_a_killed_one_leaves_no_lock(tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(InputError, match=f"process {other.pid} on .* writes {tmp_path}"),
            only_driver(tmp_path),
        ):
            pass
    finally:
        other.kill()
        other.wait()
    for _ in range(2):
        with only_driver(tmp_path):
            pass


# --- settings from a folder, forks, winners that change -----------------------------------------------------


def options(tmp_path, model, **changed):
    write_task(tmp_path / "gue") if not (tmp_path / "gue").exists() else None
    values = {
        "tasks": ("mouse/2",),
        "models": (str(model),),
        "methods": ("lora",),
        "data_dir": tmp_path / "gue",
    }
    return {**values, "out": tmp_path / "out", **changed}


@pytest.fixture
def run_folder(tmp_path, shared):
    """A folder as `run` leaves it before the first trial, and its options."""
    asked = options(tmp_path, shared / "models" / "stories260K", num_samples=4, seeds=(0, 1))
    checked = plan(build(asked))
    ResultStore(checked.out, checked.identity)
    (checked.out / "plan.json").write_text(json.dumps(checked.to_dict()))
    return checked.out, asked


def test_a_run_is_resumed_with_its_own_settings_and_more(run_folder):
    out, asked = run_folder
    same = stored_benchmark(out, {"num_samples": None})
    assert same == build(asked).model_copy(update={"out": out})
    more = stored_benchmark(out, {"num_samples": 9, "seeds": (0, 1, 2), "time_budget": "2h"})
    assert (more.num_samples, more.seeds, more.time_budget) == (9, (0, 1, 2), "2h")
    assert plan(more).out == out and plan(more).identity == plan(same).identity
    with pytest.raises(InputError, match="`--num-samples` must be at least 1"):
        stored_benchmark(out, {"num_samples": 0})


@pytest.mark.parametrize(("make", "says"), [(False, "is not a folder"), (True, "has no plan.json")])
def test_what_is_no_run_is_refused(tmp_path, make, says):
    if make:
        (tmp_path / "x").mkdir()
    result = CliRunner().invoke(app, ["resume", str(tmp_path / "x")])
    assert result.exit_code == 2 and says in result.output and "Traceback" not in result.output


def test_a_changed_search_space_needs_a_fork(run_folder, tmp_path):
    out, _ = run_folder
    space = tmp_path / "space.yaml"
    space.write_text(
        "method: lora\nspace:\n  learning_rate: {type: float, low: 1.0e-4, high: 1.0e-3, log: true}\n"
    )
    before = listing(out)
    result = CliRunner().invoke(app, ["resume", str(out), "--search-space", str(space)])
    assert result.exit_code == 2 and listing(out) == before
    assert "the search space of lora" in result.stderr and "--fork" in result.stderr


def drawn(study, number, status="finished", mcc=0.5, **values):
    config = {"seed": 0, "epochs": 5, "batch_size": 8, "method": "lora", **study.space.fixed}
    return Record.of(
        (one := job(number, config={**config, "learning_rate": 1e-3, "rank": 8, **values})),
        [Report(job=one.id, number=1, status="running", epoch=1, step=1, dev={"mcc": mcc})],
        status,
        benchmark="custom",
        family="mouse",
        metric="mcc",
        trial=number,
        data_digest=study.data_digest,
        backbone_digest=study.backbone_digest,
    )


def test_a_fork_takes_over_the_trials_that_lie_in_its_space(tmp_path):
    mine, asked = (
        prepared_study(tmp_path),
        build({"tasks": ("mouse/2",), "models": ("opt-125m",), "num_samples": 3}),
    )
    old = ResultStore(tmp_path / "old", {"a": 1})
    other_data = replace(drawn(mine, 5), data_digest="other")
    for record in (
        drawn(mine, 0, rank=64),  # outside
        drawn(mine, 1),
        drawn(mine, 2, status="killed"),
        drawn(mine, 3, status="stopped", learning_rate=2e-3),
        drawn(mine, 4, weight_decay=0.7),  # another fixed setting
        other_data,
    ):
        old.append(record)
    new = ResultStore(tmp_path / "new", {"a": 2})
    taken = take_over(tmp_path / "old", new, [mine], asked)
    assert [record.facts["taken_from"] for record in taken] == [f"old: {STUDY}/trial-000{n}" for n in (1, 3)]
    found = new.load()
    assert [record.trial for record in found] == [0, 1] and found[1].status == "stopped"
    assert take_over(tmp_path / "old", new, [mine], asked) == [], "once"
    assert [past.number for past in SearchStudy.of(mine, asked, found, [], tmp_path / "new").history] == [
        0,
        1,
    ]


def test_the_search_is_told_what_ended_and_what_goes_on(tmp_path):
    mine, asked = (
        prepared_study(tmp_path),
        build({"tasks": ("mouse/2",), "models": ("opt-125m",), "num_samples": 8}),
    )
    records = [drawn(mine, 0), drawn(mine, 1, "killed"), drawn(mine, 2, "failed")]
    trials = OpenTrials(tmp_path)
    for number in (0, 3):  # the driver died between the record of 0 and the end of its file
        trials.keep(job(number))
    told = SearchStudy.of(mine, asked, records, OpenTrials(tmp_path).load(), tmp_path)
    assert [(past.number, past.status) for past in told.history] == [(0, "finished"), (2, "failed")]
    assert [number for number, _ in told.open] == [1, 3]
    assert dict(told.open)[1] == records[1].config and dict(told.open)[3] == job(3).config


def test_final_runs_of_a_past_winner_are_set_aside_and_done_again_under_another_name(tmp_path):
    mine, store = prepared_study(tmp_path), ResultStore(tmp_path / "out", {"a": 1})
    final = replace(
        drawn(mine, 0), id=f"{STUDY}/final/seed-7", stage="final", trial=None, seed=7, test={"mcc": 0.5}
    )
    store.append(replace(final, config={**final.config, "seed": 7}))
    store.append(drawn(mine, 0))
    last = Benchmark(suite="custom", tasks=("mouse/2",), models=("toy",), seeds=(7, 8))
    assert outdated(store.load(), [mine], last) == []
    store.append(drawn(mine, 1, mcc=0.9, rank=4))
    (old,) = outdated(store.load(), [mine], last)
    (kept,) = set_aside(store, [old])
    assert kept.marks == ["superseded"] and {record.id for record in store.load()} == {
        drawn(mine, n).id for n in (0, 1)
    }
    jobs = final_jobs(store.load(), [mine], last)
    named = with_new_names(jobs, tmp_path / "out", winners(store.load(), [mine]))
    assert [one.id for one in named] == [f"{STUDY}/final/trial-0001/seed-7", f"{STUDY}/final/seed-8"]
    assert named[0].config["rank"] == 4


# --- budgets over several runs ------------------------------------------------------------------------------


def test_usage_adds_up_over_runs(tmp_path):
    mine = prepared_study(tmp_path)
    facts = {"device_seconds": 1800.0, "gpus": 2, "samples": 80, "samples_shared": 16}
    records = [replace(drawn(mine, n), facts=facts) for n in range(2)]
    asked = build({"tasks": ("mouse/2",), "models": ("opt-125m",), "price_per_hour": 4.0, "max_cost": 9.0})
    pool = {"busy_s": 30.0, "idle_s": 10.0}
    for _ in range(2):
        told = write_usage(tmp_path, asked, records, cut=["a: time"], pool=pool, seconds=3600.0)
    assert read_usage(tmp_path) == told
    assert (told["gpu_hours"], told["wall_s"], told["cost"]) == (2.0, 7200.0, 8.0)
    assert told["pool"] == {"busy_s": 60.0, "idle_s": 20.0, "idle_share": 0.25}
    assert told["samples"] == {"trained": 160, "shared": 32} and told["cut"] == ["a: time"]
    budgets = budgets_of(asked, groups=1, gpus=2, records=records, out=tmp_path)
    assert budgets.cost() == 8.0 and budgets.cut([STUDY]) == {}
    cheaper = budgets_of(
        asked.model_copy(update={"max_cost": 8.0}), groups=1, gpus=2, records=records, out=tmp_path
    )
    assert "cost budget" in cheaper.cut([STUDY])[STUDY]


# --- a run that cannot go on now ------------------------------------------------------------------------------


def started(tmp_path, monkeypatch, problem):
    """Exit code and text of a quickstart whose training ends with `problem`."""

    def train(*_):
        raise problem

    monkeypatch.setattr("harness.pipeline.stages.train", train)
    text = io.StringIO()
    asked = build({"methods": ("lora",), "out": tmp_path / "out", "limit": 16})
    return run_benchmark(asked, Console(file=text, width=500)), text.getvalue()


def test_a_full_disk_ends_a_run_with_what_is_needed_to_go_on(tmp_path, monkeypatch):
    out = tmp_path / "out"
    full = OSError(28, "No space left on device")
    for problem in (Unwritable(out, full), full):
        code, text = started(tmp_path, monkeypatch, problem)
        (line,) = [line for line in text.splitlines() if "No space left on device" in line]
        assert code == 1 and line.startswith(f"Stopped: {out} cannot be written")
        assert line.endswith(f"Free some space there, then continue with: lingo-bench resume {out}")
    code, text = started(tmp_path, monkeypatch, RunStopped("No worker group started within 300 s."))
    assert code == 1 and "Stopped: No worker group started" in text and "Continue with" in text
    with pytest.raises(OSError, match="odd"):
        started(tmp_path, monkeypatch, OSError(5, "odd"))
    with only_driver(out):
        pass


def test_the_first_ctrl_c_ends_the_jobs_and_the_second_the_process(tmp_path, monkeypatch):
    class Pool:
        told = threading.Event()

        def interrupt(self):
            self.told.set()

    left = []
    monkeypatch.setattr("os._exit", left.append)
    text = io.StringIO()
    with ctrl_c(Console(file=text, width=300), tmp_path), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)  # there is nothing to end yet
    before = signal.getsignal(signal.SIGINT)
    with ctrl_c(Console(file=text, width=300), tmp_path) as pressed:
        signal.signal(signal.SIGTERM, lambda *_: pytest.fail("as Ray takes it"))
        pressed.take()
        pressed.ends(Pool())
        signal.raise_signal(signal.SIGINT)
        assert Pool.told.wait(5) and pressed.once and left == []
        signal.raise_signal(signal.SIGTERM)
        assert left == [130]
    assert signal.getsignal(signal.SIGINT) == before
    assert f"Stopped immediately. To continue: lingo-bench resume {tmp_path}" in text.getvalue()


CLOSED = """
import os, pty, signal, sys, time
from pathlib import Path

if sys.argv[2] == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
child, terminal = pty.fork()
if child:
    while b"\\n" not in os.read(terminal, 100):
        pass
    os.close(terminal)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
from rich.console import Console
from harness.pipeline.interrupts import ctrl_c, outlived

class Pool:
    def interrupt(self):
        Path(sys.argv[1], "ended").touch()

with ctrl_c(Console(), Path(sys.argv[1])) as pressed:
    pressed.ends(Pool())
    print("ready", flush=True)
    for _ in range(100 if sys.argv[2] == "plain" else 5):
        if Path(sys.argv[1], "ended").exists():
            break
        time.sleep(0.1)
if pressed.once:
    print("still whole", flush=True)
    sys.exit(7)
"""


@pytest.mark.parametrize(("how", "code"), [("plain", 7), ("nohup", 0)])
def test_a_terminal_that_is_closed_ends_the_jobs_as_ctrl_c_does(tmp_path, how, code):
    ended = subprocess.run([sys.executable, "-c", CLOSED, str(tmp_path), how], cwd=ROOT, timeout=60)
    assert ended.returncode == code
    assert (tmp_path / "ended").exists() == (how == "plain")


def test_an_output_folder_that_cannot_be_made_or_written(tmp_path):
    (tmp_path / "file").touch()
    told = "`--out` must be a writable folder"
    with pytest.raises(InputError, match=told), only_driver(tmp_path / "file" / "out"):
        pass
    (tmp_path / "held" / "driver.lock").mkdir(parents=True)
    with pytest.raises(InputError, match=r"but .*held is not"), only_driver(tmp_path / "held"):
        pass
    with pytest.raises(InputError, match="is not"), only_driver(Path("/proc/none/here")):
        pass


def test_a_run_outlives_no_vital_process_of_ray(tmp_path, monkeypatch):
    left, gone = [], threading.Event()
    monkeypatch.setattr("os._exit", lambda code: (left.append(code), gone.set()))
    processes = {
        name: subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        for name in ("raylet", "gcs_server", "monitor")
    }
    text = io.StringIO()
    try:
        with outlived(processes, Console(file=text, width=300), tmp_path, every=0.01):
            processes["monitor"].kill()
            processes["monitor"].wait()
            assert not gone.wait(0.2), "a part that is not vital"
        with outlived(processes, Console(file=text, width=300), tmp_path, every=0.01):
            processes["raylet"].kill()
            assert gone.wait(10)
        assert left == [1]
        assert processes["gcs_server"].wait(10) != 0, "nothing is left behind"
        assert "Ray's process raylet has ended unexpectedly" in text.getvalue()
        assert f"Continue with: lingo-bench resume {tmp_path}" in text.getvalue()
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
