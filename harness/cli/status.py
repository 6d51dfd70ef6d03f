"""`status`: how a benchmark on a cluster is doing."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.cli.app import app, conduct


@app.command()
def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of the benchmark, here.")],
) -> None:
    """State of a benchmark on a cluster: its job, its table, its machines, what it has cost at most.

    Exit code: 0 while it runs or when it ended well, 1 when it failed, 2 for bad input.
    """

    def work(console: Console) -> int:
        from harness.cluster.control import show_status

        return show_status(run, console)

    conduct(work)
