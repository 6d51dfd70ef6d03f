"""The best pair of backbone and method of each family: by how much, and whether it holds over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from harness.reporting import naming, stats
from harness.reporting.aggregates import complete_backbones, family_estimate, mean_baselines
from harness.reporting.content import Cell, Field, Table, interval, number, points, signed
from harness.reporting.outcomes import Outcomes

Pair = tuple[str, str]
"""Backbone, method."""

UNKNOWN = stats.Estimate(stats.NAN)


@dataclass(frozen=True)
class Best:
    """The best pair of a family.

    Attributes:
        family: Its name.
        tasks: Its datasets.
        pair, found: Backbone and method, and their mean over the datasets.
        second: The next best pair; `None` when there is one pair only.
        lead: Mean difference to it, with what the seeds leave open.
        wins: Datasets on which the best pair is above the second.
        baseline: Title and mean of the best simple baseline; `None` without one.
    """

    family: str
    tasks: tuple[str, ...]
    pair: Pair
    found: stats.Estimate
    second: Pair | None = None
    lead: stats.Estimate = UNKNOWN
    wins: int = 0
    baseline: tuple[str, float] | None = None


def best_of(outcomes: Outcomes, family: str) -> Best | None:
    """The pair of backbone and method with the best mean over all datasets of a family; `None` if none has them all."""
    tasks = outcomes.tasks_of(family)
    pairs = [
        (backbone, method)
        for backbone, method in product(outcomes.backbones, outcomes.methods)
        if backbone in complete_backbones(outcomes, family, method)
    ]
    if not pairs:
        return None
    ordered = sorted(pairs, key=lambda pair: -family_estimate(outcomes, tasks, *pair).mean)
    first = ordered[0]
    lines = mean_baselines(outcomes, tasks)
    made = Best(
        family,
        tuple(tasks),
        first,
        family_estimate(outcomes, tasks, *first),
        baseline=max(lines, key=lambda line: line[1], default=None),
    )
    if len(ordered) == 1:
        return made
    second = ordered[1]
    groups = [_seed_differences(outcomes, task, first, second) for task in tasks]
    means = zip(outcomes.means(tasks, *first), outcomes.means(tasks, *second), strict=True)
    return Best(
        *(made.family, made.tasks, made.pair, made.found),
        second=second,
        lead=stats.estimate(groups, stats.difference_range(outcomes.metric_of(family))),
        wins=sum(x > y for x, y in means),
        baseline=made.baseline,
    )


def _seed_differences(outcomes: Outcomes, task: str, first: Pair, second: Pair) -> list[float]:
    a, b = outcomes.get(task, *first), outcomes.get(task, *second)
    if a is None or b is None:
        return []
    common = sorted(set(a.scores) & set(b.scores))
    return [a.scores[seed] - b.scores[seed] for seed in common] or [a.mean - b.mean]


def table(outcomes: Outcomes, found: Sequence[Best]) -> Table:
    rows: list[list[Field]] = []
    for best in found:
        metric = naming.metric_title(outcomes.metric_of(best.family))
        shown = interval(best.found.low, best.found.high) or points(best.found.points)
        lines = tuple(filter(None, [shown, best.found.why]))
        rows.append(
            [
                Cell(naming.family_title(best.family), lines=(_which(best.tasks),)),
                _pair(best.pair),
                Cell(f"{number(best.found.mean)} {metric}", "best", lines),
                "–" if best.second is None else _pair(best.second),
                _lead(best),
                _sure(best),
                "–" if best.baseline is None else _beside(best),
            ]
        )
    return Table(
        name="winners",
        title="What won where",
        header=[
            "datasets",
            "best",
            "mean score",
            "next best",
            "ahead by",
            "on other seeds too?",
            "beside the best simple baseline",
        ],
        rows=rows,
        text_columns=2,
        caption="The pair of backbone and method with the highest mean test score over a family, and the next best "
        "pair of all. In brackets 95 % intervals from the seeds, three of each dataset or more, cut to what the metric "
        "can be. The best of many pairs is partly the luckiest.",
    )


def _which(tasks: Sequence[str]) -> str:
    return naming.task_title(tasks[0]) if len(tasks) == 1 else f"{len(tasks)} datasets"


def _pair(pair: Pair) -> str:
    return f"{naming.backbone_title(pair[0])} · {naming.method_title(pair[1])}"


def _lead(best: Best) -> Field:
    if best.second is None:
        return "–"
    text = interval(best.lead.low, best.lead.high)
    lines = [text] if text else []
    if len(best.tasks) > 1:
        lines.append(f"above on {best.wins} of {len(best.tasks)}")
    return Cell(signed(best.lead.mean), lines=tuple(lines))


def _sure(best: Best) -> Field:
    """Whether the lead holds over seeds."""
    if best.second is None:
        return "–"
    if best.lead.why:
        return Cell("unknown", "muted", (best.lead.why,))
    return Cell("yes", "good") if best.lead.low > 0 else Cell("not sure", "bad")


def _beside(best: Best) -> Cell:
    assert best.baseline is not None
    title, score = best.baseline
    ahead = best.found.mean - score
    return Cell(signed(ahead), "" if ahead > 0 else "bad", (f"{title} {number(score)}",))
