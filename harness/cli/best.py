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
    form: Annotated[
        str,
        typer.Option("--format", metavar="FORM", help="table, yaml or json; the latter for run --config."),
    ] = "table",
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
        from harness.tracking.read import records_from_store

        uri = tracking_uri or (os.environ.get(ADDRESS) if out is None else None)
        _check(out, uri, experiment, form, register)
        if out is not None:
            records = records_of(out)
        else:
            records = records_from_store(str(uri), str(experiment))
        axes = {
            "task": names(task, "--task") or (),
            "backbone": names(backbone, "--backbone") or (),
            "method": names(method, "--method") or (),
        }
        wanted = {(record.task, record.backbone, record.method) for record in select(records, **axes)}
        everything = best_of(records, metric)  # a scope's winner follows from all of its tasks
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
        console.print(_table(found))
        for best in found:
            settings = " ".join(f"{name}={_short(best.config.get(name))}" for name in best.searched)
            study = f"{best.task} {best.backbone} {best.method}"
            console.print(f"[bold]{escape(study)}[/] {escape(settings)}", soft_wrap=True)
            if best.notes:
                console.print(f"  [yellow]{escape('; '.join(best.notes))}[/]", soft_wrap=True)
        return
    plain = {"configurations": [best.to_dict() for best in found]}
    if form == "json":
        typer.echo(json.dumps(plain, indent=1))
    else:
        import yaml

        typer.echo(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), nl=False)


def _table(found: Sequence["BestConfiguration"]) -> object:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for title in ("task", "backbone", "method", "metric"):
        table.add_column(title, overflow="fold")
    for title in ("dev", "test (seeds)"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("trial", no_wrap=True)
    for best in found:
        row = (
            best.task,
            best.backbone,
            best.method,
            best.metric,
            f"{best.score:.3f}",
            best.tested,
            best.trial,
        )
        table.add_row(*map(escape, row))
    return table


def _short(value: object) -> str:
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
