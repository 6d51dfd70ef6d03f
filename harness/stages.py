"""The two stages on a local Ray instance: every search, then the winners on all seeds."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

from harness.config import Benchmark
from harness.engine import Engine
from harness.environment import capture
from harness.jobs import Job, Report
from harness.ledger import Cell, Ledger
from harness.machine import Shape, free_gibibytes, shape, usable_cores
from harness.plan import Plan
from harness.pool import Pool, local_ray
from harness.progress import Progress, StudyGoal
from harness.results import Record, ResultStore
from harness.search import StudyPlan, run_finals, run_search
from harness.tracking import Tracker
from harness.tracking_view import Setting
from harness.winners import final_jobs, unsearched


def train(
    checked: Plan,
    cells: Sequence[Cell],
    store: ResultStore,
    console: Console,
    make_engine: Callable[[int, int], Engine] | None,
) -> bool:
    """Search what is not searched, then train the winners' missing seeds. True when interrupted."""
    benchmark = checked.benchmark
    lay = _shape(benchmark)
    todo = unsearched(store.load(), cells, benchmark.num_samples)
    console.print(f"Starting Ray on this machine: {lay}.")
    progress = Progress([_goal(cell, benchmark, todo) for cell in cells], console)
    with (
        _tracking(checked, console) as tracked,
        local_ray(lay.groups * lay.workers * lay.cpus, lay.groups * lay.workers * lay.gpus or None),
        Pool.start(
            make_engine or _real_engine(),
            groups=lay.groups,
            workers_per_group=lay.workers,
            cpus_per_worker=lay.cpus,
            gpus_per_worker=lay.gpus,
        ) as pool,
        progress,
        _ctrl_c(pool, console) as asked,
    ):
        ledger = Ledger(
            store,
            cells,
            benchmark=benchmark.suite,
            environment=capture().to_dict(),
            watchers=[progress, tracked],
        )
        progress.stage("search")
        run_search(
            [_study_plan(cell, benchmark) for cell in todo],
            pool,
            max_concurrent=benchmark.max_concurrent,
            on_report=ledger,
        )
        if not asked.is_set():
            progress.stage("final stage")
            run_finals(_finals(store, cells, benchmark, checked.out / "adapters"), pool, on_report=ledger)
        return asked.is_set()


@contextmanager
def _ctrl_c(pool: Pool, console: Console) -> Iterator[threading.Event]:
    """Ctrl-C, or a polite kill, ends the open jobs and lets the stages return; a second one ends all at once.

    The exception that Python would raise instead could strike inside a call to Ray.
    """
    asked = threading.Event()

    def ask(*_: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        threading.Thread(target=pool.interrupt, name="interrupt", daemon=True).start()
        console.print("Stopping: open trials are ended, ended ones are kept. Ctrl-C again stops at once.")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _finals(store: ResultStore, cells: Sequence[Cell], benchmark: Benchmark, adapters: Path) -> list[Job]:
    """The final runs to do; a study whose search did not come to its end has no winner yet."""
    records = store.load()
    unfinished = unsearched(records, cells, benchmark.num_samples)
    return final_jobs(records, [cell for cell in cells if cell not in unfinished], benchmark.seeds, adapters)


class _Tracked:
    """Passes the ledger's events on to the tracker."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def update(self, job: Job, report: Report, status: str) -> None:
        """Mirror an evaluation; the last one comes with the record."""
        if status == "running":
            self._tracker.trial_report(job, report)

    def ended(self, record: Record) -> None:
        """Mirror a whole record."""
        self._tracker.trial_ended(record)


@contextmanager
def _tracking(checked: Plan, console: Console) -> Iterator[_Tracked]:
    """A tracker, which ends every study's run as the study then stands."""
    tracker = Tracker(
        checked.out,
        Setting.read(checked.out),
        uri=checked.benchmark.tracking_uri,
        warn=lambda line: console.print(f"[yellow]{escape(line)}[/]"),
    )
    try:
        yield _Tracked(tracker)
    finally:
        tracker.close()


def _real_engine() -> Callable[[int, int], Engine]:
    from harness.worker import make_engine

    return make_engine


def _shape(benchmark: Benchmark) -> Shape:
    return shape(
        cores=usable_cores(),
        gibibytes=free_gibibytes(),
        gpus=torch.cuda.device_count(),
        workers=benchmark.workers_per_trial,
        at_most=benchmark.max_concurrent,
    )


def _goal(cell: Cell, benchmark: Benchmark, todo: Sequence[Cell]) -> StudyGoal:
    study = cell.study
    backbone = f" {study.backbone}" if len(benchmark.models) > 1 else ""
    return StudyGoal(
        key=study.key,
        title=f"{study.task.name}{backbone} {study.method}",
        metric=study.task.metric,
        trials=benchmark.num_samples if cell in todo else 0,
        finals=len(benchmark.seeds),
        epochs=benchmark.epochs,
        work=study.train_rows * cell.tokens,
    )


def _study_plan(cell: Cell, benchmark: Benchmark) -> StudyPlan:
    study = cell.study
    return StudyPlan(
        key=study.key,
        task=study.task.name,
        backbone=cell.source,
        method=study.method,
        data=str(cell.data),
        fixed={"seed": benchmark.seed, "epochs": benchmark.epochs, "batch_size": benchmark.batch_size},
        space=study.space,
        first_points=study.space.first_points,
        num_samples=benchmark.num_samples,
        seed=benchmark.seed,
        metric=study.task.metric,
        epochs=benchmark.epochs,
    )
