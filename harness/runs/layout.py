"""The layout of an output folder: names of files and folders in it."""

import hashlib
import re
from pathlib import Path

from harness.runs.record import Record


class RunFolder:
    """An output folder by its parts; to name them reads and makes nothing."""

    def __init__(self, out: Path | str) -> None:
        self.out = out = Path(out)
        self.benchmark = out / "benchmark.json"
        """What is measured, and the folder's own name: made once."""
        self.plan = out / "plan.json"
        """Settings and studies of the last run, see `harness.config.plan.Plan`."""
        self.records = out / "records"
        self.superseded = out / SUPERSEDED
        self.table = out / "results.parquet"
        """All records, for readers; made from them."""
        self.usage = out / "search.json"
        self.open = out / "open"
        """Jobs of trials that have begun and not ended."""
        self.checkpoints = out / "checkpoints"
        """States from which trials go on."""
        self.adapters = out / "adapters"
        self.predictions = out / "predictions"
        self.store = out / "mlflow.db"
        self.artifacts = out / ARTIFACTS
        self.lock = out / "driver.lock"
        self.progress = out / "progress.json"
        """State of the run under way, see `harness.progress.board.Board`."""
        self.page = out / "progress.html"
        """The same as a page that reloads itself; at the end it leads to the report."""
        self.report = out / "report" / "report.html"
        self.repeat = out / "settings.yaml"
        """Settings that repeat the run, for `run --settings`."""

    def is_run(self) -> bool:
        """Whether anything in it is what a run leaves."""
        return any(path.exists() for path in (self.benchmark, self.plan, self.table, self.records))


ARTIFACTS = "mlartifacts"

SUPERSEDED = "superseded"
"""Folder and mark of final runs whose configuration is no longer the winner's: they have cost something, and count no
more."""


def file_name(record_id: str) -> str:
    """Name of a record's file: its id in safe letters, and a digest so that two ids never meet."""
    readable = re.sub(r"[^A-Za-z0-9._=-]+", "_", record_id).strip("._")[-120:]
    return f"{readable}-{hashlib.sha256(record_id.encode()).hexdigest()[:12]}.json"


NOT_MIRRORED = ("data", "open", "checkpoints", "cluster", "driver.lock", "progress.json", "progress.html")
"""What can be made again, or belongs to a run under way."""

COPIED = ".copied"
"""File that marks the last copy to the storage path as complete: newer than everything that was copied."""

NOT_DOWNLOADED = (*NOT_MIRRORED, ".*")
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


def checkpoint_folder(checkpoints: Path | str, job_id: str) -> Path:
    """Where a job keeps the states from which it goes on."""
    return Path(checkpoints) / file_name(job_id).removesuffix(".json")
