"""The truth of a benchmark: one record for each trial, written once, and the table of all of them.

A record is a JSON file under `records/`, complete or absent. `results.parquet` is rebuilt from the records
and may be deleted at any time. MLflow and reports are views of them.
"""

import errno
import hashlib
import json
import math
import os
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import InputError, RunStopped, typed
from harness.jobs import Job, Report, Stage
from harness.room import free, size
from lingo.text_files import parse_json, read_json, read_text

Status = Literal["finished", "stopped", "failed", "killed"]

Metrics = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of one trial after its end, a failure too.

    Attributes:
        id: `Job.id`.
        benchmark: Name of the benchmark.
        study: Key of the study, `task|backbone|method`.
        task, family, backbone, method, metric: Its parts, the task's family, and the metric that selects.
        stage: `search` or `final`; only `final` records have `test`.
        trial: Number within the study's search; `None` in the final stage.
        seed: Seed of the trial.
        status: `finished`, `stopped` by the scheduler, `failed`, or `killed` from outside.
        error: One line, for `failed`.
        config, config_hash: Fields of `lingo.trial.TrialConfig`, and their digest.
        history: One entry for each evaluation: epoch, step, seconds, train_loss and dev metrics.
        dev: Dev metrics of the last evaluation, of a final run those of the weights that were tested; NaN where
            undefined.
        test: Test metrics of a final run; `None` where the test split was not opened.
        trained_parameters: Numbers that the trial trained.
        facts: Other measured facts: kept ranks, samples, …
        seconds: Wall time between admission and the last report.
        started, ended: Time of day, ISO 8601, UTC.
        data_digest: Digest of data, tokenizer, prompt and length.
        backbone_digest: Digest of weights, configuration and tokenizer.
        environment: Versions, git commit, dirty flag and device, see `harness.environment`.
        marks: What a reader must know: `smoke`, `changed split`, `untrained backbone`, …
        selection: Split that selected the configuration.

    Raises:
        ValueError: If a record of the search carries test metrics.
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
            reports: Its reports in order of their numbers.
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
            history=[_evaluation(report) for report in evaluated],
            dev=measured.pop("best_dev", None) or (dict(evaluated[-1].dev) if evaluated else {}),
            test=last.test if last else None,
            trained_parameters=measured.pop("trained_parameters", None),
            facts=measured,
            seconds=last.seconds if last else 0.0,
            **{"ended": now(), **facts},
        )

    def to_json(self) -> str:
        """Strict JSON; numbers that are not finite become the strings `NaN`, `Infinity` and `-Infinity`."""
        return json.dumps(_plain(asdict(self)), indent=1, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Record":
        """The inverse of `to_json`. Raises `ValueError` when `text` is no record."""
        values = parse_json(text)
        known = {item.name for item in fields(cls)}
        if (
            not isinstance(values, dict)
            or set(values) - known
            or not {"id", "study", "status"} <= set(values)
        ):
            raise ValueError("is no record of a trial")
        read = {name: _numbers(value) if name in NUMERIC else value for name, value in values.items()}
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
"""What a record's fields are in JSON; all others are texts."""


def _fits(name: str, value: Any) -> bool:
    """Whether a record may have this value: files of records are also those that somebody has edited or cut."""
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
        return all(isinstance(entry, dict) and _scores(entry.get("dev", {})) for entry in value)
    return name != "marks" or all(isinstance(mark, str) for mark in value)


def _scores(values: Any) -> bool:
    return isinstance(values, dict) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values.values()
    )


def _evaluation(report: Report) -> dict[str, Any]:
    return {
        "epoch": report.epoch,
        "step": report.step,
        "seconds": report.seconds,
        "train_loss": report.train_loss,
        "dev": dict(report.dev),
    }


def _plain(value: Any) -> Any:
    """Plain JSON data: tuples become lists, numpy scalars numbers, and non-finite numbers their names."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def config_hash(config: Mapping[str, Any]) -> str:
    """sha256 of a configuration in canonical JSON: order of keys, tuple or list make no difference."""
    text = json.dumps(_plain(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def now() -> str:
    """This moment, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class ResultStore:
    """The output folder of one benchmark: `benchmark.json`, `records/*.json` and `results.parquet`.

    One process writes; others may read at any time.
    """

    def __init__(self, out: Path | str, benchmark: Mapping[str, Any]) -> None:
        """Open or make the folder `out` for the benchmark that `benchmark` configures.

        Raises:
            InputError: If the folder holds another benchmark; it names the settings that differ.
        """
        self.out = Path(out)
        refuse_foreign(self.out, benchmark)
        self.folder = self.out / "records"
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.out / "benchmark.json"
        if not path.exists():
            made = {"digest": config_hash(benchmark), "identity": uuid.uuid4().hex, "created": now()}
            write_whole(path, json.dumps(made | {"config": _plain(benchmark)}, indent=1) + "\n")
        self.identity: str = json.loads(path.read_text(encoding="utf-8"))["identity"]
        """Name of this folder's benchmark that no other folder has."""
        self._rows = {record.id: _row(record) for record in load(self.out)}
        self._rebuild()

    def hold(self, frozen: str) -> None:
        """Make the number type of the frozen weights a part of what this folder is: all later runs have it too."""
        path = self.out / "benchmark.json"
        write_whole(
            path,
            json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"frozen": frozen}, indent=1) + "\n",
        )

    def append(self, record: Record, *, replace: bool = False) -> bool:
        """Write a record and the table. A second record of the same id changes nothing unless `replace`.

        Returns:
            Whether the record was written.
        """
        path = self.folder / file_name(record.id)
        if path.exists() and not replace:
            return False
        write_whole(path, record.to_json())
        self._rows[record.id] = _row(record)
        self._rebuild()
        return True

    def move(self, record: Record, folder: str) -> None:
        """Write a record to another folder beside `records`, and take it out of the results."""
        (self.out / folder).mkdir(exist_ok=True)
        write_whole(self.out / folder / file_name(record.id), record.to_json())
        (self.folder / file_name(record.id)).unlink(missing_ok=True)
        self._rows.pop(record.id, None)
        self._rebuild()

    def ids(self) -> set[str]:
        """Ids of all records."""
        return set(self._rows)

    def load(self) -> list[Record]:
        """All records, sorted by id."""
        return load(self.out)

    def _rebuild(self) -> None:
        temporary = self.out / ".results.parquet"
        pq.write_table(_table(list(self._rows.values())), temporary)
        temporary.replace(self.out / "results.parquet")


def load(out: Path | str) -> list[Record]:
    """All records of an output folder, sorted by id; files still being written are passed over.

    Raises:
        InputError: with one line for each file that is no record.
    """
    return load_folder(Path(out) / "records")


def load_folder(folder: Path) -> list[Record]:
    """As `load`, of one folder of records; of none where it is not there."""
    records, problems = [], []
    for path in folder.glob("[!.]*.json"):
        try:
            records.append(Record.from_json(read_text(path)))
        except (ValueError, TypeError) as error:
            problems.append(f"{path}: is no record ({error}); remove it, and its trial is run again.")
    if problems:
        raise InputError(sorted(problems))
    return sorted(records, key=lambda record: record.id)


def frozen_in(out: Path | str) -> str | None:
    """The number type of the frozen weights of an output folder's results; `None` where none was recorded: in a new
    folder, and in those of version 0.1.0."""
    try:
        found = read_json(Path(out) / "benchmark.json").get("frozen")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None


NO_LONGER = ("num_samples", "seeds")
"""Settings that told benchmarks apart once: folders from then still hold what they held."""


def refuse_foreign(out: Path | str, benchmark: Mapping[str, Any]) -> None:
    """Check that `out` is new, empty, or holds this very benchmark.

    Raises:
        InputError: If it does not; it names the settings that differ.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"`--out` must be a folder, but {out} is a file.")
    path = out / "benchmark.json"
    if not path.exists():
        if (out / "records").exists() or (out / "results.parquet").exists():
            raise InputError(
                f"`--out` must be a new folder, but {out} holds results without a benchmark.json."
            )
        return
    try:
        held = read_json(path)
        digest, config = held["digest"], held["config"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: is not readable; use another `--out` or remove the folder.") from None
    if digest == config_hash(benchmark):
        return
    config = {name: value for name, value in config.items() if name not in NO_LONGER}
    wanted = _plain(benchmark)
    if frozen := held.get("frozen"):  # not given, it is what the folder has
        config, wanted = config | {"frozen": frozen}, {"frozen": frozen} | wanted
    if config == wanted:
        return
    changed = sorted(key for key in {*config, *wanted} if config.get(key) != wanted.get(key))
    raise InputError(
        f"`--out` must be a new folder or hold this benchmark, but {out} holds another one "
        f"(it differs in {', '.join(_differences(changed, config, wanted))}); use another `--out` or the same "
        f"settings{_fork_advice(out) if changed == ['spaces'] else ''}."
    )


def _differences(changed: Sequence[str], config: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The settings that differ; of search spaces the methods whose space does."""
    held, asked = (values.get("spaces") or {} for values in (config, wanted))
    methods = sorted(name for name in {*held, *asked} if held.get(name) != asked.get(name))
    types = [values.get("frozen") or "by the device" for values in (config, wanted)]
    words = {
        "spaces": f"the search space of {' and '.join(methods)}",
        "frozen": f"frozen: its weights are {types[0]}, and {types[1]} is asked for",
    }
    return [words.get(name, name) for name in changed]


def _fork_advice(out: Path) -> str:
    return f", or `{typed('resume', out, '--fork', 'FOLDER')}` for a new folder that takes over the results that fit"


def file_name(record_id: str) -> str:
    """Name of a record's file: its id in safe letters, and a digest so that two ids never meet."""
    readable = re.sub(r"[^A-Za-z0-9._=-]+", "_", record_id).strip("._")[-120:]
    return f"{readable}-{hashlib.sha256(record_id.encode()).hexdigest()[:12]}.json"


class Unwritable(RunStopped):
    """An output folder that refuses to be written: a full disk, a lost mount.

    Attributes:
        out: The folder.
        reason: The system's own words.
    """

    def __init__(self, out: Path, error: OSError) -> None:
        self.out, self.reason = out, error.strerror or str(error)
        super().__init__(f"{out} cannot be written: {self.reason}{_room(out, error)}.")


def _room(out: Path, error: OSError) -> str:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    return f" ({size(free(out)[0])} free)"


@contextmanager
def written(out: Path) -> Iterator[None]:
    """Writing below the output folder `out`. Raises `Unwritable` where the system raises `OSError`."""
    try:
        yield
    except OSError as error:
        raise Unwritable(out, error) from error


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file so that it is complete or not there, whatever happens meanwhile."""
    handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


DATA = ("config", "history", "facts", "environment")


def _row(record: Record) -> dict[str, Any]:
    """A record as one row of the table: metrics as columns, nested data as JSON."""
    values = _plain(asdict(record))
    row = {name: values[name] for name in values if name not in (*DATA, "dev", "test")}
    row |= {f"dev_{name}": value for name, value in record.dev.items()}
    row |= {f"test_{name}": value for name, value in (record.test or {}).items()}
    return row | {name: json.dumps(values[name], sort_keys=True) for name in DATA}


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    types = {
        "trial": pa.int64(),
        "seed": pa.int64(),
        "trained_parameters": pa.int64(),
        "seconds": pa.float64(),
    }
    types["marks"] = pa.list_(pa.string())
    named = [item.name for item in fields(Record) if item.name not in ("dev", "test")]
    metrics = sorted({name for row in rows for name in row} - set(named))
    schema = pa.schema(
        [(name, types.get(name, pa.string())) for name in named] + [(name, pa.float64()) for name in metrics]
    )
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["id"]), schema=schema)
