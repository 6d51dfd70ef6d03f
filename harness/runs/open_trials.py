"""Trials that have begun and not ended: what a later run of the same folder goes on with, and what a reader of a run
under way sees of them."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path

from harness.core.atomic_files import write_whole
from harness.runs.jobs import Job, Report
from harness.runs.layout import RunFolder, file_name
from harness.runs.record import numbers, plain_data
from lingo.text_files import read_json

CURVE = ".curve"
"""Ending of the files with what is known of open jobs: their status, and their reports so far."""


class OpenTrials:
    """The folder `<out>/open`: the job of every trial from its proposal until its record is written."""

    def __init__(self, out: Path | str) -> None:
        self._folder = RunFolder(out).open
        self._there = {job.id for job in self.load()}

    def keep(self, job: Job) -> None:
        """Store a job, unless it is stored already.

        Raises:
            OSError: when the disk refuses.
        """
        if job.id in self._there:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._folder / file_name(job.id), json.dumps(asdict(job), indent=1) + "\n")
        self._there.add(job.id)

    def drop(self, job_id: str) -> None:
        """Remove a job that has its record."""
        if job_id in self._there:
            (self._folder / file_name(job_id)).unlink(missing_ok=True)
            self._curve(job_id).unlink(missing_ok=True)
            self._there.discard(job_id)

    def note(self, job_id: str, status: str, reports: Sequence[Report]) -> None:
        """Write down how far an open job is: for readers, and for the record of one that never goes on.

        Where more reports are known from before they stay: a job that goes on repeats them.

        Raises:
            OSError: when the disk refuses.
        """
        if job_id in self._there:
            known = self.curve(job_id)[1]
            reports = reports if len(reports) >= len(known) else known
            content = {"status": status, "reports": [plain_data(asdict(report)) for report in reports]}
            write_whole(self._curve(job_id), json.dumps(content) + "\n")

    def curve(self, job_id: str) -> tuple[str, list[Report]]:
        """Status and reports of an open job as last noted; `queued` and none where nothing is."""
        known = {field.name for field in fields(Report)}
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            content = read_json(self._curve(job_id))
            reports = [
                Report(**{name: numbers(value) for name, value in report.items() if name in known})
                for report in content["reports"]
            ]
            return str(content["status"]), reports
        return "queued", []

    def _curve(self, job_id: str) -> Path:
        return (self._folder / file_name(job_id)).with_suffix(CURVE)

    def load(self) -> list[Job]:
        """All open jobs by id. An invalid file is skipped: its trial starts again."""
        known = {field.name for field in fields(Job)}
        jobs = []
        for path in sorted(self._folder.glob("[!.]*.json")):
            try:
                values = read_json(path)
                jobs.append(Job(**{name: value for name, value in values.items() if name in known}))
            except (OSError, ValueError, TypeError, AttributeError):
                continue
        return sorted(jobs, key=lambda job: job.id)
