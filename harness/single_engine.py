"""Engines of the methods that do not go into a pack: baselines, and those of the library peft. One job at a time.

Every worker of a group trains the whole job alike: these methods are small, or unpacked for comparison only.
"""

import logging
import math
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from harness.data import open_prepared, open_reverse_dev, open_reverse_test, open_test, read_label_names
from harness.files import Files, LocalFiles
from harness.jobs import Job, Report
from lingo.data import Split, TaskData
from lingo.metrics import score
from lingo.single import Single, simple_trial
from lingo.strands import average_strands, label_scores
from lingo.trial import TrialConfig

log = logging.getLogger(__name__)

SLICE_S = 0.2
"""Longest time between two looks at the pool's orders, for a worker that trains alone."""

SLICE_STEPS = 4
"""Steps between two looks for workers that train together: each must do the same number."""


@dataclass
class Held:
    """The job in training."""

    job: Job
    trial: Single
    started: float
    reports: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    step: "Future[bool] | None" = None


class SimpleEngine:
    """Trains baselines: `kmer_logreg` and `onehot_cnn`.

    Args:
        rank, world: This worker's place in its group; every worker of a group gets the same calls.
        device: Where networks are trained.
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
        """Take a job. Raises `ValueError` when its configuration, data or backbone cannot be used."""
        config = TrialConfig.from_dict(job.config)
        problems = config.problems()
        if problems:
            raise ValueError(" ".join(problems))
        trial = self._trial(job, config, open_prepared(self._files.fetch(job.data)))
        self._held = Held(job, trial, time.monotonic())

    def release(self, job_id: str) -> None:
        """Forget a job; unknown ids are ignored. A solver that is under way ends by itself, unheard."""
        if self._held is not None and self._held.job.id == job_id:
            self._held = None

    def advance(self) -> Sequence[Report]:
        """Some steps, and a report at the end of an epoch."""
        held = self._held
        if held is None:
            return []
        if not (self._slow(held) if held.trial.slow else self._steps(held)):
            return []
        return [self._report(held)]

    def close(self) -> None:
        """Let go of everything."""
        self._held = None
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _trial(self, job: Job, config: TrialConfig, data: TaskData) -> Single:
        return simple_trial(config, data, device=self._device)

    def _steps(self, held: Held) -> bool:
        """Train for a slice of time; True at the end of an epoch."""
        end, steps = time.monotonic() + SLICE_S, 0
        while not held.trial.advance():
            steps += 1
            if steps >= SLICE_STEPS if self._world > 1 else time.monotonic() >= end:
                return False
        return True

    def _slow(self, held: Held) -> bool:
        """A step that may take minutes goes on in a thread of its own, so that orders are heard."""
        if self._world > 1:
            return held.trial.advance()
        if held.step is None:
            held.step = self._threads.submit(held.trial.advance)
        try:
            return held.step.result(timeout=SLICE_S)
        except TimeoutError:
            if held.step.done():  # the solver's own
                raise
            return False

    # --- reports ----------------------------------------------------------------------------------------

    def _report(self, held: Held) -> Report:
        """Evaluate; the job leaves when it is done, has failed, or has stopped getting better."""
        trial, job = held.trial, held.job
        held.reports += 1
        news: dict[str, Any] = {
            "job": job.id,
            "number": held.reports,
            "epoch": trial.epoch,
            "step": trial.step,
            "total_steps": trial.total_steps,
            "train_loss": trial.take_loss(),
        }
        dev, _ = self._measure(trial, trial.data.dev, open_reverse_dev(self._files.fetch(job.data)))
        if not math.isfinite(news["train_loss"]) or not math.isfinite(dev["loss"]):
            self.release(job.id)
            error = f"diverged: the loss is not finite after epoch {trial.epoch}."
            seconds = time.monotonic() - held.started
            return Report(**news, status="failed", dev=dev, seconds=seconds, error=error)
        stopped = self._patience(held, dev["loss"])
        done = trial.done or stopped
        facts = self._facts(held)
        test: dict[str, float] | None = None
        if done and job.stage == "final":
            if held.best and held.best_epoch < trial.epoch:
                trial.load(held.best)
                facts |= {"best_epoch": held.best_epoch, "stopped_epoch": trial.epoch}
            test, more = self._test(trial, job)
            facts |= more | self._save(held, {**facts, "dev": dev, "test": test})
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

    def _patience(self, held: Held, loss: float) -> bool:
        """Keep the best evaluation's weights of a final job; whether to stop (paper section 4.4)."""
        patience = held.job.patience
        if not patience:
            return False
        if loss < held.best_loss:
            held.best_loss, held.best_epoch = loss, held.trial.epoch
            held.best = held.trial.state()
        return held.trial.epoch - held.best_epoch >= patience

    def _measure(
        self, trial: Single, split: Split, reverse: Split | None
    ) -> tuple[dict[str, float], dict[str, list[float]]]:
        """Metrics over a split, both strands averaged where there are two; and those of each label."""
        logits, kind = trial.predict(split), trial.data.kind
        if reverse is not None:
            logits = average_strands(kind, logits, trial.predict(reverse))
        single = label_scores(logits, split.labels) if kind == "multilabel" else {}
        return score(kind, logits, split.labels), single

    def _test(self, trial: Single, job: Job) -> tuple[dict[str, float], dict[str, Any]]:
        folder = self._files.fetch(job.data)
        test, labels = self._measure(trial, open_test(folder), open_reverse_test(folder))
        return test, {"test_labels": {"names": read_label_names(folder), **labels}} if labels else {}

    def _facts(self, held: Held) -> dict[str, Any]:
        trial = held.trial
        facts = {
            "samples": trial.samples,
            "data_digest": trial.data.digest,
            "device": self._device,
            **trial.facts(),
        }
        return {"total_parameters": facts["trained_parameters"]} | facts

    def _save(self, held: Held, facts: dict[str, Any]) -> dict[str, Any]:
        """Baselines leave no adapter."""
        return {}
