"""`list`: what may be named: backbones, tasks and methods."""

import json
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.cli.app import app, conduct
from harness.core.errors import InputError, nearest


def _models() -> list[dict[str, Any]]:
    from lingo.known_models import model_rows

    return model_rows()


def _tasks() -> list[dict[str, Any]]:
    from harness.data.tasks import SPLITS, SUITES, TASKS

    return [
        {"name": row.name, "kind": row.kind, "outputs": row.num_labels, "metric": row.metric, "length": row.length}
        | {f"{split}_rows": row.published.get(split) for split in SPLITS}
        | {"suites": [suite for suite, names in SUITES.items() if row.name in names]}
        for row in TASKS.values()
    ]  # fmt: skip


def _methods() -> list[dict[str, Any]]:
    from lingo.methods import DEFAULT_METHODS, METHODS

    return [
        {
            "name": name,
            "title": row.title,
            "adapts_a_backbone": row.needs_backbone,
            "prompt": row.prompt,
            "trials_in_packs": row.packs,
            "by_default": name in DEFAULT_METHODS,
            "settings": sorted(row.settings),
        }
        for name, row in METHODS.items()
    ]


KINDS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "models": _models,
    "tasks": _tasks,
    "methods": _methods,
}


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(metavar="models|tasks|methods", help="What to list.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """List the backbones, tasks or methods that may be named: `list models`, `list tasks`, `list methods`.

    Exit code: 0, or 2 for invalid input.
    """

    def work(console: Console) -> int:
        if what not in KINDS:
            raise InputError(
                f"`list` must be given models, tasks or methods, but got {what!r}.{nearest(what, KINDS)}"
            )
        rows = KINDS[what]()
        if as_json:
            typer.echo(json.dumps(rows, indent=1))
            return 0
        if what == "models":
            from lingo.known_models import shown_rows

            _print(shown_rows())
            console.print(
                "GiB: estimate for training LoRA with 8 sequences of 512 tokens (fewer where the context is shorter), "
                "frozen weights in bfloat16. Read a model's card before you rely on its licence; any other hub id or "
                "folder may be given, too: docs/backbones.md.",
                soft_wrap=True,
            )
        else:
            _print([{key: _text(value) for key, value in row.items()} for row in rows])
        return 0

    conduct(work)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(value)
    return "?" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _print(rows: list[dict[str, str]]) -> None:
    """Rows with the same keys, which are the header; a row is never folded."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in rows[0]:
        table.add_column(name.replace("_", " "), no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row.values()))
    Console(width=10_000, highlight=False).print(table, soft_wrap=True)
