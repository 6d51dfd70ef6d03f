"""Tables and JSON output of commands."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from harness.core.columns import HEADER, Column, fitted
from harness.runs.record import plain_data

JSON = typer.Option("--json", help="Print JSON instead.")


def print_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    console: Console,
    style: Callable[[int], str] = lambda _: "",
) -> None:
    """Print rows in columns that fit the terminal; without a terminal nothing is left out.

    Args:
        style: Rich style of a row, by its number.
    """
    width = console.width if console.is_terminal else None
    for text, row in fitted(columns, rows, width):
        how = "bold" if row == HEADER else style(row) if row is not None else ""
        console.print(f"[{how}]{escape(text)}[/]" if how else escape(text), soft_wrap=True)


def print_json(value: Any) -> None:
    """Print plain data as JSON; non-finite numbers are written as their names."""
    typer.echo(json.dumps(plain_data(value), indent=1, ensure_ascii=False))
