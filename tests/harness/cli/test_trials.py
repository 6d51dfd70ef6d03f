"""`trials`: every trial of a run, ended, under way and interrupted."""

import json
import math
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.cluster.results_archive import extract
from harness.pipeline.trials import trials_of_run
from harness.runs.jobs import Job, Report
from harness.runs.lock import only_driver
from harness.runs.store import ResultStore
from tests.support.studies import prepared_study, recording

STUDY = "mouse/2|toy|lora"
PACKED = Path(__file__).resolve().parents[2] / "data" / "run_0_1_0" / "run.tar.xz"


def called(*words, columns=80):
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": str(columns)})
    assert "Traceback" not in result.output
    return result.exit_code, result.stdout, result.stderr


def job(number, **more):
    config = {"seed": 0, "epochs": 3, "learning_rate": 1e-3, "rank": 4}
    return Job(
        id=f"{STUDY}/trial-{number:04d}",
        study=STUDY,
        stage="search",
        backbone="b",
        data="d",
        config=config,
        **more,
    )


def report(one, number, score, status="running"):
    return Report(
        job=one.id, number=number, status=status, epoch=number, dev={"mcc": score, "loss": math.nan}
    )


@pytest.fixture
def folder(tmp_path):
    """A run of one study whose trials 0 and 1 have ended; 2 has been evaluated once, 3 is queued."""
    study = prepared_study(tmp_path)
    plan = {
        "settings": {},
        "studies": [{"key": STUDY, "space": {"leaves": dict.fromkeys(study.space.leaves)}}],
    }
    out = tmp_path / "out"
    out.mkdir()
    (out / "plan.json").write_text(json.dumps(plan))
    take = recording(ResultStore(out, {}), [study])
    jobs = [job(number, metric="mcc") for number in range(4)]
    for one in jobs:
        take(one, Report(job=one.id, number=0, status="running"), "queued")
    for one in jobs[:3]:
        take(one, Report(job=one.id, number=0, status="running"), "started")
        take(one, report(one, 1, 0.1 * one.config["rank"]), "running")
    last = report(jobs[0], 2, math.nan)
    take(jobs[0], last, "running")
    take(jobs[0], replace(last, facts={"cut": "budget"}), "stopped")
    take(jobs[1], report(jobs[1], 2, 0.5), "running")
    take(jobs[1], report(jobs[1], 3, 0.3, "finished"), "finished")
    return out


def test_every_trial_is_listed_with_its_curve_and_state(folder):
    with only_driver(folder):
        found = trials_of_run(folder)
    assert [one.trial for one in found] == [0, 1, 2, 3]
    assert [one.state for one in found] == ["stopped", "finished", "running", "queued"]
    assert [one.why for one in found] == ["budget", "", "", ""]
    assert found[1].curve == [0.4, 0.5, 0.3] and found[2].curve == [0.4] and found[3].curve == []
    assert math.isnan(found[0].curve[1]) and {one.metric for one in found} == {"mcc"}
    assert [one.state for one in trials_of_run(folder)][2:] == ["interrupted"] * 2, "no driver"


def test_a_trial_that_is_interrupted_and_queued_again_keeps_its_curve(folder, tmp_path):
    take = recording(ResultStore(folder, {}), [prepared_study(tmp_path)])
    one = job(2, metric="mcc")
    take(one, Report(job=one.id, number=0, status="running"), "queued")
    take(one, Report(job=one.id, number=0, status="running"), "started")
    assert trials_of_run(folder)[2].curve == [0.4]
    take(one, report(one, 1, 0.4), "running")
    take(one, report(one, 2, 0.6), "running")
    take(one, report(one, 2, 0.6), "interrupted")  # a record that says killed
    assert (trials_of_run(folder)[2].state, trials_of_run(folder)[2].curve) == ("interrupted", [0.4, 0.6])
    again = recording(ResultStore(folder, {}), [prepared_study(tmp_path)])
    for status, last in (("queued", report(one, 2, 0.6)), ("finished", report(one, 3, 0.7, "finished"))):
        again(one, last, status)
    assert not list((folder / "open").glob("*trial-0002*")), "nothing of an ended trial is left"


def test_the_table_fits_eighty_columns_and_json_has_everything(folder):
    code, text, _ = called("trials", folder)
    assert (
        code == 0 and STUDY in text and "learning_rate=0.001 rank=4" in text and "stopped by budget" in text
    )
    assert max(map(len, text.splitlines())) <= 80
    code, text, _ = called("trials", folder, "--json")
    told = json.loads(text)
    assert [one["state"] for one in told] == ["stopped", "finished", "interrupted", "interrupted"]
    assert told[1]["curve"] == [0.4, 0.5, 0.3] and told[1]["config"]["rank"] == 4
    assert [entry["epoch"] for entry in told[1]["evaluations"]] == [1, 2, 3]


def test_one_study_is_chosen_and_what_is_no_run_is_refused(folder, tmp_path):
    code, text, _ = called("trials", folder, "--study", STUDY, "--json")
    assert code == 0 and len(json.loads(text)) == 4
    code, _, error = called("trials", folder, "--study", "mouse/2|toy|lara")
    assert code == 2 and STUDY in error
    code, _, error = called("trials", tmp_path / "none")
    assert code == 2 and "must be the output folder of a benchmark" in error
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "cluster.json").write_text("{}")
    code, _, error = called("trials", tmp_path / "far")
    assert code == 2 and "on its cluster" in error and "status" in error


def test_a_folder_of_version_0_1_0_is_read(tmp_path):
    with tarfile.open(PACKED) as packed:
        extract(packed, tmp_path)
    (out,) = {path.parent for path in tmp_path.rglob("benchmark.json")}
    found = trials_of_run(out)
    assert len(found) == 12 and all(one.config and one.evaluations for one in found)
    code, text, _ = called("trials", out)
    assert code == 0 and text.count("finished") + text.count("stopped by") >= 12
