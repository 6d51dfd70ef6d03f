"""Reading `sequence,label` files, with a message that names file and line for whatever is wrong in them."""

import csv
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness.data.packed import PackedSequences
from lingo.sequences import UNIFORM, sequence_problem

HEADER = ["sequence", "label"]
SHOWN = 5
"""Lines shown of one file; the rest is counted."""

csv.field_size_limit(2**31 - 1)  # of its own accord csv refuses sequences of more than 131,072 letters


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one split.

    Attributes:
        sequences: Upper-case sequences of A, C, G, T and N.
        labels: int64 `[n]`, uint8 `[n, labels]` (multi-label) or float64 `[n]` (regression).
    """

    sequences: Sequence[str]
    labels: NDArray[Any]

    def take(self, indices: NDArray[np.int64]) -> "Rows":
        """These rows alone, in this order."""
        if isinstance(self.sequences, PackedSequences):
            return Rows(self.sequences.take(indices), self.labels[indices])
        return Rows([self.sequences[i] for i in indices.tolist()], self.labels[indices])


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_rows(path: Path, num_labels: int) -> tuple[Rows, list[str]]:
    """Read a file of classified sequences.

    Args:
        path: CSV file in UTF-8 with the header `sequence,label`, any line ending, or a Parquet file with
            these two columns.
        num_labels: Classes C; labels are 0 to C-1.

    Returns:
        The good rows, and one line for each problem (at most `SHOWN` and a count of the rest).
    """
    outcomes = _parquet(path, num_labels) if path.suffix == ".parquet" else _csv(path, num_labels)
    if isinstance(outcomes, str):
        return _nothing(), [f"{path}: {outcomes}"]
    sequences: list[str] = []
    labels: list[int] = []
    problems: list[str] = []
    for place, outcome in outcomes:
        if isinstance(outcome, str):
            problems.append(f"{path}, {place}: {outcome}")
        else:
            sequences.append(outcome[0])
            labels.append(outcome[1])
    if not sequences and not problems:
        problems.append(f"{path}: must have at least one row below the header, but got none.")
    if len(problems) > SHOWN:
        problems[SHOWN:] = [f"{path}: {len(problems) - SHOWN:,} more bad lines."]
    return Rows(sequences, np.asarray(labels, dtype=np.int64)), problems


def _nothing() -> Rows:
    return Rows([], np.zeros(0, dtype=np.int64))


Outcomes = Iterator[tuple[str, str | tuple[str, int]]]
"""Where a row stands (`line 3`, `row 2`), and the row or what is wrong with it."""


def _csv(path: Path, num_labels: int) -> Outcomes | str:
    """The rows, or why the file has none."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        return f"cannot be read ({error.strerror})."
    except UnicodeDecodeError:
        return "must be a text file in UTF-8 with the header `sequence,label`."
    if not text.strip():
        return "is empty; expected the header `sequence,label` and at least one row."
    return _lines(text, num_labels)


def _parquet(path: Path, num_labels: int) -> Outcomes | str:
    """The rows, or why the file has none. Values are checked as those of a CSV file are."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        return f"is not readable as Parquet ({' '.join(str(error).split())[:120]})."
    if [name.strip().casefold() for name in table.column_names] != HEADER:
        return f"the columns must be `sequence,label`, but got `{_short(','.join(table.column_names))}`."
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    texts = (["" if value is None else str(value) for value in row] for row in rows)
    return ((f"row {number}", _row(fields, num_labels)) for number, fields in enumerate(texts, 1))


def _lines(text: str, num_labels: int) -> Outcomes:
    """The rows of a CSV file. A bad header is the only outcome of its file."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader)
        if [name.strip().casefold() for name in header] != HEADER:
            yield (
                f"line {reader.line_num}",
                f"the header must be `sequence,label`, but got `{_short(','.join(header))}`.",
            )
            return
        for fields in reader:
            if fields:
                yield f"line {reader.line_num}", _row(fields, num_labels)
    except csv.Error as error:
        yield f"line {reader.line_num}", f"is not readable as CSV ({error})."


def _row(fields: list[str], num_labels: int) -> str | tuple[str, int]:
    if len(fields) != 2:
        return f"a row must be `sequence,label`, but got {len(fields)} fields."
    sequence, label = fields[0].strip(), fields[1].strip()
    problem = sequence_problem(sequence)
    if problem:
        return problem
    if not (label.isascii() and label.isdigit() and int(label) < num_labels):
        return f"`label` must be a whole number from 0 to {num_labels - 1}, but got {_short(label)!r}."
    return sequence.translate(UNIFORM), int(label)


def _short(text: str, width: int = 40) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
