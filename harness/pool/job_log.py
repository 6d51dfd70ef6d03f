"""What the driver knows of its jobs: a source that is started anew repeats itself, the driver does not."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from harness.runs.jobs import OPEN, Event, Job, Report
from harness.runs.layout import checkpoint_folder

WITH_CHECKPOINT = frozenset({"finished", "stopped", "failed"})
"""Final states after which a job's checkpoints are not needed; an interrupted job continues from them."""


class JobLog:
    """Drops what repeats, keeps the reports of open jobs, and removes checkpoints of ended jobs once the caller has had
    their last event.

    Attributes:
        open: The last event of each job that has not ended, by its id.
    """

    def __init__(self) -> None:
        self.open: dict[str, Event] = {}
        self._reports: dict[str, list[Report]] = {}
        self._numbers: dict[str, int] = {}
        self._ended: set[str] = set()
        self._own: dict[str, Job] = {}
        self._done: list[Job] = []
        self._gone: list[Job] = []
        self._folders: set[Path] = set()
        self._interrupted = False

    def submitted(self, job: Job) -> None:
        """Register a job of the driver, which only the driver can submit again."""
        self._own[job.id] = job
        self._ended.discard(job.id)

    def take(self, events: Sequence[Event]) -> list[Event]:
        """The events that are new, each with all reports of its job so far."""
        return [self._noted(event) for event in events if not self._repeated(event)]

    def _repeated(self, event: Event) -> bool:
        name, number = event.job.id, event.report.number
        return name in self._ended or (event.status == "running" and number <= self._numbers.get(name, 0))

    def _noted(self, event: Event) -> Event:
        name, job, report = event.job.id, event.job, event.report
        reports = self._reports.setdefault(name, [])
        if report.number > (reports[-1].number if reports else 0):
            reports[-1:] = [*(one.brief() for one in reports[-1:]), report]
        elif event.status not in OPEN and report.facts:  # the last one again, with what is known of its end
            reports[-1:] = [report]
        event = self.open[name] = replace(event, reports=tuple(reports))
        if event.status == "running":
            self._numbers[name] = report.number
        if job.checkpoints:
            self._folders.add(Path(job.checkpoints))
        self._interrupted |= event.status == "interrupted"
        if event.status not in OPEN:
            self._ended.add(name)
            for held in (self.open, self._reports, self._numbers, self._own):
                held.pop(name, None)
            if event.status in WITH_CHECKPOINT and job.checkpoints:
                self._done.append(job)
        return event

    def own(self) -> list[Job]:
        """The driver's own jobs that have not ended."""
        return list(self._own.values())

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints of jobs whose end the caller received before this call."""
        for job in self._done:
            shutil.rmtree(checkpoint_folder(str(job.checkpoints), job.id), ignore_errors=True)
        self._gone += self._done
        self._done = []

    def sweep(self) -> None:
        """Remove files that a worker wrote while its job was being stopped, and shared prefixes that no job will
        continue. Call at the end, when no worker is writing."""
        self._done, self._gone = [*self._gone, *self._done], []
        self.remove_checkpoints()
        for folder in self._folders if not self._interrupted else ():
            shutil.rmtree(folder / "prefixes", ignore_errors=True)
            with suppress(OSError):
                folder.rmdir()  # only if it is empty
