"""`prepare`: conversion of published files to the format that tasks are read from."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from harness.cli.app import app, conduct
from harness.core.errors import InputError, typed
from harness.data.deepsea.convert import TASK, convert


@app.command()
def prepare(
    what: Annotated[str, typer.Argument(metavar="deepsea", help="Public files to convert.")],
    source: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", help="Folder with train.mat, valid.mat, test.mat and predictor.names."
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Data folder to write to, for --data-dir.")
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
    """Convert published data into a task: DeepSEA with its 104 human histone labels.

    The files are read in blocks; an interrupted conversion resumes.

    Exit code: 0 if converted, 2 for invalid input, 130 if interrupted.
    """

    def work(console: Console) -> int:
        if what != "deepsea":
            raise InputError(f"`prepare` needs deepsea, the data set to convert, but got {what!r}.")
        convert_deepsea(source, out, names=names, order=base_order, console=console)
        return 0

    conduct(work, interrupted="Interrupted; converted data is kept, and the same command continues.")


def convert_deepsea(
    source: Path, out: Path, *, names: Path | None, order: str | None, console: Console
) -> None:
    """Convert DeepSEA's files and print a summary.

    Raises:
        InputError: with every problem of the files.
    """
    begun = time.monotonic()
    columns = (TextColumn("{task.description:5}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars: dict[str, object] = {}
    with Progress(*columns, console=console) as progress:

        def show(split: str, done: int, total: int) -> None:
            if split not in bars:
                bars[split] = progress.add_task(split, total=total)
            progress.update(bars[split], completed=done)  # type: ignore[arg-type]

        made = convert(source, out, names=names, order=order, progress=show)
    for split, rows in made.rows.items():
        strands = f", {rows // 2:,} on both strands" if made.strands[split] == "both" else ""
        console.print(f"{split:5} {rows:,} sequences{strands}; {made.unknown[split]:,} unknown bases")
    console.print(
        f"{made.bytes / 1e9:.3f} GB in {escape(str(made.folder))} after {time.monotonic() - begun:.0f} s; "
        f"use it with {escape(typed('--tasks', TASK, '--data-dir', out))}",
        soft_wrap=True,
    )
