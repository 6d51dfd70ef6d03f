"""Real jobs on a tiny backbone, for tests of the engine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.data.prepared import prepare
from harness.data.quickstart import make_backbone, make_data
from harness.data.tasks import TASKS
from harness.runs.jobs import Job, Report
from harness.workers.packed_engine import LingoEngine
from harness.workers.packs import Room
from lingo.backbones import load_backbone

SETTINGS: dict[str, Any] = {"seed": 1, "epochs": 4, "batch_size": 16, "learning_rate": 3e-3, "delta_T": 2}
STEPS = 6  # an epoch


def make(folder: Path) -> tuple[Path, Path]:
    """(a prepared task, a backbone), both tiny."""
    model = make_backbone(folder / "model")
    return prepared("quickstart/promoter", folder, model, rows=96), model


def prepared(task: str, folder: Path, model: Path, *, rows: int) -> Path:
    """The folder of a quickstart task, cut to so many rows."""
    backbone = load_backbone(model)
    made = prepare(
        TASKS[task],
        make_data(folder / "data"),
        folder / "prepared",
        tokenizer=backbone.tokenizer,
        pad_id=backbone.pad_id,
        limit=rows,
    )
    return made.folder


def make_job(
    made: tuple[Path, Path], out: Path, name: str = "study/trial-0000", method: str = "ars", **settings: Any
) -> Job:
    """A job with checkpoints below `out`."""
    return Job(
        id=name,
        study="study",
        stage="final" if "final" in name else "search",
        backbone=str(made[1]),
        data=str(made[0]),
        config={"method": method, **SETTINGS, **settings},
        checkpoints=str(out / "checkpoints"),
    )


def engine(pack: int = 1) -> LingoEngine:
    """A worker that trains alone."""
    return LingoEngine(room=Room(pack=pack))


def until(worker: LingoEngine, enough: Callable[[list[Report]], bool]) -> list[Report]:
    """Go on until the reports are enough."""
    reports: list[Report] = []
    for _ in range(2000):
        reports += worker.advance()
        if enough(reports):
            return reports
    raise AssertionError(f"it did not come to that: {reports}")


def train(worker: LingoEngine, *jobs: Job) -> list[Report]:
    """Train jobs to their ends."""
    for one in jobs:
        worker.admit(one)
    return until(worker, lambda reports: sum(r.status != "running" for r in reports) == len(jobs))


def evaluations(worker: LingoEngine, job: Job, count: int) -> list[Report]:
    """Train until so many reports of a job are there."""
    worker.admit(job)
    return until(worker, lambda reports: len(reports) >= count)


def numbers(reports: list[Report]) -> list[tuple[Any, ...]]:
    """What must not depend on interruptions, to the bit."""
    return [(r.number, r.status, r.epoch, r.step, r.train_loss, r.dev, r.test) for r in reports]
