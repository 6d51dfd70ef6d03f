"""How far long steps on data are: a bar on a terminal, otherwise ever fewer lines."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from harness.core.wording import duration

if TYPE_CHECKING:
    from rich.progress import Progress

AFTER = 0.5
"""Seconds after which a step is shown."""

RARELY = 30.0
"""Most seconds between two lines of a step."""


class Steps:
    """Called with a step, how much of it is done, and how much there is; shows steps that take longer than `AFTER`.

    Use as a context manager.

    Args:
        console: Output; the bar requires a terminal.
        clock: Seconds, monotonic.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._what, self._begun, self._first, self._pause, self._next = "", 0.0, 0, 0.0, 0.0
        self._bar: Progress | None = None

    def __enter__(self) -> "Steps":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` of this step are done."""
        now = self._clock()
        if what != self._what:
            self._close()
            self._what, self._begun, self._first = what, now, done
            self._pause, self._next = AFTER, now + AFTER
        if self._console.is_terminal:
            if self._bar is None and now >= self._next and done < total:
                self._bar = self._opened(what)
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], completed=done, total=total)
        elif now >= self._next or (done >= total and self._pause > AFTER):
            share, spent = done / max(1, total), now - self._begun
            here = done - self._first  # a step that goes on was done in part before
            left = f", about {duration(spent * (total - done) / here)} left" if here and done < total else ""
            self._console.print(
                f"[dim]{duration(spent):>7}  {escape(what)} {share:.0%}{left}[/]", soft_wrap=True
            )
            self._pause = min(2 * self._pause, RARELY)
            self._next = now + self._pause
        if done >= total:
            self._close()

    def _opened(self, what: str) -> "Progress":
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        bar = Progress(*columns, console=self._console, transient=True)
        bar.add_task(escape(what))
        bar.start()
        return bar

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._what, self._bar = "", None
