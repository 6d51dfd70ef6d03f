"""The engine of a worker: jobs of the pool trained in the slots of a `lingo.pack.Pack`."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.adapters import save_adapter
from harness.data import (
    open_prepared,
    open_reverse_dev,
    open_reverse_test,
    open_test,
    read_label_names,
    read_recipe,
)
from harness.jobs import Job, Report
from lingo.backbones import Backbone, load_backbone
from lingo.batch import Share
from lingo.data import Split, TaskData
from lingo.embeddings import add_rows
from lingo.metrics import score
from lingo.pack import Pack
from lingo.parameters import rank_pattern, trained_parameters, used_parameters
from lingo.reduce import all_reduce, alone
from lingo.slot import Slot
from lingo.strands import average_strands, label_scores
from lingo.target import ExportError
from lingo.trial import TrialConfig

SLICE_S = 0.2
"""Longest time between two looks at the pool's orders, for a worker that trains alone."""

SLICE_STEPS = 4
"""Steps between two looks for workers that train together: each must do the same number."""

ROOM_RANK, ROOM_LABELS = 16, 2
"""Least room of a pack, so that it need not be built anew for each trial."""


def make_engine(rank: int, world: int) -> "LingoEngine":
    """The engine of one worker of a group of `world`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return LingoEngine(rank=rank, world=world, device=device)


@dataclass
class _Training:
    """A job in its slot."""

    job: Job
    slot: Slot
    started: float
    reports: int = 0
    trained: int = 0


class LingoEngine:
    """Trains jobs of one backbone at a time, as many at once as the pack has slots.

    The pack is built for the first job that comes and anew when it is empty and the next does not fit: another
    backbone, full fine-tuning instead of adapters, a larger rank or head.

    Args:
        rank, world: This worker's place in its group; every worker of a group gets the same calls.
        device: Where the backbone and the adapters are.
        capacity: Jobs at once (full fine-tuning: always one).
    """

    def __init__(self, *, rank: int = 0, world: int = 1, device: str = "cpu", capacity: int = 1) -> None:
        self._share, self._device, self._capacity = Share(rank, world), device, capacity
        self._reduce = all_reduce if world > 1 else alone
        self._backbone: tuple[tuple[str, int], Backbone] | None = None
        self._pack: Pack | None = None
        self._data: dict[str, TaskData] = {}
        self._new_tokens: dict[str, int] = {}
        self._jobs: dict[str, _Training] = {}

    def free_slots(self, job: Job) -> int:
        """How many jobs like this one fit now: beside others only on the same backbone and in the same pack."""
        if not self._jobs:
            return 1 if self._is_full(job) else self._capacity
        if self._pack is None or not self._suits(self._pack, job, TrialConfig.from_dict(job.config)):
            return 0
        return self._pack.free

    def admit(self, job: Job) -> None:
        """Take a job. Raises `ValueError` when its configuration, data or backbone cannot be used."""
        config = TrialConfig.from_dict(job.config)
        problems = config.problems()
        if problems:
            raise ValueError(" ".join(problems))
        data = self._open(job.data)
        if self._pack is None or not self._suits(self._pack, job, config, data):
            self._build(job, config, data)
        assert self._pack is not None
        slot = self._pack.admit(config, data)
        self._jobs[job.id] = _Training(job, slot, time.monotonic())

    def release(self, job_id: str) -> None:
        """Forget a job and free its slot; unknown ids are ignored."""
        training = self._jobs.pop(job_id, None)
        if training is not None and self._pack is not None and training.slot in self._pack.slots:
            self._pack.release(training.slot)

    def advance(self) -> Sequence[Report]:
        """Some steps of every job, and a report of each that came to the end of an epoch."""
        if self._pack is None or not self._jobs:
            return []
        end, steps = time.monotonic() + SLICE_S, 0
        while True:
            self._pack.step()
            steps += 1
            ready = [job for job in self._jobs.values() if job.slot.step % job.slot.steps_per_epoch == 0]
            if ready:
                return [self._report(training) for training in ready]
            if steps >= SLICE_STEPS if self._share.of > 1 else time.monotonic() >= end:
                return []

    def close(self) -> None:
        """Let go of the pack and the backbone."""
        if self._pack is not None:
            self._pack.close()
        self._pack, self._backbone = None, None
        self._jobs.clear()
        self._data.clear()

    # --- the pack ---------------------------------------------------------------------------------------

    def _needs(self, job: Job) -> tuple[str, int]:
        """The backbone of a job, and how many embedding rows its tokens add to it."""
        if job.data not in self._new_tokens:
            self._new_tokens[job.data] = int(read_recipe(job.data).get("new_tokens", 0))
        return job.backbone, self._new_tokens[job.data]

    @staticmethod
    def _is_full(job: Job) -> bool:
        return TrialConfig.from_dict(job.config).kind.adapter == "none"

    def _suits(self, pack: Pack, job: Job, config: TrialConfig, data: TaskData | None = None) -> bool:
        data = data or self._open(job.data)
        return (
            self._backbone is not None
            and self._backbone[0] == self._needs(job)
            and pack.full == (config.kind.adapter == "none")
            and (pack.full or _rank(config) <= pack.layout.rank)
            and data.num_labels <= pack.layout.labels
        )

    def _build(self, job: Job, config: TrialConfig, data: TaskData) -> None:
        if self._jobs:
            raise ValueError(f"{job.id} does not fit beside the jobs that this worker trains.")
        if self._pack is not None:
            self._pack.close()
            self._pack = None
        if self._backbone is None or self._backbone[0] != self._needs(job):
            self._backbone = None
            backbone = load_backbone(job.backbone, device=self._device)
            add_rows(backbone, self._needs(job)[1])
            self._backbone = (self._needs(job), backbone)
        full = self._is_full(job)
        self._pack = Pack(
            self._backbone[1],
            capacity=1 if full else self._capacity,
            max_rank=max(ROOM_RANK, _rank(config)),
            max_labels=max(ROOM_LABELS, data.num_labels),
            full=full,
            share=self._share,
            reduce=self._reduce,
        )

    def _open(self, folder: str) -> TaskData:
        if folder not in self._data:
            self._data[folder] = open_prepared(folder)
        return self._data[folder]

    # --- reports ----------------------------------------------------------------------------------------

    def _report(self, training: _Training) -> Report:
        """Evaluate at an epoch's end; the job leaves its slot when it is done or has failed."""
        pack, slot, job = self._pack, training.slot, training.job
        assert pack is not None
        training.reports += 1
        steps = slot.step - training.trained
        loss, training.trained = pack.take_loss(slot) / steps, slot.step
        news: dict[str, Any] = {
            "job": job.id,
            "number": training.reports,
            "epoch": slot.epoch,
            "step": slot.step,
            "total_steps": slot.total_steps,
            "train_loss": loss,
        }
        dev, _ = self._measure(slot, slot.data.dev, open_reverse_dev(job.data))
        if not math.isfinite(loss) or not math.isfinite(dev["loss"]):
            self.release(job.id)
            rate = f"learning rate {slot.config.learning_rate:g}"
            error = f"diverged: the loss is not finite after epoch {slot.epoch} ({rate})."
            return Report(
                **news, status="failed", dev=dev, seconds=time.monotonic() - training.started, error=error
            )
        test: dict[str, float] | None = None
        labels: dict[str, list[float]] = {}
        if slot.done and job.stage == "final":
            test, labels = self._measure(slot, open_test(job.data), open_reverse_test(job.data))
        news |= {"dev": dev, "test": test, "facts": self._facts(training)}
        if slot.done and job.adapter and self._share.index == 0:
            news["facts"] |= self._save_adapter(training, {**news["facts"], "dev": dev, "test": test})
        if labels:
            news["facts"]["test_labels"] = {"names": read_label_names(job.data), **labels}
        news["seconds"] = time.monotonic() - training.started
        if slot.done:
            self.release(job.id)
        return Report(**news, status="finished" if slot.done else "running")

    def _measure(
        self, slot: Slot, split: Split, reverse: Split | None
    ) -> tuple[dict[str, float], dict[str, list[float]]]:
        """Metrics over a split, predictions averaged over both strands where there are two; and those of each
        label of a multi-label task."""
        assert self._pack is not None
        logits, kind = self._pack.predict(slot, split), slot.data.kind
        if reverse is not None:
            logits = average_strands(kind, logits, self._pack.predict(slot, reverse))
        single = label_scores(logits, split.labels) if kind == "multilabel" else {}
        return score(kind, logits, split.labels), single

    def _save_adapter(self, training: _Training, facts: dict[str, Any]) -> dict[str, Any]:
        """Write the trained adapter in peft's layout. A disk that refuses costs the file, not the result."""
        assert self._pack is not None and training.job.adapter is not None
        job, slot, folder = training.job, training.slot, Path(training.job.adapter)
        card = {"task": slot.data.name, "study": job.study, **facts}
        try:
            digest = save_adapter(self._pack, slot, folder, job.data, card)
        except (ExportError, OSError) as problem:
            return {"adapter_error": str(problem)}
        return {"adapter": str(folder), "adapter_digest": digest}

    def _facts(self, training: _Training) -> dict[str, Any]:
        assert self._pack is not None and self._backbone is not None
        pack, slot, backbone = self._pack, training.slot, self._backbone[1]
        facts: dict[str, Any] = {
            "trained_parameters": trained_parameters(pack, slot),
            "used_parameters": used_parameters(pack, slot),
            "total_parameters": sum(parameter.numel() for parameter in backbone.model.parameters()),
            "samples": slot.epoch * len(slot.data.train),
            "data_digest": slot.data.digest,
            "backbone_digest": backbone.digest,
            "device": self._device,
        }
        if slot.svd:
            facts["kept_ranks"] = {path: sum(kept) for path, kept in rank_pattern(pack, slot).items()}
        return facts


def _rank(config: TrialConfig) -> int:
    return {"none": 0, "lora": config.rank, "svd": config.b0}[config.kind.adapter]
