"""A run that is steered by a script while it goes on, killed and resumed: exactly the trials that were asked for."""

import json
import subprocess
import time

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.pipeline.trials import trials_of_run
from harness.runs.requests import Requests
from harness.runs.store import load
from tests.support.chaos_rig import OPTIONS, ROOT, driver_command, environment

LORA, ARS = (f"quickstart/promoter|quickstart-opt|{method}" for method in ("lora", "ars"))
STEERED = {**OPTIONS, "epochs": 5, "num_samples": 3, "seeds": [0], "pack": 2, "max_concurrent": 2}
OWN = {"learning_rate": 0.002, "rank": 5}
WAIT_S = 240.0

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]


def started(out, seconds):
    log = out.with_name(f"{out.name}.log").open("ab")
    return subprocess.Popen(
        driver_command(out, STEERED, seconds),
        cwd=ROOT,
        env=environment(),
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def steer(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def until(driver, holds):
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and driver.poll() is None:
        if found := holds():
            return found
        time.sleep(0.1)
    raise AssertionError(f"it did not come to that; the driver's exit code is {driver.poll()}")


def running(out, study):
    if not (out / "plan.json").exists():
        return []
    return [one for one in trials_of_run(out) if one.study == study and one.state == "running" and one.curve]


def test_a_steered_run_that_is_killed_and_resumed_has_exactly_the_trials_asked_for(tmp_path):
    out = tmp_path / "run"
    driver = started(out, 0.5)
    try:
        until(driver, lambda: running(out, LORA))
        assert "starts no further trial" in steer("pause", out, ARS)
        given = ",".join(f"{name}={value}" for name, value in OWN.items())
        assert "trial-0003 is added" in steer("add-trial", out, LORA, "--set", given)
        assert "4 trials instead of 3" in steer("more", out, LORA, "--num-samples", 4)
        (first, *_) = until(driver, lambda: running(out, LORA))
        assert "stops" in steer("stop-trial", out, first.id)
        until(driver, lambda: [one for one in load(out) if one.id == first.id])
        (second, *_) = until(driver, lambda: running(out, LORA))
    finally:
        driver.kill()
        driver.wait()
    (left,) = [one for one in trials_of_run(out) if one.id == second.id]
    assert left.state == "interrupted" and left.curve
    assert "waits for the run" in steer("stop-trial", out, second.id)
    assert "waits for the run" in steer("unpause", out, ARS)
    again = started(out, 0.02)
    assert again.wait(WAIT_S) == 0, out.with_name("run.log").read_text()[-3000:]
    records = {one.id: one for one in load(out) if one.stage == "search"}
    assert set(records) == {f"{LORA}/trial-{n:04d}" for n in range(5)} | {
        f"{ARS}/trial-{n:04d}" for n in range(3)
    }
    stopped = {first.id, second.id}
    for name, record in records.items():
        assert record.status == ("stopped" if name in stopped else "finished"), name
        assert record.facts.get("cut") == ("user" if name in stopped else None)
    assert len(records[second.id].history) >= len(left.curve), "what the killed driver has seen is kept"
    added = records[f"{LORA}/trial-0003"]
    assert added.facts["asked_by"] == "user" and {name: added.config[name] for name in OWN} == OWN
    assert [one for one in records.values() if "asked_by" in one.facts] == [added]
    asked = Requests(out).load()
    assert [one.kind for one in asked] == ["pause", "add", "more", "stop", "stop", "unpause"]
    assert {one.state for one in asked} == {"done"} and {one.asked_by for one in asked} == {"user"}
    told = json.loads(steer("trials", out, "--json"))
    assert {one["id"]: one["why"] for one in told if one["state"] == "stopped"} == dict.fromkeys(
        stopped, "user"
    )
