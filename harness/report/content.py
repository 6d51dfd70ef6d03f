"""What a report is made of: sections with text, tables and pictures, before they become HTML, Markdown or files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from matplotlib.figure import Figure

from harness.runs.intervals import brackets

Look = Literal["", "best", "second", "good", "bad", "muted"]


@dataclass(frozen=True)
class Cell:
    """One field of a table.

    Attributes:
        text: What it says.
        look: How it stands out: `best` and `second` of their group, `good`, `bad`, `muted`.
        lines: Smaller lines below it.
    """

    text: str
    look: Look = ""
    lines: tuple[str, ...] = ()


Field = Cell | str


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table, for reading and as a file.

    Attributes:
        name: Name of its files.
        title: Heading.
        header: Column titles.
        rows: Fields in the order of the header.
        text_columns: How many columns from the left hold words (set on the left side).
        caption: What it says and how it was made.
        data: Rows for the files (CSV, Parquet), as plain values; the fields themselves when empty.
        limit: Rows shown; the files have all.
        folded: Whether a reader opens it first.
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
    """A figure, drawn when it is needed.

    Attributes:
        name: Name of its files.
        title: Heading.
        draw: Makes the figure.
        caption: What it shows and how to read it; also the text for those who cannot see it.
        folded: Whether a reader opens it first.
    """

    name: str
    title: str
    draw: Callable[[], Figure]
    caption: str = ""
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A table or picture that these results cannot fill, and what they lack."""

    title: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Note:
    """A paragraph, or with `points` a list below it."""

    text: str = ""
    points: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A few numbers to see first: (name, value, a smaller line) each."""

    items: Sequence[tuple[str, str, str]]


Block = Table | Picture | Missing | Note | Facts


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report with its own heading.

    Attributes:
        anchor: Where links to it lead.
        title: Heading.
        intro: A sentence or two on what stands here.
        blocks: In order.
    """

    anchor: str
    title: str
    intro: str = ""
    blocks: Sequence[Block] = field(default_factory=tuple)


def plain_text(value: Field) -> str:
    """A field's words in one line."""
    return value if isinstance(value, str) else " ".join([value.text, *value.lines])


def number(value: float | None, digits: int = 3) -> str:
    """`0.735`; an en dash for what is not there."""
    return "–" if value is None or value != value else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """`+0.012`; an en dash for what is not there."""
    return "–" if value is None or value != value else f"{value:+.{digits}f}".replace("-", "−")


def interval(low: float, high: float, digits: int = 3) -> str:
    """`[0.72, 0.75]`; empty where there is none."""
    return brackets(low, high, digits).replace("-", "−") if low == low and high == high else ""


def points(values: Sequence[float], digits: int = 3) -> str:
    """The scores of two seeds, which stand in the place of an interval; empty for other numbers of seeds."""
    if len(values) != 2:
        return ""
    return "seeds " + ", ".join(f"{value:.{digits}f}" for value in values).replace("-", "−")


def p_value(p: float) -> str:
    """`0.013`, `< 0.001`; an en dash where undefined."""
    return "–" if p != p else "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_text(p: float) -> str:
    """`p = 0.013`, `p < 0.001`, `p undefined`."""
    return "p undefined" if p != p else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def amount(value: float | None) -> str:
    """Large counts for readers: `6.2M`, `46.6k`; an en dash for what is not there."""
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
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def count(n: int, what: str, many: str = "") -> str:
    """`1 seed`, `3 seeds`, `2 studies`."""
    return f"{n:,} {what if n == 1 else many or what + 's'}"
