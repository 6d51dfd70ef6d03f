"""`attach`, `status`, `logs`, `stop`: a benchmark that runs on a cluster."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from harness.cli.app import app, conduct

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Local output folder of the benchmark.")]
ASKED = "ask; without a terminal, terminate once results are downloaded"


def _conduct(work: Callable[[Any, Console], int]) -> None:
    """Do a command's work with `harness.cluster.control`, which is imported under the guard for Ctrl-C."""
    conduct(
        lambda console: work(import_module("harness.cluster.control"), console), refused="nothing was changed"
    )


@app.command()
def attach(
    run: Run,
    teardown: Annotated[
        bool | None, typer.Option(help="Terminate the cluster at the end, or keep it.", show_default=ASKED)
    ] = None,
) -> None:
    """Reconnect to a benchmark on a cluster, and download its results at the end.

    Exit code: that of the benchmark, 2 for invalid input, 130 when detached.
    """
    _conduct(
        lambda control, console: control.attach_to(run, control.TeardownOptions(teardown=teardown), console)
    )


@app.command()
def status(run: Run) -> None:
    """Print the status of a benchmark on a cluster: job, table, machines, maximum cost so far.

    Exit code: 0 while it is running or if it succeeded, 1 if it failed, 2 for invalid input.
    """
    _conduct(lambda control, console: control.show_status(run, console))


@app.command()
def logs(
    run: Run,
    last: Annotated[int, typer.Option(metavar="N", min=0, help="Only the last N lines; 0 for all.")] = 0,
) -> None:
    """Print the log of a benchmark on a cluster.

    Exit code: 0, or 2 for invalid input.
    """
    _conduct(lambda control, console: control.show_logs(run, last, console))


@app.command()
def stop(
    run: Run,
    teardown: Annotated[
        bool | None, typer.Option(help="Also terminate the cluster, or keep it.", show_default=ASKED)
    ] = None,
) -> None:
    """Stop a benchmark on a cluster like Ctrl-C, download its results, and terminate the cluster.

    Exit code: 0 if stopped, 1 if machines may be left, 2 for invalid input.
    """
    _conduct(lambda control, console: control.stop_run(run, teardown, console))
