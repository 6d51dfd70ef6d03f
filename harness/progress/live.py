"""Progress of a running benchmark: a live table on a terminal, otherwise occasional lines, and messages for
followers."""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

from rich.console import Console, RenderableType
from rich.live import Live

from harness.core.wording import duration
from harness.progress.board import Board, StudyRow
from harness.progress.wire import SETTING, Sender
from harness.runs.jobs import Job, Report
from lingo.metrics import merit

__all__ = ["Progress", "StudyGoal", "duration"]

SEND_S = 2.0
"""Seconds between updates for a follower on another machine."""

ENDED = frozenset({"finished", "stopped", "failed", "interrupted"})


@dataclass(frozen=True, kw_only=True)
class StudyGoal:
    """Work of a study.

    Attributes:
        key, metric: As in `harness.runs.record.Record`.
        title: The study's name in the table.
        trials, finals: Number of search trials and final runs, including those that ended before this run.
        ended, stopped, failed: Trials that ended before this run, and how many of them were stopped early or failed.
        tested: Final runs that ended before this run.
        best: Best earlier dev value; NaN if none.
        epochs: Epochs per trial or run.
        cost: Work of one epoch in any unit that is the same for all studies.
    """

    key: str
    title: str
    metric: str
    trials: int
    finals: int
    epochs: int
    cost: float
    ended: int = 0
    stopped: int = 0
    failed: int = 0
    tested: int = 0
    best: float = float("nan")


@dataclass
class _Trial:
    stage: str
    status: str = "queued"
    epoch: float = 0


@dataclass
class _Study:
    goal: StudyGoal
    jobs: dict[str, _Trial] = field(default_factory=dict)
    best: float = float("nan")

    def __post_init__(self) -> None:
        self.best = self.goal.best

    def count(self, stage: str, *statuses: str) -> int:
        return sum(trial.stage == stage and trial.status in statuses for trial in self.jobs.values())

    def row(self) -> StudyRow:
        """The current state of the study."""
        goal, both = self.goal, ("search", "final")
        return StudyRow(
            title=goal.title,
            metric=goal.metric,
            trials=max(
                goal.trials, goal.ended + sum(trial.stage == "search" for trial in self.jobs.values())
            ),
            finals=goal.finals,
            ended=goal.ended + self.count("search", *ENDED),
            tested=goal.tested + self.count("final", *ENDED),
            running=sum(self.count(stage, "started", "running") for stage in both),
            stopped=goal.stopped + self.count("search", "stopped"),
            failed=goal.failed + sum(self.count(stage, "failed") for stage in both),
            best=self.best if self.best == self.best else None,
        )

    def left(self) -> float:
        """Remaining work; trials that ended early have none."""
        goal, left = self.goal, 0.0
        for stage, planned in (
            ("search", goal.trials - goal.ended),
            ("final", goal.finals - goal.tested),
        ):
            seen = [trial for trial in self.jobs.values() if trial.stage == stage]
            left += max(0, planned - len(seen)) * goal.epochs  # users may ask for more than planned
            left += sum(goal.epochs - trial.epoch for trial in seen if trial.status not in ENDED)
        return max(left, 0.0) * goal.cost


class Progress:
    """Shows the benchmark's progress from the pool's events. Use as a context manager.

    Args:
        goals: The studies, in the order of the table.
        console: Output; the live table requires a terminal.
        every: Seconds between lines without a terminal.
        clock: Seconds, monotonic.
        wire: Print lines for a follower on another machine, see `harness.progress.wire`; `None` asks the environment.
    """

    def __init__(
        self,
        goals: Sequence[StudyGoal],
        console: Console,
        *,
        every: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
        wire: bool | None = None,
    ) -> None:
        self._console, self._every, self._clock = console, every, clock
        self._studies = {goal.key: _Study(goal) for goal in goals}
        self._total = sum((goal.trials + goal.finals) * goal.epochs * goal.cost for goal in goals)
        self._todo = sum(study.left() for study in self._studies.values())
        self._begun = self._said = clock()
        self._first: float | None = None
        self._stage = ""
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self.table, console=console, refresh_per_second=2, transient=True)
        wired = os.environ.get(SETTING) == "1" if wire is None else wire
        self._sender = Sender() if wired and not console.is_terminal else None
        self._over, self._send_lock = threading.Event(), threading.Lock()
        self._sending = threading.Thread(target=self._keep_sending, name="progress", daemon=True)

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live.start()
        if self._sender:
            self._sending.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()
        if self._sender:
            self._over.set()
            self._sending.join()
            self._send(over=True)

    def stage(self, name: str) -> None:
        """Set the current stage (`search`, `final stage`)."""
        self._stage = name
        if self._sender:
            self._send(f"{self._time()}  {name}")
        elif not self._console.is_terminal:
            self._console.print(f"{self._time()}  {name}")

    def expect(self, finals: Mapping[str, int]) -> None:
        """Set the number of final runs of studies, of which the search tells how many points its front has."""
        with self._lock:
            for key, count in finals.items():
                study = self._studies[key]
                more = (count - study.goal.finals) * study.goal.epochs * study.goal.cost
                study.goal = replace(study.goal, finals=count)
                self._total, self._todo = self._total + more, self._todo + more

    def update(self, job: Job, report: Report, status: str) -> None:
        """Process an event of the pool; without a terminal, print a line if the last one is old."""
        with self._lock:
            study = self._studies.get(job.study)
            if study is None:
                return
            trial = study.jobs.setdefault(job.id, _Trial(job.stage))
            trial.status, trial.epoch = status, max(trial.epoch, report.epoch)
            if self._first is None and status == "started":
                self._first = self._clock()
            value = report.dev.get(study.goal.metric, float("nan"))
            metric = study.goal.metric
            if (
                job.stage == "search"
                and value == value
                and not merit(metric, value) <= merit(metric, study.best)
            ):
                study.best = value
        if not self._console.is_terminal and self._clock() - self._said >= self._every:
            self._said = self._clock()
            if self._sender:
                self._send(self.line())
            else:
                self._console.print(self.line(), soft_wrap=True)

    def line(self) -> str:
        """Everything in one line."""
        return f"{self._time()}  {self.board().line()}"

    def table(self) -> RenderableType:
        """The live view."""
        size = self._console.size
        return self.board().table(size.height, size.width)

    def board(self) -> Board:
        """The current state of the benchmark."""
        with self._lock:
            rows = {place: study.row() for place, study in enumerate(self._studies.values())}
            left = sum(study.left() for study in self._studies.values())
            done = self._todo - left
            share = 1 - left / self._total if self._total else 1.0
            left_s = None
            if left and done >= 0.02 * self._todo:
                since = self._clock() if self._first is None else self._first
                left_s = (self._clock() - since) * left / done
            return Board(stage=self._stage, done=share, left_s=left_s, rows=rows)

    def _keep_sending(self) -> None:
        while not self._over.wait(SEND_S):
            self._send()

    def _send(self, say: str = "", *, over: bool = False) -> None:
        """Print changes for a follower; the end is marked by a line."""
        assert self._sender is not None
        with self._send_lock:
            line = self._sender.line(replace(self.board(), over=over), say)
            if line is not None:
                self._console.print(line, soft_wrap=True, markup=False, highlight=False, emoji=False)

    def _time(self) -> str:
        return duration(self._clock() - self._begun).rjust(8)
