"""FASTA, FASTQ and JSON files as tables."""

import codecs
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from harness.core.errors import InputError
from harness.core.wording import words
from harness.data import text_blocks
from harness.data.columns import shown
from harness.data.table_batches import BATCH, TableBatch, text_of, texts
from harness.data.text_blocks import Lines, TextFile

SPLIT_WORDS = ("train", "training", "dev", "valid", "validation", "val", "test", "testing")


class FastaFile(TextFile):
    """Records with a header `>name description` and any number of sequence lines; `;` begins a comment.

    Columns are `id` (the header's first word), `sequence`, and those of the first header: words `key=value`, one
    further word as `label`, or `>name|label|training` (label and split).
    """

    def __init__(self, path: Path, start: bytes) -> None:
        super().__init__(path, start)
        self.head, self.names = "", ["id", "sequence"]
        for _, header, _ in self._records():
            self._pairs = [word.partition("=")[0] for word in header.split()[1:] if word.find("=") > 0]
            parts = header.split()[0].split("|") if header.split() else []
            self._bars = 0
            if self._pairs:
                self.names += self._pairs
            elif len(header.split()) == 2:
                self.names.append("label")
            elif len(parts) == 3 and parts[2].casefold() in SPLIT_WORDS:
                self.names += ["label", "split"]
                self._bars = 2
            elif len(parts) == 2 and parts[1].isdigit():
                self.names.append("label")
                self._bars = 1
            break

    def batches(self, columns: Sequence[int]) -> Iterator[TableBatch]:
        """As `TableFile.batches`; a place is the line of the header."""
        places: list[int] = []
        rows: list[list[str]] = []
        size = 0
        for number, header, sequence in self._records():
            parts = header.split()
            places.append(number)
            rows.append([parts[0] if parts else "", sequence, *self._extra(parts)])
            size += len(sequence)
            if len(rows) >= BATCH or size >= text_blocks.BLOCK:
                yield TableBatch(places, [texts(row[i] for row in rows) for i in columns])
                places, rows, size = [], [], 0
        if rows:
            yield TableBatch(places, [texts(row[i] for row in rows) for i in columns])

    def _extra(self, parts: list[str]) -> list[str]:
        count = len(self.names) - 2
        if self._pairs:
            given = dict(word.partition("=")[::2] for word in parts[1:])
            return [given.get(name, "") for name in self._pairs]
        given_words = parts[0].split("|")[1:] if self._bars and parts else parts[1:]
        return [*given_words, *[""] * count][:count] if len(given_words) <= count else [""] * count

    def _records(self) -> Iterator[tuple[int, str, str]]:
        begun: tuple[int, str] | None = None
        parts: list[str] = []
        lines = Lines(self.blocks())
        for line in lines:
            if line.startswith(">"):
                if begun is not None:
                    yield (*begun, "".join(parts))
                begun, parts = (lines.number, line[1:].strip()), []
            elif line.startswith(";"):
                continue
            elif begun is not None:
                parts.append(line.strip())
            elif line.strip():
                raise InputError(
                    f"{self.path}, line {lines.number}: a FASTA file must begin with a header `>name`, but got "
                    f"{shown(line.strip())!r}."
                )
        if begun is None:
            raise InputError(
                f"{self.path}: must have at least one record `>name`, but has none in {lines.number} lines."
            )
        yield (*begun, "".join(parts))


class FastqFile(TextFile):
    """Reads of four lines each: `@name`, the sequence, `+`, and qualities, which are ignored."""

    def __init__(self, path: Path, start: bytes) -> None:
        super().__init__(path, start)
        self.head, self.names = "", ["id", "sequence"]
        self.notes.append("is FASTQ")

    def batches(self, columns: Sequence[int]) -> Iterator[TableBatch]:
        """As `TableFile.batches`; a place is the line of the name."""
        lines = Lines(self.blocks())
        places: list[int] = []
        rows: list[list[str]] = []
        problems: dict[int, str] = {}
        for line in lines:
            if not line.strip():
                continue
            read = [line, *islice(lines, 3)]
            name, sequence, plus, quality = (*(text.strip() for text in read), *[""] * (4 - len(read)))
            if len(read) < 4 or not line.startswith("@") or not plus.startswith("+"):
                raise InputError(
                    f"{self.path}, line {lines.number - len(read) + 1}: a FASTQ read must be four lines (`@name`, "
                    f"sequence, `+`, qualities), but got {shown(line.strip())!r} and {len(read) - 1} more."
                )
            if len(quality) != len(sequence):
                problems[len(rows)] = (
                    f"a read must have as many qualities as bases, {len(sequence)}, but has {len(quality)}."
                )
            places.append(lines.number - 3)
            rows.append([name[1:].split()[0] if name[1:].strip() else "", sequence])
            if len(rows) >= BATCH:
                yield TableBatch(places, [texts(row[i] for row in rows) for i in columns], problems)
                places, rows, problems = [], [], {}
        if rows:
            yield TableBatch(places, [texts(row[i] for row in rows) for i in columns], problems)


class JsonFile(TextFile):
    """One object per line, or a list of objects; the columns are those of the first one."""

    def __init__(self, path: Path, start: bytes) -> None:
        super().__init__(path, start)
        self._list = start.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["
        self.unit, self.notes = ("row" if self._list else "line"), [*self.notes, "is JSON"]
        for number, row in self._rows():
            if not isinstance(row, dict):
                what = row if isinstance(row, str) else "another value"
                raise InputError(
                    f'{path}, {self.unit} {number}: must be an object such as {{"sequence": "ACGT", "label": 0}} '
                    f"on each line, but {shown(what)}."
                )
            self.names, self.head = list(row), f"{self.unit} {number}"
            break

    def batches(self, columns: Sequence[int]) -> Iterator[TableBatch]:
        """As `TableFile.batches`."""
        names = [self.names[i] for i in columns]
        places: list[int] = []
        rows: list[list[str]] = []
        problems: dict[int, str] = {}
        for number, row in self._rows():
            if not isinstance(row, dict):
                problems[len(rows)] = row if isinstance(row, str) else "must be an object."
                row = {}
            places.append(number)
            rows.append([text_of(row.get(name)) for name in names])
            if len(rows) >= BATCH:
                yield TableBatch(places, [texts(row[i] for row in rows) for i in range(len(names))], problems)
                places, rows, problems = [], [], {}
        if rows:
            yield TableBatch(places, [texts(row[i] for row in rows) for i in range(len(names))], problems)

    def _rows(self) -> Iterator[tuple[int, Any]]:
        """The place and the value of each row, or an error message instead of the value."""
        lines = Lines(self.blocks())
        if self._list:
            try:
                yield from enumerate(json.loads("".join(lines)), 1)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{self.path}: is not readable as JSON ({words(error)}).") from None
            return
        for line in lines:
            if line.strip():
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError) as error:
                    value = f"is not readable as JSON ({words(error)})."
                yield (
                    lines.number,
                    [value] if isinstance(value, str) and not value.startswith("is not") else value,
                )
