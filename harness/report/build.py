"""Building a report from run folders."""

from collections.abc import Sequence
from pathlib import Path

from harness.report import naming
from harness.report.outcomes import Outcomes, outcomes_of
from harness.report.page import Page, today, write
from harness.report.paper import claims_table, curves, figures, tables
from harness.report.paper.published import Published, read_published
from harness.report.run_results import RunResults, read_run
from harness.report.sections import cost, health, hyperparameters, overview, provenance, significance


def make_report(
    folders: Sequence[Path], out: Path | None = None, published: Path | None = None
) -> list[Path]:
    """Write the report of one or several runs.

    Args:
        folders: Output folders of runs; several, for example, for different tokenisations.
        out: Target folder; by default `report/` in the first folder.
        published: Folder of published numbers instead of the package's own.

    Returns:
        The HTML and the Markdown page.

    Raises:
        InputError: If a folder contains no run, or the published numbers cannot be read.
    """
    numbers = read_published(published)
    runs = [read_run(folder) for folder in folders]
    return write(
        report_of(runs, outcomes_of(runs), numbers), out if out is not None else folders[0] / "report"
    )


def report_of(runs: Sequence[RunResults], outcomes: Outcomes, published: Published) -> Page:
    """The complete report, before drawing."""
    names = ", ".join(run.folder.resolve().name for run in runs)
    return Page(
        title=f"Benchmark report: {_subject(runs[0], outcomes)}",
        kicker=f"lingo-bench · {names} · written {today()}",
        lead=overview.lead(runs, outcomes),
        sections=[
            overview.section(runs, outcomes, published),
            claims_table.section(outcomes, published),
            tables.section(outcomes, published),
            significance.section(outcomes),
            figures.section(outcomes),
            curves.section(outcomes),
            cost.section(runs, outcomes),
            hyperparameters.section(runs),
            health.section(runs, outcomes),
            provenance.section(runs, outcomes),
        ],
        footer="Every table is also a CSV and a Parquet file in tables/, every figure a PNG and an SVG in figures/. "
        "The glossary is docs/glossary.md of the repository. Published numbers: Zhan, Wu, Zhang, arXiv:2402.08075 (CC "
        "BY 4.0).",
    )


def _subject(run: RunResults, outcomes: Outcomes) -> str:
    """Name of the suite; for individual tasks, what was run on them."""
    suite = str(run.settings.get("suite") or "custom")
    if suite != "custom" or not outcomes.tasks:
        return f"suite {suite}" if suite != "custom" else "no results yet"
    backbones = [naming.backbone_title(name) for name in outcomes.backbones[:3]]
    tasks = [naming.task_title(name) for name in outcomes.tasks[:4]]
    more = " and more" if len(outcomes.tasks) > 4 or len(outcomes.backbones) > 3 else ""
    return f"{', '.join(backbones)} on {', '.join(tasks)}{more}" if backbones else ", ".join(tasks) + more
