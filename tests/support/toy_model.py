"""A linear model trained data-parallel with gloo, for tests of groups of several workers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from harness.runs.jobs import Job, Report

ROWS, WIDTH, BATCH = 32, 4, 8


@dataclass
class Slot:
    """One job in training."""

    job: Job
    weights: torch.Tensor
    epoch: int = 0


class ToyModel:
    """Least squares by gradient descent: a rank takes its share of every batch, gradients are reduced."""

    def __init__(self, rank: int, world: int) -> None:
        self._rank, self._world = rank, world
        self._slot: Slot | None = None
        data = torch.Generator().manual_seed(7)
        self._inputs = torch.randn(ROWS, WIDTH, generator=data, dtype=torch.float64)
        self._targets = self._inputs @ torch.arange(WIDTH, dtype=torch.float64) + 1

    def free_slots(self, job: Job) -> int:
        return 0 if self._slot else 1

    def admit(self, job: Job) -> None:
        if job.config.get("refuse_on") == self._rank:
            raise ValueError(f"rank {self._rank} cannot take it.")
        generator = torch.Generator().manual_seed(job.config["seed"])
        weights = torch.randn(WIDTH, generator=generator, dtype=torch.float64).requires_grad_()
        self._slot = Slot(job, weights)

    def release(self, job_id: str) -> None:
        if self._slot and self._slot.job.id == job_id:
            self._slot = None

    def advance(self) -> Sequence[Report]:
        assert self._slot
        slot = self._slot
        if slot.job.config.get("explode"):
            raise RuntimeError("the loss exploded")
        losses = [self._step(slot.weights, start) for start in range(0, ROWS, BATCH)]
        slot.epoch += 1
        done = slot.epoch == slot.job.config["epochs"]
        if done:
            self._slot = None
        return [
            Report(
                job=slot.job.id,
                number=slot.epoch,
                status="finished" if done else "running",
                epoch=slot.epoch,
                train_loss=sum(losses) / len(losses),
                dev={"mcc": 0.0},
                facts={"world": self._world},
            )
        ]

    def save(self) -> None:
        """It keeps no checkpoints."""

    def close(self) -> None:
        self._slot = None

    def _step(self, weights: torch.Tensor, start: int) -> float:
        rows = slice(start + self._rank, start + BATCH, self._world)
        loss = ((self._inputs[rows] @ weights - self._targets[rows]) ** 2).sum() / BATCH
        (gradient,) = torch.autograd.grad(loss, weights)
        news = torch.cat([gradient, loss.detach().reshape(1)])
        if self._world > 1:
            dist.all_reduce(news)
        with torch.no_grad():
            weights -= 0.05 * news[:-1]
        return float(news[-1])
