"""The truth of a benchmark: the store of its records, and the table of all of them.

A record is a JSON file under `records/`, complete or absent. `results.parquet` is rebuilt from the records
and may be deleted at any time. MLflow and reports are views of them.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.atomic_files import write_whole
from harness.core.errors import InputError, typed
from harness.runs.layout import file_name
from harness.runs.record import Record, config_hash, now, plain_data
from lingo.text_files import read_json, read_text


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
            write_whole(path, json.dumps(made | {"config": plain_data(benchmark)}, indent=1) + "\n")
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
    wanted = plain_data(benchmark)
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


DATA = ("config", "history", "facts", "environment")


def _row(record: Record) -> dict[str, Any]:
    """A record as one row of the table: metrics as columns, nested data as JSON."""
    values = plain_data(asdict(record))
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
