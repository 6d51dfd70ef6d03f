"""`list`: the runs in a folder, and known backbones, tasks, suites, methods and metrics."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from harness.cli.app import app, conduct
from harness.cli.tables import print_json, print_table
from harness.core.columns import Column
from harness.core.errors import InputError, command, nearest

if TYPE_CHECKING:
    from harness.pipeline.state import RunState


def _models() -> list[dict[str, Any]]:
    from lingo.known_models import model_rows

    return model_rows()


def _tasks() -> list[dict[str, Any]]:
    from harness.data.suites import NAMED
    from harness.data.tasks import SPLITS, SUITES, TASKS

    return [
        {"name": row.name, "kind": row.kind, "outputs": row.num_labels, "metric": row.metric, "length": row.length}
        | {f"{split}_rows": row.published.get(split) for split in SPLITS}
        | {"suites": [suite for suite, names in SUITES.items() if row.name in names]}
        for row in TASKS.values()
    ] + [
        {"name": row.name, "kind": "classification", "outputs": row.classes, "metric": "mcc", "length": row.length}
        | {f"{split}_rows": count for split, count in zip(SPLITS, row.rows, strict=True)}
        | {"suites": [row.name.split("/")[0]]}
        for row in NAMED.values()
    ]  # fmt: skip


def _suites() -> list[dict[str, Any]]:
    from harness.data.suites import OUTSIDE
    from harness.data.tasks import SUITES, TASKS

    return [
        {
            "name": name,
            "tasks": len(tasks),
            "families": list(dict.fromkeys(TASKS[task].family for task in tasks)),
            "kinds": list(dict.fromkeys(TASKS[task].kind for task in tasks)),
        }
        for name, tasks in SUITES.items()
    ] + [
        {"name": name, "tasks": len(suite.rows), "families": [name], "kinds": ["classification"]}
        for name, suite in OUTSIDE.items()
    ]


def _metrics() -> list[dict[str, Any]]:
    import numpy as np

    from harness.config.benchmark import METRICS
    from lingo.metrics import LOWER_IS_BETTER, RANGES, score

    labels = np.array([0, 1, 0, 1])
    kinds = {
        "classification": score("classification", np.eye(2)[labels], labels),
        "multilabel": score("multilabel", np.eye(2)[labels], np.eye(2)[labels]),
        "regression": score("regression", labels * 2.0, labels * 1.0),
    }
    return [
        {
            "name": name,
            "better": "lower" if name in LOWER_IS_BETTER else "higher",
            "lowest": low,
            "highest": None if high == float("inf") else high,
            "kinds": [kind for kind, scores in kinds.items() if name in scores],
            "can_be_chosen": name in METRICS,
        }
        for name, (low, high) in RANGES.items()
    ]


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
    "suites": _suites,
    "methods": _methods,
    "metrics": _metrics,
}


RUNS = "runs"


@app.command("list")
def list_(
    what: Annotated[
        str, typer.Argument(metavar="runs|models|tasks|suites|methods|metrics", help="What to list.")
    ],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="Folder of runs.", show_default="results")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """List the runs in a folder, or the models, tasks, suites, methods or metrics that there are.

    Exit code: 0, 1 if there is no run in the folder, 2 for invalid input.
    """

    def work(console: Console) -> int:
        if what == RUNS:
            return _runs(folder or Path("results"), console, as_json=as_json)
        if what not in KINDS:
            raise InputError(
                f"`list` must be given {', '.join((RUNS, *KINDS))}, but got {what!r}.{nearest(what, (RUNS, *KINDS))}"
            )
        if folder is not None:
            raise InputError(f"`list {what}` takes no folder, but got {folder}.")
        rows = KINDS[what]()
        if as_json:
            typer.echo(json.dumps(rows, indent=1))
            return 0
        if what == "models":
            from lingo.known_models import shown_rows

            _print(shown_rows(), console)
            console.print(
                "GiB: estimate for training LoRA with 8 sequences of 512 tokens (fewer where the context is shorter), "
                "frozen weights in bfloat16. Read a model's card before you rely on its licence; any other hub id or "
                "folder may be given, too: docs/backbones.md.",
                soft_wrap=True,
            )
        else:
            _print([{key: _text(value) for key, value in row.items()} for row in rows], console)
        return 0

    conduct(work)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(value)
    if isinstance(value, float):
        return f"{value:g}"
    return "?" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _print(rows: list[dict[str, str]], console: Console) -> None:
    """Print rows with the same keys, which are the header; the last columns are left out first."""
    columns = [Column(title=name.replace("_", " "), name=not i, rank=i) for i, name in enumerate(rows[0])]
    print_table(columns, [list(row.values()) for row in rows], console)


def _runs(folder: Path, console: Console, *, as_json: bool) -> int:
    """List the runs in a folder; a folder that looks like a run but is none is reported."""
    from harness.pipeline.state import runs_below, state_of

    found, problems = [], list[str]()
    for out in runs_below(folder):
        try:
            found.append(state_of(out))
        except InputError as error:
            problems += [problem.partition(", but ")[2] for problem in error.problems]
    if as_json:
        print_json([one.to_dict() for one in found])
    elif found:
        print_runs(found, folder, console)
        console.print(f"To see one: {command('show', found[-1].folder)}", markup=False, soft_wrap=True)
    else:
        line = f"There is no run in {folder}; a run starts with: {command('run')}"
        console.print(line, markup=False, soft_wrap=True)
    for problem in problems:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"Left out: {problem}", markup=False)
    return 0 if found else 1


def print_runs(found: "list[RunState]", folder: Path, console: Console) -> None:
    """Print a line for each run, the most recent one last."""
    columns = [
        Column(title="run", name=True),
        Column(title="state"),
        Column(title="trials", right=True, rank=2),
        Column(title="final runs", right=True),
        Column(title="failed", right=True, rank=3),
        Column(title="tasks", rank=4),
        Column(title="backbones", rank=5),
        Column(title="methods", rank=6),
        Column(title="experiment", rank=7),
        Column(title="last result", rank=1),
    ]
    rows = [
        [
            str(one.folder.relative_to(folder)) if one.folder != folder else str(folder),
            one.state,
            f"{one.trials}/{one.trials_wanted}",
            f"{one.finals}/{one.finals_wanted}",
            str(one.failed or "·"),
            _few(one.tasks),
            _few(one.backbones),
            _few(one.methods),
            one.experiment,
            one.updated[:16].replace("T", " "),
        ]
        for one in found
    ]
    print_table(columns, rows, console)


def _few(names: object) -> str:
    held = list(names) if isinstance(names, list | tuple) else []
    return ", ".join(held[:2]) + (f" and {len(held) - 2} more" if len(held) > 2 else "")
