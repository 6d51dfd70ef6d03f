"""Names, tags and metrics of the MLflow run of a trial. Plain data; nothing is sent."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from harness.runs.info import Setting
from harness.runs.jobs import Job, Report
from harness.runs.record import Record, config_hash

Point = tuple[Mapping[str, float], int, float]
"""Metrics, the optimiser step at which they were measured, and the seconds since the run's start."""

RANKED = ("loss", "mcc", "auroc", "pearson", "accuracy", "auprc", "spearman", "f1", "mse")
SHOWN = 4
"""Scores of an evaluation on dev that become metrics, the study's own first, then by `RANKED`; all are in
`scores.json`."""

TESTED = ("mcc", "auroc", "pearson", "accuracy", "auprc", "spearman", "f1", "mse", "brier", "ece", "nll")
"""Scores of the test split that become metrics of a final run; `nll` is its loss."""

ORGANISMS = {"EMP": "yeast "}
"""Groups of tasks whose names do not contain their origin."""

RECORD = "lingo.record"
"""Tag with the name of a run's record in its study: `trial-0007`, `final/seed-3`."""

DIGEST = "x-"
"""Begins the names of tags with digests and commits: MLflow sorts tags by name, and readers need these least."""

NOTE = "mlflow.note.content"
"""Tag that the UI shows as description, in Markdown."""

LONGEST_TAG = 5000
"""Maximum characters of a tag value."""


def study_name(study: str) -> str:
    """`lingo · yeast EMP/H3 · opt-125m`: what differs within a task comes first, as names are cut at their end."""
    task, backbone, method = study.split("|")
    parts = [
        method,
        f"{ORGANISMS.get(task.split('/')[0], '')}{task}",
        *([] if backbone == "none" else [backbone]),
    ]
    return " · ".join(parts)


def run_name(job_id: str, study: str) -> str:
    """`lingo · yeast EMP/H3 · opt-125m · trial 7`, `… · seed 3`."""
    last = job_id.rsplit("/", 1)[-1]
    what, _, number = last.rpartition("-")
    point = re.search(r"/final/point-(\d+)/", job_id)
    own = (
        f"{what} {int(number)}"
        if what in ("trial", "seed") and number.isdigit()
        else record_name(job_id, study)
    )
    return " · ".join([study_name(study), *([f"trial {int(point[1])}"] if point else []), own])


def record_name(job_id: str, study: str) -> str:
    """`trial-0007` or `final/seed-3`."""
    return job_id.removeprefix(f"{study}/")


def study_tags(study: str, setting: Setting) -> dict[str, Any]:
    """Tags of a study from its key and the settings."""
    task, backbone, method = study.split("|")
    return {
        "benchmark": setting.experiment,
        "task": task,
        "backbone": backbone,
        "method": method,
        "scope": setting.scope,
        "objectives": ",".join(setting.objectives) if len(setting.objectives) > 1 else None,
        "tokenization": setting.tokenization,
        "notes": setting.notes.get(study),
        "selection": "dev",
    }


def job_tags(job: Job, setting: Setting) -> dict[str, Any]:
    """Tags of a running job."""
    return study_tags(job.study, setting) | {
        "stage": job.stage,
        "seed": job.config.get("seed"),
        "status": "running",
        RECORD: record_name(job.id, job.study),
        **config_tags(job.config),
    }


def record_tags(record: Record, setting: Setting) -> dict[str, Any]:
    """All tags of an ended trial: one per property, because MLflow's filters do not support OR."""
    return (
        study_tags(record.study, setting)
        | origin_tags(record, setting)
        | {
            "stage": record.stage,
            "seed": record.seed,
            "trial": record.trial,
            "front": "true" if record.stage == "final" and record.trial is not None else None,
            "status": record.status,
            "error": record.error,
            "weights": record.facts.get("weights"),
            "selection": record.selection,
            RECORD: record_name(record.id, record.study),
            **config_tags(record.config),
        }
    )


def origin_tags(record: Record, setting: Setting) -> dict[str, Any]:
    """Tags common to the runs of a study, from one of its records."""
    environment = record.environment
    return {
        "family": record.family,
        "metric": record.metric,
        "revision": revision(record, setting),
        "tokenization": record.facts.get("tokenization") or setting.tokenization,
        f"{DIGEST}data_digest": record.data_digest,
        f"{DIGEST}backbone_digest": record.backbone_digest,
        "backbone_type": record.facts.get("backbone_type"),
        "trained_type": record.facts.get("trained_type"),
        f"{DIGEST}git_sha": environment.get("git_sha"),
        "git_dirty": environment.get("git_dirty"),
        "marks": ", ".join(record.marks),
        **{f"mark.{mark.replace(' ', '_')}": "true" for mark in record.marks},
    }


def revision(record: Record, setting: Setting) -> str:
    """The commit of a backbone from the hub, otherwise a prefix of its digest."""
    name, at, commit = setting.sources.get(record.study, "").rpartition("@")
    return commit if at and name and "/" not in commit else record.backbone_digest[:12]


def config_tags(config: Mapping[str, Any]) -> dict[str, str]:
    """The configuration as JSON, which preserves types, and its digest."""
    return {"config": json.dumps(config, sort_keys=True), f"{DIGEST}config_hash": config_hash(config)}


def report_points(report: Report) -> list[Point]:
    """One evaluation of a running trial, with its cost if known."""
    values = {"train_loss": report.train_loss, **_prefixed("dev_", chosen(report.dev))}
    return [(values | compute(report.facts, report.step), report.step, report.seconds)]


def record_points(record: Record) -> Iterator[Point]:
    """All evaluations, on every axis, followed by final values."""
    step = 0
    for entry in record.history:
        step = int(entry["step"])
        dev = chosen(entry["dev"], record.metric)
        yield {"train_loss": entry["train_loss"], **_prefixed("dev_", dev)}, step, entry["seconds"]
        cost = compute(record.facts, step)
        if cost:
            yield cost, step, entry["seconds"]
            adjusted = {f"adjusted/dev_{record.metric}": dev.get(record.metric, float("nan"))}
            yield adjusted, round(cost["flops_adjusted_step"]), entry["seconds"]
    curve, evaluated = record.facts.get("train_losses") or {}, {entry["step"] for entry in record.history}
    for at, loss, seconds in zip(
        *(curve.get(name, ()) for name in ("steps", "losses", "seconds")), strict=True
    ):
        if at not in evaluated:
            yield {"train_loss": loss}, at, seconds
    test = {name: value for name, value in (record.test or {}).items() if name in (*TESTED, record.metric)}
    end = _prefixed("test_", test) | {"seconds": record.seconds}
    if "best_epoch" in record.facts:  # the scores of the last evaluation belong to other weights
        end["best_epoch"] = float(record.facts["best_epoch"])
        end[f"best_dev_{record.metric}"] = record.dev.get(record.metric, float("nan"))
    if record.trained_parameters is not None:
        end["trained_parameters"] = float(record.trained_parameters)
    hours = gpu_hours(record)
    if hours is not None:
        end["gpu_hours"] = hours
    yield end, step, record.seconds


def compute(facts: Mapping[str, Any], step: int) -> dict[str, float]:
    """Cost of `step` steps: gigaFLOPs, and steps of OPT-125M on the same data with the same FLOPs.

    Small models have millionths of a petaFLOP, which charts show as 0.

    The paper's section 4.4 gives I_m = I_OPT-125M · FLOPs_OPT-125M / FLOPs_m steps of model m the cost of
    I_OPT-125M steps of OPT-125M; the common axis of all backbones is I_OPT-125M = I_m · FLOPs_m /
    FLOPs_OPT-125M. Empty if the facts have no FLOPs.
    """
    own, reference = (facts.get(name) for name in ("flops_per_step", "reference_flops_per_step"))
    if not own or not reference:
        return {}
    return {"gigaflops": step * own / 1e9, "flops_adjusted_step": step * own / reference}


def gpu_hours(record: Record) -> float | None:
    """GPU-hours of this trial; 0.0 on a CPU, `None` if not measured."""
    seconds, gpus = record.facts.get("device_seconds"), record.facts.get("gpus")
    return None if seconds is None or gpus is None else float(seconds) * float(gpus) / 3600


def chosen(scores: Mapping[str, float], metric: str | None = None) -> dict[str, float]:
    """The scores of a split that become metrics."""
    names = [name for name in dict.fromkeys((metric or "", *RANKED)) if name in scores]
    return {name: scores[name] for name in names[:SHOWN]}


def texts(tags: Mapping[str, Any]) -> dict[str, str]:
    """Tags in MLflow's format, without absent ones; bytes that are no text, as a path may have, are `?`."""
    given = {key: str(value)[:LONGEST_TAG] for key, value in tags.items() if value not in (None, "")}
    return {key: text.encode("utf-8", "replace").decode() for key, text in given.items()}


def _prefixed(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}{name}": value for name, value in values.items()}
