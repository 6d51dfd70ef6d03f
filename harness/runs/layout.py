"""The layout of an output folder: names of files and folders in it."""

import hashlib
import re
from pathlib import Path

from harness.runs.record import Record


class RunFolder:
    """Paths in an output folder; nothing is read or created."""

    def __init__(self, out: Path | str) -> None:
        self.out = out = Path(out)
        self.benchmark = out / "benchmark.json"
        """What is measured, and the folder's unique id: written once."""
        self.plan = out / "plan.json"
        """Settings and studies of the last run, see `harness.config.plan.Plan`."""
        self.records = out / "records"
        self.superseded = out / SUPERSEDED
        self.table = out / "results.parquet"
        """Table of all records, made from them."""
        self.usage = out / "search.json"
        self.open = out / "open"
        """Jobs of trials that have started and not ended."""
        self.requests = out / "requests"
        """What users have asked of the run, see `harness.runs.requests`."""
        self.checkpoints = out / "checkpoints"
        """Checkpoints from which trials continue."""
        self.adapters = out / "adapters"
        self.predictions = out / "predictions"
        self.store = out / "mlflow.db"
        self.artifacts = out / ARTIFACTS
        self.lock = out / "driver.lock"
        self.progress = out / "progress.json"
        """Progress of the current run, see `harness.progress.board.Board`."""
        self.page = out / "progress.html"
        """The same as a page that reloads itself; at the end it redirects to the report."""
        self.report = out / "report" / "report.html"
        self.repeat = out / "settings.yaml"
        """Settings that repeat the run, for `run --settings`."""

    def is_run(self) -> bool:
        """Whether it contains anything written by a run."""
        return any(path.exists() for path in (self.benchmark, self.plan, self.table, self.records))


ARTIFACTS = "mlartifacts"

SUPERSEDED = "superseded"
"""Folder and mark of final runs whose configuration is no longer the winner's: their cost counts, their results do
not."""


def file_name(record_id: str) -> str:
    """Name of a record's file: its id in safe characters, with a digest to make it unique."""
    readable = re.sub(r"[^A-Za-z0-9._=-]+", "_", record_id).strip("._")[-120:]
    return f"{readable}-{hashlib.sha256(record_id.encode()).hexdigest()[:12]}.json"


NOT_MIRRORED = ("data", "open", "checkpoints", "cluster", "driver.lock", "progress.json", "progress.html")
"""Files that can be made again, or belong to a run in progress."""

COPIED = ".copied"
"""File that marks the last copy to the storage path as complete: newer than everything that was copied."""

NOT_DOWNLOADED = (*NOT_MIRRORED, ".*")
"""Files that are not downloaded: prepared data, checkpoints of running trials, files being written."""


def adapter_folder(out: Path, record: Record) -> Path | None:
    """Folder of a final run's adapter: in its place below the present output folder, or where it was written; `None`
    if it is in neither."""
    written = record.facts.get("adapter")
    if not written:
        return None
    parts = Path(written).parts
    inside = [out.joinpath(*parts[at:]) for at in reversed(range(len(parts))) if parts[at] == "adapters"]
    return next((place for place in (*inside, Path(written)) if (place / "lingo.json").is_file()), None)


def checkpoint_folder(checkpoints: Path | str, job_id: str) -> Path:
    """Folder of a job's checkpoints."""
    return Path(checkpoints) / file_name(job_id).removesuffix(".json")
