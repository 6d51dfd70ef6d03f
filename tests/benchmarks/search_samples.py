"""Samples that a search trains until it is as good as the best of 32 random trials, with a real engine.

The small real language model (`stories260K`) on 512 rows of `prom/prom_core_tata`, adaptive rank sampling, eight
epochs; the search space is that of `search_spaces/ars.yaml`, without its first points on either side. Random
search trains 32 trials to their ends; its best dev score is what the other side, TPE with ASHA and shared
prefixes, has to reach with any evaluation. Samples that a fork took over are not counted.
"""

import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.data import prepare
from harness.engines import make_engine
from harness.jobs import Job, Report
from harness.pool import Pool, local_ray
from harness.search import run_search
from harness.spaces import SearchSpace
from harness.studies import StudyPlan
from harness.tasks import TASKS
from lingo.backbones import load_backbone
from tests.benchmarks.search_rows import Row, Say

TASK, EPOCHS, LIMIT, PACK = "prom/prom_core_tata", 8, 512, 8
RANDOM_TRIALS, TRIALS = 32, 96
SEEDS = (0, 1, 2)


class Counter:
    """Samples trained so far, and at the moment when an evaluation reached `target`."""

    def __init__(self, target: float = float("inf")) -> None:
        self.target, self.best = target, -1.0
        self.reached: int | None = None
        self._samples: dict[str, int] = {}

    @property
    def samples(self) -> int:
        return sum(self._samples.values())

    def __call__(self, job: Job, report: Report, status: str) -> None:
        if "samples" in report.facts:
            self._samples[job.id] = report.facts["samples"] - report.facts.get("samples_shared", 0)
        self.best = max(self.best, report.dev.get("mcc", -1.0))
        if self.reached is None and self.best >= self.target:
            self.reached = self.samples
            raise KeyboardInterrupt  # the search ends as after Ctrl-C


def study(data: str, source: str, rows: int, seed: int, scratch: str, **more: Any) -> StudyPlan:
    """The study that both sides search."""
    space = SearchSpace.load("ars", TASK).restrict(-(-rows // 8) * EPOCHS, epochs=EPOCHS)
    return StudyPlan(
        key=f"{TASK}|stories260K|ars",
        task=TASK,
        backbone=source,
        method="ars",
        data=data,
        fixed={"epochs": EPOCHS, "batch_size": 8, "seed": seed},
        space=replace(space, first_points=()),
        seed=seed,
        epochs=EPOCHS,
        checkpoints=scratch,
        **more,
    )


def sample_rows(say: Say, seeds: Sequence[int] = SEEDS) -> list[Row]:
    """One row for each seed, and the median."""
    shared = Path(os.environ.get("LINGO_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    source = str(shared / "models" / "stories260K")
    backbone = load_backbone(source)
    rows: list[Row] = []
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as folder, local_ray(1):
        options: dict[str, Any] = {"tokenizer": backbone.tokenizer, "pad_id": backbone.pad_id, "limit": LIMIT}
        data = prepare(TASKS[TASK], shared / "data" / "gue" / TASK, Path(folder) / "data", **options)
        with Pool.start(partial(make_engine, pack=PACK), slots=PACK) as pool:
            for seed in seeds:
                scratch = Path(folder) / f"checkpoints-{seed}"
                made = partial(study, str(data.folder), source, LIMIT, seed, str(scratch))
                say(f"seed {seed}: {RANDOM_TRIALS} random trials …")
                whole = Counter()
                plan = made(num_samples=RANDOM_TRIALS, searcher="random", scheduler="none")
                run_search([_named(plan, f"random-{seed}")], pool, on_report=whole)
                best = whole.best
                say(f"seed {seed}: {best:.3f} after {whole.samples} samples; TPE, ASHA, prefixes …")
                quick = Counter(best)
                plan = made(num_samples=TRIALS, siblings=4, reduction_factor=4)
                run_search([_named(plan, f"tpe-{seed}")], pool, on_report=quick)
                used = quick.reached or quick.samples
                ratios.append(whole.samples / used)
                say(f"seed {seed}: {quick.best:.3f} after {used} samples")
                rows.append(Row(f"seed {seed}: random / search samples", ratios[-1], "x"))
    median = statistics.median(ratios)
    return [*rows, Row("samples to the best of 32 random trials: median", median, "x", ">= 4", median >= 4)]


def _named(plan: StudyPlan, name: str) -> StudyPlan:
    """The plan under a key of its own: the pool knows the jobs of all sides."""
    return replace(plan, key=f"{name}|{plan.key}")
