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
        bool, typer.Option(help="Measure a few steps with each backbone that is here, for the hours.")
    ] = True,
) -> None:
    """Say what `run` with the same options would do and take; start nothing and write nothing.

    Studies, trials, steps, FLOPs, hours from a few measured steps, disk, cost ceiling, and which data and
    backbones are missing. Without --models it plans for the backbones of the paper.

    Exit code: 0, also where something is missing; 2 for bad options or search spaces.
    """

    def work(console: Console) -> int:
        from harness.cluster.file import with_price
        from harness.pipeline.forecast import forecast, planned
        from harness.pipeline.forecast_text import tell
        from harness.pipeline.forecast_time import measure as measured
        from harness.pool.resources import this_machine

        found = forecast(with_price(planned(with_store(options, console))))
        with console.status("measuring a few steps"):
            rates, problems = measured(found) if measure else ({}, [])
        shape = this_machine(found.benchmark.workers_per_trial, found.benchmark.max_concurrent)
        tell(found, rates, problems, shape, console)
        return 0

    conduct(work)
