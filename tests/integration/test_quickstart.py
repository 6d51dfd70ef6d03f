"""A small quickstart through the real command: interrupted, continued to its end, asked for again."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness.runs.store import load

ROOT = Path(__file__).resolve().parents[2]
STUDIES = {f"quickstart/promoter|quickstart-opt|{method}" for method in ("lora", "ars")}
OPTIONS = [
    "--tasks",
    "quickstart/promoter",
    "--models",
    "quickstart-opt",
    "--methods",
    "lora,ars",
    "--epochs",
    "2",
]
SIZE = ["--num-samples", "3", "--seeds", "0,5", "--limit", "200", "--max-concurrent", "2"]


TELL = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + '\\n')"


def command(out):
    tell = shlex.join([sys.executable, "-c", TELL, f"{out}-told"])
    return [
        sys.executable, str(ROOT / "run_benchmark.py"), *OPTIONS, *SIZE, "--out", str(out), "--notify", tell,
    ]  # fmt: skip


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def finish(out):
    done = subprocess.run(command(out), env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def interrupt_after_first_record(out):
    """Start, press Ctrl-C once a trial has ended, and return the exit code and what was printed."""
    process = subprocess.Popen(
        command(out), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        deadline = time.monotonic() + 400
        while not list(out.glob("records/*.json")):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=200)
    finally:
        process.kill()
    return process.returncode, printed


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Output folder; code, text and records of the interrupted run; texts of the two runs after it."""
    out = tmp_path_factory.mktemp("quickstart") / "out"
    code, interrupted = interrupt_after_first_record(out)
    kept = {record.id: record for record in load(out)}
    finished = finish(out)
    before = {path: path.read_bytes() for path in (out / "records").iterdir()}
    again = finish(out)
    assert {path: path.read_bytes() for path in (out / "records").iterdir()} == before
    return out, code, interrupted, kept, finished, again


@pytest.mark.ray
@pytest.mark.timeout(1500)
def test_interrupted_then_complete(story):
    out, code, interrupted, kept, finished, again = story
    assert code == 130, interrupted
    assert "Traceback" not in interrupted and "Interrupted" in interrupted
    assert kept and not any(record.stage == "final" for record in kept.values())
    assert {record.study for record in load(out)} == STUDIES
    assert "2 of 2 searches and 4 of 4 final runs are complete" in finished
    assert "nothing is trained" in " ".join(again.split()) and "Starting Ray" not in again


@pytest.mark.ray
@pytest.mark.timeout(1500)
def test_each_end_is_told(story):
    told = [json.loads(line) for line in Path(f"{story[0]}-told").read_text().splitlines()]
    assert [(one["event"], one["exit_code"]) for one in told] == [
        ("interrupted", 130),
        ("finished", 0),
        ("finished", 0),
    ]
    assert all(one["folder"] == str(story[0]) for one in told) and "resume" in told[0]
    assert told[1]["text"] in story[4] and told[1]["winners"] and told[1]["progress"].startswith("search 6/6")


@pytest.mark.ray
@pytest.mark.timeout(1500)
def test_records_tell_the_truth(story):
    records = load(story[0])
    for study in STUDIES:
        trials = [record for record in records if (record.study, record.stage) == (study, "search")]
        finals = [record for record in records if (record.study, record.stage) == (study, "final")]
        assert sorted(record.trial for record in trials) == [0, 1, 2]
        assert all(record.status in ("finished", "stopped") for record in trials)
        assert all(record.test is None and record.seed == 0 for record in trials)
        assert [record.seed for record in finals] == [0, 5]
        assert all(record.test and "mcc" in record.test for record in finals)
        best = max(
            (record for record in trials if record.status == "finished"), key=lambda record: record.dev["mcc"]
        )
        for final in finals:
            assert {**final.config, "seed": 0} == best.config
            assert final.trained_parameters and len(final.history) == 2
    for record in records:
        assert {"smoke", "generated data", "untrained backbone"} <= set(record.marks)
        assert record.data_digest and record.backbone_digest and record.environment["versions"]["ray"]
    assert pq.read_table(story[0] / "results.parquet").num_rows == len(records)


@pytest.mark.ray
@pytest.mark.timeout(1500)
def test_a_seed_repeats_the_search_trial_exactly(story):
    """Final seed 0 is the winning trial again: the same dev scores, whatever trained beside it."""
    records = load(story[0])
    for study in STUDIES:
        final = next(record for record in records if record.id == f"{study}/final/seed-0")
        twin = next(
            r for r in records if r.stage == "search" and r.study == study and r.config == final.config
        )
        dev = [[entry["dev"]["loss"] for entry in record.history] for record in (final, twin)]
        assert dev[0] == pytest.approx(dev[1], abs=1e-5)


@pytest.mark.ray
@pytest.mark.timeout(1500)
def test_mlflow_mirrors_the_records(story):
    from mlflow.tracking import MlflowClient

    out = story[0]
    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    parents = {run.info.run_id: run for run in runs if "mlflow.parentRunId" not in run.data.tags}
    children = [run for run in runs if run.info.run_id not in parents]
    names = {run.info.run_name for run in parents.values()}
    assert names == {f"{method} · quickstart/promoter · quickstart-opt" for method in ("lora", "ars")}
    assert len(children) == len(load(out))
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in children:
        assert run.data.tags["mlflow.parentRunId"] in parents
        assert ("test_mcc" in run.data.metrics) == (run.data.tags["stage"] == "final")
        assert "smoke" in run.data.tags["marks"] and run.data.tags["x-config_hash"]


@pytest.mark.ray
@pytest.mark.timeout(1500)
def test_what_a_person_sees(story):
    out, _, _, _, finished, _ = story
    for text in (
        "Quickstart",
        "random weights",
        "smoke",
        str(out / "results.parquet"),
        " ui ",
        "best of quickstart/promoter",
        "report.html",
        "progress.html",
        "lora",
        "ars",
    ):
        assert text in " ".join(finished.split()) or text in finished, text
    described = json.loads((out / "benchmark.json").read_text())
    assert described["config"]["limit"] == 200
    assert json.loads((out / "plan.json").read_text())["settings"]["seeds"] == [0, 5]
