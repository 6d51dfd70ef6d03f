"""A job in training: position, reports, best weights; saved and restored as plain data."""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from torch import Tensor

from harness.runs.evaluations import Grid
from harness.runs.jobs import Job, Report
from harness.workers.best_epoch import best_of, better
from harness.workers.checkpoints import Checkpoints, Generation, generation_name
from harness.workers.loss_curve import LossCurve
from lingo.pack import Pack
from lingo.parameters import rank_counts
from lingo.slot import Slot
from lingo.state import StateError, read_state, weights

POINTS = 100
"""Maximum number of points of a rank trajectory."""


class Trajectory:
    """Ranks kept in each adapted matrix by a trial's allocations: all, or a limited number at even intervals.

    The selection depends only on the schedule. Ranks hold until the next allocation, so the trajectory is a step
    function; values set to zero (`in_place`) may be relearned meanwhile and are not counted.
    """

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.steps: list[int] = []
        self.ranks: list[list[int]] = []
        self._waiting: list[tuple[int, Tensor]] = []

    def due(self, slot: Slot) -> bool:
        """Whether the next step ends with a recorded allocation."""
        schedule, step = slot.schedule, slot.step + 1
        if schedule is None or not slot.allocates():
            return False
        number, others, most = schedule.before(step), schedule.before(schedule.last), POINTS - 2
        return (
            step == schedule.last or others <= most or number * most // others > (number - 1) * most // others
        )

    def take(self, pack: Pack, slot: Slot) -> None:
        """Add the current ranks, which stay on the device until requested."""
        if not self.paths:
            self.paths = list(slot.paths)
            self.steps, self.ranks = [0, *self.steps], [[slot.rank] * len(slot.paths), *self.ranks]
        self._waiting.append((slot.step, rank_counts(pack, slot)))

    def to_dict(self) -> dict[str, Any]:
        """Plain data; waits for the device."""
        for step, counts in self._waiting:
            self.steps.append(step)
            self.ranks.append([int(count) for count in counts.tolist()])
        self._waiting.clear()
        return {"steps": list(self.steps), "paths": list(self.paths), "ranks": [*self.ranks]}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """The inverse of `to_dict`."""
        self.paths, self.steps = list(saved["paths"]), list(saved["steps"])
        self.ranks = [list(row) for row in saved["ranks"]]


@dataclass
class BestEvaluation:
    """The best eligible evaluation: its weights, and the generation that should contain them on disk."""

    epoch: float
    number: int
    dev: dict[str, float]
    generation: str
    weights: dict[str, Tensor]


@dataclass(eq=False)
class Training:
    """A job in its slot, or waiting for the trial whose prefix it shares.

    Attributes:
        job, folder: The job, and its prepared data on this host.
        probe: A slot outside any pack, for values that depend only on configuration and data.
        slot: Its slot in the pack; `None` while it waits.
        checkpoints: Its generations; `None` for no checkpoints.
        begun: Monotonic time of its admission in seconds, minus the time trained before.
        costs: Facts that do not change (FLOPs of a step).
        key: Key common to trials with the same prefix; `None` for methods that never allocate.
        reports: Evaluations so far.
        counted: Steps whose losses are in earlier reports.
        device_seconds: Its share of the group's wall time.
        shared: Samples taken over from another trial's prefix.
        best: Best evaluation so far, of a job with patience.
        losses: Training losses between evaluations.
    """

    job: Job
    folder: Path
    probe: Slot
    slot: Slot | None = None
    checkpoints: Checkpoints | None = None
    begun: float = field(default_factory=time.monotonic)
    costs: dict[str, Any] = field(default_factory=dict)
    key: str | None = None
    reports: list[Report] = field(default_factory=list)
    counted: int = 0
    device_seconds: float = 0.0
    shared: int = 0
    best: BestEvaluation | None = None
    trajectory: Trajectory = field(default_factory=Trajectory)
    losses: LossCurve = field(init=False)

    def __post_init__(self) -> None:
        self.losses = LossCurve(self.probe.total_steps)

    @property
    def first(self) -> int:
        """The first step that allocates; the step after the last if none does."""
        schedule = self.probe.schedule
        return schedule.first_allocation() if schedule else self.probe.total_steps + 1

    @property
    def counts_from(self) -> int:
        """The first step whose evaluation is eligible: T for methods with a rank budget, whose ranks exceed bT
        before."""
        return self.probe.schedule.last if self.probe.schedule else 0

    @property
    def grid(self) -> Grid:
        """When it is evaluated."""
        return Grid(self.probe.steps_per_epoch, self.job.evaluations)

    @property
    def epoch(self) -> float:
        """Epochs up to its last evaluation; it must have a slot."""
        assert self.slot is not None
        return self.grid.epoch(self.slot.step)

    def samples(self, step: int) -> int:
        """Sequences in the first `step` steps; an epoch's last batch may be smaller."""
        rows, size = len(self.probe.data.train), self.probe.config.batch_size
        epochs, rest = divmod(step, self.probe.steps_per_epoch)
        return epochs * rows + min(rest * size, rows)

    def note_loss(self, pack: Pack) -> None:
        """After a step: where a part of the loss curve ends, its mean, which waits for the device."""
        if self.slot is not None and self.losses.due(self.slot.step):
            loss, seconds = pack.summed_loss(self.slot), time.monotonic() - self.begun
            self.losses.add(self.slot.step, loss, seconds)

    # --- patience -----------------------------------------------------------------------------------------

    def note(self, pack: Pack, dev: Mapping[str, float]) -> None:
        """Keep the weights of an eligible evaluation that is the best so far, if the job has patience."""
        assert self.slot is not None
        if self.job.patience is None or self.slot.step < self.counts_from:
            return
        if self.best is not None and not better(dev, self.best.dev, self.job.metric):
            return
        self.best = BestEvaluation(
            epoch=self.epoch,
            number=len(self.reports) + 1,
            dev=dict(dev),
            weights=weights(pack, self.slot),
            generation=generation_name(self.slot.step),
        )

    def out_of_patience(self, number: int) -> bool:
        """Whether patience is exhausted at evaluation `number`."""
        if self.job.patience is None or self.best is None:
            return False
        return number - self.best.number >= self.job.patience

    # --- saving -------------------------------------------------------------------------------------------

    def progress(self) -> dict[str, Any]:
        """Contents of a checkpoint besides the slot."""
        told = [asdict(replace(report, facts={})) for report in self.reports[:-1]]
        told += [asdict(report) for report in self.reports[-1:]]
        best = self.best and {
            "epoch": self.best.epoch,
            "number": self.best.number,
            "dev": self.best.dev,
            "generation": self.best.generation,
        }
        return {
            "reports": told,
            "counted": self.counted,
            "device_seconds": self.device_seconds,
            "shared": self.shared,
            "trajectory": self.trajectory.to_dict(),
            "losses": self.losses.to_dict(),
            "best": best,
        }

    def restore(self, found: Generation) -> None:
        """Restore the state of a checkpoint; the weights of `best` are restored by `restore_best`."""
        progress = found.progress
        self.reports = [Report(**{**told, "job": self.job.id}) for told in progress["reports"]]
        self.begun -= self.reports[-1].seconds if self.reports else 0.0
        self.counted = progress["counted"]
        self.device_seconds = progress["device_seconds"]
        self.shared = progress["shared"]
        self.trajectory.restore(progress["trajectory"])
        self.losses.restore(progress.get("losses"))

    def read_generation(self, name: str) -> Generation:
        """Restore a generation found by another worker of the group, with its best weights. Raises `StateError`."""
        assert self.checkpoints is not None
        found = self.checkpoints.read(name)
        self.restore_best(found)
        return found

    def restore_best(self, generation: Generation) -> None:
        """Read the best weights from the generation that contains them.

        Raises:
            StateError: If they are missing, for example in checkpoints of versions with another selection rule.
        """
        self.best = None
        if self.job.patience is None:
            return
        told = [
            (report["number"], report["dev"])
            for report in generation.progress["reports"]
            if report["step"] >= self.counts_from
        ]
        number, saved = best_of(told, self.job.metric), generation.progress["best"]
        if number is None:
            return
        if saved is None or saved["number"] != number:
            raise StateError(
                f"{generation.folder} lacks the weights of evaluation {number}, the best eligible one."
            )
        if saved["generation"] != generation.name:
            assert self.checkpoints is not None
            generation = self.checkpoints.read(saved["generation"])
        _, blob = read_state(generation.folder)
        kept = {name: saved[name] for name in ("epoch", "number", "dev", "generation")}
        self.best = BestEvaluation(**kept, weights=load_tensors(blob))

    def follow(self, leader: "Training") -> None:
        """Copy the position of the trial whose prefix this one shares."""
        self.reports = [self.like(report) for report in leader.reports]
        self.counted = leader.counted

    def like(self, report: Report) -> Report:
        """Adopt another trial's evaluation, since both are identical up to here."""
        facts = {"samples": self.samples(report.step), "samples_shared": self.samples(report.step)}
        seconds = time.monotonic() - self.begun
        return replace(report, job=self.job.id, seconds=seconds, facts={**self.costs, **facts})


def finite(*values: float) -> bool:
    """Whether all values are finite."""
    return all(math.isfinite(value) for value in values)
