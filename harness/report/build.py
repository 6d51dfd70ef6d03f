"""Building a report from run folders."""

from collections.abc import Sequence
from pathlib import Path

from harness.report import naming
from harness.report.content import Block, Note, Section
from harness.report.outcomes import Outcomes, outcomes_of
from harness.report.page import Page, today, write
from harness.report.paper import claims_table, curves, figures, tables
from harness.report.paper.published import Published, read_published
from harness.report.run_results import RunResults, read_run
from harness.report.sections import (
    calibration,
    cost,
    front,
    health,
    hyperparameters,
    overview,
    provenance,
    significance,
)


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
        banner=overview.banner(runs, outcomes),
        tasks=[(task, naming.task_title(task)) for task in outcomes.tasks],
        sections=[  # what won, is it real, what it cost, which configuration, then the paper
            overview.section(runs, outcomes, published),
            tables.section(outcomes, published),
            *front.sections(runs),
            significance.section(outcomes),
            calibration.section(outcomes),
            health.section(runs, outcomes),
            cost.section(runs, outcomes),
            hyperparameters.section(runs),
            *_paper(outcomes, published),
            provenance.section(runs, outcomes),
        ],
        footer="Every table is also a CSV and a Parquet file in tables/, every figure a PNG and an SVG in figures/. "
        "The glossary is docs/glossary.md of the repository. Published numbers: Zhan, Wu, Zhang, arXiv:2402.08075 (CC "
        "BY 4.0).",
    )


def _paper(outcomes: Outcomes, published: Published) -> list[Section]:
    """The paper's claims and figures; one line to be opened where these results measured none of its claims."""
    found = [claims_table.section(outcomes, published), figures.section(outcomes), curves.section(outcomes)]
    verdicts = claims_table.tally(outcomes, published)
    if not verdicts or verdicts.total() > verdicts["not measured"]:
        return found
    blocks: list[Block] = []
    for section in found:
        blocks += [Note(text=f"{section.title}. {section.intro}"), *section.blocks]
    line = f"Nothing of the paper was measured here: its {verdicts.total()} claims, and these results in its figures"
    return [Section(anchor="paper", title="The paper", folded=line, blocks=blocks)]


def _subject(run: RunResults, outcomes: Outcomes) -> str:
    """Name of the suite; for individual tasks, what was run on them."""
    suite = str(run.settings.get("suite") or "custom")
    if suite != "custom" or not outcomes.tasks:
        return f"suite {suite}" if suite != "custom" else "no results yet"
    backbones = [naming.backbone_title(name) for name in outcomes.backbones[:3]]
    tasks = [naming.task_title(name) for name in outcomes.tasks[:4]]
    more = " and more" if len(outcomes.tasks) > 4 or len(outcomes.backbones) > 3 else ""
    return f"{', '.join(backbones)} on {', '.join(tasks)}{more}" if backbones else ", ".join(tasks) + more
