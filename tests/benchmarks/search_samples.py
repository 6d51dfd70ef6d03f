"""Samples that a search trains until it is as good as the best of 32 random trials, with a real engine.

The quickstart's generated `motif_pair` (640 rows, 256 to evaluate on) and its tiny OPT, adaptive rank sampling, eight
epochs; the search space is that of `search_spaces/ars.yaml`. Random search trains 32 trials to their ends. Its best
score, chosen as the product chooses winners (the last dev score of a trial that trained all epochs), is what the
other side has to reach by the same rule: TPE with ASHA and shared prefixes, once without and once with the space's
first points, as every search of the product has them. Counted are the samples of reported evaluations, without those
that a fork took over; the search has `AT_ONCE` trials at a time. Searcher, schedulers and engine are those of the
product, in one process without Ray: so a run can be repeated exactly, and decisions come before the next step.

    python -m tests.benchmarks.search_samples [--seeds 10 11 12] [--at-once 2] [--json FILE]
"""

import argparse
import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from harness.config.search_space import SearchSpace
from harness.config.search_space_file import read_space
from harness.data.prepared import prepare
from harness.data.quickstart import ROWS, make_backbone, make_data
from harness.data.tasks import TASKS
from harness.runs.jobs import Job, Report
from harness.search.schedulers import GroupSchedulers
from harness.search.searcher import GroupSearcher
from harness.search.study import SearchStudy
from harness.search.trial_client import EPOCH, METRIC, STATE, objective
from harness.workers.engines import make_engine
from lingo.backbones import load_backbone
from tests.benchmarks.search_rows import Row, Say, tell
from tests.support.studies import search_study

TASK, EPOCHS, PACK, AT_ONCE, SIBLINGS = "quickstart/motif_pair", 8, 8, 2, 4
RANDOM_TRIALS, TRIALS = 32, 96
SEEDS = (10, 11, 12)


class Counter:
    """Samples trained so far, and at the moment when a finished trial reached `target`; `limit` of them are enough."""

    def __init__(self, target: float = math.inf, limit: float = math.inf) -> None:
        self.target, self.limit, self.best = target, limit, -1.0
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

    def take(self, report: Report) -> None:
        """An evaluation."""
        if "samples" in report.facts:
            self._samples[report.job] = report.facts["samples"]
            self._shared[report.job] = report.facts.get("samples_shared", 0)
        if report.status == "finished":
            self.best = max(self.best, report.dev.get("mcc", -1.0))
        if self.reached is None and self.best >= self.target:
            self.reached = self.samples


@dataclass(frozen=True)
class Setting:
    """What both sides train on, and how many trials the search has at a time."""

    data: str
    backbone: str
    scratch: Path
    at_once: int


class Search:
    """One study, searched by an engine of this process.

    Args:
        counter: Hears every evaluation; the search ends when its target is reached.
        at_once: Trials that train at a time; a quarter more, at least one, are drawn ahead, as in the product.
    """

    def __init__(self, plan: SearchStudy, counter: Counter, at_once: int) -> None:
        self._counter, self._at_once = counter, at_once
        spare = max(1, -(-at_once // 4))
        self._searcher = GroupSearcher([plan], groups=1, slots=at_once, spare=spare, limit=at_once)
        self._scheduler = GroupSchedulers({plan.search_group: plan}, {})
        self._engine = make_engine(0, 1, pack=PACK)
        self._drawn: list[SimpleNamespace] = []
        self._running: dict[str, SimpleNamespace] = {}
        self._count = 0

    def run(self) -> None:
        """Until the target is reached, the limit is used up or nothing is left."""
        while self._counter.reached is None and self._counter.samples < self._counter.limit:
            self._begin()
            if not self._running:
                return
            for report in self._engine.advance():
                if report.job in self._running:
                    self._take(report)
        self._engine.close()

    def _begin(self) -> None:
        while isinstance(config := self._searcher.suggest(f"trial {self._count}"), dict):
            trial = SimpleNamespace(trial_id=f"trial {self._count}", config=config, run_metadata=None)
            self._drawn.append(trial)
            self._count += 1
        while self._drawn and len(self._running) < self._at_once:
            trial = self._drawn.pop(0)
            job = Job(**trial.config["jobs"][0])
            self._scheduler.on_trial_add(None, trial)
            self._running[job.id] = trial
            self._engine.admit(job)

    def _take(self, report: Report) -> None:
        self._counter.take(report)
        trial = self._running[report.job]
        result = {
            METRIC: objective("mcc", report.dev.get("mcc", math.nan)),
            EPOCH: report.epoch,
            STATE: report.status,
        }
        if report.status == "running" and self._scheduler.on_trial_result(None, trial, result) != "STOP":
            self._searcher.on_trial_result(trial.trial_id, result)
            return
        self._scheduler.on_trial_complete(None, trial, result)
        self._searcher.on_trial_complete(trial.trial_id, result)
        self._running.pop(report.job)
        self._engine.release(report.job)


def study(setting: Setting, name: str, seed: int, **more: Any) -> SearchStudy:
    """The study that both sides search; the pool knows the jobs of all sides, so each has a name."""
    checkpoints = str(setting.scratch / f"{name}-{seed}")
    return search_study(
        f"{name} {TASK}|quickstart-opt|ars",
        _space(),
        first_points=(),
        source=setting.backbone,
        data=setting.data,
        seed=seed,
        epochs=EPOCHS,
        checkpoints=checkpoints,
        **more,
    )


def sample_rows(say: Say, seeds: Sequence[int] = SEEDS, at_once: int = AT_ONCE) -> list[Row]:
    """For each seed the ratio with and without first points, and their medians."""
    ratios: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        backbone = load_backbone(source := str(make_backbone(Path(folder) / "quickstart-opt")))
        raw, options = make_data(Path(folder) / "raw"), {"tokenizer": backbone.tokenizer}
        data = prepare(TASKS[TASK], raw, Path(folder) / "data", pad_id=backbone.pad_id, **options)
        setting = Setting(str(data.folder), source, Path(folder) / "checkpoints", at_once)
        for seed in seeds:
            say(f"seed {seed}: {RANDOM_TRIALS} random trials …")
            whole = Counter()
            more: dict[str, Any] = {"searcher": "random", "scheduler": "none"}
            Search(study(setting, "random", seed, num_samples=RANDOM_TRIALS, **more), whole, PACK).run()
            for first, found in ratios.items():
                found.append(whole.samples / _needed(setting, seed, whole, first, say))
    return [
        row
        for first, name in ((True, "first points"), (False, "no first points"))
        for row in _rows(name, seeds, ratios[first], bound=first)
    ]


def _needed(setting: Setting, seed: int, whole: Counter, first: bool, say: Say) -> int:
    """Samples until the target was reached; if it was not, about as many as random search had."""
    quick = Counter(whole.best, whole.samples)
    name = "tpe-first" if first else "tpe"
    plan = study(setting, name, seed, num_samples=TRIALS, siblings=SIBLINGS)
    plan = replace(plan, space=_space()) if first else plan
    Search(plan, quick, setting.at_once).run()
    say(
        f"seed {seed}, {'' if first else 'no '}first points: {whole.best:.3f} "
        f"{'reached' if quick.reached else f'not reached (best {quick.best:.3f})'} after {quick.samples} samples, "
        f"{quick.shared} more taken over"
    )
    return quick.reached or quick.samples


def _space() -> SearchSpace:
    return read_space("ars").for_task(TASK).restrict(-(-ROWS["train"] // 8) * EPOCHS, epochs=EPOCHS)


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
