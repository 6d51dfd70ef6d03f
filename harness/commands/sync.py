"""`sync`: what an MLflow store missed, written from the records."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from harness.commands import app, conduct


@app.command()
def sync(
    out: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of a benchmark.")],
    tracking_uri: Annotated[
        str | None,
        typer.Option(metavar="URI", help="MLflow store to write to.", show_default="that of the benchmark"),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Write all runs, also those that were written before.")
    ] = False,
) -> None:
    """Write every run that an MLflow store lacks, and end those that a dead process left running.

    Exit code: 0 when the store has everything, 1 when it refused runs, 2 for bad input, 130 when interrupted.
    """

    def work(console: Console) -> int:
        from harness.tracking_address import ui_command
        from harness.tracking_spool import all_records
        from harness.tracking_sync import read_setting, sync

        read_setting(out)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("MLflow", total=len(all_records(out)))
            done = sync(out, uri=tracking_uri, again=again, on_record=lambda _: bar.advance(task))
        for line in done.refused:
            console.print(f"[red]refused[/] {escape(line)}", soft_wrap=True)
        console.print(
            f"{done.written} of {done.records} runs written; the store "
            f"{'lacks those refused' if done.refused else 'has everything'}."
        )
        console.print(f"MLflow   {escape(ui_command(done.uri))}", soft_wrap=True)
        return 1 if done.refused else 0

    conduct(work, interrupted="Interrupted; the same command goes on from there.")
