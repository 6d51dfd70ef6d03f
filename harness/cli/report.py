"""`report`: the tables and figures of a run, beside the paper's."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.cli.app import app, conduct
from harness.core.errors import InputError


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Output folder of a run; several make one report, say of two tokenisations.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the report goes.", show_default="RUN/report"),
    ] = None,
    published: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Published numbers to compare with, CSV files named and headed as in harness/report/published.",
            show_default="the paper's, arXiv:2402.08075",
        ),
    ] = None,
) -> None:
    """Write a report: one HTML page that needs nothing else, Markdown, tables (CSV, Parquet), figures (PNG, SVG).

    It reads the run's results alone, so it works during a run, after a failed one, and on another machine.

    Exit code: 0 when written, 2 for bad input.
    """

    def work(console: Console) -> int:
        from harness.report.build import make_report

        try:
            with console.status("Reading results and drawing…"):
                html, markdown = make_report(runs, out, published)
        except OSError as error:
            if out is None or out.is_dir():
                raise
            raise InputError(
                f"`--out` must be a folder that can be written, but {out} cannot be made ({error.strerror})."
            ) from None
        console.print(f"Report: {html}", markup=False)
        console.print(f"        {markdown}, with tables/ and figures/ beside it", markup=False)
        return 0

    conduct(work, interrupted="Interrupted; the report is not whole, and the same command writes it anew.")
