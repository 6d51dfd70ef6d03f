"""Tables of the documentation that follow from the code; `python -m tests.reference.docs_tables` writes them anew."""

import re
from collections.abc import Sequence
from pathlib import Path

from harness.data.tasks import SPLITS, SUITES, TASKS
from harness.report.sections.caveats import CAVEATS

DOCS = Path(__file__).resolve().parents[2] / "docs"
PLACE = r"(<!-- table: {name} -->\n)(.*?)(<!-- end of table -->)"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def tasks() -> str:
    head = ["name", "family", "kind", "outputs", "length", *(f"{split} rows" for split in SPLITS), "metric"]
    return markdown(
        head,
        [
            [
                f"`{row.name}`", row.family, row.kind, str(row.num_labels), f"{row.length:,}",
                *(f"{count:,}" if count else "?" for count in row.rows), row.metric,
            ]
            for row in TASKS.values()
        ],
    )  # fmt: skip


def suites() -> str:
    rows = [[f"`{name}`", str(len(names)), ", ".join(names)] for name, names in SUITES.items()]
    return markdown(["suite", "tasks", "names"], rows)


def caveats() -> str:
    return markdown(["caveat", "meaning"], [[f"`{mark}`", text] for mark, text in CAVEATS.items()])


TABLES = {
    "tasks": ("gue.md", tasks),
    "suites": ("gue.md", suites),
    "caveats": ("leaderboard.md", caveats),
}


def written(name: str) -> str | None:
    """The table as the page has it."""
    page = (DOCS / TABLES[name][0]).read_text(encoding="utf-8")
    found = re.search(PLACE.format(name=name), page, re.DOTALL)
    return found[2] if found else None


def main() -> None:
    for name, (file, made) in TABLES.items():
        text = (DOCS / file).read_text(encoding="utf-8")
        table = made()
        text = re.sub(
            PLACE.format(name=name),
            lambda found, table=table: found[1] + table + found[3],
            text,
            flags=re.DOTALL,
        )
        (DOCS / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
