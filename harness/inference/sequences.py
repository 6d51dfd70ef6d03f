"""Sequences to predict, read one by one from a file of any size, each with its line and problem, if any."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from harness.core.errors import InputError
from harness.data.columns import find_columns
from harness.data.reading import Reading
from harness.data.table_files import open_table
from lingo.sequences import sequence_problem


@dataclass(frozen=True, slots=True)
class SequenceRecord:
    """One sequence of a file.

    Attributes:
        place: `line 3` of a text, `row 2` of a Parquet file; a FASTA record's is that of its header.
        name: Its name; empty if it has none.
        sequence: As in the file, without line ends.
        problem: Error message; `None` if valid.
    """

    place: str
    name: str
    sequence: str
    problem: str | None = None


class SequenceFile:
    """A file of sequences, see `harness.data.table_files`.

    Needs a column of sequences; one of names (`id`, `name`) is kept, others are ignored.

    Args:
        path: The file.
        asked: Column of `sequence` or `id` where its name does not say it.

    Attributes:
        named: Whether its records have names.
        total: Its size in units of `done`.
        notes: Detected format and columns.

    Raises:
        InputError: If there is no such file, it cannot be read, or a column is missing.
    """

    def __init__(self, path: Path, asked: dict[str, str] | None = None) -> None:
        if not path.is_file():
            what = "a folder" if path.is_dir() else "missing"
            raise InputError(f"`--input` must be a file of sequences, but {path} is {what}.")
        self.path, self._file = path, open_table(path)
        found = find_columns(self._file.names, asked or {}, labels=False)
        if isinstance(found, str):
            raise InputError(f"{path}{', ' * bool(self._file.head)}{self._file.head}: {found}")
        schema = getattr(self._file, "schema", None)
        if schema is not None and not _is_text(kind := schema.types[found.sequence]):
            name = schema.names[found.sequence]
            raise InputError(f"{path}: the column `{name}` must be text, but is {kind}.")
        self._columns = [found.sequence, *([found.id] if found.id is not None else [])]
        self.named, self.total = found.id is not None, self._file.total
        self.notes = [*self._file.notes, *([found.found] if found.found else [])]

    @property
    def done(self) -> int:
        """Position of the last iterator."""
        return self._file.done

    def records(self) -> Iterator[SequenceRecord]:
        """Its records from the first one on; a file may be read several times in succession.

        Raises:
            InputError: If the rest cannot be read.
        """
        empty = True
        for batch in self._file.batches(self._columns):
            sequences = batch.columns[0].to_pylist()
            names = batch.columns[1].to_pylist() if self.named else [""] * len(sequences)
            for row, (place, text, name) in enumerate(zip(batch.places, sequences, names, strict=True)):
                empty, text = False, text.strip()
                problem = batch.problems.get(row) or sequence_problem(text)
                yield SequenceRecord(f"{self._file.unit} {place}", name, text, problem)
        if empty:
            raise InputError(f"{self.path}: must have at least one row below the header, but has none.")


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_one(kind) for is_one in tests) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def open_sequences(path: Path, columns: str = "") -> SequenceFile:
    """A file of sequences, told apart by its content.

    Args:
        columns: What `--columns` says, as in training; of it `sequence` and `id` are used.

    Raises:
        InputError: As `SequenceFile`.
    """
    asked = {name: value for name, value in Reading.of(columns).columns if name in ("sequence", "id")}
    return SequenceFile(path, asked)
