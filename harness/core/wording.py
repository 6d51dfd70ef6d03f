"""Short texts for durations and errors."""

import re
import textwrap
from collections.abc import Sized


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def some(values: int | Sized, what: str) -> str:
    """`1 trial`, `1,024 trials`, `2 studies`: of a number, or of as many as there are `values`."""
    count = values if isinstance(values, int) else len(values)
    many = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{count:,} {what if count == 1 else many}"


def one_line(problem: BaseException) -> str:
    """An exception as one line: the message of a ValueError, otherwise type and message."""
    words = textwrap.shorten(str(problem), 400, placeholder=" …")
    return words if words and isinstance(problem, ValueError) else f"{type(problem).__name__}: {words}"


def words(problem: BaseException, most: int = 200) -> str:
    """An exception's message on one line; its type if it has none."""
    return " ".join(str(problem).split())[:most] or type(problem).__name__


def last_line(text: str, most: int = 200) -> str:
    """The last line of an error that contains words, without colour codes."""
    lines = [" ".join(line.split()) for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    return next((line[:most] for line in reversed(lines) if re.search(r"\w", line)), "no reason given")
