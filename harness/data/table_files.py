"""Rows of text from files of any size: CSV and its kin, FASTA, JSON lines, Parquet and Arrow, compressed or not.

What a file is, its content says: Parquet, Arrow, gzip, zstandard and bzip2 by their first bytes, FASTA and JSON by
their first letter, text by its byte order mark, the separator by the header. Every value is handed on as text, in
batches that do not grow with the file, each row with its line (of texts) or number (of others).
"""

import codecs
import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from harness.core.errors import InputError
from harness.core.wording import words
from harness.data.columns import EXPECTED, KNOWN, plain, shown
from lingo.sequences import sequence_problem

BLOCK = 1 << 20
"""Bytes of a text read at once."""

BATCH = 1024
"""Rows of a batch, apart from those of a text without quotes, which are a block's."""

PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}
ENDINGS: tuple[str, ...] = (
    ".csv",
    ".tsv",
    ".tab",
    ".txt",
    ".fa",
    ".fasta",
    ".fna",
    ".ffn",
    ".fas",
    ".jsonl",
    ".ndjson",
)
ENDINGS += (".json", ".parquet", ".arrow", ".feather")
"""Endings of the files that are looked for in a folder; each may be followed by one of `PACKED_ENDINGS`."""

PACKED_ENDINGS = ("", ".gz", ".bgz", ".zst", ".bz2")
COLUMNAR = (b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")
MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
SPLIT_WORDS = ("train", "training", "dev", "valid", "validation", "val", "test", "testing")

csv.field_size_limit(2**31 - 1)  # of its own accord csv refuses sequences of more than 131,072 letters


@dataclass(frozen=True, eq=False)
class Batch:
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
        unit: What `Batch.places` counts: `line` or `row`.
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

    def batches(self, columns: Sequence[int]) -> Iterator[Batch]:
        """Its rows from the first one on, with these columns.

        Raises:
            InputError: If what follows cannot be read at all.
        """


def open_table(path: Path) -> TableFile:
    """A file of rows of any kind.

    Raises:
        InputError: If it cannot be read, or is empty; one line.
    """
    try:
        with _opened(path) as (_, stream):
            start = stream.read(4096)
        with path.open("rb") as raw:
            outside = raw.read(6)
    except (OSError, pa.ArrowException, EOFError) as error:
        raise InputError(f"{path}: is damaged or cannot be read ({words(error)}).") from None
    if path.name.casefold().endswith((".parquet", ".arrow", ".feather")) and not outside.startswith(COLUMNAR):
        kind = "Parquet" if path.suffix.casefold() == ".parquet" else "Arrow"
        raise InputError(f"{path}: must be a {kind} file, but is not readable as {kind}.")
    if not start.strip(b"\xef\xbb\xbf \t\r\n"):
        raise InputError(f"{path}: is empty; expected the columns {EXPECTED}.")
    if outside.startswith(COLUMNAR):
        return _ColumnFile(path, outside)
    if start.startswith(COLUMNAR) or path.name.casefold().endswith((".parquet.gz", ".arrow.gz")):
        raise InputError(f"{path}: is packed; Parquet and Arrow are packed inside, so unpack it first.")
    if start.startswith(b"PK\x03\x04"):
        raise InputError(f"{path}: is an Excel workbook or zip archive; save its table as CSV.")
    first = start.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    if first in (b"{", b"[") and not start.startswith(tuple(MARKS)):
        return _JsonFile(path, start)
    if first in (b">", b";") or _is_fasta(path):
        return _FastaFile(path, start)
    return _SeparatedFile(path, start)


def _is_fasta(path: Path) -> bool:
    name = path.name.casefold()
    name = next((name.removesuffix(end) for end in PACKED_ENDINGS[1:] if name.endswith(end)), name)
    return name.endswith((".fa", ".fasta", ".fna", ".ffn", ".fas"))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], Any]]:
    """The file as it lies on the disk, and its content, unpacked."""
    with path.open("rb") as raw:
        start = raw.read(4)
        raw.seek(0)
        codec = next((name for magic, name in PACKED.items() if start.startswith(magic)), None)
        yield raw, raw if codec is None else pa.CompressedInputStream(pa.PythonFile(raw, "r"), codec)


def texts(values: Iterable[str]) -> pa.LargeStringArray:
    """Strings as a column."""
    return pa.array(values, pa.large_string())


class _TextFile:
    """A text, read in blocks of whole lines in UTF-8 that end with a line feed."""

    unit = "line"

    def __init__(self, path: Path, start: bytes) -> None:
        self.path, self.head = path, "line 1"
        self.names: Sequence[str] = ()
        self.notes: list[str] = []
        self.total = max(1, path.stat().st_size)
        self._raw: IO[bytes] | None = None
        self._encoding = next((name for mark, name in MARKS.items() if start.startswith(mark)), "utf-8")
        if self._encoding != "utf-8":
            self.notes.append("is UTF-16")
        elif b"\0" in start:
            raise InputError(
                f"{path}: must be a text file in UTF-8, but holds zero bytes; save it as UTF-8, or as Parquet."
            )
        letters = start.decode(self._encoding, "ignore")
        self._old_mac = "\r" in letters and "\n" not in letters
        if self._old_mac:
            self.notes.append("has the line ends of old Macs")

    @property
    def done(self) -> int:
        """Bytes read of the file as it lies on the disk."""
        try:
            return self._raw.tell() if self._raw is not None else 0
        except ValueError:  # closed at its end
            return self.total

    def _blocks(self) -> Iterator[bytes]:
        """The text; bytes that are not UTF-8 become U+FFFD, which no sequence and no label may hold."""
        decoder = codecs.getincrementaldecoder(self._encoding)() if self._encoding != "utf-8" else None
        waiting: list[bytes] = []
        begun = False
        try:
            with _opened(self.path) as (raw, stream):
                self._raw = raw
                while chunk := stream.read(BLOCK):
                    if decoder is not None:
                        chunk = decoder.decode(chunk).encode()
                    if not begun:
                        chunk, begun = chunk.removeprefix(codecs.BOM_UTF8), True
                    if self._old_mac:
                        chunk = chunk.replace(b"\r", b"\n")
                    end = chunk.rfind(b"\n") + 1
                    if not end:
                        waiting.append(chunk)
                        continue
                    yield self._utf8(b"".join([*waiting, chunk[:end]]))
                    waiting = [chunk[end:]]
        except UnicodeDecodeError:
            raise InputError(f"{self.path}: must be a text file in UTF-8, but is broken UTF-16.") from None
        except (OSError, EOFError, pa.ArrowException) as error:
            raise InputError(f"{self.path}: is damaged or cannot be read ({words(error)}).") from None
        if decoder is not None and decoder.getstate()[0]:
            raise InputError(f"{self.path}: must be a text file in UTF-8, but is broken UTF-16.")
        if rest := b"".join(waiting):
            yield self._utf8(rest + b"\n")

    def _utf8(self, block: bytes) -> bytes:
        block = block.replace(b"\r\n", b"\n") if b"\r" in block else block
        if block.isascii():
            return block
        try:
            block.decode()
        except UnicodeDecodeError:
            return block.decode(errors="replace").encode()
        return block


class _Lines:
    """The lines of a text, one by one, or what is left of a block at once."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._block, self._at = blocks, b"", 0
        self.number = 0
        """Lines that were handed out."""

    @property
    def pending(self) -> bool:
        """Whether the block that was begun has further lines."""
        return self._at < len(self._block)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if not self.pending:
            self._block, self._at = next(self._blocks), 0
        end = self._block.index(b"\n", self._at) + 1
        line = self._block[self._at : end]
        self._at, self.number = end, self.number + 1
        return line.decode()

    def rest(self) -> bytes:
        """What is left of the block, or the next one; empty at the end. It is handed out by `skip` or line by line."""
        if not self.pending:
            self._block, self._at = next(self._blocks, b""), 0
        elif self._at:
            self._block, self._at = self._block[self._at :], 0
        return self._block

    def skip(self, lines: int) -> None:
        """Count the whole block as handed out."""
        self._block, self._at, self.number = b"", 0, self.number + lines


class _SeparatedFile(_TextFile):
    """Fields between commas, tabs, semicolons or bars, quoted where they hold those, below a header."""

    def __init__(self, path: Path, start: bytes) -> None:
        super().__init__(path, start)
        self._separator = ","
        lines = _Lines(self._blocks())
        try:
            self.names = self._header(lines)
        except csv.Error as error:
            raise InputError(f"{path}, line {lines.number}: is not readable as CSV ({error}).") from None
        self.notes += (
            [f"has {SEPARATORS[self._separator]} between its columns"] if self._separator != "," else []
        )

    def _header(self, lines: _Lines) -> list[str]:
        """The names in the first line that is not blank; `lines` stands behind it then."""
        for line in lines:
            text = line.strip()
            if text[:4].casefold() == "sep=" and len(text) == 5 and text[4] in SEPARATORS:
                self._separator = text[4]
                note = "begins with Excel's `sep=` line"
                self.notes += [note] if note not in self.notes else []
                names = next(csv.reader(lines, delimiter=self._separator), [])
            elif text or line.strip("\n"):
                found = {one: next(csv.reader([line], delimiter=one), []) for one in SEPARATORS}
                self._separator = max(found, key=lambda one: (_known(found[one]), len(found[one])))
                names = found[self._separator]
            else:
                continue
            self.head = f"line {lines.number}"
            names = [name.strip().strip('"').strip() for name in names]
            if not any(plain(name) in KNOWN for name in names) and any(map(_is_sequence, names)):
                raise InputError(
                    f"{self.path}, {self.head}: must be a header such as `sequence,label`, but looks like a row; "
                    "write one above it."
                )
            return names
        return []

    def batches(self, columns: Sequence[int]) -> Iterator[Batch]:
        """As `TableFile.batches`."""
        lines = _Lines(self._blocks())
        self._header(lines)
        while block := lines.rest():
            found = self._at_once(block, columns)
            if found is None:
                yield from self._one_by_one(lines, columns)
            else:
                count = len(found[0])
                yield Batch(range(lines.number + 1, lines.number + 1 + count), found)
                lines.skip(count)

    def _at_once(self, block: bytes, columns: Sequence[int]) -> list[pa.LargeStringArray] | None:
        """The columns of a block of which every line is a plain row."""
        if b'"' in block or b"\r" in block or b"\n\n" in block or block[:1] == b"\n" or len(block) > 1 << 30:
            return None
        width = len(self.names)
        every = [str(i) for i in range(width)]
        try:
            table = pa_csv.read_csv(
                pa.BufferReader(block),
                pa_csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=every),
                pa_csv.ParseOptions(
                    delimiter=self._separator, quote_char=False, double_quote=False, ignore_empty_lines=False
                ),
                pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(every, pa.large_string()),
                    include_columns=[str(i) for i in columns],
                    strings_can_be_null=False,
                    check_utf8=False,
                ),
            )
        except pa.ArrowInvalid:
            return None
        return [column.combine_chunks() for column in table.columns]

    def _one_by_one(self, lines: _Lines, columns: Sequence[int]) -> Iterator[Batch]:
        """Rows up to the end of the block that the last one ends in."""
        reader, width = csv.reader(lines, strict=True, delimiter=self._separator), len(self.names)
        places: list[int] = []
        rows: list[Sequence[str]] = []
        problems: dict[int, str] = {}
        empty = [""] * width
        while lines.pending:
            try:
                fields = next(reader)
            except csv.Error as error:
                problems[len(rows)], fields = f"is not readable as CSV ({error}).", empty
            except StopIteration:
                break
            if not fields:
                continue
            if len(fields) > width and not any(fields[width:]):
                fields = fields[:width]
            if len(fields) != width:
                problems[len(rows)] = f"a row must have {width} fields as the header, but got {len(fields)}."
                fields = empty
            places.append(lines.number)
            rows.append(fields)
            if len(rows) >= BATCH * 8:
                yield Batch(places, [texts(row[i] for row in rows) for i in columns], problems)
                places, rows, problems = [], [], {}
        if rows:
            yield Batch(places, [texts(row[i] for row in rows) for i in columns], problems)


def _known(names: Sequence[str]) -> int:
    return sum(plain(name) in KNOWN for name in names)


def _is_sequence(text: str) -> bool:
    return len(text) > 3 and sequence_problem(text) is None


class _FastaFile(_TextFile):
    """Records of a header `>name description` and any number of lines of sequence; `;` begins a comment.

    Columns are `id` (the header's first word) and `sequence`, and what the first header has: words `key=value`, one
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

    def batches(self, columns: Sequence[int]) -> Iterator[Batch]:
        """As `TableFile.batches`; a place is that of the header."""
        places: list[int] = []
        rows: list[list[str]] = []
        size = 0
        for number, header, sequence in self._records():
            parts = header.split()
            places.append(number)
            rows.append([parts[0] if parts else "", sequence, *self._extra(parts)])
            size += len(sequence)
            if len(rows) >= BATCH or size >= BLOCK:
                yield Batch(places, [texts(row[i] for row in rows) for i in columns])
                places, rows, size = [], [], 0
        if rows:
            yield Batch(places, [texts(row[i] for row in rows) for i in columns])

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
        lines = _Lines(self._blocks())
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


class _JsonFile(_TextFile):
    """An object a line, or a list of objects; the columns are those of the first one."""

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

    def batches(self, columns: Sequence[int]) -> Iterator[Batch]:
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
            rows.append([_text(row.get(name)) for name in names])
            if len(rows) >= BATCH:
                yield Batch(places, [texts(row[i] for row in rows) for i in range(len(names))], problems)
                places, rows, problems = [], [], {}
        if rows:
            yield Batch(places, [texts(row[i] for row in rows) for i in range(len(names))], problems)

    def _rows(self) -> Iterator[tuple[int, Any]]:
        """The place and the value of each row; a text that says what is wrong instead of a value."""
        lines = _Lines(self._blocks())
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


def _text(value: object) -> str:
    """A value as a CSV file would have it, a list in brackets."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


class _ColumnFile:
    """A Parquet file, an Arrow file, or an Arrow stream, such as the `datasets` library keeps."""

    unit, head = "row", ""

    def __init__(self, path: Path, start: bytes) -> None:
        self.path, self.done = path, 0
        self.notes: list[str] = []
        self._open = pq.ParquetFile if start.startswith(b"PAR1") else pa.ipc.open_file
        self._open = pa.ipc.open_stream if start.startswith(b"\xff") else self._open
        self._kind = "Parquet" if self._open is pq.ParquetFile else "Arrow"
        try:
            if self._open is pq.ParquetFile:
                with pq.ParquetFile(path) as file:
                    self.schema, self.total = file.schema_arrow, max(1, file.metadata.num_rows)
            else:
                with pa.memory_map(str(path)) as source, self._open(source) as file:
                    self.schema, self.total = file.schema, max(1, path.stat().st_size)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path}: is not readable as {self._kind} ({words(error, 120)}).") from None
        self.names: Sequence[str] = list(self.schema.names)

    def batches(self, columns: Sequence[int]) -> Iterator[Batch]:
        """As `TableFile.batches`."""
        number = 0
        self.done = 0
        try:
            for batch in self._batches(columns):
                for at in range(0, batch.num_rows, BATCH):
                    part = batch.slice(at, BATCH)
                    places = range(number + 1, number + 1 + part.num_rows)
                    number += part.num_rows
                    self.done = number if self._kind == "Parquet" else self.done
                    yield Batch(places, [as_texts(column) for column in part.columns])
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{self.path}: is damaged ({words(error)}).") from None
        self.done = self.total

    def _batches(self, columns: Sequence[int]) -> Iterator[pa.RecordBatch]:
        if self._kind == "Parquet":
            # Without reading ahead, memory does not grow with the size of a row group.
            with pq.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False) as file:
                names = [self.names[i] for i in columns]
                for batch in file.iter_batches(BATCH, columns=names, use_threads=False):
                    yield batch.select(names)
            return
        with pa.memory_map(str(self.path)) as source, self._open(source) as file:
            whole = (
                file
                if self._open is pa.ipc.open_stream
                else map(file.get_batch, range(file.num_record_batches))
            )
            for batch in whole:
                yield batch.select(list(columns))
                self.done = source.tell() if self._open is pa.ipc.open_stream else self.done


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
    return texts(_text(value) for value in column.to_pylist())
