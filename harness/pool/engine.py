"""Interface between a worker of the pool and the engine that trains its jobs."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from harness.runs.jobs import Job, Report

AGREE = timedelta(minutes=5)
"""A rank that waits longer for the other ranks restarts its group."""


class WorkerFailed(RuntimeError):
    """A worker of a group failed; every rank raises this at the same point."""


class Engine(Protocol):
    """Trains jobs in slots. Lives in one worker process; every worker of a group holds one and all of them
    receive the same calls in the same order."""

    def free_slots(self, job: Job) -> int:
        """Number of further jobs of this kind that could be admitted now (0 if full or busy with another kind)."""

    def admit(self, job: Job) -> None:
        """Admit a job to a free slot. Raises `ValueError` with a one-line message if the job cannot be trained."""

    def release(self, job_id: str) -> None:
        """Drop a job at the next step boundary; unknown ids are ignored."""

    def advance(self) -> Sequence[Report]:
        """Train all running slots for at most a few steps (well under a second) and return new reports, if any.
        A job that finished, failed or was returned has left its slot when its last report is returned."""

    def save(self) -> None:
        """Write checkpoints of all jobs that keep any; this worker is about to terminate."""

    def close(self) -> None:
        """Free memory and files."""
