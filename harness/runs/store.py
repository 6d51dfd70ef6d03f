"""The store of a benchmark's records, and the table of all of them.

A record is a JSON file in `records/`, complete or absent. Everything else is derived from the records:
`results.parquet`, which lacks the last ones during a run and may be deleted at any time, MLflow, and reports.
"""

import json
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.atomic_files import write_whole
from harness.core.errors import InputError, typed
from harness.runs.layout import RunFolder, file_name
from harness.runs.record import Record, config_hash, now, numbers, plain_data
from lingo.text_files import read_object, read_text


class ResultStore:
    """The output folder of one benchmark: `benchmark.json`, `records/*.json` and `results.parquet`.

    One process writes; others may read at any time.
    """

    def __init__(self, out: Path | str, benchmark: Mapping[str, Any]) -> None:
        """Open or create the folder `out` for the benchmark with the identity `benchmark`.

        Raises:
            InputError: If the folder contains another benchmark; the message names the settings that differ.
        """
        self._folder = RunFolder(out)
        self.out, path = self._folder.out, self._folder.benchmark
        refuse_foreign(self.out, benchmark)
        self._folder.records.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            made = {"digest": config_hash(benchmark), "identity": uuid.uuid4().hex, "created": now()}
            write_whole(path, json.dumps(made | {"config": plain_data(benchmark)}, indent=1) + "\n")
        self.identity: str = read_object(path)["identity"]
        """Unique id of this folder's benchmark."""
        self._records = {record.id: record for record in load(self.out)}
        self._rows = {record.id: _row(record) for record in self._records.values()}
        self.write_table()

    def hold(self, **types: str) -> None:
        """Make number types (`frozen` of the frozen weights, `precision` of full fine-tuning) part of this folder's
        identity, for all later runs."""
        path = self._folder.benchmark
        write_whole(path, json.dumps(read_object(path) | types, indent=1) + "\n")

    def append(self, record: Record, *, replace: bool = False) -> bool:
        """Write a record. A second one with the same id is ignored unless `replace`.

        Returns:
            Whether the record was written.
        """
        path, text = self._folder.records / file_name(record.id), record.to_json()
        if path.exists() and not replace:
            return False
        write_whole(path, text)
        self._records[record.id] = record = Record.from_json(text)  # as a reader of the file gets it
        self._rows[record.id] = _row(record)
        self._write_table_if_due()
        return True

    def set_aside(self, record: Record) -> None:
        """Move a record from the results to `superseded/`."""
        self._folder.superseded.mkdir(exist_ok=True)
        write_whole(self._folder.superseded / file_name(record.id), record.to_json())
        (self._folder.records / file_name(record.id)).unlink(missing_ok=True)
        self._records.pop(record.id, None)
        self._rows.pop(record.id, None)
        self._write_table_if_due()

    def load(self) -> list[Record]:
        """All records, sorted by id, from memory."""
        return sorted(self._records.values(), key=lambda record: record.id)

    def write_table(self) -> None:
        """Write `results.parquet`; at the end of a run, and when a reader needs the last record."""
        begun = time.monotonic()
        temporary = self.out / ".results.parquet"
        pq.write_table(_table(list(self._rows.values())), temporary)
        temporary.replace(self._folder.table)
        self._due = (end := time.monotonic()) + (end - begun) / TABLE_SHARE

    def _write_table_if_due(self) -> None:
        if time.monotonic() >= self._due:
            self.write_table()


TABLE_SHARE = 0.02
"""Maximum share of a run's time for `results.parquet`, which is always rewritten completely."""


def load(out: Path | str) -> list[Record]:
    """All records of an output folder, sorted by id; files still being written are skipped.

    Raises:
        InputError: with one line for each file that is not a record.
    """
    return load_folder(RunFolder(out).records)


def counts(out: Path | str) -> tuple[Counter[tuple[str, str, int]], str]:
    """Number of records by (stage, status, seed), and the end of the last one, from the table of all records, or from
    the records if there is no readable table."""
    try:
        table = pq.read_table(RunFolder(out).table, columns=["stage", "status", "seed", "ended"])
        rows = [tuple(row.values()) for row in table.to_pylist()]
    except (OSError, pa.ArrowException):
        rows = [(one.stage, one.status, one.seed, one.ended) for one in load(out)]
    return Counter(row[:3] for row in rows), max((str(row[3]) for row in rows), default="")


def load_folder(folder: Path) -> list[Record]:
    """As `load`, for one folder of records; empty if it does not exist."""
    records, problems = [], []
    for path in folder.glob("[!.]*.json"):
        try:
            records.append(Record.from_json(read_text(path)))
        except (ValueError, TypeError) as error:
            problems.append(
                f"{path}: is not a valid record ({error}); remove it, and its trial is run again."
            )
    if problems:
        raise InputError(sorted(problems))
    return sorted(records, key=lambda record: record.id)


def frozen_in(out: Path | str) -> str | None:
    """The number type of the frozen weights of an output folder's results; `None` if none was recorded, as in new
    folders and in those of version 0.1.0."""
    try:
        found = read_object(RunFolder(out).benchmark).get("frozen")
    except (OSError, ValueError):
        return None
    return found if isinstance(found, str) else None


def precision_in(out: Path | str) -> str | None:
    """How full fine-tuning computes in an output folder; `None` in a new one. Folders of earlier versions, which
    recorded none, computed in float32."""
    folder = RunFolder(out)
    try:
        held = read_object(folder.benchmark)
    except (OSError, ValueError):
        return None
    if isinstance(found := held.get("precision"), str):
        return found
    begun = "frozen" in held or any(folder.records.glob("*.json"))
    return "fp32" if begun else None


NO_LONGER = ("num_samples", "seeds")
"""Former settings of the identity, which folders of earlier versions still contain."""


def refuse_foreign(out: Path | str, benchmark: Mapping[str, Any]) -> None:
    """Check that `out` is new, empty, or contains this benchmark.

    Raises:
        InputError: If it contains another one; the message names the settings that differ.
    """
    folder = RunFolder(out)
    path, out = folder.benchmark, folder.out
    if out.exists() and not out.is_dir():
        raise InputError(f"`--out` must be a folder, but {out} is a file.")
    if not path.exists():
        if folder.records.exists() or folder.table.exists():
            raise InputError(
                f"`--out` must be a new folder, but {out} contains results without a benchmark.json."
            )
        return
    try:
        held = read_object(path)
        digest, config = held["digest"], held["config"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: is not readable; use another `--out` or remove the folder.") from None
    if digest == config_hash(benchmark):
        return
    config = {name: value for name, value in config.items() if name not in NO_LONGER}
    wanted = plain_data(benchmark)
    if frozen := held.get("frozen"):  # if not given, that of the folder
        config, wanted = config | {"frozen": frozen}, {"frozen": frozen} | wanted
    if precision := precision_in(out):
        config, wanted = config | {"precision": precision}, {"precision": precision} | wanted
    if config == wanted:
        return
    changed = sorted(key for key in {*config, *wanted} if config.get(key) != wanted.get(key))
    raise InputError(
        f"`--out` must be a new folder or contain this benchmark, but {out} contains another one "
        f"(it differs in {', '.join(_differences(changed, config, wanted))}); use another `--out` or the same "
        f"settings{_fork_advice(out) if changed == ['spaces'] else ''}."
    )


def _differences(changed: Sequence[str], config: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The settings that differ; for search spaces the methods whose space differs."""
    held, asked = (values.get("spaces") or {} for values in (config, wanted))
    methods = sorted(name for name in {*held, *asked} if held.get(name) != asked.get(name))
    types = [values.get("frozen") or "chosen by the device" for values in (config, wanted)]
    precisions = [values.get("precision") or "chosen by the device" for values in (config, wanted)]
    words = {
        "spaces": f"the search space of {' and '.join(methods)}",
        "frozen": f"frozen: its weights are {types[0]}, but {types[1]} is requested",
        "precision": f"precision: it computes in {precisions[0]}, but {precisions[1]} is requested",
    }
    return [words.get(name, name) for name in changed]


def _fork_advice(out: Path) -> str:
    return (
        f", or `{typed('resume', out, '--fork', 'FOLDER')}` for a new folder that reuses the matching results"
    )


NESTED = ("history", "facts", "environment")
"""Fields with nested data, stored as JSON text in the table."""

CONFIG = "config_"
"""Prefix of the columns of a configuration's settings."""

FACTS = ("best_epoch", "stopped_epoch", "flops", "device_seconds", "gpus", "collapsed", "adapter")
"""Measured facts with a column of their own."""

JSON = {b"values": b"json"}
"""Mark of a column of JSON text, for values of several types."""

COLUMNS = tuple(item.name for item in fields(Record) if item.name not in ("config", "dev", "test"))


def _row(record: Record) -> dict[str, Any]:
    """A record as one row of the table: scores, settings and main facts as columns, other nested data as JSON."""
    values = plain_data(asdict(record))
    row = {name: values[name] for name in COLUMNS if name not in NESTED}
    row |= {f"dev_{name}": value for name, value in record.dev.items()}
    row |= {f"test_{name}": value for name, value in (record.test or {}).items()}
    row |= configuration(record.config)
    own = {name: record.config[name] for name in ("method", "seed") if name in record.config}
    row |= {f"{CONFIG}{name}": value for name, value in own.items() if value != row[name]}
    row |= {name: record.facts[name] for name in FACTS if name in record.facts}
    return row | {name: json.dumps(values[name], sort_keys=True) for name in NESTED}


def configuration(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a configuration by column name; method and seed have columns of their own."""
    return {f"{CONFIG}{name}": value for name, value in config.items() if name not in ("method", "seed")}


def _is_setting(name: str) -> bool:
    return name.startswith(CONFIG) and name not in COLUMNS  # config_hash


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    types = {
        "trial": pa.int64(),
        "seed": pa.int64(),
        "trained_parameters": pa.int64(),
        "seconds": pa.float64(),
    }
    types["marks"] = pa.list_(pa.string())
    rows = sorted(rows, key=lambda row: row["id"])
    more = sorted({name for row in rows for name in row} - set(COLUMNS) - set(FACTS))
    metrics, settings = ([name for name in more if _is_setting(name) == wanted] for wanted in (False, True))
    schema = pa.schema(
        [(name, types.get(name, pa.string())) for name in COLUMNS]
        + [(name, pa.float64()) for name in metrics]
    )
    table = pa.Table.from_pylist(rows, schema=schema)
    for name in (*settings, *FACTS):
        values, mark = column([row.get(name) for row in rows])
        table = table.append_column(pa.field(name, values.type, metadata=mark), values)
    return table


def column(given: Iterable[Any]) -> tuple[pa.Array, dict[bytes, bytes] | None]:
    """Values of one name as a column, integers among floats as floats; as marked JSON text if their types do not fit
    together."""
    held = list(given)
    if any(isinstance(value, float) for value in held):
        held = [float(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in held]
    try:
        made = pa.array(held)
        return (made.cast(pa.string()) if pa.types.is_null(made.type) else made), None
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        texts = [None if value is None else json.dumps(plain_data(value), sort_keys=True) for value in held]
        return pa.array(texts), JSON


def records_of(table: Path) -> Iterator[Record]:
    """The records of a `results.parquet`. Their nested data is parsed on access, so that a hundred thousand trials
    take little memory and time.

    Raises:
        OSError, ArrowException, ValueError, TypeError: If it is invalid.
    """
    held = pq.read_table(table)
    settings = [name for name in held.schema.names if _is_setting(name)]
    marked = {name for name in settings if held.schema.field(name).metadata == JSON}
    for batch in held.to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            dev, test = (
                {
                    name[len(part) :]: value
                    for name, value in row.items()
                    if name.startswith(part) and value is not None
                }
                for part in ("dev_", "test_")
            )
            known = {name: row[name] for name in COLUMNS if row.get(name) is not None}
            nested = {
                name: (_Items if name == "history" else _Fields)(known[name])
                for name in NESTED
                if name in known
            }
            if "config" in row:  # written by a version up to 0.1
                config: Mapping[str, Any] = _Fields(row["config"] or "{}")
            else:
                config = {"method": row["method"], "seed": row["seed"]} | {
                    name[len(CONFIG) :]: json.loads(row[name]) if name in marked else row[name]
                    for name in settings
                    if row[name] is not None
                }
            yield Record(
                **{"trial": None, **known, **nested, "config": config, "dev": dev, "test": test or None}
            )


def text_of(nested: Mapping[str, Any]) -> str:
    """Nested data of a record as JSON with sorted keys."""
    return nested.text if isinstance(nested, _Fields) else json.dumps(nested, sort_keys=True)


@lru_cache(maxsize=16)
def _parsed(text: str) -> Any:
    return numbers(json.loads(text))


class _Fields(Mapping[str, Any]):
    """An object that is parsed from JSON on first access."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __getitem__(self, name: str) -> Any:
        return _parsed(self.text)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_parsed(self.text))

    def __len__(self) -> int:
        return len(_parsed(self.text))


class _Items(Sequence[Any]):
    """A list that is parsed from JSON on first access."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __getitem__(self, index: Any) -> Any:
        return _parsed(self.text)[index]

    def __len__(self) -> int:
        return len(_parsed(self.text))
