"""All problems of a benchmark's options, and of the data, backbones and search spaces that they name."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from harness.cli.options import settings
from harness.config.benchmark import DECLARED, TINY_MODEL, flag_of
from harness.core.errors import InputError


def all_problems(
    options: Mapping[str, Any],
    build: Callable[[Mapping[str, Any]], Any],
    check: Callable[[Any], object] | None = None,
) -> list[str]:
    """The problems of a benchmark's options, and of what they name.

    Refused options are left out and the rest is checked, as long as its meaning is unchanged: a task or a backbone is
        never replaced by a default.

    Args:
        options: Options of the command line.
        build: Makes a benchmark from them, see `harness.config.build.build`.
        check: Checks data, backbones and search spaces, see `harness.config.plan.plan`.
    """
    problems: list[str] = []
    left: dict[str, Any] | None = dict(options)
    while left is not None:
        try:
            benchmark = build(settings(left))
        except InputError as error:
            new = [problem for problem in error.problems if problem not in problems]
            problems += new
            left = _without_wrong(left, new) if new else None
            continue
        if check is not None:
            try:
                check(benchmark)
            except InputError as error:
                problems += [problem for problem in error.problems if problem not in problems]
        break
    return problems


def _without_wrong(options: Mapping[str, Any], problems: list[str]) -> dict[str, Any] | None:
    """The options without those that the problems name; `None` if too few would be left."""
    left = dict(options)
    for problem in problems:
        found = re.match(r"`(--[\w-]+)`", problem)
        names = [name for name in DECLARED if found and flag_of(name) == found[1]]
        if not names:
            return None
        name, value = names[0], left.get(names[0])
        if value is None and name == "models":
            left[name] = TINY_MODEL  # its shape is known, so that data and search spaces can be checked
            continue
        wrong = re.search(r"but got '([^']*)'", problem)
        kept = [
            one for one in str(value).split(",") if one.strip() and not (wrong and one.strip() == wrong[1])
        ]
        if (
            name in ("tasks", "models", "methods")
            and wrong
            and kept
            and len(kept) < len(str(value).split(","))
        ):
            left[name] = ",".join(kept)
        elif name in ("tasks", "models", "methods", "suite", "settings", "cluster") or value is None:
            return None
        else:
            left[name] = None
    return left
