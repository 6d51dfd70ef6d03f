"""The MLflow mirror against a real store: complete, never doubled, never in the way."""

import logging
import math
import os
import re
import socket
import threading
from dataclasses import replace

import pytest
from mlflow.tracking import MlflowClient

from harness.core.store_address import ui_command
from harness.runs.store import load
from harness.tracking.mirror import Mirror
from harness.tracking.spool import Spool
from harness.tracking.store import Store
from harness.tracking.tags import LONGEST_TAG, record_points, texts
from harness.tracking.tracker import Tracker
from tests.support.tracked import (
    FINAL,
    FLOPS,
    SETTING,
    STUDY,
    TITLE,
    by_name,
    follow,
    history,
    job,
    keep,
    record,
    reports,
    runs,
    snapshot,
    story,
)

METRICS = 24
"""More of them make the UI slow."""


def tracker_of(out, warnings=None, **options):
    warn = (warnings if warnings is not None else []).append
    return Tracker(out, options.pop("setting", SETTING), warn=warn, **options)


def mirrored(out, uri, setting=SETTING):
    """Write the records of a folder, and end what runs."""
    store = Store(uri, experiment=setting.experiment, identity=setting.identity)
    mirror = Mirror(store, setting)
    assert not [sent.error for sent in mirror.send(load(out), Spool(out, "test")) if sent.error]
    mirror.finish()


def test_tags_find_the_points_of_a_front(tmp_path, uri):
    both = {"objectives": ["score", "parameters"]}
    trials = [
        replace(record(job(f"trial-{n:04d}", rank=n), best=best, facts=both), trained_parameters=size)
        for n, (best, size) in enumerate(((0.3, 10), (0.2, 20), (0.6, 30)))
    ]
    finals = [
        record(
            job(f"final/point-{n:04d}/seed-1", "final", 1, rank=n),
            test={"mcc": mcc},
            facts=both,
            ended=f"3{n}",
        )
        for n, mcc in ((0, 0.7), (2, 0.4))
    ]
    finals = [replace(one, trial=n) for one, n in zip(finals, (0, 2), strict=True)]
    setting = replace(SETTING, objectives=("score", "parameters"))
    keep(tmp_path, *trials, *finals[:1])
    mirrored(tmp_path, uri, setting)
    assert by_name(uri)[TITLE].info.status == "KILLED"  # a point of the front lacks its final run
    keep(tmp_path, finals[1])
    mirrored(tmp_path, uri, setting)
    found = runs(uri, "tags.front = 'true' and tags.objectives = 'score,parameters'")
    assert {run.data.tags["trial"] for run in found} == {"0", "2"}
    assert {run.data.tags["mlflow.runName"] for run in found} == {
        f"{TITLE} · trial {n} · seed 1" for n in (0, 2)
    }
    study = by_name(uri)[TITLE]
    assert study.data.tags["front.trials"] == "0,2" and study.data.metrics["front/points"] == 2
    assert study.data.tags["best.trial"] == "trial-0002" and study.info.status == "FINISHED"
    assert study.data.metrics["test/mcc_mean"] == 0.4  # of the point with the best dev score


def test_a_study_in_a_real_store(tmp_path, uri, caplog, capfd):
    warnings = []
    tracker = tracker_of(tmp_path, warnings)
    with caplog.at_level(logging.WARNING):
        follow(tracker, tmp_path)
        vanished = job("trial-0009")
        tracker.update(vanished, reports(vanished)[0], "running")
        assert tracker.close(60)
    assert (warnings, caplog.records, capfd.readouterr()) == ([], [], ("", ""))

    found = by_name(uri)
    assert {name: run.info.status for name, run in found.items()} == {
        TITLE: "FINISHED",
        "trial-0000": "FINISHED",
        "trial-0001": "FINISHED",
        "trial-0002": "FAILED",
        "trial-0003": "FINISHED",
        "trial-0004": "KILLED",
        "trial-0009": "KILLED",
        "final/seed-1": "FINISHED",
    }
    parent, trial, final = found[TITLE], found["trial-0001"], found["final/seed-1"]
    assert {run.data.tags.get("mlflow.parentRunId") for run in found.values() if run is not parent} == {
        parent.info.run_id
    }
    assert history(uri, trial, "dev_mcc") == [(10, 0.0), (20, 0.1), (30, 0.2)]
    assert math.isnan(trial.data.metrics["dev_auroc"])
    assert trial.data.metrics["trained_parameters"] == 99
    assert trial.data.params == {
        "method": "lora",
        "seed": "0",
        "learning_rate": "0.002",
        "targets": "W_q,W_v",
    }
    assert {name for run in found.values() for name in run.data.metrics if name.startswith("test_")} == {
        "test_mcc",
        "test_auroc",
    }
    assert final.data.metrics["test_mcc"] == 0.4
    assert not any(name.startswith("test") for name in trial.data.metrics)
    assert found["trial-0002"].data.tags["error"] == "out of memory"
    assert final.info.end_time - final.info.start_time == pytest.approx(4500, abs=1)
    assert all(len(run.data.metrics) <= METRICS for run in found.values())


def test_all_test_metrics_of_a_final_run_become_metrics():
    scores = dict.fromkeys(("mcc", "auroc", "auprc", "f1", "accuracy", "brier", "ece", "nll"), 0.5)
    ended = record(FINAL, test=scores | {"loss": 0.5, "collapsed": 0.0})
    (end, _, _) = list(record_points(ended))[-1]
    assert {name for name in end if name.startswith("test_")} == {f"test_{name}" for name in scores}


def test_training_losses_between_evaluations_become_points_of_their_metric():
    curve = {"steps": [5, 10, 15, 20], "losses": [4.0, 3.0, 2.0, 1.0], "seconds": [1.0, 2.0, 3.0, 4.0]}
    points = list(record_points(record(job(), count=2, facts={"train_losses": curve})))
    told = {step: values["train_loss"] for values, step, _ in points if "train_loss" in values}
    assert told == {5: 4.0, 10: 1.0, 15: 2.0, 20: 0.5} and points[-1][1] == 20


def test_a_shortcut_is_a_tag_of_studies_and_final_runs_from_the_end_on(tmp_path, uri):
    rule = "EMP/H3|none|rule_markov"
    other = STUDY.replace("EMP/H3", "EMP/H4")
    one = job("final/seed-0", "final", 0, study=rule, method="rule_markov")
    two = job("final/seed-0", "final", 0, study=other)
    keep(tmp_path, *story(), record(one, test={"mcc": 0.39}), record(two, test={"mcc": 0.3}))
    mirrored(tmp_path, uri)
    marked = [run for run in runs(uri) if run.data.tags.get("mark.shortcut") == "true"]
    assert {(run.data.tags["task"], run.data.tags["method"], run.data.tags["stage"]) for run in marked} == {
        ("EMP/H3", method, stage) for method in ("lora", "rule_markov") for stage in ("study", "final")
    }
    assert all("shortcut" in run.data.tags["marks"] and "smoke" in run.data.tags["marks"] for run in marked)
    better = record(job("final/seed-2", "final", 2), test={"mcc": 0.9}, ended="59")
    keep(tmp_path, better)
    mirrored(tmp_path, uri)
    assert not [run for run in runs(uri) if run.data.tags.get("mark.shortcut") == "true"], "a better method"


def test_one_tag_for_each_axis(tmp_path, uri):
    keep(tmp_path, *story())
    setting = replace(SETTING, sources={STUDY: "org/tiny@0123abc"}, scope="family")
    mirrored(tmp_path, uri, setting)
    found = by_name(uri)
    shared = {
        "benchmark": "bench",
        "task": "EMP/H3",
        "family": "EMP",
        "backbone": "tiny",
        "revision": "0123abc",
        "method": "lora",
        "tokenization": "bbpe",
        "scope": "family",
        "x-data_digest": "d1ab" * 16,
        "x-git_sha": "abc",
        "git_dirty": "True",
        "selection": "dev",
        "marks": "smoke, changed split",
        "mark.smoke": "true",
        "mark.changed_split": "true",
    }
    own = {"stage": "search", "seed": "0", "trial": "1", "status": "stopped"}
    own["x-config_hash"] = story()[1].config_hash
    assert (shared | own).items() <= found["trial-0001"].data.tags.items()
    assert (shared | {"stage": "study", "status": "finished"}).items() <= found[TITLE].data.tags.items()
    for run in found.values():
        shown = sorted(name for name in run.data.tags if not name.startswith("mlflow."))
        first = next(i for i, name in enumerate(shown) if name.startswith("x-"))
        assert all(name.startswith("x-") for name in shown[first:]), "digests are the last tags"
        digests = [name for name in shown[:first] if re.fullmatch("[0-9a-f]{64}", run.data.tags[name])]
        assert digests == ["lingo.key"], "by which runs of older stores are found, too"
    data = found["final/seed-1"].inputs.dataset_inputs
    assert [(used.dataset.name, used.tags[0].value) for used in data] == [("EMP/H3", "train, dev, test")]
    assert found["trial-0001"].inputs.dataset_inputs[0].tags[0].value == "train, dev"


def test_the_parent_follows_the_best_and_counts(tmp_path, uri):
    keep(tmp_path, *story())
    mirrored(tmp_path, uri)
    parent = by_name(uri)[TITLE]
    assert history(uri, parent, "best/mcc") == [(n, 0.3) for n in (1, 2, 3)] + [(n, 0.5) for n in (4, 4, 5)]
    expected = {
        "best/mcc": 0.5,
        "trials/finished": 2,
        "trials/stopped": 1,
        "trials/failed": 1,
        "trials/killed": 1,
        "finals/finished": 1,
        "test/mcc_mean": 0.4,
        "trained_parameters": 99,
        "gigaflops": 6e6,
        "gpu_hours": 6,
    }
    assert expected.items() <= parent.data.metrics.items()
    tags = parent.data.tags
    assert (tags["best.trial"], tags["best.learning_rate"], tags["best.targets"]) == (
        "trial-0003",
        "0.004",
        "W_q,W_v",
    )


def test_flops_put_all_backbones_on_one_axis(tmp_path, uri):
    keep(tmp_path, *story())
    mirrored(tmp_path, uri)
    trial = by_name(uri)["trial-0000"]
    assert history(uri, trial, "gigaflops") == [(10, 4e7), (20, 8e7), (30, 1.2e8)]
    assert history(uri, trial, "flops_adjusted_step") == [(10, 20), (20, 40), (30, 60)]
    assert history(uri, trial, "adjusted/dev_mcc") == [(20, 0.1), (40, 0.2), (60, 0.3)]
    assert trial.data.metrics["gpu_hours"] == 1


def test_axes_can_be_searched(tmp_path, uri):
    keep(tmp_path, *story())
    mirrored(tmp_path, uri)
    found = runs(uri, "tags.stage = 'final' and tags.method = 'lora' and metrics.test_mcc > 0.3")
    assert [run.data.tags["seed"] for run in found] == ["1"]
    best = runs(uri, "tags.stage = 'study' and tags.`mark.smoke` = 'true' and metrics.`best/mcc` > 0.4")
    assert [run.data.tags["best.trial"] for run in best] == ["trial-0003"]


def test_a_second_writer_doubles_nothing(tmp_path, uri):
    for _ in range(2):
        tracker = tracker_of(tmp_path)
        follow(tracker, tmp_path)
        assert tracker.close(60)
        seen = snapshot(uri)
        assert len(seen) == len(runs(uri)) == 7
    mirrored(tmp_path, uri)  # without the notes of what was written
    assert snapshot(uri) == seen
    mirrored(tmp_path, uri, replace(SETTING, identity="another output folder"))
    assert len(runs(uri)) == 7  # noted as written


def test_another_folder_has_runs_of_its_own(tmp_path, uri):
    keep(tmp_path, *story()[:1])
    mirrored(tmp_path, uri)
    keep(tmp_path / "other", *story()[:1])
    mirrored(tmp_path / "other", uri, replace(SETTING, identity="another output folder"))
    assert len(runs(uri)) == 4


def test_what_a_dead_driver_left_is_repaired_from_the_records(tmp_path, uri):
    dead = Mirror(Store(uri, experiment="bench", identity="one"), SETTING)
    trial, lost = job(), job("trial-0001")
    for each in (trial, lost):
        dead.report(each, reports(each)[0])
    assert {run.info.status for run in runs(uri)} == {"RUNNING"}
    keep(tmp_path, record(trial, "stopped"), record(FINAL, test={"mcc": 0.4}))
    mirrored(tmp_path, uri)
    found = by_name(uri)
    assert found["trial-0001"].info.status == "KILLED"
    assert {run.info.status for name, run in found.items() if name != "trial-0001"} == {"FINISHED"}
    assert history(uri, found["trial-0000"], "dev_mcc") == [(10, 0.1), (20, 0.2), (30, 0.3)]


def test_resuming_ends_what_was_left_running_and_goes_on_with_it(tmp_path, uri):
    dead = Mirror(Store(uri, experiment="bench", identity="one"), SETTING)
    trial = job()
    dead.report(trial, reports(trial)[0])
    tracker = tracker_of(tmp_path)
    assert tracker.close(60)
    assert {run.info.status for run in runs(uri)} == {"KILLED"}
    tracker = tracker_of(tmp_path)
    follow(tracker, tmp_path, [record(trial)])
    assert tracker.close(60)
    found = by_name(uri)
    assert len(found) == 2
    assert (found["trial-0000"].info.status, found[TITLE].info.status) == ("FINISHED", "KILLED")
    assert found[TITLE].data.tags["status"] == "killed"


def test_a_killed_trial_that_is_run_again_has_each_step_once(tmp_path, uri):
    trial = job()
    cut = record(trial, "killed", count=2, best=0.2, facts=FLOPS, ended="01")
    whole = record(trial, facts=FLOPS, ended="02")
    slower = [{**entry, "seconds": 9.0 * entry["step"]} for entry in whole.history]
    for each in (cut, replace(whole, history=slower)):
        tracker = tracker_of(tmp_path)
        follow(tracker, tmp_path, [each])
        assert tracker.close(60)
    run = by_name(uri)["trial-0000"]
    assert (run.info.status, run.data.tags["status"]) == ("FINISHED", "finished")
    assert history(uri, run, "dev_mcc") == [(10, 0.1), (20, 0.2), (30, 0.3)]
    assert [step for step, _ in history(uri, run, "gigaflops")] == [10, 20, 30]
    assert [step for step, _ in history(uri, run, "adjusted/dev_mcc")] == [20, 40, 60]


@pytest.mark.parametrize(
    "final, status", [(None, "KILLED"), ("failed", "FAILED"), ("killed", "KILLED"), ("finished", "FINISHED")]
)
def test_a_study_ends_as_it_stands(tmp_path, uri, final, status):
    keep(tmp_path, record(job()), *([record(FINAL, final)] if final else []))
    mirrored(tmp_path, uri)
    assert by_name(uri)[TITLE].info.status == status


def test_a_final_run_that_was_set_aside_counts_no_more(tmp_path, uri):
    old = record(FINAL, test={"mcc": 0.1}, ended="01", facts=FLOPS)
    new = record(job("final/trial-0002/seed-1", "final", 1), test={"mcc": 0.4}, ended="02", facts=FLOPS)
    tracker = tracker_of(tmp_path)
    follow(tracker, tmp_path, [old, replace(old, marks=(*old.marks, "superseded")), new])
    assert tracker.close(60)
    found = by_name(uri)
    assert found["final/seed-1"].data.tags["mark.superseded"] == "true"
    expected = {"test/mcc_mean": 0.4, "finals/finished": 1, "gpu_hours": 2}
    assert expected.items() <= found[TITLE].data.metrics.items()
    assert len(found) == 3


def test_late_news_of_an_ended_trial_does_not_revive_it(tmp_path, uri):
    tracker = tracker_of(tmp_path)
    trial = job()
    keep(tmp_path, record(trial))
    tracker.ended(record(trial))
    tracker.update(trial, reports(trial)[-1], "running")
    assert tracker.close(60)
    assert by_name(uri)["trial-0000"].info.status == "FINISHED"


FACTS = {
    "confusion": [[5, 1], [2, 7]],
    "interval": {"mcc": [0.3, 0.5]},
    "roc": {"1": {"x": [0, 0.5, 1], "y": [0, 0.9, 1]}},
    "pr": {"1": {"x": [0, 1], "y": [1, 0.5]}},
    "test_labels": {"names": ["a", "b"], "auroc": [0.7, math.nan], "auprc": [0.6, 0.1]},
    "kept_ranks": {"layers.0.q": 3},
    "rank_trajectory": {"steps": [10, 20], "paths": ["layers.0.q", "layers.0.v"], "ranks": [[8, 8], [3, 5]]},
}


def test_what_is_too_much_for_metrics_is_a_table_and_a_picture(tmp_path, uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    keep(tmp_path, record(FINAL, test={"mcc": 0.4}, facts=FACTS), record(job(), facts=FACTS))
    mirrored(tmp_path, uri)
    found, client = by_name(uri), MlflowClient(uri)
    run = found["final/seed-1"].info.run_id
    names = {item.path for item in client.list_artifacts(run)}
    tables = {"scores.json", "labels.json", "confusion.json", "roc.json", "pr.json", "kept_ranks.json"}
    assert names == tables | {"rank_trajectory.json"} | {
        f"{name}.png" for name in ("confusion", "roc", "pr", "rank_trajectory")
    }
    experiment = client.get_experiment_by_name("bench").experiment_id
    ranks = client.load_table(experiment, "rank_trajectory.json", run_ids=[run])
    assert ranks[["step", "layers.0.q"]].to_numpy().tolist() == [
        [10, 8],
        [19, 8],
        [20, 3],
        [30, 3],
    ]  # no ramp
    labels = client.load_table(experiment, "labels.json", run_ids=[run])
    assert labels["label"].tolist() == ["a", "b"]
    assert labels["auroc"].isna().tolist() == [False, True]
    scores = client.load_table(experiment, "scores.json", run_ids=[run])
    assert scores.set_index("score").loc[
        "mcc", ["test", "test, low", "test, high"]
    ].tolist() == pytest.approx([0.4, 0.3, 0.5])
    trial = {item.path for item in client.list_artifacts(found["trial-0000"].info.run_id)}
    assert not any(name.endswith(".png") or name == "scores.json" for name in trial)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_a_dead_server_is_one_warning_and_no_failure(tmp_path, caplog, capfd):
    warnings = []
    tracker = tracker_of(tmp_path, warnings, uri=f"http://user:secret@127.0.0.1:{free_port()}")
    follow(tracker, tmp_path)
    assert not tracker.close(60)
    assert len(warnings) == 2
    assert "continues without it" in warnings[0]
    assert "lacks some runs" in warnings[1] and "sync" in warnings[1]
    assert "secret" not in "".join(warnings)
    assert (caplog.records, capfd.readouterr()) == ([], ("", ""))
    assert not (tmp_path / "mlflow.db").exists()


def test_a_server_that_never_answers_does_not_keep_the_benchmark(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        warnings = []
        tracker = tracker_of(tmp_path, warnings, uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
        follow(tracker, tmp_path)
        assert not tracker.close(0.2)
        assert warnings


@pytest.mark.parametrize("uri", ["nonsense://x", "sqlite:////proc/no/such/folder/x.db"])
def test_an_impossible_address_is_a_warning(tmp_path, uri):
    warnings = []
    tracker = tracker_of(tmp_path, warnings, uri=uri)
    follow(tracker, tmp_path)
    assert not tracker.close(60)
    assert len(warnings) == 2


class Flaky(Store):
    """A store that is away while `away` is set."""

    away = threading.Event()

    def answers(self):
        return not self.away.is_set()

    def run(self, *args, **kwargs):
        if self.away.is_set():
            raise ConnectionError("away")
        return super().run(*args, **kwargs)


def test_what_an_outage_missed_is_written_when_the_store_is_back(tmp_path, uri, monkeypatch):
    monkeypatch.setattr("harness.tracking.tracker.Store", Flaky)
    warnings, warned = [], threading.Event()
    Flaky.away.set()
    options = {"warn": lambda line: (warnings.append(line), warned.set()), "retry_s": 0.0}
    tracker = Tracker(tmp_path, SETTING, **options)
    follow(tracker, tmp_path)
    assert warned.wait(30)
    Flaky.away.clear()
    assert tracker.close(60)
    assert len(warnings) == 1
    assert {run.info.status for run in runs(uri)} == {"FINISHED", "FAILED", "KILLED"}
    assert [step for step, _ in history(uri, by_name(uri)["trial-0000"], "dev_mcc")] == [10, 20, 30]


def test_one_bad_record_does_not_hold_up_the_others(tmp_path, uri):
    warnings = []
    tracker = tracker_of(tmp_path, warnings)
    bad = replace(
        record(job()), dev={}, history=[{**entry, "step": 10**30} for entry in record(job()).history]
    )
    follow(tracker, tmp_path, [record(FINAL, test={"mcc": 0.4})])
    keep(tmp_path, bad)
    tracker.ended(bad)
    tracker.ended(record(job("trial-0001")))
    assert not tracker.close(60)
    assert len(warnings) == 2
    found = by_name(uri)
    assert found["final/seed-1"].info.status == found["trial-0001"].info.status == "FINISHED"
    assert found["trial-0000"].info.status == "KILLED"


def test_the_command_that_opens_the_runs():
    assert (
        ui_command("sqlite:////a b/mlflow.db")
        == "mlflow ui --host 127.0.0.1 --backend-store-uri 'sqlite:////a b/mlflow.db'"
    )
    assert ui_command("http://me:pw@127.0.0.1:5000") == "http://127.0.0.1:5000"


def test_tags_are_text_that_a_database_takes():
    told = texts({"path": os.fsdecode(b"m\xff"), "absent": None, "empty": "", "long": "x" * 9000})
    assert told == {"path": "m?", "long": "x" * LONGEST_TAG}
