"""Elements of a report: sections with text, tables and figures, independent of HTML, Markdown and files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from matplotlib.figure import Figure

from harness.runs.intervals import brackets

Look = Literal["", "best", "second", "good", "bad", "muted"]


@dataclass(frozen=True)
class Cell:
    """A table cell.

    Attributes:
        text: Text.
        look: Style: `best` and `second` of their group, `good`, `bad`, `muted`.
        lines: Smaller lines below it.
    """

    text: str
    look: Look = ""
    lines: tuple[str, ...] = ()


Field = Cell | str


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table, for display and as a file.

    Attributes:
        name: Name of its files.
        title: Heading.
        header: Column titles.
        rows: Fields in the order of the header.
        text_columns: Number of columns, from the left, that contain text (left-aligned).
        caption: Explanation.
        data: Rows for the files (CSV, Parquet), as plain values; if empty, the cells.
        limit: Maximum rows shown; the files have all.
        folded: Whether it is initially collapsed.
    """

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Field]]
    text_columns: int = 1
    caption: str = ""
    data: Sequence[Mapping[str, Any]] = ()
    limit: int = 60
    folded: bool = False

    @property
    def records(self) -> Sequence[Mapping[str, Any]]:
        """Rows for the files."""
        if self.data:
            return self.data
        return [dict(zip(self.header, (plain_text(f) for f in row), strict=True)) for row in self.rows]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure, drawn on demand.

    Attributes:
        name: Name of its files.
        title: Heading.
        draw: Creates the figure.
        caption: Explanation, also used as alternative text.
        folded: Whether it is initially collapsed.
    """

    name: str
    title: str
    draw: Callable[[], Figure]
    caption: str = ""
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A table or figure that cannot be created from these results, and the reason."""

    title: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Note:
    """A paragraph, or with `points` a list below it."""

    text: str = ""
    points: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class KeyFigures:
    """Key figures: (name, value, small print) each."""

    items: Sequence[tuple[str, str, str]]


Block = Table | Picture | Missing | Note | KeyFigures


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report with its own heading.

    Attributes:
        anchor: Link target.
        title: Heading.
        intro: One or two introductory sentences.
        blocks: In order.
        folded: The line that stands for the whole section until it is opened; Markdown has only this line. Empty where
            the section is open.
    """

    anchor: str
    title: str
    intro: str = ""
    folded: str = ""
    blocks: Sequence[Block] = field(default_factory=tuple)


def plain_text(value: Field) -> str:
    """The text of a cell on one line."""
    return value if isinstance(value, str) else " ".join([value.text, *value.lines])


def number(value: float | None, digits: int = 3) -> str:
    """`0.735`; an en dash for missing values."""
    return "–" if value is None or value != value else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """`+0.012`; an en dash for missing values."""
    return "–" if value is None or value != value else f"{value:+.{digits}f}".replace("-", "−")


def interval(low: float, high: float, digits: int = 3) -> str:
    """`[0.72, 0.75]`; empty if there is none."""
    return brackets(low, high, digits).replace("-", "−") if low == low and high == high else ""


def points(values: Sequence[float], digits: int = 3) -> str:
    """The scores of two seeds, shown instead of an interval; empty for other numbers of seeds."""
    if len(values) != 2:
        return ""
    return "seeds " + ", ".join(f"{value:.{digits}f}" for value in values).replace("-", "−")


def p_value(p: float) -> str:
    """`0.013`, `< 0.001`; an en dash where undefined."""
    return "–" if p != p else "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_text(p: float) -> str:
    """`p = 0.013`, `p < 0.001`, `p undefined`."""
    return "p undefined" if p != p else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def amount(value: float | None, digits: int = 3) -> str:
    """Large counts for readers: `6.2M`, `46.6k`; an en dash for missing values."""
    if value is None or value != value:
        return "–"
    for size, unit in (
        (1e21, "Z"),
        (1e18, "E"),
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
    ):
        if abs(value) >= size:
            return f"{value / size:.{digits}g}{unit}"
    return f"{value:.{digits}g}"


def count(n: int, what: str, many: str = "") -> str:
    """`1 seed`, `3 seeds`, `2 studies`."""
    return f"{n:,} {what if n == 1 else many or what + 's'}"
