"""`prepare`: published files converted to the form that tasks are read from."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.commands import app, conduct
from harness.errors import InputError


@app.command()
def prepare(
    what: Annotated[str, typer.Argument(metavar="deepsea", help="Which public files to convert.")],
    source: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", help="Folder with train.mat, valid.mat, test.mat and predictor.names."
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Data folder to write to; name it in --data-dir later.")
    ] = Path("data"),
    names: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Feature names.", show_default="SOURCE/predictor.names"),
    ] = None,
    base_order: Annotated[
        str | None,
        typer.Option(
            metavar="ACGT", help="Bases of the one-hot channels.", show_default="AGCT, checked with the data"
        ),
    ] = None,
) -> None:
    """Convert published files into the form that tasks are read from: DeepSEA with its 104 human histone labels.

    It reads a block at a time, and goes on where it was interrupted.

    Exit code: 0 when converted, 2 for bad input, 130 when interrupted.
    """

    def work(console: Console) -> int:
        from harness.convert import convert_deepsea

        if what != "deepsea":
            raise InputError(f"`prepare` must be given deepsea, the data it converts, but got {what!r}.")
        convert_deepsea(source, out, names=names, order=base_order, console=console)
        return 0

    conduct(
        work, interrupted="Interrupted; what is converted is kept, and the same command goes on from there."
    )
