"""A Tune trial as a light client of the pool: it submits a job and waits for its reports.

Every client is a process, so this module imports nothing heavy (no torch, no optuna, no search space).
"""

import math
from typing import Any

import ray
from ray.tune import Stopper, Trainable

from harness.jobs import OPEN, Job, Report

WAIT_S = 10.0
METRIC = "objective"


class Client(Trainable):
    """One trial. With `reuse_actors`, one client serves many trials, one after the other.

    Config: `job`, the fields of `harness.jobs.Job`. Other keys (the searched settings) are for Tune alone.
    """

    _job: Job
    _seen: int
    _inbox: list[Report]

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], source: Any, metric: str, mode: str, priority: int
    ) -> None:
        self._source, self._metric, self._mode, self._priority = source, metric, mode, priority
        self._submit(config)

    def step(self) -> dict[str, Any]:
        """Wait for the job's next report. Its end is the trial's end, whatever the reason."""
        while not self._inbox:
            question = self._source.follow.remote(self._job.id, self._seen, WAIT_S)
            fresh, status = ray.get(question)
            if not fresh and status not in OPEN:
                return {
                    METRIC: self._worst(),
                    "epoch": 0,
                    "done": True,
                    "interrupted": status == "interrupted",
                }
            self._inbox = fresh
        report = self._inbox.pop(0)
        self._seen = report.number
        return {METRIC: self._objective(report), "epoch": report.epoch, "done": report.status != "running"}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Serve the next trial: `cleanup` runs once per client, so the last trial is released here."""
        self._release()
        self._submit(new_config)
        return True

    def cleanup(self) -> None:
        self._release()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save: the pool trains on, and a restarted client follows the same job from its start."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See `save_checkpoint`."""

    def _submit(self, config: dict[str, Any]) -> None:
        self._job = Job(**config["job"])
        self._seen = 0
        self._inbox = []
        ray.get(self._source.submit.remote(self._job, priority=self._priority))

    def _release(self) -> None:
        ray.get(self._source.release.remote(self._job.id))

    def _objective(self, report: Report) -> float:
        value = report.dev.get(self._metric, math.nan) if report.status != "failed" else math.nan
        return value if math.isfinite(value) else self._worst()

    def _worst(self) -> float:
        """What a failed or undefined evaluation counts as: below any correlation, accuracy or area."""
        return -1.0 if self._mode == "max" else 1e6


class StopWhenInterrupted(Stopper):
    """Ends the whole study once one client was told that the pool was interrupted."""

    def __init__(self) -> None:
        self._told = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self._told = self._told or bool(result.get("interrupted"))
        return self._told

    def stop_all(self) -> bool:
        return self._told
