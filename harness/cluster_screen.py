"""What a job on a cluster prints, shown here as a run of this machine shows itself: lines, and a live table."""

import time
from types import TracebackType

from rich.console import Console, RenderableType
from rich.live import Live

from harness.progress_board import Board
from harness.progress_wire import read

NOISE = "(raylet)"
"""Ray on its own affairs; `logs` has them."""


class Screen:
    """Takes the lines of a job. Use as a context manager.

    Args:
        console: Where to show them; a live table only if it is a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._board = Board()
        self._live: Live | None = None
        self._told_away = False
        self.seen = 0
        """Lines taken so far."""
        self.heard = 0.0
        """When the last one came, in seconds of the monotonic clock."""

    def __enter__(self) -> "Screen":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hide()

    def take(self, line: str) -> None:
        """Show one line of the job."""
        self.seen += 1
        self.heard, self._told_away = time.monotonic(), False
        news = read(line)
        if news is None:
            if NOISE not in line:
                self._console.print(line, soft_wrap=True, markup=False)
            return
        self._board.update(news)
        if not self._console.is_terminal:
            if news.get("say"):
                self._console.print(news["say"], soft_wrap=True, markup=False)
        elif self._board.over:
            self._hide()
        elif self._live is None:
            self._live = Live(
                get_renderable=self._table, console=self._console, refresh_per_second=2, transient=True
            )
            self._live.start()

    def _table(self) -> RenderableType:
        return self._board.table(self._console.size.height)

    def away(self) -> None:
        """Say, once, that the cluster is not heard."""
        if not self._told_away:
            self._console.print("[yellow]The cluster is not heard; trying again …[/]")
        self._told_away = True

    def _hide(self) -> None:
        if self._live is not None:
            self._live.stop()
        self._live = None


def plain(lines: list[str]) -> list[str]:
    """A job's output as it reads without a terminal."""
    told = [(line, read(line)) for line in lines]
    return [
        line if news is None else str(news["say"]) for line, news in told if news is None or news.get("say")
    ]


def board_of(lines: list[str]) -> Board | None:
    """How far a job is, from all that it has printed; `None` before its first trial and after its last."""
    board = Board()
    for news in filter(None, map(read, lines)):
        board.update(news)
    return board if board.rows and not board.over else None
