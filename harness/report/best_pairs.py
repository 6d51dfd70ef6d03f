"""The best pair of backbone and method per family, its lead, and whether it is significant over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from harness.report import naming, stats
from harness.report.aggregates import complete_backbones, family_estimate, mean_baselines
from harness.report.content import Cell, Field, Look, Table, interval, number, points, signed
from harness.report.outcomes import Outcome, Outcomes
from harness.runs.intervals import EQUAL, is_collapsed
from lingo.metrics import merit

Pair = tuple[str, str]
"""Backbone, method."""

UNKNOWN = stats.Estimate(stats.NAN)


@dataclass(frozen=True, kw_only=True)
class BestPairs:
    """The best pair of a family.

    Attributes:
        family: Its name.
        tasks: Its datasets.
        pairs: Backbone and method with the best mean over the datasets; several if tied, empty if no pair is useful.
        found: Their mean; of several, that of the first.
        second: The second-best pairs; several if tied, empty if no other pair is useful.
        lead: Mean difference between the first pair and the first second-best one, with its interval over seeds.
        wins: Datasets on which the first pair is above the next.
        fallen: Per pair, the number of datasets on which it is collapsed, and on which it is not above a constant.
        left_out: Pairs excluded because they are collapsed or not above a constant prediction.
        baseline: Title and mean of the best simple baseline; `None` without one.
        ahead: Difference between the best pair and that baseline; NaN if either is missing.
    """

    family: str
    tasks: tuple[str, ...]
    pairs: tuple[Pair, ...] = ()
    found: stats.Estimate = UNKNOWN
    second: tuple[Pair, ...] = ()
    lead: stats.Estimate = UNKNOWN
    wins: int = 0
    fallen: Mapping[Pair, tuple[int, int]] = field(default_factory=dict)
    left_out: tuple[Pair, ...] = ()
    baseline: tuple[str, float] | None = None
    ahead: float = stats.NAN


def best_of(outcomes: Outcomes, family: str) -> BestPairs | None:
    """The pair of backbone and method with the best mean over all datasets of a family; `None` if none has them all.

    A pair is excluded if at least half of its studies are collapsed or not above a constant prediction, or if its mean
    is not above that of constant predictions.
    """
    tasks, metric = outcomes.tasks_of(family), outcomes.metric_of(family)
    complete = [
        (backbone, method)
        for backbone, method in product(outcomes.backbones, outcomes.methods)
        if backbone in complete_backbones(outcomes, family, method)
    ]
    if not complete:
        return None
    able = [pair for pair in complete if _of_use(outcomes, tasks, pair)]
    left_out = tuple(pair for pair in complete if pair not in able)
    lines = mean_baselines(outcomes, tasks, of_use=True)
    baseline = max(lines, key=lambda line: merit(metric, line[1]), default=None)
    fallen = {pair: _fallen(_held(outcomes, tasks, pair)) for pair in able}
    made = BestPairs(family=family, tasks=tuple(tasks), fallen=fallen, left_out=left_out, baseline=baseline)
    if not able:
        return made
    means = {pair: merit(metric, family_estimate(outcomes, tasks, *pair).mean) for pair in able}
    firsts, rest = _tied(means)
    seconds, _ = _tied(rest)
    found = family_estimate(outcomes, tasks, *firsts[0])
    made = replace(made, pairs=firsts, found=found, second=seconds)
    if baseline is not None:
        made = replace(made, ahead=merit(metric, found.mean) - merit(metric, baseline[1]))
    if not seconds:
        return made
    groups = [_seed_differences(outcomes, task, firsts[0], seconds[0]) for task in tasks]
    both = zip(outcomes.means(tasks, *firsts[0]), outcomes.means(tasks, *seconds[0]), strict=True)
    return replace(
        made,
        lead=stats.estimate(groups, stats.difference_range(metric)),
        wins=sum(merit(metric, x) > merit(metric, y) for x, y in both),
    )


def _tied(means: Mapping[Pair, float]) -> tuple[tuple[Pair, ...], dict[Pair, float]]:
    """(the pairs of the highest mean, all others)."""
    top = max(means.values(), default=stats.NAN)
    firsts = tuple(pair for pair, mean in means.items() if mean >= top - EQUAL)
    return firsts, {pair: mean for pair, mean in means.items() if pair not in firsts}


def _held(outcomes: Outcomes, tasks: Sequence[str], pair: Pair) -> list[Outcome]:
    return [o for task in tasks if (o := outcomes.get(task, *pair)) is not None]


def _fallen(held: Sequence[Outcome]) -> tuple[int, int]:
    """(studies that have collapsed, others that are not above a constant prediction)."""
    return sum(o.is_collapsed for o in held), sum(not o.useful and not o.is_collapsed for o in held)


def _of_use(outcomes: Outcomes, tasks: Sequence[str], pair: Pair) -> bool:
    held = _held(outcomes, tasks, pair)
    if is_collapsed(sum(_fallen(held)), len(held)):
        return False
    level = stats.mean([merit(o.metric, o.constant_level) for o in held])
    return level != level or stats.mean([o.merit for o in held]) > level


def _seed_differences(outcomes: Outcomes, task: str, first: Pair, second: Pair) -> list[float]:
    a, b = outcomes.get(task, *first), outcomes.get(task, *second)
    if a is None or b is None:
        return []
    common = sorted(set(a.scores) & set(b.scores))
    return [a.scores[seed] - b.scores[seed] for seed in common] or [a.mean - b.mean]


def table(outcomes: Outcomes, found: Sequence[BestPairs]) -> Table:
    """One row per family: its best and second-best method, and the best simple baseline."""
    return Table(
        name="winners",
        title="Best method per family",
        header=[
            "datasets",
            "best method",
            "mean score",
            "next best method",
            "ahead by",
            "significant over seeds?",
            "difference from the best baseline",
        ],
        rows=[_row(outcomes, best) for best in found],
        text_columns=2,
        caption="The pair of backbone and method with the best mean test score over a family, and the second-best "
        "pair. Pairs that are collapsed or not above a constant prediction on half of the family are excluded, and "
        "named where nothing else is left to compare. Brackets: 95 % intervals over at least three seeds of each "
        "dataset, clipped to the range of the metric. The best of many pairs is partly a result of selection.",
    )


def _row(outcomes: Outcomes, best: BestPairs) -> list[Field]:
    first = Cell(naming.family_title(best.family), lines=(_which(best.tasks),))
    if not best.pairs:
        nothing = Cell("none", "bad", ("no method is above a constant prediction",))
        return [first, nothing, "–", "–", "–", "–", "–" if best.baseline is None else _baseline(best)]
    beaten = best.ahead <= 0
    look: Look = "best" if not beaten and (best.second or best.left_out) else ""
    shown = interval(best.found.low, best.found.high) or points(best.found.points)
    metric = naming.metric_title(outcomes.metric_of(best.family))
    lines = [shown, best.found.why, "not above the best simple baseline" if beaten else ""]
    return [
        first,
        _pairs(best, best.pairs),
        Cell(f"{number(best.found.mean)} {metric}", look, tuple(filter(None, lines))),
        _pairs(best, best.second),
        _lead(best),
        _sure(best),
        "–" if best.baseline is None else _baseline(best),
    ]


def _which(tasks: Sequence[str]) -> str:
    return naming.task_title(tasks[0]) if len(tasks) == 1 else f"{len(tasks)} datasets"


def pair_title(pair: Pair) -> str:
    """`OPT-125M · Lingo`."""
    return f"{naming.backbone_title(pair[0])} · {naming.method_title(pair[1])}"


def _pairs(best: BestPairs, pairs: Sequence[Pair]) -> Field:
    """The pair, or the tied pairs, and the number of datasets on which it fails."""
    if not pairs:
        return Cell("–", "muted", (f"excluded: {_titles(best.left_out)}",)) if best.left_out else "–"
    words = ("collapsed", "no better than a constant")
    failures = [
        ", ".join(
            f"{word} on {many} of {len(best.tasks)}"
            for word, many in zip(words, best.fallen.get(pair, (0, 0)), strict=True)
            if many
        )
        for pair in pairs
    ]
    if len(pairs) == 1:
        alone = "" if best.second else "no other to compare"
        if alone and best.left_out:
            alone = "the only one left: all others are excluded"
        return Cell(pair_title(pairs[0]), lines=tuple(filter(None, [alone, *failures])))
    lines = [f"{pair_title(pair)} {words}".strip() for pair, words in zip(pairs, failures, strict=True)]
    return Cell(f"tie of {len(pairs)}", lines=tuple(lines))


def _titles(pairs: Sequence[Pair], most: int = 4) -> str:
    more = f" and {len(pairs) - most} more" if len(pairs) > most else ""
    return ", ".join(map(pair_title, pairs[:most])) + more


def _lead(best: BestPairs) -> Field:
    if not best.second:
        return "–"
    text = interval(best.lead.low, best.lead.high) or points(best.lead.points)
    lines = [text] if text else []
    if len(best.tasks) > 1:
        lines.append(f"above on {best.wins} of {len(best.tasks)}")
    return Cell(signed(best.lead.mean), lines=tuple(lines))


def _sure(best: BestPairs) -> Field:
    """Whether the lead is significant over seeds."""
    if len(best.pairs) > 1:
        return Cell("tie", "muted")
    if not best.second:
        return "–"
    if best.lead.why:
        return Cell("unknown", "muted", (best.lead.why,))
    resolved = best.lead.low > 0 or best.lead.high < 0
    return Cell("yes", "good") if resolved else Cell("no", "bad")


def _baseline(best: BestPairs) -> Cell:
    assert best.baseline is not None
    title, score = best.baseline
    return Cell(signed(best.ahead), "" if best.ahead > 0 else "bad", (f"{title} {number(score)}",))
