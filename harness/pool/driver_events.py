"""What the driver has heard of its jobs: a source that is started anew repeats itself, the driver does not."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness.runs.jobs import OPEN, Event, Job
from harness.runs.layout import checkpoint_folder

WITH_CHECKPOINT = frozenset({"finished", "stopped", "failed"})
"""Ends after which a job's checkpoints are of no more use; an interrupted one goes on from them."""


class Heard:
    """Drops what repeats, remembers the jobs that the driver itself submitted, and removes checkpoints of ended
    jobs once the caller has had their last event."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._ended: set[str] = set()
        self._own: dict[str, Job] = {}
        self._done: list[Job] = []
        self._gone: list[Job] = []
        self._folders: set[Path] = set()
        self._interrupted = False

    def submitted(self, job: Job) -> None:
        """A job of the driver's own: nobody else would submit it again."""
        self._own[job.id] = job
        self._ended.discard(job.id)

    def take(self, events: Sequence[Event]) -> list[Event]:
        """The events that are new."""
        fresh = []
        for event in events:
            name, number = event.job.id, event.report.number
            repeated = event.status == "running" and number <= self._numbers.get(name, 0)
            if name in self._ended or repeated:
                continue
            if event.status == "running":
                self._numbers[name] = number
            if event.job.checkpoints:
                self._folders.add(Path(event.job.checkpoints))
            self._interrupted |= event.status == "interrupted"
            if event.status not in OPEN:
                self._ended.add(name)
                self._numbers.pop(name, None)
                self._own.pop(name, None)
                if event.status in WITH_CHECKPOINT and event.job.checkpoints:
                    self._done.append(event.job)
            fresh.append(event)
        return fresh

    def open(self) -> list[Job]:
        """The driver's own jobs that have not ended."""
        return list(self._own.values())

    def remove_checkpoints(self) -> None:
        """Those of jobs whose end the caller has had before this call."""
        for job in self._done:
            shutil.rmtree(checkpoint_folder(str(job.checkpoints), job.id), ignore_errors=True)
        self._gone += self._done
        self._done = []

    def sweep(self) -> None:
        """Remove again what a worker wrote while its job was being stopped, and shared prefixes where no job will
        go on. For the end, when nobody writes any more."""
        self._done, self._gone = [*self._gone, *self._done], []
        self.remove_checkpoints()
        for folder in self._folders if not self._interrupted else ():
            shutil.rmtree(folder / "prefixes", ignore_errors=True)
            with suppress(OSError):
                folder.rmdir()  # only when it is empty
