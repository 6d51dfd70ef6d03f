"""The configuration of a trial that a user adds to a search."""

import math
from collections.abc import Mapping
from typing import Any

from harness.config.search_space import Leaf, SearchSpace
from harness.core.errors import InputError, nearest
from lingo.trial import TrialConfig


def added_values(
    space: SearchSpace,
    given: Mapping[str, Any],
    *,
    parent: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Values of all searched settings: those given, the others of `parent`, or else of the space's first point.

    Args:
        given: Values by their names; texts are read as numbers or choices.
        parent: The configuration of another trial.
        options: Epochs, batch size and seed of the run's trials.

    Raises:
        InputError: with every value that the search space does not have.
    """
    problems: list[str] = []
    base = parent if parent is not None else next(iter(space.first_points), {})
    values = {name: base[name] for name in space.leaves if name in base}
    for name, value in given.items():
        if name in space.leaves:
            values[name] = _read(name, value, space.leaves[name], problems)
        elif name in space.fixed:
            problems.append(
                f"`--set {name}` must be a searched setting, but it is {space.fixed[name]} in this run."
            )
        else:
            problems.append(
                f"`--set` must name searched settings, but got {name!r}.{nearest(name, space.leaves)}"
            )
    lacking = [name for name in space.leaves if name not in values]
    if lacking:
        problems.append(
            f"`--set` must give {', '.join(lacking)} as well: the search space has no first point, and no trial is "
            "named with `--from`."
        )
    if not problems:
        config = space.config(values, **{"seed": 0, **(options or {})})
        problems = [f"`--set`: {problem}" for problem in config.problems(total_steps=space.total_steps)]
    if problems:
        raise InputError(dict.fromkeys(problems))
    return values


def space_of(stored: Mapping[str, Any]) -> SearchSpace:
    """A search space from plan.json."""
    leaves = {
        name: Leaf(**{**leaf, "choices": tuple(leaf["choices"])}) for name, leaf in stored["leaves"].items()
    }
    points = tuple(stored["first_points"])
    return SearchSpace(
        **{**stored, "leaves": leaves, "first_points": points, "notes": tuple(stored["notes"])}
    )


def _read(name: str, value: Any, leaf: Leaf, problems: list[str]) -> Any:
    """A value of a leaf; a line in `problems` where it has no such value."""
    if leaf.type == "choice":
        for choice in leaf.choices:
            if value == choice or str(value) == str(choice):
                return choice
        problems.append(
            f"`--set {name}` must be one of {', '.join(map(str, leaf.choices))}, but got {value!r}."
        )
        return value
    kind = "a whole number" if leaf.type == "int" else "a number"
    reach = f"{kind} from {leaf.low:g} to {leaf.high:g}{f' in steps of {leaf.step:g}' if leaf.step else ''}"
    try:
        number = float(value)
        fits = math.isfinite(number) and math.isclose(leaf.clip(number), number, rel_tol=1e-9, abs_tol=1e-12)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        problems.append(f"`--set {name}` must be {reach}, but got {value}.")
        return (
            TrialConfig.__dataclass_fields__[name].default
            if name in TrialConfig.__dataclass_fields__
            else value
        )
    return round(number) if leaf.type == "int" else number
