"""The layout of an output folder: names of files and folders in it."""

import hashlib
import re
from pathlib import Path

from harness.runs.jobs import Job
from harness.runs.record import Record


def file_name(record_id: str) -> str:
    """Name of a record's file: its id in safe letters, and a digest so that two ids never meet."""
    readable = re.sub(r"[^A-Za-z0-9._=-]+", "_", record_id).strip("._")[-120:]
    return f"{readable}-{hashlib.sha256(record_id.encode()).hexdigest()[:12]}.json"


NOT_MIRRORED = frozenset({"data", "open", "checkpoints", "cluster", "driver.lock"})
"""What can be made again, or belongs to a run under way."""

NOT_DOWNLOADED = ("data", "open", "checkpoints", "cluster", "driver.lock", ".*")
"""What is not brought home: prepared data, states of trials under way, files being written."""


def adapter_folder(out: Path, record: Record) -> Path | None:
    """Where a final run's adapter lies: in its place below the output folder, wherever that is now, or where it was
    written; `None` when it is in neither."""
    written = record.facts.get("adapter")
    if not written:
        return None
    parts = Path(written).parts
    inside = [out.joinpath(*parts[at:]) for at in reversed(range(len(parts))) if parts[at] == "adapters"]
    return next((place for place in (*inside, Path(written)) if (place / "lingo.json").is_file()), None)


SUPERSEDED = "superseded"
"""Beside `records`: what was true before the search went on."""

CHECKPOINTS = "checkpoints"
"""Folder below the output folder in which trials keep their state."""


def checkpoint_folder(checkpoints: Path | str, job_id: str) -> Path:
    """Where a job keeps the state from which it goes on."""
    return Path(checkpoints) / file_name(job_id).removesuffix(".json")


def job_folder(job: Job) -> str:
    """Where a job's generations lie."""
    return str(checkpoint_folder(job.checkpoints or "", job.id))
