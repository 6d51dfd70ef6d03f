"""Display of a benchmark's progress: the live table and the log line."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.core.columns import HEADER, Column, Line, fitted
from harness.core.wording import duration
from lingo.metrics import LOWER_IS_BETTER, merit

SPARE = 6
"""Lines of a terminal not available for studies: header, count of the rest, progress bar, earlier output."""


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """State of a study.

    Attributes:
        title, metric: Its name in the table, and its selection metric.
        trials, finals: Number of search trials and final runs to be done.
        ended, tested: Number of each that ended.
        running, stopped, failed: Trials that are running, stopped early, failed.
        best: Best dev value of the search; `None` before the first.
    """

    title: str
    metric: str
    trials: int
    finals: int
    ended: int = 0
    tested: int = 0
    running: int = 0
    stopped: int = 0
    failed: int = 0
    best: float | None = None

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return self.ended >= self.trials and self.tested >= self.finals and not self.running

    @property
    def begun(self) -> bool:
        """Whether it has started."""
        return bool(self.ended or self.tested or self.running)


@dataclass
class Board:
    """State of a benchmark.

    Attributes:
        stage: Current stage (`search`, `final stage`).
        done: Share of the work, 0 to 1.
        left_s: Estimated remaining seconds; `None` if unknown.
        over: Whether training has ended.
        rows: The studies, by position in the table.
    """

    stage: str = ""
    done: float = 0.0
    left_s: float | None = None
    over: bool = False
    rows: dict[int, StudyRow] = field(default_factory=dict)

    def update(self, news: Mapping[str, Any]) -> None:
        """Apply an update from `harness.progress.wire`; invalid parts are ignored."""
        with suppress(TypeError, ValueError, AttributeError):
            self._update(news)

    def _update(self, news: Mapping[str, Any]) -> None:
        self.stage = str(news.get("stage", self.stage))
        self.done = float(news.get("done", self.done))
        self.left_s = news.get("left_s")
        self.over = bool(news.get("over", False))
        found = {int(place): StudyRow(**row) for place, row in news.get("rows", {}).items()}
        self.rows = {**self.rows, **found}  # a new dict: a screen may be iterating over the last one

    def shown(self, most: int) -> list[StudyRow]:
        """At most this many studies, in table order: running ones first, then started ones, then the rest."""

        def place_of(item: tuple[int, StudyRow]) -> tuple[bool, bool, bool, int]:
            place, row = item
            return not row.running, row.over, not row.begun, place

        first = sorted(self.rows.items(), key=place_of)[:most]
        return [row for _, row in sorted(first)]

    def table(self, height: int | None = None, width: int | None = None) -> RenderableType:
        """The live view.

        Args:
            height: Lines of the terminal; studies that do not fit are counted.
            width: Columns of the terminal; `None` for no limit.
        """
        most = len(self.rows) if height is None else max(1, height - SPARE)
        made = self._lines(self.shown(most), width)
        while height is not None and most > 1 and len(made) > max(3, height - SPARE + 2):
            most -= 1
            made = self._lines(self.shown(most), width)
        parts = [Text(text, style="bold" if row == HEADER else "", no_wrap=True) for text, row in made]
        if most < len(self.rows):
            over, waiting = (
                sum(r.over for r in self.rows.values()),
                sum(not r.begun for r in self.rows.values()),
            )
            text = f"of {len(self.rows)} studies {over} are complete, {waiting} not started"
            parts.append(Text(text, style="dim"))
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            Text(self.stage, style="bold"),
            ProgressBar(
                total=1.0, completed=self.done, width=40 if width is None else max(10, min(40, width - 45))
            ),
            Text(f"{self.done:.0%}{self.eta()}"),
        )
        return Group(*parts, bar)

    def _lines(self, rows: Sequence[StudyRow], width: int | None) -> list[Line]:
        columns = [Column(title="study", name=True)] + [
            Column(title=title, right=True, rank=rank)
            for title, rank in (
                ("trials", 0),
                ("running", 1),
                ("stopped", 3),
                ("failed", 2),
                ("best dev", 0),
                ("final", 0),
            )
        ]
        cells = [
            [
                row.title,
                f"{row.ended}/{row.trials}",
                str(row.running or "·"),
                str(row.stopped or "·"),
                str(row.failed or "·"),
                "·" if row.best is None else f"{row.metric} {row.best:.3f}",
                f"{row.tested}/{row.finals}",
            ]
            for row in rows
        ]
        return fitted(columns, cells, width, rule=False)

    def line(self) -> str:
        """Everything in one line."""
        rows = list(self.rows.values())

        def total(name: str) -> int:
            return sum(getattr(row, name) for row in rows)

        parts = [
            f"search {total('ended')}/{total('trials')} trials ({total('stopped')} stopped early)",
            f"final {total('tested')}/{total('finals')}",
            f"{total('running')} running",
        ]
        parts += [f"{total('failed')} failed"] if total("failed") else []
        known = [(row.best, row.title) for row in rows if row.best is not None]
        if known and len({row.metric for row in rows}) == 1:  # scores of different metrics are not comparable
            top = max((score for score, _ in known), key=partial(merit, rows[0].metric))
            titles = [title for score, title in known if score == top]
            where = titles[0] if len(titles) == 1 else f"{len(titles)} studies"
            word = "lowest" if rows[0].metric in LOWER_IS_BETTER else "highest"
            parts.append(f"{word} dev {rows[0].metric} {top:.3f} ({where})")
        return f"{', '.join(parts)}{self.eta()}"

    def eta(self) -> str:
        """`, about 3 h 05 min left`, or nothing."""
        return "" if self.left_s is None else f", about {duration(self.left_s)} left"
