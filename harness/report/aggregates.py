"""Aggregates for several figures and tables: means over families, pairs of methods, simple baselines."""

import math
from collections.abc import Sequence

from harness.report import naming, stats
from harness.report.outcomes import Outcomes
from harness.runs.intervals import range_of


def baselines(outcomes: Outcomes, task: str, split: str = "test") -> list[tuple[str, float]]:
    """Title and mean score of a task's simple baselines on the test or the dev split."""
    return [(o.title, o.mean if split == "test" else o.dev_mean) for o in outcomes.baselines(task)]


def mean_baselines(
    outcomes: Outcomes, tasks: Sequence[str], *, of_use: bool = False
) -> list[tuple[str, float]]:
    """Title and mean score of the simple baselines that every one of the tasks has, if `of_use` above a constant."""
    found = [o for task in tasks for o in outcomes.baselines(task) if o.useful or not of_use]
    order = naming.method_order(o.key.method for o in found)
    titles = {o.title: None for o in sorted(found, key=lambda o: (o.control, order.index(o.key.method)))}
    held = {(o.key.task, o.title): o.mean for o in found}
    return [
        (title, stats.mean([held[task, title] for task in tasks]))
        for title in titles
        if all((task, title) in held for task in tasks)
    ]


def complete_backbones(outcomes: Outcomes, family: str, method: str) -> list[str]:
    """Backbones on which a method has a score for every task of a family."""
    tasks = outcomes.tasks_of(family)
    return [
        b for b in outcomes.backbones if tasks and not any(map(math.isnan, outcomes.means(tasks, b, method)))
    ]


def family_estimate(outcomes: Outcomes, tasks: Sequence[str], backbone: str, method: str) -> stats.Estimate:
    """Mean over tasks with its interval over seeds; NaN if a task is missing."""
    found = [outcomes.get(task, backbone, method) for task in tasks]
    metric = next((o.metric for o in found if o is not None), "")
    return stats.estimate([o.values if o is not None else [] for o in found], range_of(metric))


def paired_methods(
    outcomes: Outcomes, family: str, backbone: str, a: str, b: str
) -> tuple[list[str], list[float], list[float]]:
    """Tasks of a family with scores of both methods on a backbone, and their mean scores."""
    tasks = outcomes.tasks_of(family)
    pairs = [
        (task, x, y)
        for task, x, y in zip(
            tasks, outcomes.means(tasks, backbone, a), outcomes.means(tasks, backbone, b), strict=True
        )
        if x == x and y == y
    ]
    return [t for t, *_ in pairs], [x for _, x, _ in pairs], [y for *_, y in pairs]
