"""The end of an epoch, or of a part of it: evaluate, report, save; and the end of a job."""

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from harness.pool.files import Files
from harness.runs.jobs import Report
from harness.workers.evaluation import dev_scores
from harness.workers.facts import job_facts
from harness.workers.finals import keep_adapter, restore_best, take_test
from harness.workers.peers import Peers, short_of_memory
from harness.workers.shared_prefixes import Prefixes
from harness.workers.training import Training, finite
from lingo.batch import Share
from lingo.pack import Pack

log = logging.getLogger(__name__)

LEAST_TOKENS = 256
"""Minimum tokens of a batch in evaluation; if it does not fit into memory, nothing does."""

T = TypeVar("T")


class Epochs:
    """Creates the reports of a worker's jobs.

    Args:
        prefixes: Trials that wait for another one receive its evaluations as their own.
        files: Target of adapters, predictions and checkpoints.
        share, peers, device: Of the worker; one of a group writes.
    """

    def __init__(self, prefixes: Prefixes, files: Files, share: Share, peers: Peers, device: str) -> None:
        self._peers = peers
        self._prefixes, self._files, self._share, self._device = prefixes, files, share, device
        self._writes = share.index == 0
        self._gpus = share.of if device == "cuda" else 0

    def evaluate(self, pack: Pack, training: Training) -> list[Report]:
        """Reports of a job at an evaluation, and of jobs that wait for it. Ended ones must leave the pack."""
        slot, begun = training.slot, time.monotonic()
        assert slot is not None
        number = len(training.reports) + 1
        lost = pack.first_lost().get(slot)
        if lost is not None:
            return self.diverged(training, lost)
        total = pack.take_loss(slot)
        training.losses.taken(total)
        loss = total / max(1, slot.step - training.counted)
        dev = self._in_memory(pack, lambda: dev_scores(pack, slot, training.folder))
        if not finite(loss, dev["loss"]):
            return self.diverged(training, slot.step, what="dev loss", loss=loss, dev=dev)
        training.counted = slot.step
        training.note(pack, dev)
        done = slot.done or training.out_of_patience(number)
        test: dict[str, float] | None = None
        facts = restore_best(pack, training) if done else {}
        if done and training.job.stage == "final":
            test, found = self._in_memory(
                pack, lambda: take_test(pack, training, self._files, keep=self._writes)
            )  # fmt: skip
            facts |= found
        training.device_seconds += time.monotonic() - begun
        facts |= job_facts(pack, training, device=self._device, gpus=self._gpus)
        if done and training.job.adapter and self._writes:
            scores = {"dev": facts.get("best_dev", dev), "test": test}
            facts |= keep_adapter(pack, training, self._files, facts | scores)
        report = Report(
            job=training.job.id,
            number=number,
            status="finished" if done else "running",
            epoch=training.epoch,
            step=slot.step,
            total_steps=slot.total_steps,
            train_loss=loss,
            dev=dev,
            test=test,
            seconds=time.monotonic() - training.begun,
            facts=facts,
        )
        training.reports.append(report)
        if not done:
            self.save(pack, training)
        return [report, *self._told(training, report)]

    def diverged(
        self, training: Training, step: int, *, what: str = "training loss", **measured: Any
    ) -> list[Report]:
        """The last reports of a trial whose loss is not finite since `step`, and of those that wait for it."""
        rate = f"learning rate {training.probe.config.learning_rate:g}"
        error = (
            f"diverged: the {what} is not finite since step {step} of {training.probe.total_steps} ({rate})."
        )
        told = [one for each in self._prefixes.followers(training) for one in self.fail(each, error)]
        epoch = training.grid.epoch(step)
        return [*told, *self.fail(training, error, epoch=epoch, step=step, **measured)]

    def fail(
        self,
        training: Training,
        error: str,
        *,
        epoch: float = 0,
        step: int = 0,
        loss: float = float("nan"),
        dev: dict[str, float] | None = None,
    ) -> list[Report]:
        """The last report of a job that cannot continue."""
        return [
            Report(
                job=training.job.id,
                number=len(training.reports) + 1,
                status="failed",
                epoch=epoch,
                step=step,
                train_loss=loss,
                dev=dev or {},
                seconds=time.monotonic() - training.begun,
                facts=dict(training.costs),
                error=error,
            )
        ]

    def save(self, pack: Pack, training: Training) -> None:
        """Add a generation to a job's checkpoints, if it keeps any."""
        slot = training.slot
        if slot is None or not slot.step or training.checkpoints is None or not self._writes:
            return
        keep = [training.best.generation] if training.best else []
        training.checkpoints.save(pack, slot, training.progress(), keep=keep)

    def _told(self, training: Training, report: Report) -> list[Report]:
        """The same evaluation for jobs that wait for this trial's prefix."""
        told = []
        for follower in self._prefixes.followers(training):
            follower.reports.append(follower.like(report))
            follower.counted = training.counted
            told.append(follower.reports[-1])
        return told

    def _in_memory(self, pack: Pack, evaluate: Callable[[], T]) -> T:
        """Evaluate, in smaller batches if memory is short. Raises `OutOfMemoryError` if none is small enough."""
        while True:
            try:
                return evaluate()
            except RuntimeError as problem:
                if not short_of_memory(problem):
                    raise
                self._peers.short(problem)
                if pack.eval_tokens <= LEAST_TOKENS:
                    raise
            pack.eval_tokens //= 2
            if self._device == "cuda":
                torch.cuda.empty_cache()
            log.warning("out of memory in evaluation; batches of %d tokens", pack.eval_tokens)
