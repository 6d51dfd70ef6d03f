"""Significance of the order of methods: paired tests with Holm's correction, mean ranks with a critical difference."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.report import drawing, naming, stats
from harness.report.aggregates import paired_methods
from harness.report.content import (
    Block,
    Cell,
    Field,
    Missing,
    Picture,
    Section,
    Table,
    interval,
    number,
    p_text,
    p_value,
    points,
    signed,
)
from harness.report.drawing import FAINT, INK
from harness.report.outcomes import Outcome, Outcomes
from harness.report.stats import over_random
from harness.runs.intervals import EQUAL, LEAST_SEEDS, Interval, difference_limits
from lingo.metrics import merit

ALPHA = 0.05


def section(outcomes: Outcomes) -> Section:
    """Ranks, tests over datasets, tests within datasets."""
    return Section(
        anchor="significance",
        title="Significance",
        intro="Pairwise tests of differences between methods. p-values are two-sided with Holm's correction over the "
        "tests of one backbone on one family (or dataset), which limits the probability of any false positive among "
        "them to 5 %.",
        blocks=[
            *_controls(outcomes),
            _ranks(outcomes),
            _over_datasets(outcomes),
            _within_datasets(outcomes),
        ],
    )


# --- controls ---------------------------------------------------------------------------------------------


def _controls(outcomes: Outcomes) -> list[Block]:
    """What pretraining is worth: each study beside its control; nothing without controls."""
    found = [(a, b, *over_random(a.metric, a.scores, b.scores)) for a, b in outcomes.controls()]
    if not found:
        return []
    return [
        Table(
            name="controls",
            title="Pretrained and random weights",
            header=[
                "dataset",
                "backbone",
                "method",
                "pretrained",
                "random",
                "pretrained − random",
                "weights",
            ],
            rows=[
                [
                    naming.task_title(a.key.task),
                    naming.backbone_title(a.key.backbone),
                    naming.method_title(a.key.method),
                    f"{number(a.mean)} {naming.metric_title(a.metric)}",
                    number(b.mean),
                    Cell(
                        signed(stats.mean(by)), lines=tuple(filter(None, [interval(*limits) or points(by)]))
                    ),
                    Cell(_weights(a), "muted", (_weights(b),)),
                ]
                for a, b, by, limits in found
            ],
            text_columns=3,
            caption="The same backbone, configuration, data and seeds; the control's weights are drawn anew for "
            "each seed. Brackets: 95 % interval (Student) of the differences by seed, from three seeds on. The "
            "configuration was chosen on the pretrained backbone, which favours it. Weights: first digits of the "
            "digests, of the pretrained and of the random ones.",
            data=[
                {
                    "task": a.key.task,
                    "backbone": a.key.backbone,
                    "method": a.key.method,
                    "metric": a.metric,
                    "pretrained": a.mean,
                    "random": b.mean,
                    "difference": stats.mean(by),
                    "low": limits[0],
                    "high": limits[1],
                    "seeds": len(by),
                }
                for a, b, by, limits in found
            ],
        )
    ]


def _weights(outcome: Outcome) -> str:
    return ", ".join(dict.fromkeys(record.backbone_digest[:8] for record in outcome.finals.values()))


# --- ranks ------------------------------------------------------------------------------------------------


Blocks = dict[tuple[str, str], dict[str, float]]
"""Scores by method of each (dataset, backbone), higher is better."""

LAST = -1e300
NO_INTERVAL = (stats.NAN, stats.NAN)
"""Stand-in for a score that is collapsed or not above a constant prediction; all of these tie for last place."""


def _blocks(outcomes: Outcomes, family: str | None) -> Blocks:
    """Pairs with at least one useful method; others are not ranked."""
    blocks: Blocks = {}
    for outcome in outcomes.main:
        if family in (None, outcome.family):
            merit = outcome.merit if outcome.useful else LAST
            blocks.setdefault((outcome.key.task, outcome.key.backbone), {})[outcome.key.method] = merit
    return {where: scores for where, scores in blocks.items() if max(scores.values()) > LAST}


def _rank(blocks: Blocks, names: frozenset[str]) -> stats.Ranking:
    chosen = [scores for scores in blocks.values() if names <= set(scores)]
    return stats.ranking({m: [scores[m] for scores in chosen] for m in naming.method_order(names)})


def method_ranking(outcomes: Outcomes, family: str | None = None) -> stats.Ranking | None:
    """Mean ranks of methods over (dataset, backbone) pairs that have all of them; `None` without a pair of two.

    If some pairs lack a method (such as Lingo on DNA backbones), the set of methods with the most comparisons,
    (methods - 1) x pairs, is ranked.
    """
    blocks = _blocks(outcomes, family)
    sets = {frozenset(scores) for scores in blocks.values() if len(scores) > 1}
    if not sets:
        return None

    def comparisons(names: frozenset[str]) -> tuple[int, int, list[str]]:
        pairs = sum(names <= set(scores) for scores in blocks.values())
        return (len(names) - 1) * pairs, len(names), sorted(names)

    return _rank(blocks, max(sets, key=comparisons))


def full_ranking(outcomes: Outcomes) -> stats.Ranking | None:
    """Mean ranks of all methods over the pairs that have every one of them; `None` if no pair has."""
    blocks, names = _blocks(outcomes, None), frozenset(outcomes.methods)
    return _rank(blocks, names) if len(names) > 1 and any(names <= set(s) for s in blocks.values()) else None


def _ranks(outcomes: Outcomes) -> Block:
    title = "Mean ranks with critical difference"
    most, full = method_ranking(outcomes), full_ranking(outcomes)
    found = {"all datasets": most}
    if most is not None and full is not None and set(full.names) != set(most.names):
        found["where every method ran"] = full
    if len(outcomes.families) > 1:
        found |= {naming.family_title(f): method_ranking(outcomes, f) for f in outcomes.families}
    shown = {name: r for name, r in found.items() if r is not None and r.blocks >= 2}
    if not shown:
        return Missing(
            title=title,
            why="Requires at least two methods on two (dataset, backbone) pairs.",
        )
    return Picture(
        name="mean_ranks",
        title=title,
        draw=partial(_draw_ranks, shown, outcomes.methods),
        caption="Mean rank (1 is best) over the (dataset, backbone) pairs that have all methods shown. Ties share "
        "their mean rank; methods that are collapsed or not above a constant prediction tie for the last. Bars join "
        "methods whose mean ranks differ by less than the critical difference of Nemenyi's test at 5 % (Demšar 2006): "
        "these results do not distinguish them. p: Friedman's test that all methods are equal. Pairs that share a "
        "dataset or a backbone are not independent, so the test is somewhat anti-conservative.",
    )


def _draw_ranks(shown: dict[str, stats.Ranking], methods: Sequence[str]) -> Figure:
    figure, panels = drawing.small_multiples(shown.items(), (5.2, 2.1), columns=2)
    for panel, (name, found) in panels:
        _draw_ranking(panel, found, methods)
        panel.set_title(
            f"{name}: {found.blocks} pairs, Friedman {p_text(found.p)}, {_critical(found)}",
            fontsize=8.5,
        )
    return figure


def _critical(found: stats.Ranking) -> str:
    few = found.blocks < stats.LEAST_BLOCKS
    return "too few to distinguish" if few else f"CD = {number(found.critical, 2)}"


def _draw_ranking(panel: Axes, found: stats.Ranking, methods: Sequence[str]) -> None:
    """Demšar's diagram: ranks on a line, names at its sides, bars below join methods that cannot be distinguished.

    The better half stands on the left; each name has a level of its own, so that no line crosses a name.
    """
    count = len(found.names)
    half = -(-count // 2)
    panel.plot([1, count], [0, 0], color=FAINT, linewidth=1)
    for place, (name, rank) in enumerate(zip(found.names, found.ranks, strict=True)):
        colour, marker = drawing.method_look(name, methods)
        left = place < half
        level = 0.5 + 0.5 * (place if left else count - 1 - place)
        end = 0.8 if left else count + 0.2
        panel.plot([rank, rank, end], [0, level, level], color=FAINT, linewidth=0.8)
        panel.plot(rank, 0, marker, color=colour, zorder=3)
        text, side = f"{naming.method_title(name)} {rank:.2f}", "right" if left else "left"
        panel.text(end + (-0.05 if left else 0.05), level, text, ha=side, va="center", fontsize=8)
    for level, (first, last) in enumerate(found.cliques):
        height = -0.35 - 0.3 * level
        panel.plot(
            [found.ranks[first] - 0.03, found.ranks[last] + 0.03], [height, height], color=INK, linewidth=3
        )
    panel.set_xlim(0.8 - 0.45 * count, 1.2 * count + 0.2 + 0.25 * count)
    panel.set_ylim(-0.5 - 0.3 * max(1, len(found.cliques)), 0.9 + 0.5 * half)
    panel.set_xticks(range(1, count + 1))
    panel.set_yticks([])
    panel.spines["left"].set_visible(False)
    panel.grid(visible=False)


# --- tests ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairedComparison:
    """Two methods on one backbone.

    Attributes:
        where: Family or dataset, and backbone.
        a, b: The methods; `a` has the better mean, or both have the same.
        wins: Number of the `test.n` pairs on which `a` is better.
        test: The paired test of a - b.
        p_holm: Its p-value after Holm's correction.
        both: 95 % limits of a - b over test rows and seeds together (`harness.runs.intervals.difference_limits`);
            `None` where there are none.
    """

    where: tuple[str, str]
    a: str
    b: str
    wins: int
    test: stats.PairedTest
    p_holm: float = stats.NAN
    both: Interval | None = None


def _compared(
    where: tuple[str, str], a: str, b: str, x: Sequence[float], y: Sequence[float], metric: str
) -> PairedComparison:
    if merit(metric, stats.mean(x)) < merit(metric, stats.mean(y)):
        a, b, x, y = b, a, y, x
    test = stats.paired_t(x, y, bounds=stats.difference_range(metric))
    wins = sum(merit(metric, p) > merit(metric, q) for p, q in zip(x, y, strict=True))
    return PairedComparison(where, a, b, wins, test)


def _corrected(found: Sequence[PairedComparison]) -> list[PairedComparison]:
    """With Holm's correction over the tests of one family (or dataset) on one backbone."""
    made: list[PairedComparison] = []
    for where in dict.fromkeys(c.where for c in found):
        here = [c for c in found if c.where == where]
        adjusted = stats.holm([c.test.p for c in here])
        made += [replace(c, p_holm=p) for c, p in zip(here, adjusted, strict=True)]
    return made


def over_datasets(outcomes: Outcomes) -> list[PairedComparison]:
    """Every pair of methods on each backbone, paired by the datasets of a family (at least three)."""
    found = []
    for family in outcomes.families:
        for backbone in outcomes.backbones:
            for a, b in combinations(outcomes.methods, 2):
                tasks, x, y = paired_methods(outcomes, family, backbone, a, b)
                if len(tasks) >= 3:
                    found.append(_compared((family, backbone), a, b, x, y, outcomes.metric_of(family)))
    return _corrected(found)


def within_datasets(outcomes: Outcomes) -> list[PairedComparison]:
    """The method with the best mean of each (dataset, backbone) against each other one, paired by seed (at
    least three); empty if no method is useful."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes.main:
        groups.setdefault((outcome.key.task, outcome.key.backbone), []).append(outcome)
    found = []
    for where, held in groups.items():
        best = max((o for o in held if o.useful), key=lambda o: o.merit, default=None)
        if best is None:
            continue
        for other in held:
            seeds = sorted(set(best.scores) & set(other.scores))
            if other is not best and len(seeds) >= LEAST_SEEDS:
                x, y = [best.scores[s] for s in seeds], [other.scores[s] for s in seeds]
                both = difference_limits(best.finals, other.finals, best.metric)
                compared = _compared(where, best.key.method, other.key.method, x, y, best.metric)
                if (
                    both is not None and compared.a != best.key.method
                ):  # equal seeds of both have another order
                    both = -both[1], -both[0]
                found.append(replace(compared, both=both))
    return _corrected(found)


def _over_datasets(outcomes: Outcomes) -> Block:
    title = "Pairs of methods over the datasets of a family"
    found = over_datasets(outcomes)
    if not found:
        return Missing(
            title=title, why="Requires two methods with the same backbone on three datasets of a family."
        )
    return _table(
        "tests_over_datasets",
        title,
        found,
        "datasets",
        "Paired t-test of the mean scores, one pair per dataset: does the order generalise to similar datasets? The "
        "method named first has the better mean.",
        folded=len(found) > 24,
    )


def _within_datasets(outcomes: Outcomes) -> Block:
    title = "Best method of each dataset against the others, over seeds"
    found = within_datasets(outcomes)
    if not found:
        return Missing(title=title, why="Requires two methods with at least three common seeds.")
    return _table(
        "tests_within_datasets",
        title,
        found,
        "seeds",
        "Paired t-test, one pair per seed: would other seeds of the same configurations give the same order? The "
        "interval over rows and seeds is a bootstrap of both together, paired by both: would other test rows, too? "
        "Methods that are collapsed or not above a constant prediction are excluded. The best method was selected by "
        "these scores, so its lead is slightly overestimated.",
        folded=len(found) > 24,
    )


def _table(
    name: str, title: str, found: Sequence[PairedComparison], unit: str, caption: str, *, folded: bool = False
) -> Table:
    first = naming.family_title if unit == "datasets" else naming.task_title
    rows: list[list[Field]] = [
        [
            first(c.where[0]),
            naming.backbone_title(c.where[1]),
            f"{naming.method_title(c.a)} {_beside(c)} {naming.method_title(c.b)}",
            f"{c.wins} of {c.test.n}",
            signed(c.test.difference),
            interval(c.test.low, c.test.high) or "–",
            *([interval(*(c.both or NO_INTERVAL)) or "–"] if unit == "seeds" else []),
            number(c.test.t, 2),
            p_value(c.test.p),
            Cell(p_value(c.p_holm), "good" if c.p_holm < ALPHA else ""),
        ]
        for c in found
    ]
    head = "family" if unit == "datasets" else "dataset"
    return Table(
        name=name,
        title=title,
        header=[
            *(head, "backbone", "methods", f"{unit} won", "difference", "95 %"),
            *(["95 %, rows and seeds"] if unit == "seeds" else []),
            *("t", "p", "p (Holm)"),
        ],
        rows=rows,
        text_columns=3,
        caption=f"{caption} If all differences are equal, there is no interval and no p-value.",
        data=[_record(c, head) for c in found],
        folded=folded,
    )


def _beside(c: PairedComparison) -> str:
    return "equals" if abs(c.test.difference) <= EQUAL else "over"


def _record(c: PairedComparison, head: str) -> dict[str, object]:
    return {
        head: c.where[0],
        "backbone": c.where[1],
        "method": c.a,
        "against": c.b,
        "pairs": c.test.n,
        "won": c.wins,
        "difference": c.test.difference,
        "low": c.test.low,
        "high": c.test.high,
        "t": c.test.t,
        "p": c.test.p,
        "p_holm": c.p_holm,
        "rows_and_seeds_low": (c.both or NO_INTERVAL)[0],
        "rows_and_seeds_high": (c.both or NO_INTERVAL)[1],
    }
