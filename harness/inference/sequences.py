"""Sequences to predict, one after the other from a file of any size, each with its line and what is wrong with it."""

import csv
import gzip
import io
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.errors import InputError
from lingo.checkpoint import one_line
from lingo.sequences import sequence_problem

FASTA = (".fa", ".fasta", ".fna", ".ffn", ".fas")
NAMES = ("id", "name")
GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
BATCH = 1024
"""Rows of a Parquet file read at once."""


@dataclass(frozen=True, slots=True)
class SequenceRecord:
    """One sequence of a file.

    Attributes:
        place: `line 3` of a text, `row 2` of a Parquet file; a FASTA record's is that of its header.
        name: Its name; empty where it has none.
        sequence: As it is in the file, without line ends.
        problem: What is wrong with it; `None` for a good one.
    """

    place: str
    name: str
    sequence: str
    problem: str | None = None


class SequenceFile(Protocol):
    """A file of sequences."""

    named: bool
    """Whether its records have names."""

    total: int
    """Its size in units of `done`."""

    def records(self) -> Iterator[SequenceRecord]:
        """Its records from the first one on; a file may be read several times, one after the other.

        Raises:
            InputError: If what follows cannot be read at all.
        """

    @property
    def done(self) -> int:
        """How far the last iterator is."""


def open_sequences(path: Path) -> SequenceFile:
    """A FASTA, CSV (both may be gzipped) or Parquet file of sequences, told apart by name and content.

    CSV and Parquet need a column `sequence`; a column `id` or `name` is kept, others are left aside.

    Raises:
        InputError: If there is no such file, its kind is not known, or a column is missing.
    """
    if not path.is_file():
        what = "a folder" if path.is_dir() else "not there"
        raise InputError(f"`--input` must be a file of sequences, but {path} is {what}.")
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    if not start:
        raise InputError(f"{path}: is empty; expected sequences.")
    ends = [end.lower() for end in path.suffixes]
    if start == PARQUET:
        return ParquetFile(path)
    zipped = start.startswith(GZIP)
    kind = next((end for end in reversed(ends) if end != ".gz"), "")
    if kind in FASTA:
        return FastaFile(path, zipped)
    if kind == ".csv":
        return CsvFile(path, zipped)
    if kind == ".parquet":
        what = (
            "is gzipped; Parquet is compressed inside, so unpack it first"
            if zipped
            else "is not readable as one"
        )
        raise InputError(f"{path}: must be a Parquet file, but {what}.")
    raise InputError(
        f"`--input` must end with {', '.join(FASTA[:3])}, .csv (or these with .gz) or .parquet, but got {path.name}."
    )


class _TextFile:
    """A text file read line by line, its place in bytes as they are on disk."""

    named = True

    def __init__(self, path: Path, zipped: bool) -> None:
        self.path, self._zipped = path, zipped
        self.total = max(1, path.stat().st_size)
        self._raw: IO[bytes] | None = None

    @property
    def done(self) -> int:
        try:
            return self._raw.tell() if self._raw is not None else 0
        except ValueError:  # closed at its end
            return self.total

    def _lines(self) -> Iterator[str]:
        """Lines in UTF-8; bytes that are not show as a replacement letter, which no sequence may hold."""
        try:
            with self.path.open("rb") as raw:
                self._raw = raw
                stream: Any = gzip.GzipFile(fileobj=raw) if self._zipped else raw
                yield from io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{self.path}: is damaged or cannot be read ({one_line(error)}).") from None


class FastaFile(_TextFile):
    """Records of a header `>name description` and any number of lines of sequence; `;` begins a comment."""

    def records(self) -> Iterator[SequenceRecord]:
        """As `SequenceFile.records`. The name is the header's first word."""
        header, name, number = "", "", 0
        parts: list[str] = []
        for number, line in enumerate(self._lines(), 1):
            if line.startswith(">"):
                if header:
                    yield _record(header, name, "".join(parts))
                words = line[1:].split(maxsplit=1)
                header, name, parts = f"line {number}", words[0] if words else "", []
            elif line.startswith(";"):
                continue
            elif header:
                parts.append(line.strip())
            elif line.strip():
                raise InputError(
                    f"{self.path}, line {number}: a FASTA file must begin with a header `>name`, but got "
                    f"{_short(line.strip())!r}."
                )
        if not header:
            raise InputError(
                f"{self.path}: must have at least one record `>name`, but has none in {number} lines."
            )
        yield _record(header, name, "".join(parts))


class CsvFile(_TextFile):
    """Rows below a header with the column `sequence`."""

    def __init__(self, path: Path, zipped: bool) -> None:
        super().__init__(path, zipped)
        csv.field_size_limit(sys.maxsize)
        first = next(csv.reader(self._lines()), [])
        self._width = len(first)
        self._sequence, self._name = _columns(first, f"{path}, line 1: the header")
        self.named = self._name is not None

    def records(self) -> Iterator[SequenceRecord]:
        """As `SequenceFile.records`."""
        reader = csv.reader(self._lines(), strict=True)
        next(reader)
        empty = True
        while True:
            try:
                fields = next(reader, None)
            except csv.Error as error:
                empty = False
                yield SequenceRecord(f"line {reader.line_num}", "", "", f"is not readable as CSV ({error}).")
                continue
            if fields is None:
                break
            if fields:
                empty = False
                yield self._row(f"line {reader.line_num}", fields)
        if empty:
            raise InputError(f"{self.path}: must have at least one row below the header, but has none.")

    def _row(self, place: str, fields: Sequence[str]) -> SequenceRecord:
        if len(fields) != self._width:
            return SequenceRecord(
                place, "", "", f"a row must have {self._width} fields as the header, but got {len(fields)}."
            )
        name = "" if self._name is None else fields[self._name]
        return _record(place, name, fields[self._sequence].strip())


class ParquetFile:
    """Rows of a Parquet file with the column `sequence`, a few at a time."""

    def __init__(self, path: Path) -> None:
        self.path, self.done = path, 0
        try:
            with pq.ParquetFile(path) as file:
                schema, self.total = file.schema_arrow, max(1, file.metadata.num_rows)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path}: is not readable as Parquet ({one_line(error)}).") from None
        sequence, name = _columns(schema.names, f"{path}: the file")
        if not (
            pa.types.is_string(schema.types[sequence]) or pa.types.is_large_string(schema.types[sequence])
        ):
            raise InputError(f"{path}: the column `sequence` must be text, but is {schema.types[sequence]}.")
        self._columns = [schema.names[i] for i in (sequence, name) if i is not None]
        self.named = name is not None

    def records(self) -> Iterator[SequenceRecord]:
        """As `SequenceFile.records`."""
        self.done = 0
        try:
            # Without reading ahead, memory does not grow with the size of a row group.
            with pq.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False) as file:
                for batch in file.iter_batches(BATCH, columns=self._columns, use_threads=False):
                    columns = [batch.column(name).to_pylist() for name in self._columns]
                    names = columns[1] if self.named else [""] * batch.num_rows
                    for sequence, name in zip(columns[0], names, strict=True):
                        self.done += 1
                        name = "" if name is None else str(name)
                        yield _record(f"row {self.done}", name, (sequence or "").strip())
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{self.path}: is damaged ({one_line(error)}).") from None
        if not self.done:
            raise InputError(f"{self.path}: must have at least one row, but has none.")


def _record(place: str, name: str, sequence: str) -> SequenceRecord:
    return SequenceRecord(place, name, sequence, sequence_problem(sequence))


def _columns(header: Sequence[str], what: str) -> tuple[int, int | None]:
    """Places of the sequence and of its name, if there is one."""
    known = [name.strip().casefold() for name in header]
    if known.count("sequence") != 1:
        raise InputError(f"{what} must have one column `sequence`, but got `{_short(','.join(header))}`.")
    return known.index("sequence"), next((known.index(name) for name in NAMES if name in known), None)


def _short(text: str, width: int = 60) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
