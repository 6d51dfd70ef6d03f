"""`stop`: end a benchmark on a cluster, and the cluster."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.cli.app import app, conduct


@app.command()
def stop(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of the benchmark, here.")],
    teardown: Annotated[
        bool | None,
        typer.Option(
            help="Take the cluster down as well, or keep it.",
            show_default="ask; where nobody can answer, down once the results are home",
        ),
    ] = None,
) -> None:
    """End a benchmark on a cluster as Ctrl-C would, bring home what there is, and take the cluster down.

    Exit code: 0 when ended, 1 when something may be left, 2 for bad input.
    """

    def work(console: Console) -> int:
        from harness.cluster.control import stop_run

        return stop_run(run, teardown, console)

    conduct(work)
