"""The record of a trial: a JSON file that is written once."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from harness.runs.jobs import Job, Report, Stage
from lingo.text_files import parse_json

Status = Literal["finished", "stopped", "failed", "killed"]

Metrics = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Record:
    """The record of an ended trial, failed ones included.

    Attributes:
        id: `Job.id`.
        benchmark: Name of the benchmark.
        study: Key of the study, `task|backbone|method`.
        task, family, backbone, method, metric: Its parts, the task's family, and the metric that selects.
        stage: `search` or `final`; only `final` records have `test`.
        trial: Number within the study's search. Of a final run `None`, unless the search had several objectives: then
            the trial whose configuration it has, see `harness.runs.front`.
        seed: Seed of the trial.
        status: `finished`, `stopped` by the scheduler, `failed`, or `killed` from outside.
        error: One line, for `failed`.
        config, config_hash: Fields of `lingo.trial.TrialConfig`, and their digest.
        history: One entry for each evaluation: epoch, step, seconds, train_loss and dev metrics.
        dev: Dev metrics of the last evaluation, of a final run those of the weights that were tested; NaN where
            undefined.
        test: Test metrics of a final run; `None` where the test split was not opened.
        trained_parameters: Number of parameters that the trial trained.
        facts: Further measured facts: kept ranks, samples, …
        seconds: Wall time between admission and the last report.
        started, ended: Time of day, ISO 8601, UTC.
        data_digest: Digest of data, tokenizer, prompt and length.
        backbone_digest: Digest of weights, configuration and tokenizer.
        environment: Versions, git commit, dirty flag and device, see `harness.runs.environment`.
        marks: Caveats: `smoke`, `changed split`, `untrained backbone`, …
        selection: Split that selected the configuration.

    Raises:
        ValueError: If a record of the search has test metrics.
    """

    id: str
    benchmark: str
    study: str
    task: str
    family: str
    backbone: str
    method: str
    metric: str
    stage: Stage
    trial: int | None
    seed: int
    status: Status
    error: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    config_hash: str = ""
    history: Sequence[Mapping[str, Any]] = ()
    dev: Metrics = field(default_factory=dict)
    test: Metrics | None = None
    trained_parameters: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    started: str = ""
    ended: str = ""
    data_digest: str = ""
    backbone_digest: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    marks: Sequence[str] = ()
    selection: str = "dev"

    def __post_init__(self) -> None:
        if self.stage == "search" and self.test is not None:
            raise ValueError(f"{self.id}: a trial of the search must not have test metrics.")

    @classmethod
    def of(
        cls, job: Job, reports: Sequence[Report], status: Status, error: str | None = None, **facts: Any
    ) -> "Record":
        """The record of a job from its reports.

        Args:
            job: The job; its study key gives task, backbone and method.
            reports: Its reports in the order of their numbers.
            status: How it ended.
            error: One line; taken from the last report when `None`.
            **facts: The other fields: `benchmark`, `family`, `metric`, `trial`, `started`, `marks`, …
        """
        task, backbone, method = job.study.split("|")
        last = reports[-1] if reports else None
        measured = dict(last.facts) if last else {}
        evaluated = [report for report in reports if report.dev]
        return cls(
            id=job.id,
            study=job.study,
            task=task,
            backbone=backbone,
            method=method,
            stage=job.stage,
            seed=int(job.config["seed"]),
            status=status,
            error=error if error is not None or last is None else last.error,
            config=dict(job.config),
            config_hash=config_hash(job.config),
            history=[evaluation(report) for report in evaluated],
            dev=measured.pop("best_dev", None) or (dict(evaluated[-1].dev) if evaluated else {}),
            test=last.test if last else None,
            trained_parameters=measured.pop("trained_parameters", None),
            facts=measured,
            seconds=last.seconds if last else 0.0,
            **{"ended": now(), **facts},
        )

    def to_json(self) -> str:
        """Strict JSON; numbers that are not finite become the strings `NaN`, `Infinity` and `-Infinity`."""
        return json.dumps(plain_data(asdict(self)), indent=1, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Record":
        """The inverse of `to_json`. Raises `ValueError` if `text` is not a record."""
        values = parse_json(text)
        known = {item.name for item in fields(cls)}
        if (
            not isinstance(values, dict)
            or set(values) - known
            or not {"id", "study", "status"} <= set(values)
        ):
            raise ValueError("is not a record of a trial")
        read = {name: numbers(value) if name in NUMERIC else value for name, value in values.items()}
        if wrong := [name for name, value in read.items() if not _fits(name, value)]:
            raise ValueError(f"`{wrong[0]}` must not be {str(json.dumps(values[wrong[0]]))[:60]}")
        return cls(**read)


NUMERIC = {"history", "dev", "test", "facts"}

TYPES: Mapping[str, Any] = {
    "trial": int | None,
    "seed": int,
    "error": str | None,
    "config": dict,
    "history": list,
    "dev": dict,
    "test": dict | None,
    "trained_parameters": int | float | None,
    "facts": dict,
    "seconds": int | float,
    "environment": dict,
    "marks": list,
}
"""JSON types of a record's fields; all others are strings."""


def _fits(name: str, value: Any) -> bool:
    """Whether a field may have this value: a record's file may have been edited or truncated."""
    if not isinstance(value, TYPES.get(name, str)) or isinstance(value, bool):
        return False
    if name == "study":
        return bool(value.count("|") == 2)
    if name == "stage":
        return value in get_args(Stage)
    if name == "status":
        return value in get_args(Status)
    if name in ("dev", "test"):
        return _scores(value or {})
    if name == "history":
        return all(isinstance(entry, dict) and _evaluation(entry) for entry in value)
    return name != "marks" or all(isinstance(mark, str) for mark in value)


def _evaluation(entry: Mapping[str, Any]) -> bool:
    counts = [entry.get(name) for name in ("epoch", "step", "seconds", "train_loss")]
    return _scores(entry.get("dev")) and all(
        isinstance(count, int | float) and not isinstance(count, bool) for count in counts
    )


def _scores(values: Any) -> bool:
    return isinstance(values, dict) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values.values()
    )


def evaluation(report: Report) -> dict[str, Any]:
    """A report as an entry of `Record.history`."""
    return {
        "epoch": report.epoch,
        "step": report.step,
        "seconds": report.seconds,
        "train_loss": report.train_loss,
        "dev": dict(report.dev),
    }


def plain_data(value: Any) -> Any:
    """Plain JSON data: tuples become lists, numpy scalars numbers, and non-finite numbers their names."""
    if isinstance(value, Mapping):
        return {str(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def numbers(value: Any) -> Any:
    """The inverse of `plain_data` for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers(item) for item in value]
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def config_hash(config: Mapping[str, Any]) -> str:
    """sha256 of a configuration in canonical JSON, independent of the order of keys and of tuple or list."""
    text = json.dumps(plain_data(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def now() -> str:
    """The current time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
