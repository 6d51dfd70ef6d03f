"""Checks, before training, for splits from which nothing can be learnt or selected."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import InputError
from harness.data.labelled_files import SHOWN, Rows
from harness.data.tasks import TaskRow

LOOKED_AT = 2000
"""Number of training rows whose tokens are compared."""


UNDEFINED = "undefined test score"
"""Caveat of a task whose test split has a single label."""

UNSEEN = "unseen labels"
"""Caveat of a task with labels in dev or test that do not occur in train."""


ABSENT = "absent classes"
"""Caveat of a task with training classes that are missing from dev or test."""


def look_at_labels(
    row: TaskRow,
    splits: Mapping[str, Rows],
    places: Mapping[str, str],
    *,
    limit: int | None = None,
    names: Sequence[str] = (),
) -> dict[str, str]:
    """Check which labels each split has before anything is trained; of the test split only labels are read.

    Args:
        row: The task.
        splits: Train, dev and test, as they will be used.
        places: The source file of each split.
        limit: Maximum number of rows per split, for messages.
        names: Names of labels or classes, if any.

    Returns:
        Caveats, each with a line that gives the reason: `undefined test score`, `unseen labels`, `absent classes`.

    Raises:
        InputError: if all rows of train have the same label, so that nothing can be learnt; if those of dev have, so
            that trials cannot be ranked; and, without `--limit`, if dev or test has a class that train lacks.
    """
    what = "target" if row.kind == "regression" else "label"
    larger = f"use a larger `--limit` than {limit}" if limit is not None else ""
    wanted = {"train": "nothing can be learnt from one", "dev": f"{row.metric} chooses the trials by them"}
    problems = [
        f"{row.name}: the {split} split must have rows of different {what}s, since {why}, but "
        f"{_alone(splits[split], places[split], what)}; {larger or f'give it rows of other {what}s'}."
        for split, why in wanted.items()
        if _constant(splits[split])
    ]
    marks = {}
    if unseen := _unseen(row, splits, names):
        line = f"{row.name}: train ({places['train']}) has no row of {unseen}; "
        if limit is None and row.kind == "classification":
            problems.append(f"{line}add some, or remove those rows.")
        marks[UNSEEN] = f"{line}no model can predict what it has never seen{f'; {larger}' if larger else ''}."
    if problems:
        raise InputError(problems)
    if absent := _absent(row, splits, names):
        marks[ABSENT] = (
            f"{row.name}: {absent}; scores that average over classes are undefined there, or of the rest."
        )
    if _constant(splits["test"]):
        cure = larger or f"give it rows of other {what}s" + (
            ", or leave its file out to have test cut from train" if row.source and row.path.is_dir() else ""
        )
        marks[UNDEFINED] = (
            f"{row.name}: {row.metric} will be undefined on test, since "
            f"{_alone(splits['test'], places['test'], what)}; {cure}."
        )
    return marks


def _constant(rows: Rows) -> bool:
    """Whether every row has the same label, or each of several labels is constant."""
    return not len(rows.labels) or bool(constant_outputs(rows).all())


def constant_outputs(rows: Rows) -> NDArray[np.bool_]:
    """For each label or target whether all its known values are equal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a label without known values is NaN on both sides
        low, high = np.nanmin(rows.labels, axis=0), np.nanmax(rows.labels, axis=0)
    return np.asarray((low == high) | np.isnan(low))


def _alone(rows: Rows, place: str, what: str) -> str:
    labels = rows.labels
    if len(labels) == 1:
        return f"{place} has one row"
    shown = f" {labels[0]:g}" if len(labels) and labels.ndim == 1 else ""
    return f"all {len(labels):,} rows of {place} have the same {what}{shown}"


def _unseen(row: TaskRow, splits: Mapping[str, Rows], names: Sequence[str]) -> str:
    """Classes or labels that occur in dev or test, but not in train."""
    if row.kind == "regression":
        return ""
    seen = _present(splits["train"], row.kind)
    found: dict[int, list[str]] = {}
    for split in ("dev", "test"):
        for label in sorted(_present(splits[split], row.kind) - seen):
            found.setdefault(label, []).append(split)
    kind = "class" if row.kind == "classification" else "label"
    words = [
        f"{kind} {names[label] if names else label} ({' and '.join(where)} {'has' if len(where) == 1 else 'have'} it)"
        for label, where in found.items()
    ]
    return ", ".join(words[:SHOWN]) + (f" and {len(words) - SHOWN} more" if len(words) > SHOWN else "")


def _absent(row: TaskRow, splits: Mapping[str, Rows], names: Sequence[str]) -> str:
    """Classes of train that are missing from a dev or test split with several classes."""
    if row.kind != "classification":
        return ""
    seen = _present(splits["train"], row.kind)
    found = []
    for split in ("dev", "test"):
        lacking = sorted(seen - _present(splits[split], row.kind))
        if lacking and not _constant(splits[split]):
            some = ", ".join(names[label] if names else str(label) for label in lacking[:SHOWN])
            more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
            found.append(f"{split} has no row of {some}{more}")
    return " and ".join(found)


def _present(rows: Rows, kind: str) -> set[int]:
    """Classes or labels that at least one row has."""
    found = (
        np.unique(rows.labels) if kind == "classification" else np.flatnonzero((rows.labels == 1).any(axis=0))
    )
    return set(found.tolist())


def refuse_same_tokens(
    row: TaskRow, rows: Rows, ids: NDArray[np.integer[Any]], offsets: NDArray[np.int64], backbone: str = ""
) -> None:
    """Refuse a tokenizer that does not distinguish sequences, for instance if every sequence is one unknown word.

    Args:
        backbone: The backbone of the tokenizer.

    Raises:
        InputError: if more than half of the distinct sequences among the first rows have the same tokens as another
            one.
    """
    count = min(LOOKED_AT, len(rows.labels))
    different = len(set(rows.sequences[:count]))
    tokens = len({ids[offsets[i] : offsets[i + 1]].tobytes() for i in range(count)})
    if 2 * tokens < different:
        whose = f"the tokenizer of {backbone}" if backbone else "the backbone's tokenizer"
        raise InputError(
            f"{row.name}: {whose} must tell sequences apart, but {different:,} different ones become {tokens:,} "
            "different rows of tokens; use `--tokenization one_hot` or `kmer`, a larger `--max-length`, or another "
            "backbone."
        )
