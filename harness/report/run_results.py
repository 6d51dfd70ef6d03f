"""What a run has left: `results.parquet` first, single records only where the table lacks them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from harness.core.errors import InputError
from harness.runs.layout import RunFolder, file_name
from harness.runs.record import Record
from harness.runs.store import records_of
from lingo.text_files import read_object, read_text


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """The results of a run.

    Attributes:
        folder: Path.
        trials: All records, by id.
        settings: `benchmark.json`'s configuration and plan.json's settings, the latter first.
        studies: plan.json's studies: key, task, backbone, method, space, …
        search: `search.json`; empty while a run is not done, or of an older version.
        problems: One line for each file that could not be read.
    """

    folder: Path
    trials: Sequence[Record]
    settings: Mapping[str, Any] = field(default_factory=dict)
    studies: Sequence[Mapping[str, Any]] = ()
    search: Mapping[str, Any] = field(default_factory=dict)
    problems: Sequence[str] = ()


def read_run(out: Path) -> RunResults:
    """Read an output folder; unreadable files are listed in `problems`.

    Raises:
        InputError: If `out` is not the output folder of a run.
    """
    folder = RunFolder(out)
    if not out.is_dir():
        raise InputError(f"RUN must be the output folder of a run, but there is no folder {out}.")
    if not folder.is_run():
        raise InputError(
            f"RUN must be the output folder of a run, but {out} has neither benchmark.json, results.parquet "
            "nor records/; give the folder that `run` printed as --out."
        )
    problems: list[str] = []
    plan, benchmark = (_object(path, problems) for path in (folder.plan, folder.benchmark))
    return RunResults(
        folder=out,
        trials=sorted(_records(folder, problems), key=lambda record: record.id),
        settings={**benchmark.get("config", {}), **plan.get("settings", {})},
        studies=plan.get("studies", ()),
        search=_object(folder.usage, problems),
        problems=problems,
    )


def _object(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        return read_object(path) if path.exists() else {}
    except (OSError, ValueError) as error:
        problems.append(f"{path}: cannot be read ({error}).")
        return {}


def _records(folder: RunFolder, problems: list[str]) -> Iterator[Record]:
    """Rows of the table, and records that are missing in it or newer."""
    rows: dict[str, Record] = {}
    written = 0.0
    if folder.table.exists():
        try:
            written = folder.table.stat().st_mtime
            rows = {file_name(record.id): record for record in records_of(folder.table)}
        except (OSError, pa.ArrowException, TypeError, ValueError) as error:
            problems.append(
                f"{folder.table}: cannot be read ({str(error).splitlines()[0]}); its records were read instead."
            )
    for path in folder.records.glob("[!.]*.json"):
        if path.name not in rows or path.stat().st_mtime > written:
            try:
                rows[path.name] = Record.from_json(read_text(path))
            except OSError as error:
                problems.append(f"{path}: cannot be read ({error}).")
            except (ValueError, TypeError) as error:
                problems.append(f"{path}: is not a record ({error}); it was left out.")
    yield from rows.values()
