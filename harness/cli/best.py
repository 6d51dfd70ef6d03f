"""`best`: the best configuration of every study."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from harness.cli.app import app, conduct, names
from harness.cli.options import say_store
from harness.cli.tables import print_table
from harness.core.columns import Column
from harness.core.errors import InputError
from harness.core.store_address import ADDRESS

if TYPE_CHECKING:
    from harness.pipeline.best import BestConfiguration

FORMATS = ("table", "yaml", "json")


@app.command()
def best(
    out: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="Output folder of a benchmark.", show_default=False)
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="MLflow store to read instead of a folder.",
            show_default="MLFLOW_TRACKING_URI if set",
        ),
    ] = None,
    experiment: Annotated[
        str | None, typer.Option(metavar="NAME", help="Experiment in that store: the name of the suite.")
    ] = None,
    task: Annotated[str | None, typer.Option(metavar="A,B", help="Only these tasks.")] = None,
    backbone: Annotated[str | None, typer.Option(metavar="A,B", help="Only these backbones.")] = None,
    method: Annotated[str | None, typer.Option(metavar="A,B", help="Only these methods.")] = None,
    metric: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Dev metric used for selection.", show_default="that of each task"),
    ] = None,
    given_form: Annotated[
        str,
        typer.Option("--format", metavar="FORM", help="table, yaml or json; the latter for run --config."),
    ] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="As **--format json**.")] = False,
    register: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Register the adapter of the first study shown under this name, with the alias **champion**.",
        ),
    ] = None,
) -> None:
    """Print the best configuration of every study, from an output folder or from a tracking server.

    Exit code: 0 if there is one, 1 if no trial has finished yet, 2 for invalid input.
    """

    def work(console: Console) -> int:
        from harness.pipeline.best import best_of, records_of, select

        uri = tracking_uri or (os.environ.get(ADDRESS) if out is None else None)
        form = "json" if as_json else given_form
        _check(out, uri, experiment, form, register)
        if out is not None:
            records = records_of(out)
        else:
            from harness.tracking.read import records_from_store

            records = records_from_store(str(uri), str(experiment))
        axes = {
            "task": names(task, "--task") or (),
            "backbone": names(backbone, "--backbone") or (),
            "method": names(method, "--method") or (),
        }
        wanted = {(record.task, record.backbone, record.method) for record in select(records, **axes)}
        everything = best_of(records, metric)  # the winner of a scope depends on all of its tasks
        found = [best for best in everything if (best.task, best.backbone, best.method) in wanted]
        if not found:
            Console(stderr=True).print("No trial has finished yet, so there is no best configuration.")
            return 1
        _print(found, form, console)
        if register is not None and out is not None:
            _register(out, found[0], register, tracking_uri)
        return 0

    conduct(work)


def _check(
    out: Path | None, uri: str | None, experiment: str | None, form: str, register: str | None
) -> None:
    problems = []
    if out is None and not (uri and experiment):
        problems.append(f"`best` needs RUN, or both `--tracking-uri` (or {ADDRESS}) and `--experiment`.")
    if out is not None and experiment:
        problems.append("`best` needs either RUN or `--experiment`, but got both.")
    if out is not None and uri and register is None:
        problems.append("`best` needs either RUN or `--tracking-uri`, but got both.")
    if out is None and register is not None:
        problems.append("`--register` requires RUN, which contains the adapters.")
    if form not in FORMATS:
        problems.append(f"`--format` must be table, yaml or json, but got {form!r}.")
    if problems:
        raise InputError(problems)


def _print(found: Sequence["BestConfiguration"], form: str, console: Console) -> None:
    if form == "table":
        print_best(found, console)
        return
    plain = {"configurations": [best.to_dict() for best in found]}
    if form == "json":
        typer.echo(json.dumps(plain, indent=1))
    else:
        import yaml

        typer.echo(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), nl=False)


COLUMNS = (
    Column(title="task", name=True),
    Column(title="backbone", name=True),
    Column(title="method", name=True),
    Column(title="metric", name=True),
    Column(title="dev", right=True),
    Column(title="test (seeds)", right=True),
    Column(title="trial", rank=1),
)


def print_best(found: Sequence["BestConfiguration"], console: Console) -> None:
    """Print a table of the studies, then the configuration of each with its caveats."""
    rows = [
        [one.task, one.backbone, one.method, one.metric, f"{one.score:.3f}", one.tested, one.trial]
        for one in found
    ]
    print_table(COLUMNS, rows, console)
    console.print()
    for one in found:
        settings = " ".join(f"{name}={short(one.config.get(name))}" for name in one.searched)
        study = f"{one.task} {one.backbone} {one.method}"
        console.print(f"[bold]{escape(study)}[/] {escape(settings)}")
        if one.notes:
            console.print(f"  [yellow]{escape('; '.join(one.notes))}[/]")


def short(value: object) -> str:
    """A setting in a table."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _register(out: Path, best: "BestConfiguration", name: str, uri: str | None) -> None:
    from harness.tracking.registry import register_best
    from harness.tracking.sync import read_setting

    if uri is None:
        say_store(read_setting(out).uri, Console(stderr=True, highlight=False))
    registered = register_best(out, f"{best.task}|{best.backbone}|{best.method}", name, uri=uri)
    typer.echo(f"{registered.address} is version {registered.version} of {name}: {registered.run}", err=True)
