"""What lets a run go on after any death: open trials, one driver for each folder, settings from the folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.jobs import Job, Report
from harness.ledger import Ledger, checkpoint_folder
from harness.lock import only_driver
from harness.open_trials import OpenTrials
from harness.results import ResultStore, Unwritable

ROOT = Path(__file__).resolve().parents[2]
STUDY = "mouse/2|toy|lora"


def job(number=0, **changed):
    config = {"method": "lora", "seed": 0, "learning_rate": 0.1, "targets": ["W_q"]}
    values = {"study": STUDY, "stage": "search", "backbone": "b", "data": "d", "config": config}
    return Job(id=f"{STUDY}/trial-{number:04d}", **{**values, **changed})


def news(job, number=0, status="running", **values):
    return Report(job=job.id, number=number, status=status, dev={"mcc": 0.1} if number else {}, **values)


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
def ledger(tmp_path):
    from tests.harness.test_stages import cell

    store = ResultStore(tmp_path / "out", {"a": 1})
    return Ledger(store, [cell(tmp_path)], benchmark="custom", environment={})


def test_the_ledger_keeps_what_has_not_ended(ledger, tmp_path):
    out = tmp_path / "out"
    jobs = [job(n, checkpoints=str(out / "checkpoints")) for n in range(4)]
    for one in jobs:
        checkpoint_folder(one.checkpoints, one.id).mkdir(parents=True)
        for status in ("queued", "started"):
            ledger(one, news(one), status)
    ledger(jobs[0], news(jobs[0], 1, "finished"), "finished")
    ledger(jobs[1], news(jobs[1]), "interrupted")
    ledger(jobs[2], news(jobs[2], 1, "failed", error="x"), "failed")
    kept = [jobs[1], jobs[3]]
    assert OpenTrials(out).load() == kept
    assert [checkpoint_folder(one.checkpoints, one.id).is_dir() for one in jobs] == [
        one in kept for one in jobs
    ]


def test_a_trial_that_a_budget_ended_is_marked(ledger, tmp_path):
    one = job()
    ledger(one, news(one), "started")
    ledger(one, news(one, 1, facts={"cut": "budget"}), "stopped")
    (record,) = ResultStore(tmp_path / "out", {"a": 1}).load()
    assert record.status == "stopped" and record.marks == ["smoke", "cut by budget"]


def test_a_disk_that_refuses_is_told_with_its_words(ledger, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    one = job()
    ledger(one, news(one), "queued")
    ledger(one, news(one), "started")
    monkeypatch.setattr("harness.results.write_whole", full)
    with pytest.raises(Unwritable, match="No space left on device") as caught:
        ledger(one, news(one, 1, "finished"), "finished")
    assert caught.value.out == tmp_path / "out"
    assert OpenTrials(tmp_path / "out").load() == [one], "it goes on later"


HOLD = """
import sys
from harness.lock import only_driver
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
