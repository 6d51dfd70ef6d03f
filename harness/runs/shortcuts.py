"""Tasks that a rule without biology solves about as well as the best method."""

from collections.abc import Iterable

from lingo.methods.rules import RULES

SHORTCUT = "shortcut"
"""Caveat of every score of a task that a rule solves about as well."""

NEAR = 0.02
"""Difference to the best method, in the task's metric, up to which a rule solves the task."""


def shortcut_tasks(scores: Iterable[tuple[str, str, float]]) -> dict[str, str]:
    """Tasks whose best rule is at most `NEAR` below the best other method, with the name of that rule.

    Args:
        scores: (task, method, mean test score, higher is better) of each study above a constant prediction.
    """
    rules: dict[str, tuple[float, str]] = {}
    others: dict[str, float] = {}
    for task, method, score in scores:
        if method in RULES:
            rules[task] = max(rules.get(task, (score, method)), (score, method))
        else:
            others[task] = max(others.get(task, score), score)
    found = {task: name for task, (score, name) in rules.items() if score >= others.get(task, score) - NEAR}
    return {task: name for task, name in found.items() if task in others}
