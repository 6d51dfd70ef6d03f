"""Scopes of a search: which studies share their configurations, and the space that they share."""

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.config.search_space import Leaf, SearchSpace
from harness.core.errors import InputError
from lingo.methods import METHODS
from lingo.trial import TrialConfig

LARGEST_GRID = 100_000
SHARED_START = ("p", "bT", "delta_T")
"""Settings that change nothing before a trial's first allocation of ranks (algorithm 1 of the paper)."""


def merge(spaces: Sequence[SearchSpace]) -> SearchSpace:
    """The space that the studies of one group share: of each setting the values that all of them allow.

    Fixed settings stay each study's own, except that `b0`, which bounds `bT`, becomes the smallest. First points
    are those of the first space, clipped.

    Raises:
        InputError: when a setting has no common value, or is searched in one space and not in another.
    """
    first = spaces[0]
    if all(space == first for space in spaces):
        return first
    problems, leaves = [], {}
    for name, leaf in first.leaves.items():
        others = [space.leaves[name] for space in spaces if name in space.leaves]
        common = _common([leaf, *others]) if len(others) == len(spaces) else None
        if common is None:
            problems.append(
                f"{first.source}: `{name}` must have values that all tasks of a scope share, but the spaces of "
                f"{len(spaces)} tasks have none; use `--scope task` or change its range."
            )
        else:
            leaves[name] = common
    if problems:
        raise InputError(problems)
    fixed = {name: value for name, value in first.fixed.items() if all(name in s.fixed for s in spaces)}
    if "b0" in fixed:
        fixed["b0"] = min(space.fixed["b0"] for space in spaces)
    points = [
        {name: leaves[name].clip(value) for name, value in point.items()} for point in first.first_points
    ]
    unique = tuple(point for index, point in enumerate(points) if point not in points[:index])
    return replace(first, leaves=leaves, fixed=fixed, first_points=unique, notes=())


def _common(leaves: Sequence[Leaf]) -> Leaf | None:
    first = leaves[0]
    if first.type == "choice":
        choices = tuple(value for value in first.choices if all(value in leaf.choices for leaf in leaves[1:]))
        return replace(first, choices=choices) if choices else None
    low, high = max(leaf.low for leaf in leaves), min(leaf.high for leaf in leaves)
    if first.step:
        low = first.low + math.ceil((low - first.low) / first.step) * first.step
    return replace(first, low=low, high=high) if low <= high else None


def search_problems(space: SearchSpace, *, searcher: str, siblings: int = 1) -> list[str]:
    """What speaks against searching `space` in this way, one line each; found before anything starts."""
    problems = []
    if searcher == "grid":
        problems += [
            f"{space.source}: `--searcher grid` needs finitely many values, but `{name}` is a continuous range; "
            "give it `step` or `choices`."
            for name, leaf in space.leaves.items()
            if _size(leaf) is None
        ]
        points = math.prod(_size(leaf) or 1 for leaf in space.leaves.values())
        if not problems and points > LARGEST_GRID:
            problems.append(
                f"{space.source}: a grid must have at most {LARGEST_GRID} points, but got {points}; give its "
                "ranges `step` or `choices`."
            )
    if siblings > 1 and METHODS[space.method].has_budget:
        free = [name for name in SHARED_START if name in space.leaves]
        if not free:
            problems.append(
                f"{space.source}: `--share-prefix` must have p, bT or delta_T to search, but all are fixed."
            )
        elif searcher in ("grid", "gp"):
            problems.append(f"`--share-prefix` goes with `--searcher tpe` or `random`, but got {searcher}.")
    return problems


def siblings_of(space: SearchSpace, siblings: int) -> int:
    """How many trials of each drawn configuration make sense: one where nothing shares a start."""
    shares = METHODS[space.method].has_budget and any(name in space.leaves for name in SHARED_START)
    return siblings if shares else 1


def grid(
    space: SearchSpace, first_points: Sequence[Mapping[str, Any]] = (), *, seed: int
) -> list[dict[str, Any]]:
    """Every configuration of a finite space once: the first points that lie on the grid, then a seeded order.

    The order does not depend on how many are wanted, so that a grid can be continued. Configurations with
    `bT` above `b0` are left out.

    Raises:
        InputError: see `search_problems`.
    """
    problems = search_problems(space, searcher="grid")
    if problems:
        raise InputError(problems)
    names = list(space.leaves)
    points = [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*(_values(space.leaves[name]) for name in names))
    ]
    points = [point for point in points if _in_order(space, point)]
    random.Random(seed).shuffle(points)
    first = [dict(point) for point in first_points if dict(point) in points]
    return first + [point for point in points if point not in first]


def _size(leaf: Leaf) -> int | None:
    """How many values a leaf has; `None` for a continuous range."""
    if leaf.type == "choice":
        return len(leaf.choices)
    step = leaf.step or (1 if leaf.type == "int" else None)
    return None if step is None else int((leaf.high - leaf.low) / step + 1e-9) + 1


def _values(leaf: Leaf) -> list[Any]:
    if leaf.type == "choice":
        return list(leaf.choices)
    step, kind = leaf.step or 1, int if leaf.type == "int" else float
    return [kind(leaf.low + index * step) for index in range(_size(leaf) or 0)]


def _in_order(space: SearchSpace, point: Mapping[str, Any]) -> bool:
    if not METHODS[space.method].has_budget:
        return True
    b0, bT = (point.get(name, space.fixed.get(name, getattr(TrialConfig, name))) for name in ("b0", "bT"))
    return bool(b0 >= bT)


def trials_of(space: SearchSpace, *, searcher: str, num_samples: int) -> int:
    """How many trials a search of `num_samples` can have: a grid may have fewer points, and where nothing is searched
    there is one."""
    if not space.leaves:
        return 1
    return min(num_samples, len(grid(space, seed=0))) if searcher == "grid" else num_samples
