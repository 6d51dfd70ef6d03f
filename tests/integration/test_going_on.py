"""A search that a budget cut, then asked for more: winners in between, only the difference is run, a new winner's
final runs take the place of the old one's."""

import json
import subprocess

import pytest

from harness.runs.store import load, load_folder
from tests.support.chaos_rig import OPTIONS, ROOT, driver_command, environment, runs_of, table

STUDY = {**OPTIONS, "methods": ["lora"], "num_samples": 40, "seeds": [0], "epochs": 2}


def run(out, seconds, **options):
    done = subprocess.run(
        driver_command(out, {**STUDY, **options}, seconds),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_cut_by_budget_and_gone_on(tmp_path):
    out = tmp_path / "out"
    printed = run(out, 0.2, time_budget="6s")
    cut = {record.id: record for record in load(out)}
    searched = [record for record in cut.values() if record.stage == "search"]
    assert 0 < len(searched) < 40 and sum(record.stage == "final" for record in cut.values()) == 1
    assert all("cut by budget" in record.marks for record in searched if record.status == "stopped")
    (line,) = json.loads((out / "search.json").read_text())["cut"]
    assert "time budget" in line and line in " ".join(printed.split())

    before = table(out)
    run(out, 0.0, time_budget="1h", num_samples=len(searched) + 8)
    after = table(out)
    assert sum(record.stage == "search" for record in load(out)) == len(searched) + 8
    assert all(after[record.id] == before[record.id] for record in searched), "what had ended is kept"
    assert json.loads((out / "search.json").read_text())["cut"] == []
    finals = [record for record in load(out) if record.stage == "final"]
    best = max(
        (r for r in load(out) if r.stage == "search" and r.status == "finished"), key=lambda r: r.dev["mcc"]
    )
    assert [{**final.config, "seed": 0} for final in finals] == [best.config]
    changed = best.id not in cut
    assert len(load_folder(out / "superseded")) == changed
    assert {run.info.status for run in runs_of(f"sqlite:///{out / 'mlflow.db'}")} <= {"FINISHED"}
