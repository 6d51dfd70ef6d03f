"""`clusters`: the machines of all clusters."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.cli.app import app, conduct


@app.command()
def clusters(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FOLDER]...", help="Output folders, or folders of them, besides **results**."
        ),
    ] = None,
    cluster: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Cluster files whose providers are asked.", show_default="clusters/*.yaml"
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    terminate: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Terminate the machines of a cluster whose output folder is not here.",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="With --terminate: without confirmation.")] = False,
) -> None:
    """List the machines of all clusters: what runs, since when, what it has cost.

    Machines are found by their tags in every region of the account, so also those of benchmarks whose output folder
    is gone or on another machine.

    Exit code: 0, or 1 if a provider could not be asked or machines may be left, 2 for invalid input.
    """

    def work(console: Console) -> int:
        from harness.cluster import overview

        found = overview.overview(cluster or [], folders or [])
        if terminate is not None:
            return overview.terminate(found, terminate, console, yes=yes)
        return overview.show_clusters(found, console, as_json=json)

    conduct(work, refused="nothing was changed")
