"""A small benchmark for the tests of tracking: jobs, reports, records, and what a store holds of them."""

import json
import math
from dataclasses import replace

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from harness.core.atomic_files import write_whole
from harness.runs.info import Setting
from harness.runs.jobs import Job, Report
from harness.runs.layout import file_name
from harness.runs.record import Record

STUDY = "EMP/H3|tiny|lora"
TITLE = "lora · yeast EMP/H3 · tiny"
SETTING = Setting(experiment="bench", identity="one", seeds=(1,))
FLOPS = {"flops_per_step": 4e15, "reference_flops_per_step": 2e15, "device_seconds": 1800.0, "gpus": 2}


def job(name="trial-0000", stage="search", seed=0, study=STUDY, **config):
    config = {"method": "lora", "seed": seed, "learning_rate": 1e-3, "targets": ["W_q", "W_v"], **config}
    return Job(id=f"{study}/{name}", study=study, stage=stage, backbone="tiny", data="d", config=config)


def reports(job, count=3, best=0.3, **last):
    made = [
        Report(
            job=job.id,
            number=n,
            status="running" if n < count else "finished",
            epoch=n,
            step=10 * n,
            train_loss=1 / n,
            dev={"accuracy": 0.8, "auprc": 0.7, "f1": 0.6, "mcc": best - (count - n) / 10}
            | {"auroc": math.nan, "loss": 0.5, "collapsed": 0.0},
            seconds=1.5 * n,
            facts={"trained_parameters": 99},
        )
        for n in range(1, count + 1)
    ]
    made[-1] = replace(made[-1], **last)
    return made


def record(job, status="finished", error=None, facts=None, ended="00", count=3, best=0.3, **last):
    made = Record.of(
        job,
        reports(job, count, best, **last),
        status,
        error,
        benchmark="bench",
        family="EMP",
        metric="mcc",
        trial=None if job.stage == "final" else int(job.id[-4:]),
        marks=("smoke", "changed split"),
        data_digest="d1ab" * 16,
        backbone_digest="b0ne" * 16,
        environment={"git_sha": "abc", "git_dirty": True},
        started="2026-01-02T03:04:05+00:00",
        ended=f"2026-01-02T03:05:{ended}+00:00",
    )
    return replace(made, facts={**made.facts, **(facts or {})})


FINAL = job("final/seed-1", "final", 1)


def keep(out, *records):
    """Records on disk, as the recorder leaves them before it tells anybody."""
    (out / "records").mkdir(parents=True, exist_ok=True)
    for each in records:
        write_whole(out / "records" / file_name(each.id), each.to_json())


def benchmark(out, setting=SETTING, uri=None):
    """The files that say what is in an output folder."""
    out.mkdir(parents=True, exist_ok=True)
    config = {"suite": setting.experiment, "scope": setting.scope}
    held = {"identity": setting.identity, "config": config}
    (out / "benchmark.json").write_text(json.dumps(held))
    planned = {"settings": {"seeds": list(setting.seeds), "tracking_uri": uri}, "studies": []}
    (out / "plan.json").write_text(json.dumps(planned))


def story():
    """A study of four trials that finished, was stopped, failed and was killed, and one final run."""
    ends = [("finished", 0.3), ("stopped", 0.2), ("failed", 0.2), ("finished", 0.5), ("killed", 0.1)]
    trials = [
        record(
            job(f"trial-{number:04d}", learning_rate=1e-3 * (number + 1)),
            status,
            best=best,
            ended=f"{number:02d}",
            facts=FLOPS | {"flops": 1e15},
            error="out of memory" if status == "failed" else None,
        )
        for number, (status, best) in enumerate(ends)
    ]
    return [
        *trials,
        record(FINAL, test={"mcc": 0.4, "auroc": 0.8}, ended="30", facts=FLOPS | {"flops": 1e15}),
    ]


def follow(tracker, out, records=None):
    """Tell a tracker of a whole study, as the recorder does."""
    for each in records if records is not None else story():
        told = Job(
            id=each.id,
            study=each.study,
            stage=each.stage,
            backbone="tiny",
            data="d",
            config=dict(each.config),
        )
        for entry in each.history:
            report = Report(
                job=each.id,
                number=entry["epoch"],
                status="running",
                step=entry["step"],
                train_loss=entry["train_loss"],
                dev=entry["dev"],
                seconds=entry["seconds"],
            )
            tracker.update(told, report, "running")
        keep(out, each)
        tracker.ended(each)


def runs(uri, text="") -> list[Run]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("bench")
    return client.search_runs([experiment.experiment_id], text, order_by=["tags.mlflow.runName"])


def by_name(uri):
    """Trials and final runs by the names of their records, studies by their titles."""
    return {run.data.tags.get("lingo.record", run.data.tags["mlflow.runName"]): run for run in runs(uri)}


def history(uri, run, name):
    points = MlflowClient(uri).get_metric_history(run.info.run_id, name)
    return [(point.step, round(point.value, 9)) for point in points]


def snapshot(uri):
    """All that matters of a store: tree, status, parameters, tags, every point, datasets and artifacts."""
    client, found = MlflowClient(uri), runs(uri)
    names = {run.info.run_id: run.data.tags["mlflow.runName"] for run in found}
    seen = {}
    for run in found:
        tags = {name: text for name, text in run.data.tags.items() if not name.startswith("mlflow.")}
        points = {name: history(uri, run, name) for name in run.data.metrics if "auroc" not in name}
        seen[names[run.info.run_id]] = (
            names.get(run.data.tags.get("mlflow.parentRunId")),
            run.info.status,
            run.data.params,
            tags,
            points,
            [(used.dataset.name, used.tags[0].value) for used in run.inputs.dataset_inputs],
            sorted(item.path for item in client.list_artifacts(run.info.run_id)),
        )
    return seen
