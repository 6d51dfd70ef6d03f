"""Sequences to predict, read one by one from a file of any size, each with its line and problem, if any."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from harness.core.errors import InputError
from harness.data.columns import find_columns
from harness.data.genome import with_sequences
from harness.data.reading import Reading
from harness.data.sequence_column import LetterCounts, letters
from harness.data.table_files import open_table
from lingo.sequences import PAIR, sequence_problem


@dataclass(frozen=True, slots=True)
class SequenceRecord:
    """One sequence of a file.

    Attributes:
        place: `line 3` of a text, `row 2` of a Parquet file; a FASTA record's is that of its header.
        name: Its name; empty if it has none.
        sequence: As in the file, without line ends; of a pair both, with `lingo.sequences.PAIR` between them.
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
        asked: Column of `sequence` (of pairs `sequence_a` and `sequence_b`) or `id` where its name does not say it.
        genome: FASTA file of the genome that places are cut from; empty for none.

    Attributes:
        named: Whether its records have names.
        pairs: Whether they are pairs of sequences.
        letters: Letters of the records that were read.
        total: Its size in units of `done`.
        notes: Detected format and columns.

    Raises:
        InputError: If there is no such file, it cannot be read, or a column is missing.
    """

    def __init__(self, path: Path, asked: dict[str, str] | None = None, genome: str = "") -> None:
        if not path.is_file():
            what = "a folder" if path.is_dir() else "missing"
            raise InputError(f"`--input` must be a file of sequences, but {path} is {what}.")
        self.path, self._file = path, with_sequences(open_table(path), genome, [*(asked or {})])
        found = find_columns(self._file.names, asked or {}, labels=False)
        if isinstance(found, str):
            raise InputError(f"{path}{', ' * bool(self._file.head)}{self._file.head}: {found}")
        schema = getattr(self._file, "schema", None)
        if schema is not None and not _is_text(kind := schema.types[found.sequence]):
            name = schema.names[found.sequence]
            raise InputError(f"{path}: the column `{name}` must be text, but is {kind}.")
        self.pairs, self.letters = found.second is not None, LetterCounts()
        self._columns = [i for i in (found.sequence, found.second, found.id) if i is not None]
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
        empty, self.letters = True, LetterCounts()
        for batch in self._file.batches(self._columns):
            held = [column.to_pylist() for column in batch.columns]
            for column in batch.columns[: 1 + self.pairs]:
                self.letters.add(bytes(letters(column)))
            names = held.pop() if self.named else [""] * len(held[0])
            for row, (place, name, *texts) in enumerate(zip(batch.places, names, *held, strict=True)):
                empty, texts = False, [text.strip() for text in texts]
                problem = batch.problems.get(row) or self._problem(texts)
                yield SequenceRecord(f"{self._file.unit} {place}", name, PAIR.join(texts), problem)
        if empty:
            raise InputError(f"{self.path}: must have at least one row below the header, but has none.")

    def _problem(self, texts: list[str]) -> str | None:
        if not self.pairs:
            return sequence_problem(texts[0])
        found = zip("ab", map(sequence_problem, texts), strict=True)
        return next((why.replace("`sequence`", f"`sequence_{one}`") for one, why in found if why), None)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_one(kind) for is_one in tests) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def open_sequences(path: Path, columns: str = "", genome: str = "") -> SequenceFile:
    """A file of sequences, told apart by its content.

    Args:
        columns: What `--columns` says, as in training; labels and splits in it are not used.
        genome: What `--genome` says.

    Raises:
        InputError: As `SequenceFile`.
    """
    reading = Reading.of("&".join(filter(None, [columns, f"genome={genome}" if genome else ""])))
    asked = {
        name: value
        for name, value in reading.columns
        if name in ("sequence", "sequence_a", "sequence_b", "id")
    }
    return SequenceFile(path, asked, reading.genome)
