"""Parts that several pictures share: a study as a point, the Pareto line, axes of counts."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from harness.intervals import LEAST_SEEDS, range_of, why_none
from harness.reporting import stats
from harness.reporting.content import amount
from harness.reporting.drawing import INK
from harness.reporting.outcomes import Outcome


def count_axis(panel: Axes, title: str) -> None:
    """A logarithmic axis of counts, `6.2M`."""
    panel.set_xscale("log")
    low, high = panel.dataLim.intervalx
    if 0 < low <= high < 30 * low:  # powers of ten alone would leave one or no label
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_xlabel(title)


def draw_front(panel: Axes, points: Sequence[tuple[float, float]]) -> None:
    """The dotted line through the Pareto front (cheaper to the left, better to the top)."""
    front = stats.pareto_front(points)
    if len(front) > 1:
        panel.plot(
            *zip(*(points[i] for i in front), strict=True),
            ":",
            color=INK,
            linewidth=1.2,
            label="Pareto front",
        )


def seeds_point(panel: Axes, outcome: Outcome, colour: str, marker: str, label: str = "") -> None:
    """A study's score over its trained parameters, with one sd over seeds; of fewer than three the seeds themselves."""
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
    """A mean with its 95 % interval, lying; where there is none, the seeds of a single dataset beside it."""
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
