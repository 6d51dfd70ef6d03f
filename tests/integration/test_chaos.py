"""Killed in a fixed order and gone on each time: the results are those of a run that nobody disturbed. The longer
one, with a cluster's node and the tracking server among the dead, is `tests/benchmarks/chaos.py`."""

import signal
import subprocess
import time
from contextlib import suppress

import pytest

from harness.runs.open_trials import OpenTrials
from tests.support.chaos_rig import (
    OPTIONS,
    ROOT,
    Rig,
    differences,
    driver_command,
    environment,
    expected_ids,
    runs_of,
    table,
    tracking_problems,
    undisturbed,
)

STUDY = {**OPTIONS, "methods": ["lora"], "num_samples": 6, "seeds": [0, 1], "epochs": 3}
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The table of the undisturbed run."""
    found = undisturbed(tmp_path_factory.mktemp("calm") / "out", STUDY)
    assert set(found) == expected_ids(STUDY)
    return found


def test_driver_worker_and_job_source_may_die(tmp_path, calm):
    rig = Rig(tmp_path, STUDY, seconds=0.15, seed=3)
    rig.run({"driver": 1, "worker group": 1, "job source": 1}, seconds=400)
    assert rig.kills == {"driver": 1, "worker group": 1, "job source": 1}, rig.printed()
    assert rig.own_ends == []
    found = table(rig.out)
    assert set(found) == expected_ids(STUDY), "lost or doubled"
    assert differences(calm, found) == []
    assert tracking_problems(runs_of(f"sqlite:///{rig.out / 'mlflow.db'}"), set(found)) == []
    assert OpenTrials(rig.out).load() == []


def steps(out):
    """When each open trial made its last step; the file of one that ends goes."""
    found = {}
    for path in out.glob("checkpoints/*/chain.json"):
        with suppress(FileNotFoundError):
            found[path] = path.stat().st_mtime
    return found


def test_ctrl_c_once_saves_and_twice_leaves_at_once_and_both_go_on(tmp_path, calm):
    out = tmp_path / "out"

    def press(times):
        process = subprocess.Popen(
            driver_command(out, STUDY, 0.4),
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            before, deadline = steps(out), time.monotonic() + 300
            while steps(out).items() <= before.items():
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            printed = ""
            if times == 2:
                while "no new trial starts" not in printed:  # two at once would be one
                    line = process.stdout.readline()
                    assert line, printed
                    printed += line
                process.send_signal(signal.SIGINT)
            printed += process.communicate(timeout=300)[0]
        finally:
            process.kill()
        assert process.returncode == 130, printed
        assert "Traceback" not in printed and f"resume {out}" in printed
        return printed

    printed = press(1)
    assert "no new trial starts" in printed and "Interrupted after" in printed
    assert OpenTrials(out).load(), "what was interrupted goes on later"
    printed = press(2)
    assert "Stopped immediately" in printed and "Interrupted after" not in printed
    done = subprocess.run(
        driver_command(out, STUDY, 0.0),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert differences(calm, table(out)) == []
