"""Engines of methods that do not train in packs: baselines, and those of peft. One job at a time.

Every worker of a group trains the whole job identically: these methods are small, or included only for comparison.
"""

import logging
import math
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from harness.data.prepared import (
    open_prepared,
    open_reverse_dev,
    open_reverse_test,
    open_test,
    read_label_names,
)
from harness.pool.files import Files, LocalFiles
from harness.runs.evaluations import Grid
from harness.runs.jobs import Job, Report
from harness.runs.layout import file_name
from harness.workers.best_epoch import better, tested_facts
from harness.workers.evaluation import at_thresholds, final_facts, write_predictions
from harness.workers.loss_curve import LossCurve
from lingo.data import Split, TaskData
from lingo.metrics import score
from lingo.single import Single, simple_trial
from lingo.strands import average_strands
from lingo.trial import TrialConfig

log = logging.getLogger(__name__)

SLICE_S = 0.2
"""Maximum seconds between checks for commands of the pool, for a worker that trains alone."""

SLICE_STEPS = 4
"""Steps between checks for data-parallel workers, which must all do the same number."""

LOSS_STEPS = 32
"""Steps between checks of the loss, which synchronise with the device."""


@dataclass
class Held:
    """The job in training."""

    job: Job
    trial: Single
    started: float
    reports: int = 0
    best_dev: dict[str, float] = field(default_factory=dict)
    best_number: int = 0
    best_epoch: float = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    step: "Future[bool] | None" = None
    device_seconds: float = 0.0
    losses: LossCurve = field(init=False)

    def __post_init__(self) -> None:
        self.losses = LossCurve(max(1, self.trial.total_steps))

    @property
    def grid(self) -> Grid:
        """When it is evaluated; a slow trial only once it has ended."""
        rows, size = len(self.trial.data.train), self.trial.config.batch_size
        return Grid(-(-rows // size), self.job.evaluations)

    @property
    def epoch(self) -> float:
        """Epochs up to its last evaluation."""
        return self.trial.epoch if self.trial.slow else self.grid.epoch(self.trial.step)


class SimpleEngine:
    """Trains baselines: `kmer_logreg` and `onehot_cnn`.

    Args:
        rank, world: Rank of this worker and size of its group; all workers of a group receive the same calls.
        device: Device of networks.
        files: How the worker gets at the driver's files.
    """

    def __init__(
        self, *, rank: int = 0, world: int = 1, device: str = "cpu", files: Files | None = None
    ) -> None:
        self._rank, self._world, self._device = rank, world, device
        self._files = files or LocalFiles()
        self._held: Held | None = None
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fit")

    def free_slots(self, job: Job) -> int:
        """One job at a time."""
        return 0 if self._held else 1

    def admit(self, job: Job) -> None:
        """Admit a job. Raises `ValueError` if its configuration, data or backbone cannot be used."""
        config = TrialConfig.from_dict(job.config)
        problems = config.problems()
        if problems:
            raise ValueError(" ".join(problems))
        trial = self._trial(job, config, open_prepared(self._files.fetch(job.data)))
        self._held = Held(job, trial, time.monotonic())

    def release(self, job_id: str) -> None:
        """Drop a job; unknown ids are ignored. A running solver ends by itself; its result is discarded."""
        if self._held is not None and self._held.job.id == job_id:
            self._held = None

    def advance(self) -> Sequence[Report]:
        """Train some steps; returns a report at an evaluation."""
        held, begun = self._held, time.monotonic()
        if held is None:
            return []
        ready = self._slow(held) if held.trial.slow else self._steps(held)
        held.device_seconds += time.monotonic() - begun
        return [self._report(held)] if ready else []

    def save(self) -> None:
        """Nothing to do: its jobs keep no checkpoints and start again elsewhere."""

    def close(self) -> None:
        """Release all resources."""
        self._held = None
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _trial(self, job: Job, config: TrialConfig, data: TaskData) -> Single:
        return simple_trial(config, data, device=self._device)

    def _steps(self, held: Held) -> bool:
        """Train for a slice of time; True at an evaluation."""
        end, steps, grid = time.monotonic() + SLICE_S, 0, held.grid
        while True:
            ended = held.trial.advance()
            if held.losses.due(held.trial.step):
                held.losses.add(held.trial.step, held.trial.summed_loss(), time.monotonic() - held.started)
            if ended or grid.due(held.trial.step):
                return True
            steps += 1
            if held.trial.step % LOSS_STEPS == 0 and held.trial.first_lost() is not None:
                return True
            if steps >= SLICE_STEPS if self._world > 1 else time.monotonic() >= end:
                return False

    def _slow(self, held: Held) -> bool:
        """A step that may take minutes runs in a thread, so that commands are processed."""
        if self._world > 1:
            return held.trial.advance()
        if held.step is None:
            held.step = self._threads.submit(_advance, held.trial, torch.get_num_threads())
        try:
            return held.step.result(timeout=SLICE_S)
        except TimeoutError:
            if held.step.done():  # the solver's own
                raise
            return False

    # --- reports ----------------------------------------------------------------------------------------

    def _report(self, held: Held) -> Report:
        """Evaluate; the job leaves when it is finished, has failed, or has stopped improving."""
        trial, job = held.trial, held.job
        held.reports += 1
        lost = trial.first_lost()
        if lost is not None:
            return self._diverged(held, "training", lost)
        news: dict[str, Any] = {
            "job": job.id,
            "number": held.reports,
            "epoch": held.epoch,
            "step": trial.step,
            "total_steps": trial.total_steps,
            "train_loss": self._take_loss(held),
        }
        folder, truth = self._files.fetch(job.data), trial.data.dev.labels
        dev = score(trial.data.kind, _predict(trial, trial.data.dev, open_reverse_dev(folder)), truth)
        if not math.isfinite(news["train_loss"]) or not math.isfinite(dev["loss"]):
            return self._diverged(held, "training or dev", trial.step, dev)
        stopped = self._patience(held, dev)
        done = trial.done or stopped
        facts = self._facts(held)
        test: dict[str, float] | None = None
        if done and job.stage == "final":
            if held.best_dev and held.best_epoch < held.epoch:
                trial.load(held.best)
            best = (held.best_epoch, held.best_dev) if held.best_dev else None
            facts |= tested_facts(job, stopped=held.epoch, best=best)
            test, more = self._test(trial, job)
            facts |= more | self._save(held, {**facts, "dev": held.best_dev or dev, "test": test})
        if done:
            self.release(job.id)
        return Report(
            **news,
            status="finished" if done else "running",
            dev=dev,
            test=test,
            facts=facts,
            seconds=time.monotonic() - held.started,
        )

    def _take_loss(self, held: Held) -> float:
        held.losses.taken(held.trial.summed_loss())
        return held.trial.take_loss()

    def _diverged(self, held: Held, what: str, step: int, dev: dict[str, float] | None = None) -> Report:
        """The last report of a job whose loss is not finite since `step`."""
        trial, job = held.trial, held.job
        self.release(job.id)
        rate = f", learning rate {trial.config.learning_rate:g}" if not trial.slow else ""
        return Report(
            job=job.id,
            number=held.reports,
            status="failed",
            epoch=held.epoch,
            step=step,
            total_steps=trial.total_steps,
            dev=dev or {},
            seconds=time.monotonic() - held.started,
            error=f"diverged: the {what} loss is not finite since step {step} of {trial.total_steps}{rate}.",
        )

    def _patience(self, held: Held, dev: dict[str, float]) -> bool:
        """Keep the weights of the best evaluation of a job with patience; returns whether to stop."""
        patience = held.job.patience
        if patience is None:
            return False
        if not held.best_dev or better(dev, held.best_dev, held.job.metric):
            held.best_dev, held.best_number, held.best_epoch = dev, held.reports, held.epoch
            held.best = held.trial.state()
        return held.reports - held.best_number >= patience

    def _test(self, trial: Single, job: Job) -> tuple[dict[str, float], dict[str, Any]]:
        """Evaluate the test split, once: metrics and facts; one worker of a group writes the predictions."""
        folder, kind = self._files.fetch(job.data), trial.data.kind
        test = open_test(folder)
        logits, names = _predict(trial, test, open_reverse_test(folder)), read_label_names(folder)
        train = trial.data.train.labels
        dev = trial.data.dev
        moved, scores, told = at_thresholds(
            trial.config,
            kind,
            logits,
            test.labels,
            lambda: (_predict(trial, dev, open_reverse_dev(folder)), dev.labels),
        )
        facts = final_facts(
            kind, logits, test.labels, train_labels=train, names=names, moved=moved, metric=job.metric
        )
        facts |= told
        if job.predictions and not self._rank:
            facts |= self._keep_predictions(job, kind, logits, test.labels)
        return scores, facts

    def _keep_predictions(
        self, job: Job, kind: str, logits: NDArray[np.float64], labels: NDArray[np.generic]
    ) -> dict[str, Any]:
        target = f"{job.predictions}/{file_name(job.id).removesuffix('.json')}.parquet"
        try:
            local = self._files.place(target)
            local.parent.mkdir(parents=True, exist_ok=True)
            write_predictions(local, kind, logits, labels)
            self._files.send(local, target)
        except OSError as problem:
            log.warning("no test predictions of %s: %s", job.id, problem)
            return {"predictions_error": str(problem)}
        return {"predictions": target}

    def _facts(self, held: Held) -> dict[str, Any]:
        trial = held.trial
        facts = {
            "samples": trial.samples,
            "data_digest": trial.data.digest,
            "device": self._device,
            "gpus": self._world if self._device == "cuda" else 0,
            "device_seconds": round(held.device_seconds, 3),
            **trial.facts(),
        }
        if not trial.slow:
            facts["train_losses"] = held.losses.facts()
            if held.job.evaluations > 1:
                facts["evaluations_per_epoch"] = held.job.evaluations
        return {"total_parameters": facts["trained_parameters"]} | facts

    def _save(self, held: Held, facts: dict[str, Any]) -> dict[str, Any]:
        """Baselines have no adapter."""
        return {}


def _advance(trial: Single, threads: int) -> bool:
    """A step in a thread of its own, which does not inherit the number of threads that OpenMP has in this one."""
    with threadpool_limits(threads):
        return trial.advance()


def _predict(trial: Single, split: Split, reverse: Split | None) -> NDArray[np.float64]:
    """Logits of a split, averaged over both strands if used."""
    logits = trial.predict(split)
    if reverse is None:
        return logits
    return average_strands(trial.data.kind, logits, trial.predict(reverse))
