"""Interface of table readers: batches of rows, each value as text."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow as pa

BATCH = 1024
"""Rows of a batch, except for text without quotes, where a batch is a block."""


@dataclass(frozen=True, eq=False)
class TableBatch:
    """Consecutive rows of a file.

    Attributes:
        places: Last line, or number, of each row.
        columns: Values of the requested columns, without nulls.
        problems: Error message by row of this batch; values of such a row are empty.
    """

    places: Sequence[int]
    columns: Sequence[pa.LargeStringArray]
    problems: Mapping[int, str] = field(default_factory=dict)


class TableFile(Protocol):
    """A table file; it may be read several times, one after the other.

    Attributes:
        path: Its path.
        unit: What `TableBatch.places` counts: `line` or `row`.
        head: Location of its header, for messages: `line 1`, or empty.
        names: Its column names as written.
        notes: Differences from a plain CSV file in UTF-8.
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
        """Position of the last iterator."""

    def batches(self, columns: Sequence[int]) -> Iterator[TableBatch]:
        """Its rows from the beginning, with these columns.

        Raises:
            InputError: If the rest of the file cannot be read.
        """


def texts(values: Iterable[str]) -> pa.LargeStringArray:
    """Strings as an Arrow column."""
    return pa.array(values, pa.large_string())


def text_of(value: object) -> str:
    """A value as in a CSV file, a list in brackets."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


def as_texts(column: pa.Array) -> pa.LargeStringArray:
    """A column of any type with values as in a CSV file."""
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
