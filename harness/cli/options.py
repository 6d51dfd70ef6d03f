"""The options of a benchmark, from the fields of `Benchmark`, for every command that takes them."""

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic_core import PydanticUndefined
from rich.console import Console
from rich.markup import escape

from harness.cli.app import names
from harness.config.benchmark import AMOUNT, DECLARED, MACHINE, WHAT, Benchmark, flag_of
from harness.config.build import read_settings
from harness.config.initial_points import options_from, read_configurations
from harness.config.learned_points import learned
from harness.core.errors import InputError
from harness.core.home import path_of
from harness.core.store_address import ADDRESS, shown
from lingo.text_files import read_text


def parameter(name: str) -> inspect.Parameter:
    """A setting as a parameter for typer; `None` if it is not given."""
    field, said = Benchmark.model_fields[name], DECLARED[name]
    default = field.default
    shown = said.default
    if shown is None and not isinstance(default, bool) and default not in (None, PydanticUndefined):
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    option = typer.Option(
        *([said.flag] if said.flag else []),
        metavar=said.metavar,
        help=said.help or " ".join(str(field.description).split()),
        show_default=shown or (default is True and "on") or False,
        rich_help_panel=said.panel,
    )
    kind: Any = said.kind or _kind(field.annotation)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _kind(annotation: Any) -> Any:
    """Type of a setting on the command line; `A,B` and names are text."""
    for one in () if get_origin(annotation) is tuple else (annotation, *get_args(annotation)):
        if (plain := getattr(one, "__origin__", one)) in (bool, int, float, Path):
            return plain
    return str


SETTINGS_FILE = inspect.Parameter(
    "settings",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON or YAML file with settings, for example **plan.json** of a run. Budgets, the number of trials, "
            "seeds and paths may be given in addition.",
            show_default=False,
            rich_help_panel=WHAT,
        ),
    ],
)


COLUMNS = inspect.Parameter(
    "columns",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        str | None,
        typer.Option(
            metavar="A=B,…",
            help="Columns of your own files: **sequence=**, **label=** or **target=** (several joined by +), "
            "**id=**, **split=** with its values **dev=** and **test=**, **only=** a value of the column task, "
            "**labels=** a file with labels by id. See docs/data.md.",
            show_default="found by name",
            rich_help_panel=WHAT,
        ),
    ],
)
ON_ERROR = inspect.Parameter(
    "on_error",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help="Invalid rows of your own files: **refuse** the file, or **skip** and count them.",
            show_default="refuse",
            rich_help_panel=WHAT,
        ),
    ],
)


CASE = inspect.Parameter(
    "case",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help="Lower-case letters in your own files: **upper** converts them, **mask** reads them as N, **keep** "
            "passes them to the tokenizer.",
            show_default="upper",
            rich_help_panel=WHAT,
        ),
    ],
)
GENOME = inspect.Parameter(
    "genome",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="FASTA file (optionally compressed) of the genome that contains the intervals of a BED file, or of a "
            "table with chrom, start and end.",
            show_default=False,
            rich_help_panel=WHAT,
        ),
    ],
)
OF_TABLES = (COLUMNS, CASE, GENOME, ON_ERROR)
"""Options for reading custom datasets; they become part of the names in `--tasks`."""


def with_options(only: Iterable[str] | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a command with the options of a benchmark beside its own parameters; it receives them as the mapping
    `options`.

    Args:
        only: The settings to add; `None` for all, `OF_TABLES` and `--settings`.
    """
    chosen = [parameter(name) for name in DECLARED if only is None or name in set(only)]
    chosen += [*OF_TABLES, SETTINGS_FILE] if only is None else []

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        own = [one for one in inspect.signature(function).parameters.values() if one.name != "options"]

        @wraps(function)
        def command(**given: Any) -> Any:
            mine = {one.name: given.pop(one.name) for one in own}
            return function(**mine, options=given)

        command.__signature__ = inspect.Signature([*own, *chosen])  # type: ignore[attr-defined]
        command.__annotations__ = {}
        return command

    return decorate


def settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """The given options as settings for `harness.config.build.build`; `None` for those not given.

    Raises:
        InputError: for seeds that are not numbers, and for an invalid file of settings or configurations.
    """
    read = {name: value for name, value in options.items() if value not in (None, [])}
    how = [read.pop("columns", "")]
    how += [f"{name}={read.pop(name)}" for name in ("case", "genome", "on_error") if name in read]
    for name, value in read.items():
        if isinstance(value, str) and get_origin(Benchmark.model_fields[name].annotation) is tuple:
            read[name] = names(value, flag_of(name))
        elif isinstance(value, list):
            read[name] = tuple(value)
    if said := "&".join(filter(None, how)):
        from harness.data.reading import told_how

        read["tasks"] = told_how(read.get("tasks", ()), said)
    if isinstance(file := read.pop("configurations", None), Path):
        read |= options_from(read_configurations(file), read)
    if isinstance(runs := read.get("learn_from"), str):
        del read["learn_from"]
        if runs != "none":
            read["learn_from"] = learned([path_of(run) for run in names(runs, "--learn-from") or ()])
    if "seeds" in read:
        read["seeds"] = _numbers(read["seeds"])
    file = read.pop("settings", None)
    return read if file is None else _beside(file, read)


def _beside(file: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a file, overridden by given options."""
    what = [name for name in given if name not in AMOUNT | MACHINE]
    if what:
        options = ", ".join(f"`{flag_of(name)}`" for name in what)
        raise InputError(f"`--settings` says what is measured; leave out {options}, or write it into {file}.")
    try:
        text = read_text(file)
    except (OSError, ValueError) as error:
        raise InputError(
            f"`--settings` must be a file of text, but {file} cannot be read ({error})."
        ) from None
    return {**read_settings(text, str(file)), **given}


def with_store(options: Mapping[str, Any], console: Console) -> dict[str, Any]:
    """As `settings`; without `--tracking-uri` the store of `MLFLOW_TRACKING_URI`, which is reported."""
    read, address = settings(options), os.environ.get(ADDRESS)
    if read.get("tracking_uri") is None and address:
        read["tracking_uri"] = address
        console.print(
            f"{ADDRESS} is set: MLflow's runs go to {escape(shown(address))}. `--tracking-uri` names another store; "
            "without both it lies in the output folder.",
            soft_wrap=True,
        )
    return read


def say_store(used: str | None, console: Console) -> None:
    """Report that `MLFLOW_TRACKING_URI` is set, but the store named in the run's folder is used."""
    address = os.environ.get(ADDRESS)
    if address and (used is None or shown(address) != shown(used)):
        console.print(
            f"{ADDRESS} is set and not used: this run has its store "
            f"{f'at {escape(shown(used))}' if used else 'in its folder'}. `--tracking-uri` names another one.",
            soft_wrap=True,
        )


def _numbers(texts: tuple[str, ...]) -> tuple[int, ...]:
    try:
        return tuple(map(int, texts))
    except ValueError:
        given = ",".join(texts)
        raise InputError(f"`--seeds` must be whole numbers like 0,1,2, but got {given!r}.") from None
