"""The commands: one module each. Options in, exit code out."""

import difflib
import errno
from collections.abc import Callable
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from harness.errors import InputError

STOPPED, BAD_INPUT, INTERRUPTED = 1, 2, 130

REFUSALS = {
    getattr(errno, name)
    for name in (
        "EACCES",
        "EPERM",
        "EROFS",
        "ENOSPC",
        "EDQUOT",
        "ENOTDIR",
        "EISDIR",
        "ENAMETOOLONG",
        "EIO",
        "ESTALE",
    )
}
"""Errors with which the system refuses a file: not this program's mistakes."""


class _RunByDefault(TyperGroup):
    """`run_benchmark.py --tasks …` is `run_benchmark.py run --tasks …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            near = difflib.get_close_matches(args[0], self.commands, n=1)
            ctx.fail(f"No such command '{args[0]}'.{f' Did you mean {near[0]}?' if near else ''}")
        if not args or args[0] not in self.commands:
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RunByDefault,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@app.callback()
def _door() -> None:
    """Search and benchmark parameter-efficient fine-tuning of language models on DNA."""


def names(text: str | None) -> tuple[str, ...] | None:
    """`a,b` as names; an empty one is left to be refused by the check of names."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def conduct(work: Callable[[Console], int], *, interrupted: str = "Interrupted.") -> NoReturn:
    """Do a command's work and leave with its exit code: bad input is told line by line, and files that the system
    refuses in one line, never as a traceback.

    Args:
        work: Takes the console and returns the exit code.
        interrupted: What is said after Ctrl-C.
    """
    console = Console(highlight=False)
    console.soft_wrap = not console.is_terminal  # a log keeps its lines whole
    try:
        code = work(console)
    except InputError as error:
        complain(error)
        code = BAD_INPUT
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"[bold red]Stopped[/]: {escape(f'{where}{error.strerror}')}."
        )
        code = STOPPED
    except KeyboardInterrupt:
        console.print(interrupted)
        code = INTERRUPTED
    raise typer.Exit(code)


def complain(error: InputError) -> None:
    """Print every problem on its own line; long lines are left whole so that they can be copied."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    count = len(error.problems)
    console.print(f"[bold red]{count} problem{'s' if count > 1 else ''}; nothing was started:[/]")
    for problem in error.problems:
        console.print(f"  {escape(problem)}")
