"""Parts that several pictures share: a study as a point, the Pareto line, axes of counts."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

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
    """A study's score over its trained parameters, with one sd over seeds."""
    error = outcome.sd if outcome.sd == outcome.sd else 0.0
    panel.errorbar(
        outcome.parameters,
        outcome.mean,
        yerr=error,
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
    """A mean with its 95 % interval, lying."""
    panel.errorbar(
        found.mean,
        place,
        xerr=found.mean - found.low if found.low == found.low else 0.0,
        color=look[0],
        marker=look[1],
        linestyle="none",
        capsize=2,
        label=label,
        zorder=3,
    )
