"""`report`: tables and figures of a run, compared with the paper's."""

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
            help="Output folder of a run; several are combined in one report, for example two tokenisations.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of the report.", show_default="RUN/report"),
    ] = None,
    published: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Published numbers for comparison: CSV files with names and columns as in harness/report/published.",
            show_default="the paper's, arXiv:2402.08075",
        ),
    ] = None,
) -> None:
    """Write a report: one self-contained HTML page, Markdown, tables (CSV, Parquet), figures (PNG, SVG).

    It reads only the results, so it works during a run, after a failed one, and on another machine.

    Exit code: 0 if written, 2 for invalid input.
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
                f"`--out` must be a writable folder, but {out} cannot be created ({error.strerror})."
            ) from None
        console.print(f"Report: {html}", markup=False)
        console.print(f"        {markdown}, with tables/ and figures/ in the same folder", markup=False)
        return 0

    conduct(work, interrupted="Interrupted; the report is incomplete, and the same command rewrites it.")
