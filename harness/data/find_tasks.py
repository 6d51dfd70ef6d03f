"""Look-up of tasks by name."""

from collections.abc import Iterable
from dataclasses import replace

from harness.core.errors import InputError, nearest
from harness.data.tasks import ALIASES, TASKS, TaskRow, alias
from harness.data.variants import Variant, parted_variant, variant_problem


def find_task(name: str) -> TaskRow:
    """The row of a task by its official name or an alias (`EMP/H3`, `emp_H3`, `H3`, `human_tf_0`), of a custom dataset
    by its path, or of a dataset on the hub; each may have a variant suffix (`EMP/H3@10-shot`).

    Raises:
        InputError: If no task has this name (the message suggests similar names), or a custom dataset has problems.
    """
    base, variant = parted_variant(name)
    if variant.text:
        return _varied(find_task(base), variant)
    from harness.data.hub import PREFIX, own_copy
    from harness.data.own_data import own_task
    from harness.data.reading import is_own

    row = ALIASES.get(alias(name))
    if row is None:
        if is_own(name):
            return own_task(own_copy(name) if name.startswith(PREFIX) else name)
        if alias(name.partition("@")[0]) in ALIASES and (problem := variant_problem(name)):
            raise InputError(problem)
        raise InputError(f"`--tasks` must name known tasks, but got {name!r}.{nearest(name, TASKS)}")
    return row


def _varied(row: TaskRow, variant: Variant) -> TaskRow:
    """The row of a variant. Raises `InputError` if the task cannot have it."""
    if variant.shots is not None and row.kind != "classification":
        what = "numbers" if row.kind == "regression" else "several labels"
        raise InputError(
            f"`--shots` draws rows of each class, but {row.name} has {what} ({row.kind}); leave it out."
        )
    if row.packed or row.generated:
        what = "converted data" if row.packed else "generated"
        raise InputError(f"`--split` and `--shots` are for tables, but {row.name} is {what}; leave it out.")
    return replace(row, name=f"{row.name}{variant.text}", variant=variant)


def find_tasks(names: Iterable[str]) -> list[TaskRow]:
    """The rows of several tasks, each once, in the given order.

    Raises:
        InputError: with one line for each unknown name.
    """
    found: dict[str, TaskRow] = {}
    problems: list[str] = []
    for name in names:
        try:
            row = find_task(name)
            if found.setdefault(row.name, row).source != row.source:
                problems.append(
                    f"`--tasks` must name data of different names, but {found[row.name].given} and {row.given} "
                    f"would both be {row.name}."
                )
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return list(found.values())
