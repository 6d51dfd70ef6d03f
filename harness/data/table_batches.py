"""What every reader of tables gives: batches of rows, each value as text."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow as pa

BATCH = 1024
"""Rows of a batch, apart from those of a text without quotes, which are a block's."""


@dataclass(frozen=True, eq=False)
class TableBatch:
    """Some rows in the file's order.

    Attributes:
        places: Line (where it ends) or number of each row.
        columns: Values of the columns that were asked for, without nulls.
        problems: By row of this batch what keeps it from being one; its values are empty.
    """

    places: Sequence[int]
    columns: Sequence[pa.LargeStringArray]
    problems: Mapping[int, str] = field(default_factory=dict)


class TableFile(Protocol):
    """A file of rows; it may be read several times, one after the other.

    Attributes:
        path: Where it is.
        unit: What `TableBatch.places` counts: `line` or `row`.
        head: Where its columns stand, for messages: `line 1`, or empty.
        names: Its columns as they are written.
        notes: What was found of its form beside a plain CSV file in UTF-8.
        total: Its size in units of `done`.
    """

    path: Path
    unit: str
    head: str
    names: Sequence[str]
    notes: list[str]
    total: int

    @property
    def done(self) -> int:
        """How far the last iterator is."""

    def batches(self, columns: Sequence[int]) -> Iterator[TableBatch]:
        """Its rows from the first one on, with these columns.

        Raises:
            InputError: If what follows cannot be read at all.
        """


def texts(values: Iterable[str]) -> pa.LargeStringArray:
    """Strings as a column."""
    return pa.array(values, pa.large_string())


def text_of(value: object) -> str:
    """A value as a CSV file would have it, a list in brackets."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


def as_texts(column: pa.Array) -> pa.LargeStringArray:
    """A column of any type as a CSV file would have it."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_floating(kind):
        column = column.cast(pa.float64())
    plain_types = [pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null]
    plain_types += [pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean]
    if any(is_one(kind) for is_one in plain_types):
        return column.cast(pa.large_string()).fill_null("")
    return texts(text_of(value) for value in column.to_pylist())
