"""`sync`: write missing runs to an MLflow store from the records."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from harness.cli.app import app, conduct
from harness.cli.options import say_store
from harness.core.errors import command
from harness.core.store_address import store_command, ui_command

if TYPE_CHECKING:
    from harness.tracking.sync import Synced

SHOWN = 5


@app.command()
def sync(
    out: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of a benchmark.")],
    tracking_uri: Annotated[
        str | None,
        typer.Option(metavar="URI", help="MLflow store to write to.", show_default="that of the benchmark"),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Write all runs, also those already written.")
    ] = False,
) -> None:
    """Write the runs that an MLflow store lacks, and end those that a dead process left running.

    Exit code: 0 if the store is complete, 1 if it refused runs or some were deleted there, 2 for invalid input,
    130 if interrupted.
    """

    def work(console: Console) -> int:
        from harness.tracking.spool import all_records
        from harness.tracking.sync import read_setting, sync

        setting = read_setting(out)
        if tracking_uri is None:
            say_store(setting.uri, console)
        notes: list[str] = []
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("MLflow", total=len(all_records(out)))
            options: dict[str, Any] = {"on_record": lambda _: bar.advance(task), "say": notes.append}
            done = sync(out, uri=tracking_uri, again=again, **options)
        for line in notes:
            console.print(f"[yellow]{escape(line)}[/]", soft_wrap=True)
        for line in done.refused:
            console.print(f"[red]refused[/] {escape(line)}", soft_wrap=True)
        for line in _deleted(done, out, tracking_uri):
            console.print(line, soft_wrap=True)
        lacks = ["refused runs"] * bool(done.refused) + ["deleted runs"] * bool(done.deleted)
        console.print(
            f"{done.written} of {done.records} runs written; the store "
            f"{'lacks ' + ' and '.join(lacks) if lacks else 'is complete'}."
        )
        console.print(f"MLflow   {escape(ui_command(done.uri))}", soft_wrap=True)
        return 1 if lacks else 0

    conduct(work, interrupted="Interrupted; the same command continues.")


def _deleted(done: "Synced", out: Path, uri: str | None) -> Iterator[str]:
    """Print which runs were deleted in the store, and how to restore them."""
    for key, run in list(done.deleted.items())[:SHOWN]:
        yield f"[yellow]deleted[/] {escape(key)}" + (f" (run {run})" if run else "")
    if len(done.deleted) > SHOWN:
        yield f"[yellow]and {len(done.deleted) - SHOWN} more[/]"
    if done.deleted:
        restore = store_command(done.uri, "mlflow", "runs", "restore", "--run-id", "ID")
        again = command("sync", out, *(("--tracking-uri", done.uri) if uri else ()), "--again")
        yield escape(f"`{restore}` restores a run with an id above; `{again}` writes all of them again.")
