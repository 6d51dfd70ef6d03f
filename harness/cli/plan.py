"""`plan`: what a benchmark would take."""

from typing import Annotated, Any

import typer
from rich.console import Console

from harness.cli.app import app, conduct
from harness.cli.options import with_options, with_store
from harness.cli.problems import all_problems
from harness.cli.tables import JSON, print_json
from harness.core.errors import InputError


@app.command()
@with_options()
def plan(
    options: dict[str, Any],
    measure: Annotated[
        bool, typer.Option(help="Measure a few steps with each local backbone, to estimate hours.")
    ] = True,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Estimate steps, time, disk and cost of a run without starting it.

    Prints studies, trials, steps, FLOPs, hours (from a few measured steps), disk, cost ceiling, missing
    data and backbones, and the shortcut audit of train and dev where it is there or takes seconds.
    Without --models it plans for the backbones of the paper. Nothing is written.

    Exit code: 0, even if something is missing; 2 for invalid options or search spaces.
    """

    def work(console: Console) -> int:
        from harness.cluster.file import with_price
        from harness.pipeline.forecast import forecast, planned

        notes = Console(stderr=True, highlight=False) if as_json else console
        try:
            found = forecast(with_price(planned(with_store(options, notes))))
        except InputError as error:
            raise InputError(
                dict.fromkeys([*error.problems, *all_problems(options, planned, forecast)])
            ) from None
        # These import torch, which a refused plan does not need.
        from harness.pipeline.audit import planned_audits
        from harness.pipeline.forecast_text import summary, tell, tell_audits
        from harness.pipeline.forecast_time import measure as measured
        from harness.pool.resources import this_machine

        with notes.status("measuring a few steps"):
            rates, problems = measured(found) if measure else ({}, [])
        with notes.status("auditing train and dev"):
            audited, unaudited = planned_audits(found.benchmark, found.data)
        shape = this_machine(found.benchmark.workers_per_trial, found.benchmark.max_concurrent)
        if as_json:
            audit = {"audit": audited, "not_audited": unaudited}
            print_json(summary(found, rates, problems, shape) | audit)
            return 0
        tell(found, rates, problems, shape, console)
        tell_audits(audited, unaudited, console)
        _tell_machines(found, console)
        return 0

    conduct(work)


def _tell_machines(found: Any, console: Console) -> None:
    """With a cluster file, the machines that suit the benchmark."""
    from pathlib import Path

    from harness.core.cluster_address import joins

    cluster = found.benchmark.cluster
    if joins(cluster) or "://" in cluster:
        return
    from harness.cluster.file import inspect
    from harness.pipeline.machine_choice import machine_lines

    file, problems = inspect(Path(cluster), filled_in=False)
    for line in [*problems, *(machine_lines(found, file) if file is not None else ())]:
        console.print(line, soft_wrap=True, markup=False)
