"""`resume`: continue a run after any end."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from harness.cli.app import app, conduct
from harness.cli.options import say_store, settings, with_options
from harness.config.benchmark import AMOUNT, MACHINE
from harness.core.errors import InputError


@app.command()
@with_options((AMOUNT | MACHINE) - {"out", "name"})
def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of the run.")],
    options: dict[str, Any],
    fork: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="A new output folder, for other search spaces; trials of RUN that lie in them are reused.",
        ),
    ] = None,
) -> None:
    """Continue a run after any end: finished trials are kept, open ones continue from their checkpoints.

    All settings are those of the run. Budgets, the number of trials, seeds and paths may be changed; a changed
    search space requires --fork. The run continues on this machine, unless --cluster is given again.

    Exit code: that of `run`.
    """

    def work(console: Console) -> int:
        from harness.core.cluster_address import joins
        from harness.pipeline.resume import stored_benchmark
        from harness.pipeline.run import run_benchmark

        benchmark = stored_benchmark(run, {**settings(options), "out": fork})
        if options["tracking_uri"] is None:
            say_store(benchmark.tracking_uri, console)
        if not joins(benchmark.cluster):
            if fork is not None:
                raise InputError(
                    "`--fork` must be used on this machine or the cluster's head, without --cluster."
                )
            from harness.cluster.finish import TeardownOptions
            from harness.cluster.run import run_on_cluster

            return run_on_cluster(benchmark, TeardownOptions(), console)
        return run_benchmark(benchmark, console, take_from=run if fork else None)

    conduct(work, interrupted="Interrupted; finished trials are kept, and the same command continues.")
