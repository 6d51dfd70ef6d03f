"""`doctor`: what a run needs, checked."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.cli.app import app, conduct, names
from harness.core.errors import InputError


@app.command()
def doctor(
    models: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Backbones to load and to compare with their checkpoints."),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Data folder to check.", show_default="what is kept from the hub"
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Tasks that must be there.", show_default="those that are there"),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where results would go.")] = Path("results"),
    ray: Annotated[bool, typer.Option(help="Start Ray for a moment.")] = True,
) -> None:
    """Check what a run needs: versions, devices, backbones, data, writable folders, Ray; with advice.

    Exit code: 0 when nothing stops a run, 1 when something does, 2 for bad input.
    """

    def work(console: Console) -> int:
        from harness.config.benchmark import address_problems
        from harness.doctor.checks import examine

        given = {"models": names(models, "--models"), "data_dir": data_dir, "out": out}
        if problems := list(address_problems(given)):
            raise InputError(problems)
        return examine(
            console,
            models=names(models, "--models") or (),
            data_dir=data_dir,
            tasks=names(tasks, "--tasks") or (),
            out=out,
            ray=ray,
        )

    conduct(work)
