"""Tables of text that fit a terminal: names are never broken, and what is left out is said below."""

import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

GAP = "  "


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column.

    Attributes:
        title: Its heading.
        right: Whether it is aligned on the right.
        rank: The higher, the earlier it is left out where the width is short; 0 for never.
        name: Whether it names the row: a common value of all rows is said once above the table instead.
    """

    title: str
    right: bool = False
    rank: int = 0
    name: bool = False


HEADER = -1
Line = tuple[str, int | None]
"""A line of text, and the number of its row: `HEADER` for the headings, `None` for what is said above and below."""


def fitted(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None = None, *, rule: bool = True
) -> list[Line]:
    """Rows of cells as lines of text.

    Where they are wider than `width`: names that are the same in all rows stand once above the table, and so do folders
    that all names of a column begin with; then columns are left out by their `rank`; then each row is a block of
    lines.

    Args:
        columns: Their headings.
        rows: Texts of one line, as many in each row as there are columns.
        width: Columns of the terminal; `None` for no limit.
        rule: Whether a line of dashes stands below the headings.
    """
    shown, rows, above = _chosen(columns, rows, width)
    if width is not None and _width(columns, rows, shown) > width:
        lines = _blocks(columns, rows, shown, width)
    else:
        lines = _table(columns, rows, shown, rule)
    missing = ", ".join(columns[i].title for i in _left_out(columns, shown))
    below = f"Not shown for lack of width: {missing}." if missing else ""
    note = [(text, None) for text in textwrap.wrap(below, width or 10_000)]
    return [*((text, None) for text in above), *lines, *note]


def left_out(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Titles of the columns that `fitted` leaves out."""
    return [columns[i].title for i in _left_out(columns, _chosen(columns, rows, width)[0])]


def _left_out(columns: Sequence[Column], shown: Sequence[int]) -> list[int]:
    out = [i for i, column in enumerate(columns) if column.rank and not column.name and i not in shown]
    return sorted(out, key=lambda i: -columns[i].rank)


def _chosen(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None
) -> tuple[list[int], Sequence[Sequence[str]], list[str]]:
    """The columns that are shown, the rows as they are shown, and lines of what all rows have in common."""
    shown, above = list(range(len(columns))), list[str]()
    if width is not None and _width(columns, rows, shown) > width:
        same = [i for i in shown if columns[i].name and len(rows) > 1 and len({row[i] for row in rows}) == 1]
        above = [f"{columns[i].title}: {rows[0][i]}" for i in same if rows[0][i]]
        shown = [i for i in shown if i not in same]
        if _width(columns, rows, shown) > width:
            rows, folders = _stripped(columns, rows, shown)
            above += folders
    while width is not None and _width(columns, rows, shown) > width:
        droppable = [i for i in shown if columns[i].rank]
        if not droppable:
            break
        shown.remove(max(droppable, key=lambda i: columns[i].rank))
    return shown, rows, above


def _stripped(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], shown: Sequence[int]
) -> tuple[list[list[str]], list[str]]:
    """The rows without the folders that all names of a column begin with, and these folders."""
    made, folders = [list(row) for row in rows], []
    for i in shown:
        common, names = without_common([row[i] for row in rows]) if columns[i].name else ("", [])
        if common:
            folders.append(f"{columns[i].title}: {common}…")
            for row, name in zip(made, names, strict=True):
                row[i] = name
    return made, folders


def cells(text: str) -> int:
    """Columns that a text takes in a terminal."""
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1
        for one in text
    )


def without_common(names: Sequence[str], separator: str = "/") -> tuple[str, list[str]]:
    """The folder that all names share, with its separator, and the names without it; nothing is cut off one name."""
    if len(set(names)) < 2:
        return "", list(names)
    first, last = min(names), max(names)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    common = first[: first.rfind(separator, 0, same) + 1]
    return common, [name[len(common) :] for name in names]


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]], shown: Sequence[int]) -> list[int]:
    return [max(cells(text) for text in (columns[i].title, *(row[i] for row in rows))) for i in shown]


def _width(columns: Sequence[Column], rows: Sequence[Sequence[str]], shown: Sequence[int]) -> int:
    widths = _widths(columns, rows, shown)
    return sum(widths) + len(GAP) * max(0, len(widths) - 1)


def _table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], shown: Sequence[int], rule: bool
) -> list[Line]:
    widths = _widths(columns, rows, shown)

    def line(texts: Sequence[str]) -> str:
        parts = []
        for i, width in zip(shown, widths, strict=True):
            space = " " * (width - cells(texts[i]))
            parts.append(space + texts[i] if columns[i].right else texts[i] + space)
        return GAP.join(parts).rstrip()

    header: list[Line] = [(line([column.title for column in columns]), HEADER)]
    header += [(GAP.join("-" * w for w in widths), None)] * rule
    return header + [(line(row), number) for number, row in enumerate(rows)]


def _blocks(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], shown: Sequence[int], width: int
) -> list[Line]:
    """Each row as its names on a line, then its cells with their headings. Only a name that is wider than the terminal
    makes a longer line."""
    names = [i for i in shown if columns[i].name]
    lines: list[Line] = []
    for number, row in enumerate(rows):
        head = " ".join(row[i] for i in names if row[i])
        parts = [head] if cells(head) <= width else [row[i] for i in names if row[i]]
        line = ""
        for text in (f"{columns[i].title} {row[i]}" for i in shown if i not in names and row[i]):
            if line and cells(line) + 3 + cells(text) > width:
                parts.append(line)
                line = ""
            line = f"{line} · {text}" if line else f"  {text}"
        lines += [(part, number) for part in [*parts, line] if part]
    return lines
