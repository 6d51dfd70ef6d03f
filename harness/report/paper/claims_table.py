"""The claims as a section: published, recomputed from the paper's own tables, measured here, and the verdict."""

from collections import Counter
from collections.abc import Mapping, Sequence

from harness.report.content import Block, Cell, Field, Look, Note, Section, Table, count
from harness.report.outcomes import Outcomes
from harness.report.paper.claims import CHECKS, check
from harness.report.paper.evidence import of_paper, of_results
from harness.report.paper.published import Published
from harness.report.paper.verdicts import ClaimResult, Verdict

LOOKS: Mapping[Verdict, Look] = {
    "agrees": "good",
    "direction agrees": "good",
    "disagrees": "bad",
    "inconclusive": "",
}


def tally(outcomes: Outcomes, published: Published) -> Counter[Verdict]:
    """Number of claims per verdict."""
    ours = of_results(outcomes)
    return Counter(check(row["id"], ours).verdict for row in published.claims if row["id"] in CHECKS)


def section(outcomes: Outcomes, published: Published) -> Section:
    """The table of claims."""
    ours, tables = of_results(outcomes), of_paper(published)
    rows = [row for row in published.claims if row["id"] in CHECKS]
    found = [(row, check(row["id"], tables), check(row["id"], ours)) for row in rows]
    measured = [item for item in found if item[2].verdict != "not measured"]
    counts = Counter(ours.verdict for *_, ours in measured)
    verdicts = ", ".join(f"{verdict} {counts[verdict]}" for verdict in LOOKS if counts[verdict])
    blocks: list[Block] = [Note(text=_summary(len(measured), len(found), verdicts))] if found else []
    for name, title, items, folded in (
        ("claims", "Claims testable with these results", measured, False),
        (
            "claims_not_measured",
            "Claims not testable with these results",
            [i for i in found if i not in measured],
            True,
        ),
    ):
        if items:
            blocks.append(_table(name, title, items, folded=folded))
    return Section(
        anchor="claims",
        title="The paper's claims",
        intro="Each quantitative claim of the paper that can be tested: as published, as recomputed from the paper's "
        "own tables, and as measured here.",
        blocks=blocks or [Note(text="No published claims were given.")],
    )


def _summary(measured: int, total: int, verdicts: str) -> str:
    if not measured:
        return (
            f"None of {total} claims can be tested: they concern the paper's backbones (DNABERT-2, NT-500M, "
            "OPT-125M, OPT-350M), on its 14 datasets with the published splits."
        )
    return (
        f"{count(measured, 'claim')} of {total} were tested: {verdicts}. A published number has no spread, so it is "
        "compared with the 95 % prediction interval of a single run; a direction requires that the 95 % interval of "
        "the mean over seeds excludes zero. “Direction agrees”: the sign agrees, the size does not. “Inconclusive”: "
        "both the claim and its negation are compatible with these results."
    )


Row = tuple[Mapping[str, str], ClaimResult, ClaimResult]


def _table(name: str, title: str, items: Sequence[Row], *, folded: bool) -> Table:
    rows: list[list[Field]] = [
        [
            row["id"],
            row["claim"],
            row["value"] if row["unit"] == "qualitative" else f"{row['value']} {row['unit']}",
            _finding(tables),
            Cell(ours.ours, lines=(ours.why,) if ours.why else ()),
            Cell(ours.verdict, LOOKS.get(ours.verdict, "muted")),
        ]
        for row, tables, ours in items
    ]
    return Table(
        name=name,
        title=title,
        header=["", "claim", "published", "paper's own tables", "here", "verdict"],
        rows=rows,
        text_columns=6,
        data=[_record(*item) for item in items],
        folded=folded,
        limit=100,
    )


def _finding(found: ClaimResult) -> Cell:
    if found.verdict == "not measured":
        return Cell("no table", "muted")
    return Cell(found.ours, "" if found.verdict == "agrees" else "bad", (found.why,) if found.why else ())


def _record(row: Mapping[str, str], tables: ClaimResult, ours: ClaimResult) -> dict[str, str]:
    return {
        "id": row["id"],
        "section": row["section"],
        "claim": row["claim"],
        "published": row["value"],
        "unit": row["unit"],
        "paper_tables": tables.ours,
        "paper_tables_verdict": tables.verdict,
        "ours": ours.ours,
        "verdict": ours.verdict,
        "why": ours.why,
    }
