"""Summary of a custom dataset, as plain data for results and as lines for the user."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data.columns import shown
from harness.data.labelled_files import Rows
from harness.data.reading import Reading
from harness.data.sequence_column import LetterCounts, Texts
from lingo.data import Kind
from lingo.sequences import PAIR

MOST = 20
"""Maximum number of classes or outputs that are counted separately."""


def schema_of(
    kind: Kind,
    names: Sequence[str],
    splits: Mapping[str, Rows],
    letters: LetterCounts,
    reading: Reading,
    bad: int,
) -> dict[str, Any]:
    """Summarise a table.

    Returns:
        `rows` by split, `bad_rows`, `lengths` (shortest and longest sequence), `pairs`, `letters` (see
        `harness.data.sequence_column.LetterCounts.report`), `case`, and for at most `MOST` classes or outputs
        `labels`: by split the number of rows of each class or label, or minimum, mean and maximum of each target.
    """
    first = splits["train"].sequences
    every = np.concatenate([_lengths(rows.sequences) for rows in splits.values()])
    every = every - (len(first) > 0 and PAIR in first[0])
    labels = {split: _labels(kind, names, rows) for split, rows in splits.items()}
    return {
        "rows": {split: len(rows.labels) for split, rows in splits.items()},
        "bad_rows": bad,
        "lengths": [int(every.min()), int(every.max())] if len(every) else [],
        "pairs": bool(len(first)) and PAIR in first[0],
        "letters": letters.report(),
        "case": reading.case,
        "labels": labels if all(len(found) <= MOST for found in labels.values()) else {},
    }


def _lengths(sequences: Sequence[str]) -> NDArray[np.int64]:
    return (
        sequences.lengths
        if isinstance(sequences, Texts)
        else np.array([len(text) for text in sequences], np.int64)
    )


def _labels(kind: Kind, names: Sequence[str], rows: Rows) -> dict[str, Any]:
    labels = rows.labels
    if kind == "classification":
        counts = np.bincount(labels, minlength=len(names)).tolist()
        return {names[number] if names else str(number): count for number, count in enumerate(counts)}
    columns = labels.reshape(len(labels), -1).T
    titles = list(names) or ["target"] * len(columns)
    if kind == "multilabel":
        return {name: int(np.nansum(column)) for name, column in zip(titles, columns, strict=True)}
    values = {name: column.astype(np.float64) for name, column in zip(titles, columns, strict=True)}
    return {name: [float(one.min()), float(one.mean()), float(one.max())] for name, one in values.items()}


def schema_lines(schema: Mapping[str, Any]) -> list[str]:
    """The same for the user: one line each for rows and letters."""
    if not schema:
        return []
    labels = schema["labels"]
    parts = []
    for split, count in schema["rows"].items():
        given = [f"{shown(name, 30)} {_count(value)}" for name, value in labels.get(split, {}).items()]
        parts.append(f"{split} {count:,}" + (f" ({', '.join(given)})" if given else ""))
    what = "pairs" if schema["pairs"] else "rows"
    letters = ", ".join(
        f"{name} {count:,}" for name, count in schema["letters"].items() if count or name in "ACGTN"
    )
    low, high = schema["lengths"] or (0, 0)
    return [f"{what}: {'; '.join(parts)}", f"letters of {low:,} to {high:,} a row: {letters}"]


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else " to ".join(f"{one:g}" for one in (value[0], value[2]))
