"""`attach`: back to a benchmark that runs on a cluster."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.cli.app import app, conduct


@app.command()
def attach(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of the benchmark, here.")],
    teardown: Annotated[
        bool | None,
        typer.Option(
            help="Take the cluster down at the end, or keep it.",
            show_default="ask; where nobody can answer, down once the results are home",
        ),
    ] = None,
) -> None:
    """Follow a benchmark on a cluster again, to its end and the results here.

    Exit code: the benchmark's own, 2 for bad input, 130 when left again.
    """

    def work(console: Console) -> int:
        from harness.cluster.control import attach_to
        from harness.cluster.finish import Wishes

        return attach_to(run, Wishes(teardown=teardown), console)

    conduct(work)
