"""An engine whose every step counts: a job's score is a chain of digests over its steps, so that a step that is
lost, repeated or taken from another state shows in the result."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from harness.core.atomic_files import write_whole
from harness.runs.jobs import Job, Report
from harness.runs.layout import file_name
from harness.runs.record import config_hash

STEPS = 4
"""Steps of an epoch."""


class ChainEngine:
    """Trains jobs by hashing, keeps a sealed checkpoint after every step, and goes on from it.

    Args:
        slots: Jobs at once.
        seconds: Of a step.
        pids: Folder in which the worker says that it is there.
    """

    def __init__(self, slots: int, seconds: float, pids: str | None) -> None:
        self._slots, self._seconds = slots, seconds
        self._jobs: dict[str, Job] = {}
        self._states: dict[str, dict[str, Any]] = {}
        self._news: list[Report] = []
        if pids is not None:
            Path(pids).mkdir(parents=True, exist_ok=True)
            (Path(pids) / str(os.getpid())).touch()

    def free_slots(self, job: Job) -> int:
        return self._slots - len(self._jobs)

    def admit(self, job: Job) -> None:
        if job.config["epochs"] < 1:
            raise ValueError(f"`epochs` must be at least 1, but got {job.config['epochs']}.")
        state = self._load(job)
        self._jobs[job.id], self._states[job.id] = job, state
        self._news += [self._report(job, state, number) for number in range(1, len(state["scores"]) + 1)]

    def release(self, job_id: str) -> None:
        self._jobs.pop(job_id, None)
        self._states.pop(job_id, None)

    def advance(self) -> Sequence[Report]:
        time.sleep(self._seconds)
        news, self._news = self._news, []
        news = [report for report in news if report.job in self._jobs]
        for job in list(self._jobs.values()):
            state = self._states[job.id]
            if state["step"] < STEPS * job.config["epochs"]:
                self._step(job, state)
                if state["step"] % STEPS == 0:
                    news.append(self._report(job, state, len(state["scores"])))
        for report in news:
            if report.status == "finished":
                self.release(report.job)
        return news

    def save(self) -> None:
        """Every step is saved already."""

    def close(self) -> None:
        self._jobs.clear()

    def _step(self, job: Job, state: dict[str, Any]) -> None:
        state["step"] += 1
        state["chain"] = hashlib.sha256(f"{state['chain']} {state['step']}".encode()).hexdigest()
        if state["step"] % STEPS == 0:
            state["scores"].append(int(state["chain"][:8], 16) / 16**8)
        if job.checkpoints:
            folder = self._folder(job)
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / "chain.json", json.dumps(state))

    def _load(self, job: Job) -> dict[str, Any]:
        """The job's state, of the very same configuration, or a new one."""
        begun = config_hash(job.config)
        if job.checkpoints and (self._folder(job) / "chain.json").exists():
            state: dict[str, Any] = json.loads((self._folder(job) / "chain.json").read_text())
            assert state["config"] == begun, f"{job.id} has the checkpoint of another configuration"
            return state
        return {"step": 0, "chain": begun, "config": begun, "scores": []}

    @staticmethod
    def _folder(job: Job) -> Path:
        return Path(job.checkpoints or "") / file_name(job.id).removesuffix(".json")

    @staticmethod
    def _report(job: Job, state: dict[str, Any], number: int) -> Report:
        last = number == job.config["epochs"]
        status: Literal["running", "finished"] = "finished" if last else "running"
        score = state["scores"][number - 1]
        return Report(
            job=job.id,
            number=number,
            status=status,
            epoch=number,
            step=number * STEPS,
            total_steps=STEPS * job.config["epochs"],
            train_loss=1 - score,
            dev={"mcc": score, "loss": 1 - score},
            test={"mcc": score} if last and job.stage == "final" else None,
            facts={"trained_parameters": 1, "samples": number * STEPS},
        )


def make(slots: int, seconds: float, pids: str | None, rank: int, world: int) -> ChainEngine:
    """With the first three bound, a `make_engine` for the pool."""
    return ChainEngine(slots, seconds, pids)
