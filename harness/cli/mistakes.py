"""All errors of a command line, at once."""

import difflib
import sys
from typing import Any

import typer

from harness.core.errors import program

errors = sys.modules[typer.BadParameter.__module__]
"""The parser's exceptions: typer includes its own copy of click since 0.26."""


def mistakes(ctx: Any, args: list[str]) -> tuple[list[str], list[str]]:
    """All errors of a command's arguments, and the valid arguments.

    An empty value, for instance of an unset shell variable, is refused: it would mean the default, or the current
        folder.
    """
    given, rest, args, problems = _read(ctx, args)
    if "help" in given:
        return [], args
    bad: list[str] = []
    for one in ctx.command.params:
        values, option = given.get(one.name), one.param_type_name == "option"
        name = max(one.opts, key=len) if option else (one.metavar or one.name).strip("[].")
        if one.required and values in (None, (), []):
            problems.append(f"`{name}` must be given{f': {one.help}' if getattr(one, 'help', None) else '.'}")
        if not isinstance(values, str | list | tuple):
            continue
        words = [word for word in ([values] if isinstance(values, str) else values) if isinstance(word, str)]
        if any(not word.strip(", \t\r\n") for word in words):
            cure = "leave it out, or " if option or not one.required else ""
            problems.append(
                f"`{name}` must have a value, but is empty: {cure}set the shell variable it came from."
            )
        else:
            try:
                one.process_value(ctx, values)
                continue
            except typer.BadParameter as error:
                problems.append(f"`{name}` {_wanted(error.message)}, but got {', '.join(map(repr, words))}.")
        bad += one.opts if option else []
    if rest and not any(one.param_type_name == "argument" for one in ctx.command.params):
        problems.append(f"{' '.join(map(repr, rest))} must follow an option, but stands alone.")
        args = [word for word in args if word not in rest]
    for option in bad:
        args = _without(args, option)
    return problems, args


def _read(ctx: Any, args: list[str]) -> tuple[dict[str, Any], list[str], list[str], list[str]]:
    """Given parameters, arguments that belong to no option, valid arguments, and errors."""
    problems: list[str] = []
    while True:
        try:
            given, rest, _ = ctx.command.make_parser(ctx).parse_args(args=list(args))
            return given, list(rest), args, problems
        except errors.NoSuchOption as error:
            known = [name for one in ctx.command.params for name in (*one.opts, *one.secondary_opts)]
            near = difflib.get_close_matches(error.option_name, known, n=1)
            advice = (
                f"Nearest known: {near[0]}" if near else f"All options: {program()} {ctx.info_name} --help"
            )
            problems.append(f"`{error.option_name}` is not an option of `{ctx.info_name}`. {advice}.")
            args = _without(args, error.option_name)
        except errors.UsageError as error:  # an option without value, or a switch with one
            problems.append(error.format_message())
            name = getattr(error, "option_name", None)
            if not name or not any(_is(word, name) for word in args):
                return {}, [], [], problems
            args = _without(args, name)


def _wanted(message: str) -> str:
    """What a value must be, from the message of the library that parsed it."""
    for part, kind in (
        ("valid integer", "a whole number"),
        ("valid number", "a number"),
        ("valid float", "a number"),
    ):
        if part in message:
            return f"must be {kind}"
    return f"must be valid ({message.rstrip('.')})"


def _is(word: str, option: str) -> bool:
    return word.partition("=")[0] == option or (not option.startswith("--") and word.startswith(option))


def _without(args: list[str], option: str) -> list[str]:
    """The arguments without an option and its values."""
    kept: list[str] = []
    skip = False
    for word in args:
        if _is(word, option):
            skip = "=" not in word
        elif skip and not word.startswith("-"):
            skip = False
        else:
            skip = False
            kept.append(word)
    return kept
