"""Errors for invalid input: all problems together, one line each, with the nearest known name."""

import difflib
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path


class InputError(Exception):
    """Invalid input: options, files, folders. The command line prints the problems and exits with code 2.

    Attributes:
        problems: One line per problem, in the order found; never empty.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        lines = [problems] if isinstance(problems, str) else list(problems)
        self.problems: list[str] = lines or ["unknown problem"]
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type["InputError"], tuple[list[str]]]:
        return type(self), (self.problems,)


def typed(*words: object) -> str:
    """A command for a shell, with paths and names quoted where necessary."""
    return shlex.join(map(str, words))


def program() -> str:
    """How this program is called: `lingo-bench`, or the script of a checkout where that was started."""
    script = Path(sys.argv[0]).name if sys.argv else ""
    return "python run_benchmark.py" if script == "run_benchmark.py" else "lingo-bench"


def command(*words: object) -> str:
    """A command of this program, `typed`."""
    return " ".join(filter(None, [program(), typed(*words)]))


class RunStopped(Exception):
    """A run that cannot continue now but can later; the message is one line."""


def nearest(name: str, known: Iterable[str], *, count: int = 3) -> str:
    """`" Nearest known: a, b."`; all known names if none is close and they are few."""
    names = sorted(known)
    by_folded = {known_name.casefold(): known_name for known_name in reversed(names)}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=count, cutoff=0.5)
    if close:
        return f" Nearest known: {', '.join(by_folded[match] for match in close)}."
    return f" Known: {', '.join(names)}." if 0 < len(names) <= 12 else ""
