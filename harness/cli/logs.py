"""`logs`: what a benchmark on a cluster has printed."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.cli.app import app, conduct


@app.command()
def logs(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of the benchmark, here.")],
    last: Annotated[int, typer.Option(metavar="N", min=0, help="The last N lines alone; 0 for all.")] = 0,
) -> None:
    """Print what a benchmark on a cluster has printed there.

    Exit code: 0, or 2 for bad input.
    """

    def work(console: Console) -> int:
        from harness.cluster.control import show_logs

        return show_logs(run, last, console)

    conduct(work)
