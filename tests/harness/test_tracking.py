"""The MLflow mirror against a real store and a dead server: complete, never doubled, never in the way."""

import logging
import math
import socket
import threading
from dataclasses import replace

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from harness.jobs import Job, Report
from harness.results import Record
from harness.tracking import Mirror, Tracker, default_uri, mirror_records, ui_command

STUDY = "EMP/H3|tiny|lora"


def job(name="trial-0000", stage="search", seed=0):
    config = {"method": "lora", "seed": seed, "learning_rate": 1e-3, "targets": ("W_q", "W_v")}
    return Job(id=f"{STUDY}/{name}", study=STUDY, stage=stage, backbone="tiny", data="d", config=config)


def reports(job, count=3, **last):
    made = [
        Report(
            job=job.id,
            number=n,
            status="running" if n < count else "finished",
            step=10 * n,
            train_loss=1 / n,
            dev={"mcc": n / 10, "auroc": math.nan},
            seconds=1.5 * n,
            facts={"trained_parameters": 99},
        )
        for n in range(1, count + 1)
    ]
    made[-1] = replace(made[-1], **last)
    return made


def record(job, status="finished", error=None, **last):
    return Record.of(
        job,
        reports(job, **last),
        status,
        error,
        benchmark="bench",
        family="EMP",
        metric="mcc",
        trial=None if job.stage == "final" else 0,
        marks=("smoke", "changed split"),
        environment={"git_sha": "abc", "git_dirty": True},
        started="2026-01-02T03:04:05+00:00",
    )


FINAL = job("final/seed-1", "final", 1)


@pytest.fixture
def uri(tmp_path):
    return default_uri(tmp_path)


def runs(uri, text="") -> list[Run]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("bench")
    return client.search_runs([experiment.experiment_id], text, order_by=["tags.mlflow.runName"])


def by_name(uri):
    return {run.data.tags["mlflow.runName"]: run for run in runs(uri)}


def history(uri, run, name):
    points = MlflowClient(uri).get_metric_history(run.info.run_id, name)
    return [(point.step, point.value) for point in points]


def follow(tracker):
    """A study of a finished, a stopped, a failed and a vanished trial, and one final run."""
    tracker.study_started(STUDY, family="EMP", marks="smoke")
    for number, status in enumerate(("finished", "stopped", "failed", "vanished")):
        trial = job(f"trial-{number:04d}")
        for report in reports(trial):
            tracker.trial_report(trial, report)
        if status != "vanished":
            tracker.trial_ended(record(trial, status, error="out of memory" if status == "failed" else None))
    for report in reports(FINAL):
        tracker.trial_report(FINAL, report)
    tracker.trial_ended(record(FINAL, test={"mcc": 0.4, "auroc": 0.8}))
    tracker.study_ended(STUDY, "finished", best_dev_mcc=0.3)


def test_a_study_in_a_real_store(tmp_path, uri, caplog, capfd):
    warnings = []
    tracker = Tracker(tmp_path, experiment="bench", identity="one", warn=warnings.append)
    with caplog.at_level(logging.WARNING):
        follow(tracker)
        assert tracker.close(60)
    assert (warnings, caplog.records, capfd.readouterr()) == ([], [], ("", ""))

    found = by_name(uri)
    assert {name: run.info.status for name, run in found.items()} == {
        STUDY: "FINISHED",
        "trial-0000": "FINISHED",
        "trial-0001": "FINISHED",
        "trial-0002": "FAILED",
        "trial-0003": "KILLED",
        "seed-1": "FINISHED",
    }
    parent, trial, final = found[STUDY], found["trial-0001"], found["seed-1"]
    assert {run.data.tags.get("mlflow.parentRunId") for run in found.values() if run is not parent} == {
        parent.info.run_id
    }
    assert parent.data.metrics == {"best_dev_mcc": 0.3}
    assert history(uri, trial, "dev_mcc") == [(10, 0.1), (20, 0.2), (30, 0.3)]
    assert math.isnan(trial.data.metrics["dev_auroc"])
    assert trial.data.metrics["trained_parameters"] == 99
    assert trial.data.params == {
        "method": "lora",
        "seed": "0",
        "learning_rate": "0.001",
        "targets": "W_q,W_v",
    }
    assert {name for run in found.values() for name in run.data.metrics if name.startswith("test")} == {
        "test_mcc",
        "test_auroc",
    }
    assert final.data.metrics["test_mcc"] == 0.4
    assert not any(name.startswith("test") for name in trial.data.metrics)
    expected = {
        "task": "EMP/H3",
        "family": "EMP",
        "backbone": "tiny",
        "method": "lora",
        "stage": "search",
        "seed": "0",
        "status": "stopped",
        "git_sha": "abc",
        "marks": "smoke, changed split",
        "selection": "dev",
        "config_hash": record(job()).config_hash,
    }
    assert expected.items() <= trial.data.tags.items()
    assert found["trial-0002"].data.tags["error"] == "out of memory"
    assert final.info.end_time - final.info.start_time == 4500
    assert (tmp_path / "mlflow.db").exists()


def test_axes_can_be_searched(tmp_path, uri):
    tracker = Tracker(tmp_path, experiment="bench", identity="one")
    follow(tracker)
    tracker.close(60)
    found = runs(uri, "tags.stage = 'final' and tags.method = 'lora' and metrics.test_mcc > 0.3")
    assert [run.data.tags["seed"] for run in found] == ["1"]


def snapshot(uri):
    return {
        run.data.tags["mlflow.runName"]: (
            run.info.status,
            run.data.params,
            {name: history(uri, run, name) for name in run.data.metrics if "auroc" not in name},
        )
        for run in runs(uri)
    }


def test_a_second_writer_doubles_nothing(tmp_path, uri):
    for _ in range(2):
        tracker = Tracker(tmp_path, experiment="bench", identity="one")
        follow(tracker)
        assert tracker.close(60)
        seen = snapshot(uri)
        assert len(seen) == len(runs(uri)) == 6
    records = [record(job("trial-0000")), record(FINAL, test={"mcc": 0.4, "auroc": 0.8})]
    mirror_records(Mirror(uri, experiment="bench", identity="one"), records)
    assert snapshot(uri) == seen
    mirror_records(Mirror(uri, experiment="bench", identity="another output folder"), records)
    assert len(runs(uri)) == 9


def test_what_a_dead_driver_left_is_repaired_from_the_records(tmp_path, uri):
    mirror = Mirror(uri, experiment="bench", identity="one")
    trial = job()
    mirror.report(trial, reports(trial)[0])
    assert {run.info.status for run in runs(uri)} == {"RUNNING"}
    final = record(FINAL, test={"mcc": 0.4})
    mirror_records(Mirror(uri, experiment="bench", identity="one"), [record(trial, "stopped"), final])
    found = by_name(uri)
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert history(uri, found["trial-0000"], "dev_mcc") == [(10, 0.1), (20, 0.2), (30, 0.3)]


def test_a_killed_trial_that_is_run_again_has_each_step_once(tmp_path, uri):
    trial, slower = job(), [replace(report, seconds=9.0 * report.number) for report in reports(job())]
    for made, status in ((reports(trial)[:2], "killed"), (slower, "finished")):
        tracker = Tracker(tmp_path, experiment="bench", identity="one")
        for report in made:
            tracker.trial_report(trial, report)
        history_so_far = record(trial).history[: len(made)]
        tracker.trial_ended(replace(record(trial, status), history=history_so_far, seconds=made[-1].seconds))
        assert tracker.close(60)
    run = by_name(uri)["trial-0000"]
    assert run.info.status == "FINISHED"
    assert run.data.tags["status"] == "finished"
    assert history(uri, run, "dev_mcc") == [(10, 0.1), (20, 0.2), (30, 0.3)]


def test_a_study_without_its_final_runs_has_failed(uri):
    mirror_records(Mirror(uri, experiment="bench", identity="one"), [record(job())])
    assert by_name(uri)[STUDY].info.status == "FAILED"


def test_late_news_of_an_ended_trial_does_not_revive_it(tmp_path, uri):
    tracker = Tracker(tmp_path, experiment="bench", identity="one")
    trial = job()
    tracker.trial_ended(record(trial))
    tracker.trial_report(trial, reports(trial)[-1])
    tracker.study_ended(STUDY, "finished")
    assert tracker.close(60)
    assert by_name(uri)["trial-0000"].info.status == "FINISHED"


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_a_dead_server_is_one_warning_and_no_failure(tmp_path, caplog, capfd):
    warnings = []
    tracker = Tracker(
        tmp_path,
        experiment="bench",
        identity="one",
        uri=f"http://127.0.0.1:{free_port()}",
        warn=warnings.append,
    )
    follow(tracker)
    assert not tracker.close(60)
    assert len(warnings) == 2
    assert "goes on without it" in warnings[0]
    assert "lacks some runs" in warnings[1]
    assert (caplog.records, capfd.readouterr()) == ([], ("", ""))
    assert not (tmp_path / "mlflow.db").exists()


def test_a_server_that_never_answers_does_not_keep_the_benchmark(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        warnings = []
        tracker = Tracker(
            tmp_path,
            experiment="bench",
            identity="one",
            uri=f"http://127.0.0.1:{silent.getsockname()[1]}",
            warn=warnings.append,
        )
        follow(tracker)
        assert not tracker.close(0.2)
        assert warnings


@pytest.mark.parametrize("uri", ["nonsense://x", "sqlite:////proc/no/such/folder/x.db"])
def test_an_impossible_address_is_a_warning(tmp_path, uri):
    warnings = []
    tracker = Tracker(tmp_path, experiment="bench", identity="one", uri=uri, warn=warnings.append)
    follow(tracker)
    assert not tracker.close(60)
    assert len(warnings) == 2


class Flaky(Mirror):
    """A store that is away while `away` is set."""

    away = threading.Event()

    def answers(self):
        return not self.away.is_set()

    def _run(self, *args, **kwargs):
        if self.away.is_set():
            raise ConnectionError("away")
        return super()._run(*args, **kwargs)


def test_what_an_outage_missed_is_written_when_the_store_is_back(tmp_path, uri, monkeypatch):
    monkeypatch.setattr("harness.tracking.Mirror", Flaky)
    warnings, warned = [], threading.Event()
    Flaky.away.set()
    tracker = Tracker(
        tmp_path,
        experiment="bench",
        identity="one",
        warn=lambda line: (warnings.append(line), warned.set()),
        retry_s=0.0,
    )
    follow(tracker)
    assert warned.wait(30)
    Flaky.away.clear()
    assert tracker.close(60)
    assert len(warnings) == 1
    assert {run.info.status for run in runs(uri)} == {"FINISHED", "FAILED", "KILLED"}
    assert history(uri, by_name(uri)["trial-0000"], "dev_mcc") == [(10, 0.1), (20, 0.2), (30, 0.3)]


def test_one_bad_record_does_not_hold_up_the_others(tmp_path, uri):
    warnings = []
    tracker = Tracker(tmp_path, experiment="bench", identity="one", warn=warnings.append)
    tracker.trial_ended(replace(record(job()), dev={}, history=[{"step": "no step"}]))
    tracker.trial_ended(record(FINAL, test={"mcc": 0.4}))
    assert not tracker.close(60)
    assert by_name(uri)["seed-1"].info.status == "FINISHED"


def test_the_command_that_opens_the_runs():
    assert (
        ui_command("sqlite:////a b/mlflow.db") == "mlflow ui --backend-store-uri 'sqlite:////a b/mlflow.db'"
    )
    assert ui_command("http://127.0.0.1:5000") == "http://127.0.0.1:5000"
