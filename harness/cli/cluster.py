"""`attach`, `status`, `logs`, `stop`: a benchmark that runs on a cluster."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from harness.cli.app import app, conduct

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of the benchmark, here.")]
ASKED = "ask; where nobody can answer, down once the results are home"


def _conduct(work: Callable[[Any, Console], int]) -> None:
    """Do a command's work with `harness.cluster.control`, which is imported under the guard for Ctrl-C."""
    conduct(lambda console: work(import_module("harness.cluster.control"), console))


@app.command()
def attach(
    run: Run,
    teardown: Annotated[
        bool | None, typer.Option(help="Take the cluster down at the end, or keep it.", show_default=ASKED)
    ] = None,
) -> None:
    """Follow a benchmark on a cluster again, to its end and the results here.

    Exit code: the benchmark's own, 2 for bad input, 130 when left again.
    """
    _conduct(
        lambda control, console: control.attach_to(run, control.TeardownOptions(teardown=teardown), console)
    )


@app.command()
def status(run: Run) -> None:
    """State of a benchmark on a cluster: its job, its table, its machines, what it has cost at most.

    Exit code: 0 while it runs or when it ended well, 1 when it failed, 2 for bad input.
    """
    _conduct(lambda control, console: control.show_status(run, console))


@app.command()
def logs(
    run: Run,
    last: Annotated[int, typer.Option(metavar="N", min=0, help="The last N lines alone; 0 for all.")] = 0,
) -> None:
    """Print what a benchmark on a cluster has printed there.

    Exit code: 0, or 2 for bad input.
    """
    _conduct(lambda control, console: control.show_logs(run, last, console))


@app.command()
def stop(
    run: Run,
    teardown: Annotated[
        bool | None, typer.Option(help="Take the cluster down as well, or keep it.", show_default=ASKED)
    ] = None,
) -> None:
    """End a benchmark on a cluster as Ctrl-C would, bring home what there is, and take the cluster down.

    Exit code: 0 when ended, 1 when something may be left, 2 for bad input.
    """
    _conduct(lambda control, console: control.stop_run(run, teardown, console))
