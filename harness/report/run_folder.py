"""Reading the output folder of a run: `results.parquet` first, single records only where the table lacks them.

Nested data (configuration, history, facts, environment) stays JSON until someone asks for it, so that a hundred
thousand trials are a table and not a hundred thousand trees.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.errors import InputError
from harness.runs.layout import file_name
from harness.runs.record import Record
from lingo.text_files import read_json, read_text

NESTED = ("config", "history", "facts", "environment")
PLAIN = (
    "id",
    "benchmark",
    "task",
    "family",
    "backbone",
    "method",
    "metric",
    "stage",
    "trial",
    "seed",
    "status",
    "error",
    "trained_parameters",
    "seconds",
    "started",
    "ended",
    "marks",
    "data_digest",
    "backbone_digest",
    "selection",
)


@dataclass(slots=True)
class Trial:
    """One record as the report reads it; see `harness.runs.record.Record` for the fields.

    Attributes:
        dev, test: Metrics; NaN where undefined, empty where not measured.
        nested: The fields of `NESTED`, as JSON text or as data.
    """

    id: str
    benchmark: str
    task: str
    family: str
    backbone: str
    method: str
    metric: str
    stage: str
    trial: int | None
    seed: int
    status: str
    error: str | None
    trained_parameters: int | None
    seconds: float
    started: str
    ended: str
    marks: tuple[str, ...]
    data_digest: str
    backbone_digest: str
    selection: str
    dev: dict[str, float]
    test: dict[str, float]
    nested: dict[str, Any]

    def _data(self, name: str) -> Any:
        value = self.nested.get(name)
        return _numbers(json.loads(value)) if isinstance(value, str) else value

    @property
    def study(self) -> str:
        """`task|backbone|method`."""
        return f"{self.task}|{self.backbone}|{self.method}"

    @property
    def config(self) -> dict[str, Any]:
        """The configuration; parsed at each call."""
        return self._data("config") or {}

    @property
    def history(self) -> list[dict[str, Any]]:
        """One entry an evaluation: epoch, step, seconds, train_loss, dev; parsed at each call."""
        return self._data("history") or []

    @property
    def facts(self) -> dict[str, Any]:
        """Measured facts; parsed at each call."""
        return self._data("facts") or {}

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, commit, device; parsed at each call."""
        return self._data("environment") or {}


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """What a run has left.

    Attributes:
        folder: Where.
        trials: All records, by id.
        settings: `benchmark.json`'s configuration and plan.json's settings, the latter first.
        studies: plan.json's studies: key, task, backbone, method, space, …
        search: `search.json`; empty while a run is not done, or of an older version.
        problems: One line for each file that could not be read.
    """

    folder: Path
    trials: Sequence[Trial]
    settings: Mapping[str, Any] = field(default_factory=dict)
    studies: Sequence[Mapping[str, Any]] = ()
    search: Mapping[str, Any] = field(default_factory=dict)
    problems: Sequence[str] = ()


def read_run(folder: Path) -> RunFolder:
    """Read an output folder; what cannot be read is told in `problems`.

    Raises:
        InputError: If `folder` is not the output folder of a run.
    """
    if not folder.is_dir():
        raise InputError(f"RUN must be the output folder of a run, but there is no folder {folder}.")
    names = ("benchmark.json", "plan.json", "results.parquet", "records")
    if not any((folder / name).exists() for name in names):
        raise InputError(
            f"RUN must be the output folder of a run, but {folder} has neither benchmark.json, results.parquet "
            "nor records/; give the folder that `run` printed as --out."
        )
    problems: list[str] = []
    plan = _json(folder / "plan.json", problems)
    benchmark = _json(folder / "benchmark.json", problems)
    return RunFolder(
        folder=folder,
        trials=sorted(_trials(folder, problems), key=lambda trial: trial.id),
        settings={**benchmark.get("config", {}), **plan.get("settings", {})},
        studies=plan.get("studies", ()),
        search=_json(folder / "search.json", problems),
        problems=problems,
    )


def _json(path: Path, problems: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found = read_json(path)
        if isinstance(found, dict):
            return found
        problems.append(f"{path}: must hold a JSON object.")
    except (OSError, ValueError) as error:
        problems.append(f"{path}: cannot be read ({error}).")
    return {}


def _trials(folder: Path, problems: list[str]) -> Iterator[Trial]:
    """Rows of the table, and records that it lacks or that are newer than it."""
    path = folder / "results.parquet"
    rows: dict[str, Trial] = {}
    written = 0.0
    if path.exists():
        try:
            written = path.stat().st_mtime
            rows = {file_name(trial.id): trial for trial in _of_table(pq.read_table(path))}
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            problems.append(
                f"{path}: cannot be read ({str(error).splitlines()[0]}); its records were read instead."
            )
    records = folder / "records"
    files = {entry.name: entry for entry in _json_files(records)}
    for name, entry in files.items():
        if name not in rows or entry.stat().st_mtime > written:
            trial = _of_file(Path(entry.path), problems)
            if trial is not None:
                rows[name] = trial
    yield from rows.values()


def _json_files(folder: Path) -> Iterable[Any]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [entry for entry in entries if entry.name.endswith(".json") and not entry.name.startswith(".")]


def _of_table(table: pa.Table) -> Iterator[Trial]:
    """A trial a row; columns that older or newer tables lack are empty."""
    held = set(table.column_names)
    plain = {name: table[name].to_pylist() if name in held else [None] * len(table) for name in PLAIN}
    nested = {name: table[name].to_pylist() for name in NESTED if name in held}
    scores = {
        part: {name.removeprefix(part): table[name].to_pylist() for name in held if name.startswith(part)}
        for part in ("dev_", "test_")
    }
    for row in range(len(table)):
        values = {name: column[row] for name, column in plain.items()}
        metrics = {
            part: {name: column[row] for name, column in columns.items() if column[row] is not None}
            for part, columns in scores.items()
        }
        yield _trial(
            values,
            metrics["dev_"],
            metrics["test_"],
            {name: column[row] for name, column in nested.items()},
        )


def _of_file(path: Path, problems: list[str]) -> Trial | None:
    try:
        record = Record.from_json(read_text(path))
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error}).")
        return None
    except (ValueError, TypeError) as error:
        problems.append(f"{path}: is no record ({error}); it was left out.")
        return None
    values = {name: getattr(record, name) for name in PLAIN}
    nested = {name: getattr(record, name) for name in NESTED}
    return _trial(values, dict(record.dev), dict(record.test or {}), nested)


def _trial(
    values: dict[str, Any], dev: dict[str, float], test: dict[str, float], nested: dict[str, Any]
) -> Trial:
    values["marks"] = tuple(values["marks"] or ())
    values["seconds"] = float(values["seconds"] or 0.0)
    return Trial(**values, dev=dev, test=test, nested=nested)


def _numbers(value: Any) -> Any:
    """Names of non-finite numbers back to numbers, as records write them."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value
