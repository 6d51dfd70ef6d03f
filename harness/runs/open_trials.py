"""Trials that have begun and not ended, one file each: what a later run of the same folder goes on with."""

import json
from dataclasses import asdict, fields
from pathlib import Path

from harness.core.atomic_files import write_whole
from harness.runs.jobs import Job
from harness.runs.layout import RunFolder, file_name
from lingo.text_files import read_json


class OpenTrials:
    """The folder `<out>/open`: the job of every trial from its proposal until its record is written."""

    def __init__(self, out: Path | str) -> None:
        self._folder = RunFolder(out).open
        self._there = {job.id for job in self.load()}

    def keep(self, job: Job) -> None:
        """Write a job down; once is enough.

        Raises:
            OSError: when the disk refuses.
        """
        if job.id in self._there:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._folder / file_name(job.id), json.dumps(asdict(job), indent=1) + "\n")
        self._there.add(job.id)

    def drop(self, job_id: str) -> None:
        """Forget a job that has its record."""
        if job_id in self._there:
            (self._folder / file_name(job_id)).unlink(missing_ok=True)
            self._there.discard(job_id)

    def load(self) -> list[Job]:
        """All open jobs, by their ids. A file that is no job is passed over: its trial begins anew."""
        known = {field.name for field in fields(Job)}
        jobs = []
        for path in sorted(self._folder.glob("[!.]*.json")):
            try:
                values = read_json(path)
                jobs.append(Job(**{name: value for name, value in values.items() if name in known}))
            except (OSError, ValueError, TypeError, AttributeError):
                continue
        return sorted(jobs, key=lambda job: job.id)
