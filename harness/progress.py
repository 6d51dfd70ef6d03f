"""How far the benchmark is: a live table on a terminal, a line now and then elsewhere."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.jobs import Job, Report

ENDED = frozenset({"finished", "stopped", "failed", "interrupted"})


@dataclass(frozen=True, kw_only=True)
class StudyGoal:
    """What a study has to do.

    Attributes:
        key, metric: As in `harness.results.Record`.
        title: The study's name in the table.
        trials, finals: Trials of the search and runs of the final stage.
        epochs: Epochs of each.
        work: Work of one epoch in any unit that is the same for all studies.
    """

    key: str
    title: str
    metric: str
    trials: int
    finals: int
    epochs: int
    work: float


@dataclass
class _Trial:
    stage: str
    status: str = "queued"
    epoch: int = 0


@dataclass
class _Study:
    goal: StudyGoal
    jobs: dict[str, _Trial] = field(default_factory=dict)
    best: float = float("nan")

    def count(self, stage: str, *statuses: str) -> int:
        return sum(trial.stage == stage and trial.status in statuses for trial in self.jobs.values())

    def left(self) -> float:
        """Work still to do; a trial that has ended early has nothing left."""
        goal, left = self.goal, 0.0
        for stage, planned in (("search", goal.trials), ("final", goal.finals)):
            seen = [trial for trial in self.jobs.values() if trial.stage == stage]
            left += (planned - len(seen)) * goal.epochs
            left += sum(goal.epochs - trial.epoch for trial in seen if trial.status not in ENDED)
        return max(left, 0.0) * goal.work


class Progress:
    """Shows the benchmark's progress from the pool's events. Use as a context manager.

    Args:
        goals: The studies, in the order of the table.
        console: Where to print; a live table only if it is a terminal.
        every: Seconds between two lines where there is no terminal.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        goals: Sequence[StudyGoal],
        console: Console,
        *,
        every: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._every, self._clock = console, every, clock
        self._studies = {goal.key: _Study(goal) for goal in goals}
        self._total = sum((goal.trials + goal.finals) * goal.epochs * goal.work for goal in goals)
        self._begun = self._said = clock()
        self._first: float | None = None
        self._stage = ""
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self.table, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def stage(self, name: str) -> None:
        """Say what is going on now (`search`, `final stage`)."""
        self._stage = name
        if not self._console.is_terminal:
            self._console.print(f"{self._time()}  {name}")

    def update(self, job: Job, report: Report, status: str) -> None:
        """Take one event of the pool; print a line where there is no terminal and the last one is old."""
        with self._lock:
            study = self._studies.get(job.study)
            if study is None:
                return
            trial = study.jobs.setdefault(job.id, _Trial(job.stage))
            trial.status, trial.epoch = status, max(trial.epoch, report.epoch)
            if self._first is None and status == "started":
                self._first = self._clock()
            value = report.dev.get(study.goal.metric, float("nan"))
            if job.stage == "search" and not value <= study.best and value == value:
                study.best = value
        if not self._console.is_terminal and self._clock() - self._said >= self._every:
            self._said = self._clock()
            self._console.print(self.line(), soft_wrap=True)

    def ended(self, record: object) -> None:
        """Nothing more to show of a record than its last event told."""

    def line(self) -> str:
        """Everything in one line."""
        with self._lock:
            studies = list(self._studies.values())
            searches, finals = sum(s.goal.trials for s in studies), sum(s.goal.finals for s in studies)
            ended = sum(s.count("search", *ENDED) for s in studies)
            stopped = sum(s.count("search", "stopped") for s in studies)
            failed = sum(s.count(stage, "failed") for s in studies for stage in ("search", "final"))
            running = sum(
                s.count(stage, "started", "running") for s in studies for stage in ("search", "final")
            )
            parts = [f"search {ended}/{searches} trials ({stopped} stopped early)"]
            parts += [
                f"final {sum(s.count('final', *ENDED) for s in studies)}/{finals}",
                f"{running} running",
            ]
            parts += [f"{failed} failed"] if failed else []
            known = [study for study in studies if study.best == study.best]
            if known:
                best = max(known, key=lambda study: study.best)
                parts.append(f"best {best.goal.title} {best.goal.metric} {best.best:.3f}")
            return f"{self._time()}  {', '.join(parts)}{self._eta()}"

    def table(self) -> RenderableType:
        """The live view."""
        with self._lock:
            table = Table(box=None, pad_edge=False, header_style="bold")
            table.add_column("study", no_wrap=True)
            for name in ("trials", "running", "stopped", "failed", "best dev", "final"):
                table.add_column(name, justify="right")
            for study in self._studies.values():
                goal = study.goal
                both = ("search", "final")
                table.add_row(
                    goal.title,
                    f"{study.count('search', *ENDED)}/{goal.trials}",
                    str(sum(study.count(stage, "started", "running") for stage in both) or "·"),
                    str(study.count("search", "stopped") or "·"),
                    str(sum(study.count(stage, "failed") for stage in both) or "·"),
                    f"{goal.metric} {study.best:.3f}" if study.best == study.best else "·",
                    f"{study.count('final', *ENDED)}/{goal.finals}",
                )
            done = 1 - self._left() / self._total if self._total else 1.0
            bar = Table.grid(padding=(0, 1))
            bar.add_row(
                Text(self._stage, style="bold"),
                ProgressBar(total=1.0, completed=done, width=40),
                Text(f"{done:.0%}{self._eta()}"),
            )
            return Group(table, bar)

    def _left(self) -> float:
        return sum(study.left() for study in self._studies.values())

    def _eta(self) -> str:
        done, elapsed = self._total - self._left(), self._clock() - (self._first or self._clock())
        if self._total <= 0 or done / self._total < 0.02 or done >= self._total:
            return ""
        return f", about {duration(elapsed * (self._total - done) / done)} left"

    def _time(self) -> str:
        return duration(self._clock() - self._begun).rjust(8)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
