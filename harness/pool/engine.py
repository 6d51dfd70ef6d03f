"""The contract between a worker of the pool and what it trains."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from harness.runs.jobs import Job, Report

AGREE = timedelta(minutes=5)
"""A rank that waits longer for the others of its group restarts it."""


class WorkerFailed(RuntimeError):
    """A worker of a group failed; every rank raises this and knows that the others do."""


class Engine(Protocol):
    """Trains jobs in slots. Lives in one worker process; every worker of a group holds one and all of them
    receive the same calls in the same order."""

    def free_slots(self, job: Job) -> int:
        """How many more jobs like this one could be admitted now (0 when full or busy with another kind)."""

    def admit(self, job: Job) -> None:
        """Take a job into a free slot. Raises `ValueError` with one clear line when the job cannot be trained."""

    def release(self, job_id: str) -> None:
        """Drop a job at the next step boundary; unknown ids are ignored."""

    def advance(self) -> Sequence[Report]:
        """Train all running slots by at most a few steps (well under a second) and return the news, if any.
        A job that finished, failed or was returned has left its slot when its last report is given."""

    def save(self) -> None:
        """Write checkpoints of all jobs now, where they keep any: this worker is about to go."""

    def close(self) -> None:
        """Free memory and files."""
