"""What runs of the real command have survived, so that it stays: killed at four moments, hung up, stopped for two
minutes, and offline with little shared memory and few open files."""

import contextlib
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from harness.runs.store import load
from tests.support.chaos_rig import runs_of, tracking_problems
from tests.support.real_runs import finish, start, until

TRIALS = 3
STUDY = "quickstart/promoter|quickstart-opt"

STOPPED_S = 120.0

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]


def options(method, epochs=8):
    """A search without early stopping, so that nothing depends on who was faster."""
    return [
        *("--tasks", "quickstart/promoter", "--models", "quickstart-opt", "--methods", method),
        *("--epochs", str(epochs), "--num-samples", str(TRIALS), "--seeds", "0", "--limit", "160"),
        *("--scheduler", "none", "--max-concurrent", "1"),
    ]


def record_files(out, part=""):
    return {path.name: path.read_bytes() for path in out.glob("records/*.json") if part in path.name}


def saved(out, part=""):
    """When each whole checkpoint was written, by trial and step, for trials whose name has `part`."""
    found = {}
    for path in out.glob("checkpoints/*/step-*/job.json"):
        trial, step = path.parents[1].name, int(path.parent.name.removeprefix("step-"))
        if part in trial:
            with contextlib.suppress(FileNotFoundError):  # the third last of a trial is removed
                found[trial, step] = path.stat().st_mtime_ns
    return found


def ids(method):
    trials = {f"{STUDY}|{method}/trial-{number:04d}" for number in range(TRIALS)}
    return trials | {f"{STUDY}|{method}/final/seed-0"}


def family(driver):
    mine = psutil.Process(driver.pid)
    return [mine, *mine.children(recursive=True)]


def send_all(driver, number):
    """Send a signal to a run's processes, also to those that it has started meanwhile."""
    told = set()
    while new := [process for process in family(driver) if process.pid not in told]:
        for process in new:
            told.add(process.pid)
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue


# --- killed and gone on --------------------------------------------------------------------------------------


def kill_driver(driver):
    """Kill -9 of the command alone: Ray's processes end by themselves, while the run goes on already."""
    driver.kill()
    driver.wait()


def kill_all(driver):
    """All of a run's processes at the same moment, as when a machine loses its power."""
    send_all(driver, signal.SIGKILL)
    driver.wait()


def goes_on(before, holds, driver, out):
    """Wait until `holds`; meanwhile no trial writes a checkpoint that it had `before`, or an earlier one."""
    newest = {}
    for trial, step in before:
        newest[trial] = max(step, newest.get(trial, 0))

    def looked():
        again = [
            key
            for key, written in saved(out).items()
            if key[1] <= newest.get(key[0], -1) and before.get(key) != written
        ]
        assert not again, f"trained once more: {again}"
        return holds()

    until(looked, driver, 400)


def kill_chain(out, method, kill, chosen):
    """Start, kill at the chosen moments, and let it go on each time."""
    moments = {
        "mid-trial": lambda: saved(out) and not record_files(out),
        "after a record": lambda: len(record_files(out)) >= 1,
        "winner known": lambda: len(record_files(out, "trial")) == TRIALS,
        "mid-final": lambda: saved(out, "final"),
    }
    driver, kept, before = start(*options(method), "--out", str(out)), {}, {}
    try:
        for moment in chosen:
            goes_on(before, moments[moment], driver, out)
            kill(driver)
            files, before = record_files(out), saved(out)
            assert kept.items() <= files.items(), f"{moment}: a record of before has changed"
            assert not record_files(out, "final"), f"{moment}: killed too late"
            assert moment != "mid-trial" or not files, "killed too late"
            kept = files
            driver = start("resume", str(out))
        goes_on(before, lambda: record_files(out, "final"), driver, out)
        printed, _ = driver.communicate(timeout=200)
    finally:
        driver.kill()
        driver.wait()
    assert driver.returncode == 0, printed
    assert "1 of 1 searches and 1 of 1 final runs are complete" in " ".join(printed.split()), printed
    assert "Traceback" not in printed
    assert kept.items() <= record_files(out).items() and len(kept) == TRIALS
    records = load(out)
    assert {record.id for record in records} == ids(method) and len(records) == TRIALS + 1
    assert {record.status for record in records} == {"finished"}
    assert all([entry["epoch"] for entry in record.history] == list(range(1, 9)) for record in records)
    assert not (out / "checkpoints").exists()
    printed = finish("resume", str(out))
    assert "nothing is trained" in " ".join(printed.split())


def test_a_run_that_is_evaluated_amid_its_epochs_and_killed_there_ends_as_if_undisturbed(tmp_path):
    """The search does not depend on the load."""
    words = [*options("ars", epochs=2)[:-4], "--deterministic", "--max-concurrent", "1", "--eval-steps", "6"]
    finish("run", *words, "--out", str(tmp_path / "whole"))
    out = tmp_path / "killed"
    driver = start("run", *words, "--out", str(out))
    try:
        goes_on({}, lambda: any(step % 20 for _, step in saved(out)), driver, out)  # an epoch has 20 steps
        kill_all(driver)
        assert saved(out) and not record_files(out, "final")
    finally:
        driver.kill()
        driver.wait()
    finish("resume", str(out))
    whole, mine = ({record.id: record for record in load(tmp_path / name)} for name in ("whole", "killed"))
    assert mine.keys() == whole.keys() == ids("ars")
    for name, record in whole.items():
        times = [[{**entry, "seconds": 0} for entry in one.history] for one in (record, mine[name])]
        assert times[0] == times[1] and record.config == mine[name].config
        assert (record.status, record.dev, record.test) == (
            mine[name].status,
            mine[name].dev,
            mine[name].test,
        )
        losses = [one.facts["train_losses"] for one in (record, mine[name])]
        assert losses[0]["losses"] == losses[1]["losses"]
        assert record.history[0]["epoch"] == 0.25 and record.facts["evaluations_per_epoch"] == 4
    final = whole[f"{STUDY}|ars/final/seed-0"]
    assert [entry["epoch"] for entry in final.history] == [part / 4 for part in range(1, 9)]
    assert len(final.facts["train_losses"]["losses"]) == 20


# --- stopped, hung up, offline --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """(process, output folder, time of the stop) of a run under nohup, without a network, with 64 MB of shared memory
    and 128 open files, that was hung up after its first record and then stopped; `None` where that is not allowed.

    It stays stopped while other tests of this module run.
    """
    alone = ["unshare", "--net", "--mount"]
    script = (
        'ip link set lo up && mount -t tmpfs -o size=64m tmpfs /dev/shm && ulimit -Sn 128 && exec nohup "$@"'
    )
    allowed = ["sh", "-c", "ip link set lo up && mount -t tmpfs tmpfs /dev/shm"]
    if subprocess.run([*alone, *allowed], capture_output=True).returncode:
        yield None  # the kill chains do without
        return
    out = tmp_path_factory.mktemp("stopped") / "out"
    driver = start(
        *(*options("lora"), "--out", str(out)), prefix=[*alone, "sh", "-c", script, "sh"], HF_HUB_OFFLINE=None
    )
    try:
        until(lambda: record_files(out), driver, 400)
        assert "python" in Path(f"/proc/{driver.pid}/exe").resolve().name
        hung_up = record_files(out)
        os.killpg(driver.pid, signal.SIGHUP)  # as a shell does to its jobs when its terminal is closed
        until(lambda: record_files(out) != hung_up or saved(out), driver, 400)
        assert not record_files(out, "final")
        send_all(driver, signal.SIGSTOP)
        yield driver, out, time.monotonic()
    finally:
        try:
            for process in reversed(family(driver)):
                process.kill()
        except psutil.NoSuchProcess:
            pass
        driver.wait()


def test_two_kill_chains_end_complete_and_train_nothing_twice(tmp_path, stopped):
    """Both at the same time, while the run of `stopped` is stopped: each waits for Ray most of the time."""
    chains = [
        ("lora", kill_driver, ("mid-trial", "winner known")),
        ("ars", kill_all, ("after a record", "mid-final")),
    ]
    with ThreadPoolExecutor(len(chains)) as both:
        ended = [both.submit(kill_chain, tmp_path / chain[0], *chain) for chain in chains]
    for each in ended:
        each.result()
    for method, *_ in chains:
        assert tracking_problems(runs_of(f"sqlite:///{tmp_path / method / 'mlflow.db'}"), ids(method)) == []


def test_a_run_goes_on_after_two_minutes_of_a_stop_though_it_was_hung_up_and_has_little(stopped):
    if stopped is None:
        pytest.skip("a network and mounts of one's own need root and iproute2")
    driver, out, since = stopped
    before = record_files(out)
    time.sleep(max(0.0, since + STOPPED_S - time.monotonic()))
    assert record_files(out) == before and before, "it was not stopped"
    send_all(driver, signal.SIGCONT)
    printed, _ = driver.communicate(timeout=400)
    assert driver.returncode == 0, printed
    assert "1 of 1 searches and 1 of 1 final runs are complete" in " ".join(printed.split()), printed
    assert "Traceback" not in printed
    assert before.items() <= record_files(out).items()
    records = load(out)
    assert {record.id for record in records} == ids("lora") and len(records) == TRIALS + 1
    assert {record.status for record in records} == {"finished"}
