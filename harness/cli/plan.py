"""`plan`: what a benchmark would take."""

from typing import Annotated, Any

import typer
from rich.console import Console

from harness.cli.app import app, conduct
from harness.cli.options import with_options, with_store


@app.command()
@with_options()
def plan(
    options: dict[str, Any],
    measure: Annotated[
        bool, typer.Option(help="Measure a few steps with each local backbone, to estimate hours.")
    ] = True,
) -> None:
    """Estimate steps, time, disk and cost of a run without starting it.

    Prints studies, trials, steps, FLOPs, hours (from a few measured steps), disk, cost ceiling, and missing
    data and backbones. Without --models it plans for the backbones of the paper. Nothing is written.

    Exit code: 0, even if something is missing; 2 for invalid options or search spaces.
    """

    def work(console: Console) -> int:
        from harness.cluster.file import with_price
        from harness.pipeline.forecast import forecast, planned

        found = forecast(with_price(planned(with_store(options, console))))
        # These import torch, which a refused plan does not need.
        from harness.pipeline.forecast_text import tell
        from harness.pipeline.forecast_time import measure as measured
        from harness.pool.resources import this_machine

        with console.status("measuring a few steps"):
            rates, problems = measured(found) if measure else ({}, [])
        shape = this_machine(found.benchmark.workers_per_trial, found.benchmark.max_concurrent)
        tell(found, rates, problems, shape, console)
        return 0

    conduct(work)
