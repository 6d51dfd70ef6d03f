"""A report as files: one self-contained HTML page, Markdown, and separate tables and figures."""

import csv
import io
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq
from markupsafe import Markup

from harness.core.atomic_files import write_whole
from harness.report import drawing
from harness.report.content import (
    Block,
    Field,
    KeyFigures,
    Missing,
    Note,
    Picture,
    Section,
    Table,
    plain_text,
)


@dataclass(frozen=True, kw_only=True)
class Page:
    """A finished report.

    Attributes:
        title: Heading of the page.
        kicker: Small line above the title.
        lead: Summary in one or two sentences.
        banner: What a reader must know before the numbers; each a sentence.
        sections: In order.
        footer: Last line.
        tasks: Of each task its name and its title, as tables and figures have them.
    """

    title: str
    kicker: str
    lead: str
    sections: Sequence[Section]
    footer: str
    banner: Sequence[str] = ()
    tasks: Sequence[tuple[str, str]] = ()

    @cached_property
    def blocks(self) -> list[Block]:
        """All blocks in order."""
        return [block for section in self.sections for block in section.blocks]


def write(report: Page, out: Path) -> list[Path]:
    """Write `report.html`, `report.md`, `tables/` and `figures/` below `out`; files of the same names are replaced.

    Returns:
        The two pages.
    """
    for folder in (out, out / "tables", out / "figures"):
        folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for block in report.blocks:
        if isinstance(block, Picture):
            pictures[block.name] = _draw(block, out / "figures")
        elif isinstance(block, Table):
            _write_table(block, out / "tables")
    write_whole(out / "report.html", html(report, pictures))
    write_whole(out / "report.md", markdown(report))
    return [out / "report.html", out / "report.md"]


def _draw(picture: Picture, folder: Path) -> str:
    """Draw once; write PNG and SVG; return the SVG for the page."""
    with drawing.style():
        svg, png = drawing.render(picture.draw())
    write_whole(folder / f"{picture.name}.svg", svg)
    _write_bytes(folder / f"{picture.name}.png", png)
    return drawing.inline(svg, picture.name, f"{picture.title}. {picture.caption}")


def _write_bytes(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def _write_table(table: Table, folder: Path) -> None:
    records = list(table.records)
    names = list(dict.fromkeys(name for record in records for name in record)) or list(table.header)
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _csv_value(value) for name, value in record.items()} for record in records)
    write_whole(folder / f"{table.name}.csv", text.getvalue())
    columns = {name: _column([record.get(name) for record in records]) for name in names}
    temporary = folder / f".{table.name}.parquet.tmp"
    pq.write_table(pa.table(columns), temporary)
    temporary.replace(folder / f"{table.name}.parquet")


def _csv_value(value: Any) -> Any:
    return "" if isinstance(value, float) and math.isnan(value) else value


def _column(values: list[Any]) -> pa.Array:
    """Numbers if all values are numbers, otherwise text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or kinds == {bool}:
        wanted = pa.float64() if float in kinds else pa.bool_() if kinds == {bool} else pa.int64()
        return pa.array(values, wanted if kinds else pa.string())
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def html(report: Page, pictures: Mapping[str, str]) -> str:
    """The page; `pictures` are SVG by name. All other text is escaped."""
    templates = resources.files("harness.report").joinpath("templates")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(templates.joinpath("report.html.j2").read_text(encoding="utf-8"))
    return template.render(
        title=report.title,
        kicker=report.kicker,
        lead=report.lead,
        banner=report.banner,
        sections=report.sections,
        footer=report.footer,
        tasks=report.tasks,
        pictures=pictures,
        script=Markup(templates.joinpath("report.js").read_text(encoding="utf-8")),
        css=Markup(templates.joinpath("report.css").read_text(encoding="utf-8")),
    )


def markdown(report: Page) -> str:
    """The report as Markdown; figures are links into `figures/`."""
    parts = [f"# {report.title}", report.kicker, report.lead]
    parts += [f"> **Read with care:** {' '.join(report.banner)}"] if report.banner else []
    for section in report.sections:
        parts.append(f"## {section.title}")
        if section.folded:
            parts.append(f"{section.folded} (report.html and tables/ have it)")
            continue
        parts += [section.intro, *(_markdown_block(block) for block in section.blocks)]
    return "\n\n".join(part for part in [*parts, report.footer] if part) + "\n"


def _markdown_block(block: Block) -> str:
    if isinstance(block, Note):
        return "\n".join([_safe(block.text), "", *(f"- {_safe(point)}" for point in block.points)]).strip()
    if isinstance(block, Missing):
        return f"**{_safe(block.title)}**: not drawn. {_safe(block.why)}"
    if isinstance(block, KeyFigures):
        return "\n".join(
            f"- {n}: **{_safe(v)}**{f' ({_safe(line)})' if line else ''}" for n, v, line in block.items
        )
    if isinstance(block, Picture):
        title = _safe(block.title)
        return f"### {title}\n\n![{title}](figures/{block.name}.png)\n\n{_safe(block.caption)}"
    return _markdown_table(block)


def _markdown_table(table: Table) -> str:
    rule = ["---" if i < table.text_columns else "---:" for i in range(len(table.header))]
    rows = [[_markdown_field(value) for value in row] for row in table.rows[: table.limit]]
    lines = ["| " + " | ".join(line) + " |" for line in ([_safe(h) for h in table.header], rule, *rows)]
    more = len(table.rows) - table.limit
    note = [f"{more:,} more rows in `tables/{table.name}.csv`."] if more > 0 else []
    return "\n\n".join(
        filter(None, [f"### {_safe(table.title)}", _safe(table.caption), "\n".join(lines), *note])
    )


def _markdown_field(value: Field) -> str:
    text = _safe(plain_text(value))
    look = "" if isinstance(value, str) else value.look
    return f"**{text}**" if look == "best" else f"*{text}*" if look == "second" else text


def _safe(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def today() -> str:
    """Today's date, UTC."""
    return time.strftime("%d %B %Y", time.gmtime())
