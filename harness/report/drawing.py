"""Style of figures: one colour and marker per method, SVG with the light or dark colours of the page.

The colours are those of Okabe and Ito, suitable for colour-blind readers; markers encode the same information.
"""

import io
import logging
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, Formatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from harness.report import stats
from harness.report.content import amount
from harness.report.outcomes import Outcome
from harness.runs.front import pareto_front
from harness.runs.intervals import LEAST_SEEDS, range_of, why_none
from lingo.metrics import merit

log = logging.getLogger(__name__)

Item = TypeVar("Item")


INK, FAINT, PAPER = "#1b1f24", "#9aa3ad", "#fefefe"
BLUE, ORANGE, GREEN, SKY, VERMILION, PURPLE = "#0072b2", "#e69f00", "#009e73", "#56b4e9", "#d55e00", "#cc79a7"
VARIABLES = {
    INK: "--ink",
    FAINT: "--faint",
    PAPER: "--paper",
    BLUE: "--blue",
    ORANGE: "--orange",
    GREEN: "--green",
    SKY: "--sky",
    VERMILION: "--vermilion",
    PURPLE: "--purple",
}
"""Colours of figures and the CSS variables that replace them."""

METHOD_LOOK = {
    "fmft": (INK, "s"),
    "lora": (SKY, "v"),
    "adalora": (GREEN, "^"),
    "ars": (ORANGE, "D"),
    "lingo": (BLUE, "o"),
}
"""Colour and marker of each method; ARS and Lingo in the paper's orange and blue (figure 4)."""

OTHERS = [(PURPLE, "P"), (VERMILION, "X"), (FAINT, "*")]
MARKERS = "osD^vP*X<>"
LINES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 4)))

DASHES: tuple[Any, ...] = ("--", "-.", (0, (8, 3)), (0, (5, 1, 1, 1, 1, 1)))

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "lines.markersize": 6,
}


@contextmanager
def style() -> Iterator[None]:
    """Apply the report's style."""
    with mpl.rc_context(STYLE):
        yield


def canvas(columns: int, rows: int, size: tuple[float, float], **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `columns` x `rows` panels of `size` inches each, and its panels row by row."""
    figure = Figure(figsize=(columns * size[0], rows * size[1]))
    panels = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(panels.flat)


def small_multiples(
    items: Collection[Item], size: tuple[float, float], *, columns: int = 3, **options: Any
) -> tuple[Figure, Iterator[tuple[Axes, Item]]]:
    """A figure with a panel of `size` inches for each item, and each panel with its item; other panels are blank."""
    across = max(1, min(columns, len(items)))
    figure, panels = canvas(across, -(-len(items) // across), size, **options)
    for panel in panels[len(items) :]:
        panel.axis("off")
    return figure, zip(panels, items, strict=False)


def method_look(name: str, methods: Sequence[str]) -> tuple[str, str]:
    """(colour, marker) of a method; methods not in the paper get the remaining ones, in order."""
    if name in METHOD_LOOK:
        return METHOD_LOOK[name]
    extra = [method for method in methods if method not in METHOD_LOOK]
    return OTHERS[extra.index(name) % len(OTHERS)] if name in extra else OTHERS[-1]


def legend_below(figure: Figure, columns: int = 6) -> Figure:
    """One legend for the whole figure, each entry once, in as many rows as necessary."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        widest = 0.55 + 0.06 * max(map(len, entries))  # inches: the sign and its distances, a letter
        columns = max(1, min(columns, len(entries), int(figure.get_figwidth() / widest)))
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns)
    return figure


def baseline_lines(panel: Axes, lines: Sequence[tuple[str, float]], *, vertical: bool = False) -> None:
    """A thin line at each simple baseline's score."""
    for number, (title, score) in enumerate(lines):
        options: dict[str, Any] = {
            "color": INK,
            "linewidth": 0.9,
            "linestyle": DASHES[number % len(DASHES)],
            "label": f"baseline {title}",
            "zorder": 1,
        }
        if vertical:
            panel.axvline(score, **options)
        else:
            panel.axhline(score, **options)


def render(figure: Figure) -> tuple[str, bytes]:
    """The figure as SVG and as PNG at 150 dpi on white, with one layout for both."""
    figure.set_facecolor("white")
    figure.set_dpi(150)
    raster: Any = FigureCanvasAgg(figure)
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
    figure.set_layout_engine("none")
    png, svg = io.BytesIO(), io.StringIO()
    raster.print_png(png)
    figure.set_dpi(72)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        vectors: Any = FigureCanvasSVG(figure)
        vectors.print_svg(svg, metadata={"Date": None})
    return svg.getvalue().replace("</svg>", f"{_hints(figure)}</svg>"), png.getvalue()


MOST_HINTS = 40
"""Maximum number of points of a curve that tell their values."""


def _hints(figure: Figure) -> str:
    """Invisible circles on the points of all labelled lines of a figure at 72 dpi; each has its values as its title,
    which browsers show. Labels that begin with an underscore are in no legend, but here."""
    height, made = figure.get_figheight() * 72, []
    for panel in figure.axes:
        bars = {b.lines[0]: str(b.get_label()) for b in panel.containers if isinstance(b, ErrorbarContainer)}
        for line in panel.lines:
            label = bars.get(line, str(line.get_label())).removeprefix("_")
            if (
                label.startswith(("child", "nolegend", "Pareto front"))
                or line.get_transform() != panel.transData
            ):
                continue
            made += [_hint(panel, label, x, y, height) for x, y in _some_points(line)]
    return "".join(made)


def _some_points(line: Line2D) -> list[tuple[float, float]]:
    """Its points, of many some at equal distances, the first and the last among them."""
    points = [(x, y) for x, y in np.asarray(line.get_xydata(), dtype=float).tolist() if x == x and y == y]
    if len(points) <= MOST_HINTS:
        return points
    return [points[i] for i in np.linspace(0, len(points) - 1, MOST_HINTS).round().astype(int)]


def _hint(panel: Axes, label: str, x: float, y: float, height: float) -> str:
    across, up = panel.transData.transform((x, y))
    values = [_value(axis, place, (x, y)[place]) for place, axis in enumerate((panel.xaxis, panel.yaxis))]
    words = "\n".join(filter(None, [panel.get_title(loc="left"), label, *values]))
    circle = f'<circle class="hint" cx="{across:.1f}" cy="{height - up:.1f}" r="6" fill-opacity="0">'
    return f"{circle}<title>{escape(words)}</title></circle>"


def _value(axis: Axis, place: int, value: float) -> str:
    """`test MCC 0.712`; on an axis of names the nearest name. `place`: 0 for x, 1 for y."""
    if isinstance(axis.get_major_formatter(), FixedFormatter | FuncFormatter):
        names = axis.get_majorticklabels()
        return min(names, key=lambda name: abs(name.get_position()[place] - value)).get_text()
    return f"{axis.get_label_text()} {amount(value, 4)}".strip()


WIDE = 740
"""Width in pixels above which a figure has the whole width of the page, its caption below it."""


def inline(svg: str, name: str, words: str) -> str:
    """The SVG for embedding in the page: unique ids, no fixed size, colours and fonts of the page, short numbers.

    Args:
        svg: Output of `render`.
        name: Prefix of ids, which must be unique in the page.
        words: Alternative text.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.S)
    width = float(re.findall(r'width="([\d.]+)pt"', body)[0])
    body = re.sub(r' (?:width|height)="[\d.]+pt"', "", body, count=2)
    body = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(-?\d+\.\d\d)\d+", r"\1", tag[0]), body)
    body = re.sub(r'(<image\b[^>]*?) id="[^"]*"', r"\1", body)  # equal images have equal ids
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'xlink:href="#', f'xlink:href="#{name}-', body)
    body = re.sub(r"fill: (?:white|#ffffff)\b", "fill: none", body)
    body = re.sub(r" font-family: [^;\"]*;", "", body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    wide = ' class="wide"' if width * 4 / 3 > WIDE else ""
    head = (
        f'<svg{wide} role="img" aria-label="{escape(words, quote=True)}" style="width:{width * 4 / 3:.0f}px"'
    )
    return body.replace("<svg", head, 1)


def count_axis(panel: Axes, title: str) -> None:
    """An axis of counts, `6.2M`: logarithmic, or linear where the largest is less than three times the smallest."""
    low, high = panel.dataLim.intervalx
    if 0 < low <= high < 3 * low:  # a logarithmic axis would have one label or none
        panel.xaxis.set_major_locator(MaxNLocator(nbins=3, min_n_ticks=2))
    else:
        panel.set_xscale("log")
        if 0 < low <= high < 30 * low:
            panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(Amounts())
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_xlabel(title)


class Amounts(Formatter):
    """Labels like `6.2M`, with as many digits as it takes to tell them apart."""

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """The labels of all ticks."""
        for digits in range(3, 9):
            texts = [amount(value, digits) for value in values]
            if len(set(texts)) == len(set(values)):
                break
        return texts

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label of one tick."""
        return amount(x)


def draw_front(panel: Axes, points: Sequence[tuple[float, float]], metric: str) -> None:
    """Dotted line: the Pareto front of cost and score (left is cheaper; up is better, of an error down)."""
    front = pareto_front([(cost, merit(metric, score)) for cost, score in points])
    if len(front) > 1:
        panel.plot(
            *zip(*(points[i] for i in front), strict=True),
            ":",
            color=INK,
            linewidth=1.2,
            label="Pareto front",
        )


def seeds_point(panel: Axes, outcome: Outcome, colour: str, marker: str, label: str = "") -> None:
    """A study's score against its trained parameters, with one sd over seeds; with fewer than three, the individual
    seeds."""
    low, high = range_of(outcome.metric)
    bars = None
    if not why_none(outcome.values):
        bars = [[min(outcome.sd, outcome.mean - low)], [min(outcome.sd, high - outcome.mean)]]
    elif len(outcome.values) < LEAST_SEEDS:
        seeds = [outcome.parameters] * len(outcome.values)
        panel.plot(seeds, outcome.values, "_", color=colour, zorder=2)
    panel.errorbar(
        outcome.parameters,
        outcome.mean,
        yerr=bars,
        color=colour,
        marker=marker,
        linestyle="none",
        elinewidth=1,
        capsize=2,
        label=label,
        zorder=3,
    )


def interval_point(
    panel: Axes, found: stats.Estimate, place: float, look: tuple[str, str], label: str = ""
) -> None:
    """A mean with its horizontal 95 % interval; without one, the seeds of a single dataset."""
    if found.why:
        panel.plot(found.points, [place] * len(found.points), "|", color=look[0], zorder=2)
    panel.errorbar(
        found.mean,
        place,
        xerr=None if found.why else [[found.mean - found.low], [found.high - found.mean]],
        color=look[0],
        marker=look[1],
        linestyle="none",
        capsize=2,
        label=label,
        zorder=3,
    )
