"""Progress of reading a file: a bar on a terminal, otherwise occasional lines."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from harness.core.wording import duration
from harness.inference.sequences import SequenceFile


class ReadProgress:
    """Progress through one file of sequences. Use as a context manager.

    Args:
        console: Output.
        what: Description, such as `predicting`.
        source: The file, whose size is the total.
        every: Seconds between lines without a terminal.
    """

    def __init__(self, console: Console, what: str, source: SequenceFile, *, every: float = 15.0) -> None:
        self._console, self._what, self._source, self._every = console, what, source, every
        self._begun = self._said = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(what, total=source.total, rate="")

    def __enter__(self) -> "ReadProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def seen(self, count: int, *, at: int | None = None) -> None:
        """`count` sequences are done, and the file up to `at` (as `SequenceFile.done`; `None` for where it is)."""
        now = time.monotonic()
        done = self._source.done if at is None else at
        rate = f"{count:,} sequences, {count / max(now - self._begun, 1e-9):,.0f} a second"
        self._bar.update(self._task, completed=done, rate=rate)
        if not self._console.is_terminal and now - self._said >= self._every:
            self._said = now
            left = (now - self._begun) * (self._source.total - done) / max(done, 1)
            self._console.print(f"{self._what}: {rate}, about {duration(left)} left", soft_wrap=True)
