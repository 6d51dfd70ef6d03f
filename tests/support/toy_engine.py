"""An engine without a model: scores follow from the configuration, faults are injected."""

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from harness.runs.jobs import Job, Report
from harness.runs.layout import file_name


class ToyEngine:
    """Reports `quality * epoch / epochs` after every epoch of `seconds`.

    A job's config may ask for faults: `die_once` (a file that is made before the process ends), `die`
    (always), `refuse` (admission raises), `explode` (training raises), `warn` (a line to log). After its first
    report, a job with less quality than `linger_below` waits to be stopped. Jobs of two `kind`s never share
    the engine. A job with a folder for checkpoints keeps its epoch there.
    """

    def __init__(self, slots: int = 1) -> None:
        self._slots = slots
        self._jobs: dict[str, Job] = {}
        self._epochs: dict[str, int] = {}
        self._due: dict[str, float] = {}

    def free_slots(self, job: Job) -> int:
        kinds = {held.config.get("kind") for held in self._jobs.values()}
        return self._slots - len(self._jobs) if kinds <= {job.config.get("kind")} else 0

    def admit(self, job: Job) -> None:
        if job.config.get("refuse"):
            raise ValueError("`refuse` must be absent, but got true.")
        self._jobs[job.id] = job
        self._epochs[job.id] = _kept(job)
        self._due[job.id] = time.monotonic() + job.config.get("seconds", 0.0)

    def release(self, job_id: str) -> None:
        for table in (self._jobs, self._epochs, self._due):
            table.pop(job_id, None)

    def advance(self) -> Sequence[Report]:
        reports = []
        for job in list(self._jobs.values()):
            self._inject(job)
            if time.monotonic() >= self._due[job.id]:
                reports.append(self._epoch(job))
        if not reports:
            time.sleep(min(0.02, max(0.001, min(self._due.values(), default=0.0) - time.monotonic())))
        return reports

    def save(self) -> None:
        """It keeps no checkpoints."""

    def close(self) -> None:
        self._jobs.clear()

    def _inject(self, job: Job) -> None:
        config = job.config
        if "warn" in config:
            logging.getLogger("harness.toy").warning("%s", config["warn"])
        if config.get("explode"):
            raise RuntimeError("the loss exploded")
        if config.get("die"):
            os._exit(1)
        if "die_once" in config and self._epochs[job.id] == 1 and not Path(config["die_once"]).exists():
            Path(config["die_once"]).touch()
            os._exit(1)

    def _epoch(self, job: Job) -> Report:
        self._epochs[job.id] += 1
        epoch, epochs = self._epochs[job.id], job.config["epochs"]
        lingers = job.config.get("quality", 1.0) < job.config.get("linger_below", 0.0)
        self._due[job.id] = time.monotonic() + (30.0 if lingers else job.config.get("seconds", 0.0))
        status: Literal["running", "finished"] = "finished" if epoch == epochs else "running"
        if status == "finished":
            self.release(job.id)
        if job.checkpoints and status == "running":
            _place(job).mkdir(parents=True, exist_ok=True)
            (_place(job) / "epoch").write_text(str(epoch))
        score = job.config.get("quality", 0.5) * epoch / epochs
        return Report(
            job=job.id,
            number=epoch,
            status=status,
            epoch=epoch,
            dev={"mcc": score},
            test={"mcc": score} if status == "finished" and job.stage == "final" else None,
            facts={"pid": os.getpid()},
        )


def _place(job: Job) -> Path:
    return Path(str(job.checkpoints)) / file_name(job.id).removesuffix(".json")


def _kept(job: Job) -> int:
    path = _place(job) / "epoch"
    return int(path.read_text()) if job.checkpoints and path.exists() else 0


def make(slots: int, rank: int, world: int) -> ToyEngine:
    """With `slots` bound, a `make_engine` for `Pool.start`."""
    return ToyEngine(slots)


def make_none(rank: int, world: int) -> ToyEngine:
    """A `make_engine` that cannot."""
    raise ValueError("no weights in models/x.")
