"""The commands: one module each. Options in, exit code out."""

import difflib
import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from harness.cli.commands import COMMANDS, HELP, OF_THE_PROGRAM, short_help, version
from harness.cli.mistakes import mistakes
from harness.core.errors import InputError
from harness.core.store_address import masked
from harness.data.steps import heard_by
from harness.progress.steps import Steps
from harness.progress.wire import SETTING

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
        "ENOENT",
        "EEXIST",
        "ELOOP",
        "ENXIO",
        "ENODEV",
        "EBUSY",
        "EMFILE",
        "ENFILE",
    )
}
"""Errors with which the system refuses a file; they are not bugs of this program."""


LOGIN = re.compile(r"://|:.*@|^env:.", re.DOTALL)
"""Pattern of an argument that may be an address with a password."""

_given: list[str] = []
"""The arguments of the command line."""


def hidden(text: str) -> str:
    """`text` without the secrets of all addresses on the command line, misplaced ones included."""
    for word in filter(LOGIN.search, _given):
        text = masked(text, word.partition("=")[2] if word.startswith("--") else word)
    return text


@contextmanager
def _without_secrets() -> Iterator[None]:
    """Quote refused arguments without their secrets."""
    try:
        yield
    except Exception as error:
        if isinstance(message := getattr(error, "message", None), str):
            error.message = hidden(message)  # type: ignore[attr-defined]
        raise


class _RunByDefault(TyperGroup):
    """`lingo-bench --tasks …` is `lingo-bench run --tasks …`, and `--help` alone is a page of all commands."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        _without_types(self)

    def invoke(self, ctx: Any) -> Any:
        with _without_secrets():
            return super().invoke(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _given[:] = args
        with _without_secrets():
            return self._parsed(ctx, args)

    def _parsed(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] in (*HELP, "--version"):
            typer.echo(version() if args[0] == "--version" else short_help())
            ctx.exit()
        if ctx.resilient_parsing or (args and args[0] in OF_THE_PROGRAM):  # completion
            return super().parse_args(ctx, args)
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"No such command '{args[0]}'.{f' Did you mean {near[0]}?' if near else ''}")
        if not args or args[0] not in self.commands:
            args = ["run", *args]
        self._refuse(ctx, self.commands[args[0]], args)
        return super().parse_args(ctx, args)

    def _refuse(self, ctx: Any, command: Any, args: list[str]) -> None:
        """End the program with all errors of the command line."""
        below = type(ctx)(command, parent=ctx, info_name=args[0])
        if isinstance(command, TyperGroup):
            if args[1:2] and args[1] in command.commands:
                self._refuse(below, command.commands[args[1]], args[1:])
            return
        problems, words = mistakes(below, args[1:])
        if problems:
            also = getattr(command.callback, "also", None)  # errors of the other options
            if also is not None and words:
                told = {problem.partition(" ")[0] for problem in problems}
                more = also(command.make_context(args[0], words, parent=ctx).params)
                problems += [problem for problem in more if problem.partition(" ")[0] not in told]
            complain(InputError(dict.fromkeys(problems)))
            ctx.exit(BAD_INPUT)


def _without_types(group: Any) -> None:
    """Remove implementation types such as `<list[Path]>` from the help: the metavar describes an argument."""
    for command in group.commands.values():
        if isinstance(command, TyperGroup):
            _without_types(command)
        for one in command.params:
            if one.param_type_name == "argument" or one.is_flag:
                one.display_type_rich = lambda ctx: None
        command.get_help_option = partial(_untyped, command.get_help_option)


def _untyped(made: Callable[[Any], Any], ctx: Any) -> Any:
    option = made(ctx)
    option.display_type_rich = lambda ctx: None
    return option


app = typer.Typer(
    cls=_RunByDefault,
    subcommand_metavar="COMMAND [OPTIONS]",
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@app.callback()
def _door() -> None:
    """Search and benchmark parameter-efficient fine-tuning of language models on DNA."""


def names(text: str | None, option: str) -> tuple[str, ...] | None:
    """`a,b` as names.

    Raises:
        InputError: for an empty name, as from `"$A,$B"` if one of them is not set.
    """
    if text is None:
        return None
    found = tuple(part.strip() for part in text.split(","))
    if not all(found):
        raise InputError(f"`{option}` must have a value before and after each comma, but got {text!r}.")
    return found


def conduct(
    work: Callable[[Console], int],
    *,
    interrupted: str = "Interrupted.",
    refused: str = "nothing was started",
) -> NoReturn:
    """Run a command and exit with its code: bad input is reported line by line, refused files in one line, never as a
    traceback.

    Args:
        work: Takes the console and returns the exit code.
        interrupted: Message after Ctrl-C.
        refused: Message that follows the problems of bad input.
    """
    console = Console(highlight=False)
    console.soft_wrap = not console.is_terminal  # lines of a log are not wrapped
    try:
        with Steps(console) as steps, heard_by(steps):
            code = work(console)
    except InputError as error:
        complain(
            error, "nothing was trained" if os.environ.get(SETTING) else refused
        )  # machines may run there
        code = BAD_INPUT
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"[bold red]Stopped[/]: {escape(hidden(f'{where}{error.strerror}'))}."
        )
        code = STOPPED
    except KeyboardInterrupt:
        console.print(interrupted)
        code = INTERRUPTED
    raise typer.Exit(code)


def complain(error: InputError, meaning: str = "nothing was started") -> None:
    """Print every problem on its own line; long lines are not wrapped, so that they can be copied."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    count = len(error.problems)
    console.print(f"[bold red]{count} problem{'s' if count > 1 else ''}; {meaning}:[/]")
    for problem in error.problems:
        console.print(f"  {escape(hidden(problem))}")
