"""Samples that a search trains until it is as good as the best of 32 random trials, with a real engine.

The quickstart's generated `motif_pair` (640 rows, 256 to evaluate on) and its tiny OPT, adaptive rank sampling, eight
epochs; the search space is that of `search_spaces/ars.yaml`. Random search trains 32 trials to their ends. Its best
score, chosen as the product chooses winners (the last dev score of a trial that trained all epochs), is what the
other side has to reach by the same rule: TPE with ASHA and shared prefixes, once without and once with the space's
first points, as every search of the product has them. Counted are the samples of reported evaluations, without those
that a fork took over; the search has `AT_ONCE` trials at a time.

    python -m tests.benchmarks.search_samples [--seeds 10 11 12] [--at-once 2] [--json FILE]
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.data import prepare
from harness.engines import make_engine
from harness.jobs import Job, Report
from harness.pool import Pool, local_ray
from harness.quickstart import ROWS, make_backbone, make_data
from harness.search import run_search
from harness.spaces import SearchSpace
from harness.studies import StudyPlan
from harness.tasks import TASKS
from lingo.backbones import load_backbone
from tests.benchmarks.search_rows import Row, Say, tell

TASK, EPOCHS, PACK, AT_ONCE, SIBLINGS = "quickstart/motif_pair", 8, 8, 2, 4
RANDOM_TRIALS, TRIALS = 32, 96
SEEDS = (10, 11, 12)


class Counter:
    """Samples trained so far, and at the moment when a finished trial reached `target`."""

    def __init__(self, target: float = float("inf")) -> None:
        self.target, self.best = target, -1.0
        self.reached: int | None = None
        self._samples: dict[str, int] = {}
        self._shared: dict[str, int] = {}

    @property
    def samples(self) -> int:
        return sum(self._samples.values()) - self.shared

    @property
    def shared(self) -> int:
        """Samples that forks took over."""
        return sum(self._shared.values())

    def __call__(self, job: Job, report: Report, status: str) -> None:
        if "samples" in report.facts:
            self._samples[job.id] = report.facts["samples"]
            self._shared[job.id] = report.facts.get("samples_shared", 0)
        if status == "finished":
            self.best = max(self.best, report.dev.get("mcc", -1.0))
        if self.reached is None and self.best >= self.target:
            self.reached = self.samples
            raise KeyboardInterrupt  # the search ends as after Ctrl-C


@dataclass(frozen=True)
class Setting:
    """What both sides train on, and how many trials the search has at a time."""

    data: str
    backbone: str
    scratch: Path
    at_once: int


def study(setting: Setting, name: str, seed: int, **more: Any) -> StudyPlan:
    """The study that both sides search; the pool knows the jobs of all sides, so each has a name."""
    return StudyPlan(
        key=f"{name}|{TASK}|quickstart-opt|ars",
        task=TASK,
        backbone=setting.backbone,
        method="ars",
        data=setting.data,
        fixed={"epochs": EPOCHS, "batch_size": 8, "seed": seed},
        space=replace(_space(), first_points=()),
        seed=seed,
        epochs=EPOCHS,
        checkpoints=str(setting.scratch / f"{name}-{seed}"),
        **more,
    )


def sample_rows(say: Say, seeds: Sequence[int] = SEEDS, at_once: int = AT_ONCE) -> list[Row]:
    """For each seed the ratio with and without first points, and their medians."""
    ratios: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder, local_ray(1):
        backbone = load_backbone(source := str(make_backbone(Path(folder) / "quickstart-opt")))
        raw, options = make_data(Path(folder) / "raw"), {"tokenizer": backbone.tokenizer}
        data = prepare(TASKS[TASK], raw, Path(folder) / "data", pad_id=backbone.pad_id, **options)
        setting = Setting(str(data.folder), source, Path(folder) / "checkpoints", at_once)
        with Pool.start(partial(make_engine, pack=PACK), slots=PACK) as pool:
            for seed in seeds:
                say(f"seed {seed}: {RANDOM_TRIALS} random trials …")
                whole = Counter()
                plan = study(
                    setting, "random", seed, num_samples=RANDOM_TRIALS, searcher="random", scheduler="none"
                )
                run_search([plan], pool, on_report=whole)
                for first, found in ratios.items():
                    found.append(whole.samples / _needed(pool, setting, seed, whole.best, first, say))
    return [
        row
        for first, name in ((True, "first points"), (False, "no first points"))
        for row in _rows(name, seeds, ratios[first], bound=first)
    ]


def _needed(pool: Pool, setting: Setting, seed: int, target: float, first: bool, say: Say) -> int:
    """Samples until the target was reached, or all if it was not."""
    quick = Counter(target)
    name = "tpe-first" if first else "tpe"
    plan = study(setting, name, seed, num_samples=TRIALS, siblings=SIBLINGS)
    plan = replace(plan, first_points=_space().first_points) if first else plan
    run_search([plan], pool, max_concurrent=setting.at_once, on_report=quick)
    say(
        f"seed {seed}, {'' if first else 'no '}first points: {target:.3f} "
        f"{'reached' if quick.reached else f'not reached (best {quick.best:.3f})'} after {quick.samples} samples, "
        f"{quick.shared} more taken over"
    )
    return quick.reached or quick.samples


def _space() -> SearchSpace:
    return SearchSpace.load("ars", TASK).restrict(-(-ROWS["train"] // 8) * EPOCHS, epochs=EPOCHS)


def _rows(name: str, seeds: Sequence[int], ratios: Sequence[float], *, bound: bool) -> list[Row]:
    rows = [
        Row(f"seed {seed}, {name}: random / search samples", ratio, "x")
        for seed, ratio in zip(seeds, ratios, strict=True)
    ]
    median = statistics.median(ratios)
    reach = (">= 4", median >= 4) if bound else ("", None)
    return [*rows, Row(f"samples to the best of 32 random trials, {name}: median", median, "x", *reach)]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="trials of the search at a time")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tell(sample_rows(Console(stderr=True).print, options.seeds, options.at_once), options.json)


if __name__ == "__main__":
    main()
