"""Samples that a search trains until it is as good as the best of 32 random trials, with a real engine.

The small real language model (`stories260K`) on 256 rows of `prom/prom_core_tata`, adaptive rank sampling, eight
epochs; the search space is that of `search_spaces/ars.yaml`. Random search trains 32 trials to their ends; its
best dev score is what the other side, TPE with ASHA and shared prefixes, has to reach with any evaluation: once
with the space's first points, as every search has them, and once without. Samples that a fork took over are not
counted.
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

TASK, EPOCHS, LIMIT, PACK = "prom/prom_core_tata", 8, 256, 8
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
    """For each seed the ratio with and without first points, and their medians."""
    shared = Path(os.environ.get("LINGO_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    source = str(shared / "models" / "stories260K")
    backbone = load_backbone(source)
    ratios: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder, local_ray(1):
        options: dict[str, Any] = {"tokenizer": backbone.tokenizer, "pad_id": backbone.pad_id, "limit": LIMIT}
        data = prepare(TASKS[TASK], shared / "data" / "gue", Path(folder) / "data", **options)
        with Pool.start(partial(make_engine, pack=PACK), slots=PACK) as pool:
            for seed in seeds:
                made = partial(study, str(data.folder), source, LIMIT, seed, f"{folder}/checkpoints-{seed}")
                say(f"seed {seed}: {RANDOM_TRIALS} random trials …")
                whole = Counter()
                plan = made(num_samples=RANDOM_TRIALS, searcher="random", scheduler="none")
                run_search([_named(plan, f"random-{seed}")], pool, on_report=whole)
                for first, found in ratios.items():
                    found.append(whole.samples / _needed(pool, made, seed, whole.best, first, say))
    return [
        row
        for first, name in ((True, "first points"), (False, "no first points"))
        for row in _rows(name, seeds, ratios[first], bound=first)
    ]


def _needed(pool: Pool, made: Any, seed: int, target: float, first: bool, say: Say) -> int:
    """Samples until the target was reached, or all if it was not."""
    quick = Counter(target)
    plan: StudyPlan = made(num_samples=TRIALS, siblings=4, reduction_factor=4)
    if first:
        points = SearchSpace.load("ars", TASK).restrict(-(-LIMIT // 8) * EPOCHS, epochs=EPOCHS).first_points
        plan = replace(plan, first_points=points)
    run_search([_named(plan, f"tpe-{seed}-{first}")], pool, on_report=quick)
    reached = "reached" if quick.reached else "not reached"
    say(f"seed {seed}: {target:.3f} {reached} after {quick.samples} samples, first points: {first}")
    return quick.reached or quick.samples


def _rows(name: str, seeds: Sequence[int], ratios: Sequence[float], *, bound: bool) -> list[Row]:
    rows = [
        Row(f"seed {seed}, {name}: random / search samples", ratio, "x")
        for seed, ratio in zip(seeds, ratios, strict=True)
    ]
    median = statistics.median(ratios)
    reach = (">= 4", median >= 4) if bound else ("", None)
    return [*rows, Row(f"samples to the best of 32 random trials, {name}: median", median, "x", *reach)]


def _named(plan: StudyPlan, name: str) -> StudyPlan:
    """The plan under a key of its own: the pool knows the jobs of all sides."""
    return replace(plan, key=f"{name}|{plan.key}")
