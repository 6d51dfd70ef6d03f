"""The two stages on Ray: all searches, then the winners on all seeds."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial

from rich.console import Console
from rich.markup import escape

from harness.config.benchmark import Benchmark
from harness.config.plan import Plan
from harness.config.search_space import largest
from harness.config.studies import PreparedStudy
from harness.config.values import seconds_of
from harness.core.atomic_files import written
from harness.core.wording import some
from harness.pipeline.budgets import Budgets
from harness.pipeline.interrupts import ctrl_c, outlived
from harness.pipeline.notify import Notifier
from harness.pipeline.number_types import settle
from harness.pipeline.pack_size import pack_size
from harness.pipeline.phases import timed
from harness.pipeline.recorder import Recorder
from harness.pipeline.remaining import (
    final_jobs,
    groups,
    missing,
    outdated,
    points,
    set_aside,
    unsearched,
    winners,
    with_new_names,
)
from harness.pipeline.steering import Steering
from harness.pipeline.usage import budgets_of, write_usage
from harness.pool.engine import Engine
from harness.pool.local_ray import full_disk, ray_processes, troubles_told
from harness.pool.machines import watched
from harness.pool.pool import Pool
from harness.pool.ray_causes import PoolError
from harness.pool.ray_session import ClusterResources, ray_for
from harness.progress.live import Progress, StudyGoal
from harness.progress.page import ProgressPage
from harness.runs.controls import is_control
from harness.runs.environment import capture
from harness.runs.info import Setting
from harness.runs.layout import RunFolder
from harness.runs.open_trials import OpenTrials
from harness.runs.record import Record
from harness.runs.store import ResultStore
from harness.search.driver import run_finals, run_search
from harness.search.study import SearchStudy
from harness.tracking.tracker import Tracker
from lingo.metrics import merit

MakeEngine = Callable[[int, int], Engine]

GROUP_START_S = 300.0
"""Time limit in seconds for the first worker group if all machines are running."""


def train(
    checked: Plan,
    studies: Sequence[PreparedStudy],
    store: ResultStore,
    console: Console,
    make_engine: MakeEngine | None,
    notifier: Notifier,
) -> bool:
    """Complete the searches, then train the winners' missing seeds. Returns whether it was interrupted.

    Raises:
        InputError: if a cluster cannot be joined.
        RunStopped: if the output folder cannot be written any more (`Unwritable`), Ray does not start, or no worker
            group is available; jobs are ended before.
    """
    benchmark, begun = checked.benchmark, time.monotonic()
    records = store.load()
    todo = unsearched(records, studies, benchmark)
    progress = Progress([_goal(study, benchmark, todo, records) for study in studies], console)
    with (
        ctrl_c(console, checked.out) as pressed,
        _ray(benchmark, console) as resources,
        _machines(benchmark, resources, console),
        troubles_told(resources.scratch),
        outlived(
            ray_processes(),
            console,
            checked.out,
            full=partial(full_disk, resources.scratch),
            tell=notifier.failed,
        ),
        closing(
            Tracker(  # at the end every study's run gets the status of the study
                checked.out,
                Setting.read(checked.out),
                uri=benchmark.tracking_uri,
                warn=lambda line: console.print(f"[yellow]{escape(line)}[/]"),
            )
        ) as tracker,
    ):
        pressed.take()
        checked, studies = _settled(checked, studies, store, resources, console)
        types = {"frozen": checked.frozen, "precision": checked.precision or "fp32"}
        benchmark = benchmark.model_copy(update=types)
        slots = pack_size(todo, benchmark, resources, console, make_engine)
        console.print(
            f"Training on {resources.where}: {resources.layout}, {some(slots, 'trial')} at once in each."
        )
        if not resources.layout.gpus and (benchmark.max_gpu_hours or benchmark.study_max_gpu_hours):
            console.print("[yellow]A GPU-hour limit has no effect without GPUs; use --time-budget.[/]")
        budgets = _budgets(benchmark, resources, store)
        page = ProgressPage(RunFolder(checked.out), progress.board, records)
        with (
            _pool(studies, benchmark, resources, slots, make_engine, console) as pool,
            progress,
            page,
            notifier.watching(lambda: progress.board().line(), budgets.cut),
        ):
            pressed.ends(pool)
            recorder = Recorder(
                store,
                studies,
                benchmark=benchmark.suite,
                environment=capture().to_dict(),
                objectives=benchmark.objectives,
                watchers=[progress.update, page.update, tracker.update, budgets.update, notifier.update],
                on_record=tracker.ended,
            )
            stages = _Stages(checked, studies, store, pool, recorder, budgets, tracker)
            try:
                while not pressed.once and stages.asked():
                    progress.stage("search")
                    stages.search()
                    if not pressed.once:
                        progress.expect(_finals_of(store.load(), studies, benchmark))
                        progress.stage("final stage")
                        stages.finals()
            finally:
                with written(checked.out), suppress(PoolError):
                    stages.tell_usage(time.monotonic() - begun)
            return pressed.once


class _Stages:
    """Common state of the two stages."""

    def __init__(
        self,
        checked: Plan,
        studies: Sequence[PreparedStudy],
        store: ResultStore,
        pool: Pool,
        recorder: Recorder,
        budgets: Budgets,
        tracker: Tracker,
    ) -> None:
        self._out, self._benchmark, self._studies = checked.out, checked.benchmark, studies
        self._store, self._pool, self._recorder = store, pool, recorder
        self._budgets, self._tracker = budgets, tracker
        self._keys = [study.key for study in studies]
        self._steering = Steering(studies, self._benchmark, store)
        self._turns = 0

    def asked(self) -> bool:
        """Whether there is anything to do: at first always, later where users have asked for more trials meanwhile."""
        new = self._steering.turn(at_once=True)
        self._studies = self._steering.studies()
        self._turns += 1
        return self._turns == 1 or (new is not None and bool(self._todo()))

    def _todo(self) -> list[PreparedStudy]:
        """The searches that are not complete, and neither paused nor cut by a budget."""
        left = self._unfinished(self._store.load())
        cut = {study.key for study in self._cut(left)}
        return [one for one in left if one.key not in cut and not self._steering.is_paused(one)]

    def search(self) -> None:
        """Run the searches that are not complete."""
        while todo := self._todo():
            before = len(self._steering.requests)
            self._search(todo)
            self._studies = self._steering.studies()
            if self._pool.interrupted or len(self._steering.requests) == before:
                return

    def _search(self, todo: Sequence[PreparedStudy]) -> None:
        known = self._store.load(), OpenTrials(self._out).load()
        run_search(
            [SearchStudy.of(study, self._benchmark, *known, self._out) for study in todo],
            self._pool,
            max_concurrent=self._benchmark.max_concurrent,
            on_event=self._recorder,
            cut=lambda: self._budgets.cut(self._keys).keys(),
            requests=self._steering.requests,
            asked=self._steering.turn,
        )

    def finals(self) -> None:
        """Train the missing seeds of every study whose search is complete or was ended by a budget."""
        benchmark, records = self._benchmark, self._store.load()
        unfinished = self._unfinished(records)
        ready = [study for study in self._studies if study not in unfinished] + self._cut(unfinished)
        with written(self._out):
            for record in set_aside(self._store, outdated(records, ready, benchmark)):
                self._tracker.ended(record)
        jobs = final_jobs(
            self._store.load(),
            ready,
            benchmark,
            RunFolder(self._out).adapters,
            checkpoints=RunFolder(self._out).checkpoints,
        )
        jobs = with_new_names(jobs, self._out, winners(records, ready, benchmark.scope))
        self._recorder.after_test = self._steering.after_test()
        predictions = str(RunFolder(self._out).predictions)
        run_finals(
            [
                replace(job, predictions=predictions, patience=benchmark.patience_of(job.evaluations))
                for job in jobs
            ],
            self._pool,
            on_event=self._recorder,
        )

    def tell_usage(self, seconds: float) -> None:
        """Write usage and ended searches."""
        records = self._store.load()
        why = self._budgets.cut()
        keys = [study.key for study in self._cut(self._unfinished(records))]
        cut = [f"{key}: {why.get(key, 'with others of its scope')}" for key in keys]
        pool = self._pool.usage()
        write_usage(self._out, self._benchmark, records, cut=cut, pool=pool, seconds=seconds)

    def _cut(self, unfinished: Sequence[PreparedStudy]) -> list[PreparedStudy]:
        """Studies whose search was ended by a budget, their own or that of another study of their search group."""
        cut = self._budgets.cut(self._keys)
        found = groups(unfinished, self._benchmark.scope)
        return [study for members in found if any(one.key in cut for one in members) for study in members]

    def _unfinished(self, records: Sequence[Record]) -> list[PreparedStudy]:
        return unsearched(records, self._studies, self._benchmark)


def _settled(
    checked: Plan,
    studies: Sequence[PreparedStudy],
    store: ResultStore,
    resources: ClusterResources,
    console: Console,
) -> tuple[Plan, list[PreparedStudy]]:
    """The plan and its studies with the number type of the backbones' weights, also written to plan.json."""
    held = settle(
        checked,
        store,
        resources.layout,
        lambda line: console.print(escape(line), soft_wrap=True),
        seconds_of(checked.benchmark.machine_wait),
    )
    types = {study.key: study.backbone_type for study in held.studies}
    with written(checked.out):
        held.write()
    return held, [replace(study, backbone_type=types[study.key]) for study in studies]


def _pool(
    studies: Sequence[PreparedStudy],
    benchmark: Benchmark,
    resources: ClusterResources,
    slots: int,
    make_engine: MakeEngine | None,
    console: Console,
) -> Pool:
    lay = resources.layout
    if make_engine is None:
        from harness.workers.engines import make_engine as engine

        capacity = largest([study.space for study in studies], [study.task.num_labels for study in studies])
        make_engine = partial(
            engine,
            pack=slots,
            files=resources.files,
            frozen=benchmark.frozen,
            precision="bf16" if benchmark.precision == "bf16" else "fp32",
            gpus=lay.gpus,
            **capacity,
        )
    with timed(console, "Worker groups started"):
        return Pool.start(
            make_engine,
            groups=lay.groups,
            workers_per_group=lay.workers,
            cpus_per_worker=lay.cpus,
            gpus_per_worker=lay.gpus,
            slots=slots,
            scratch=resources.scratch,
            start_s=seconds_of(benchmark.machine_wait) if resources.grows else GROUP_START_S,
            max_failures=benchmark.max_failures,
        )


@contextmanager
def _ray(benchmark: Benchmark, console: Console) -> Iterator[ClusterResources]:
    """Ray for the benchmark, for the duration of the block."""
    with ExitStack() as stack:
        with timed(console, "Ray started" if benchmark.cluster is None else "Cluster joined"):
            ray = ray_for(
                benchmark.cluster,
                workers=benchmark.workers_per_trial,
                at_most=benchmark.max_concurrent,
                wait_s=seconds_of(benchmark.machine_wait),
            )
            resources = stack.enter_context(ray)
        yield resources


def _machines(
    benchmark: Benchmark, resources: ClusterResources, console: Console
) -> AbstractContextManager[None]:
    """Report machines that a cluster starts, and request others without spot capacity."""
    if not resources.grows:
        return nullcontext()
    return watched(
        seconds_of(benchmark.spot_wait),
        lambda line: console.print(escape(f"          {line}"), soft_wrap=True),
    )


def _budgets(benchmark: Benchmark, resources: ClusterResources, store: ResultStore) -> Budgets:
    lay = resources.layout
    return budgets_of(
        benchmark, groups=lay.groups, gpus=lay.workers * lay.gpus, records=store.load(), out=store.out
    )


def _finals_of(
    records: Sequence[Record], studies: Sequence[PreparedStudy], benchmark: Benchmark
) -> dict[str, int]:
    """Final runs of each study, as far as its search tells them now."""
    chosen = points(records, studies, benchmark)
    return {study.key: len(chosen.get(study.key, [None])) * len(benchmark.seeds) for study in studies}


def _goal(
    study: PreparedStudy, benchmark: Benchmark, todo: Sequence[PreparedStudy], records: Sequence[Record]
) -> StudyGoal:
    """The amount of work of a study, and the part done by its records."""
    backbone = f" {study.backbone}" if len(benchmark.models) > 1 or is_control(study.backbone) else ""
    of_study = [record for record in records if record.study == study.key]
    trials = [record for record in of_study if record.stage == "search" and record.status != "killed"]
    lacking = [found for found, _, _ in missing(records, [study], benchmark)]
    finals = _finals_of(records, [study], benchmark)[study.key]
    scores = [entry["dev"].get(study.task.metric, math.nan) for record in trials for entry in record.history]
    return StudyGoal(
        key=study.key,
        title=f"{study.task.name}{backbone} {study.method}",
        metric=study.task.metric,
        trials=max(len(trials), study.trials(benchmark)) if study in todo else len(trials),
        finals=finals,
        epochs=benchmark.epochs,
        cost=study.cost,
        ended=len(trials),
        stopped=sum(record.status == "stopped" for record in trials),
        failed=sum(record.status == "failed" for record in trials),
        tested=finals - len(lacking),
        best=max(
            (score for score in scores if not math.isnan(score)),
            key=partial(merit, study.task.metric),
            default=math.nan,
        ),
    )
