"""Tables with fields separated by commas, tabs, semicolons or vertical bars."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv

from harness.core.errors import InputError
from harness.data.columns import KNOWN, plain, shown
from harness.data.table_batches import BATCH, TableBatch, texts
from harness.data.text_blocks import Lines, TextFile
from lingo.sequences import sequence_problem

BED: tuple[str, ...] = (
    "chrom",
    "start",
    "end",
    "name",
    "score",
    "strand",
    "thickStart",
    "thickEnd",
    "itemRgb",
)
BED += ("blockCount", "blockSizes", "blockStarts")
NARROW_PEAK = ("signalValue", "pValue", "qValue", "peak")
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}

csv.field_size_limit(2**31 - 1)  # csv's default refuses fields of more than 131,072 characters


class SeparatedFile(TextFile):
    """Fields separated by commas, tabs, semicolons or vertical bars, quoted if they contain those, below a header."""

    guess = True

    def __init__(self, path: Path, start: bytes) -> None:
        super().__init__(path, start)
        self._separator = ","
        lines = Lines(self.blocks())
        try:
            self.names = self._header(lines)
        except csv.Error as error:
            raise InputError(f"{path}, line {lines.number}: is not readable as CSV ({error}).") from None
        if self._separator != "," and self.guess:
            self.notes.append(f"has {SEPARATORS[self._separator]} between its columns")

    def _header(self, lines: Lines) -> list[str]:
        """The names in the first non-blank line; `lines` is then positioned after it."""
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

    def batches(self, columns: Sequence[int]) -> Iterator[TableBatch]:
        """As `TableFile.batches`."""
        lines = Lines(self.blocks())
        self._header(lines)
        while block := lines.rest():
            found = self._at_once(block, columns)
            if found is None:
                yield from self._one_by_one(lines, columns)
            else:
                count = len(found[0])
                yield TableBatch(range(lines.number + 1, lines.number + 1 + count), found)
                lines.skip(count)

    def _at_once(self, block: bytes, columns: Sequence[int]) -> list[pa.LargeStringArray] | None:
        """The columns of a block in which every line is a row without quotes."""
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

    def _one_by_one(self, lines: Lines, columns: Sequence[int]) -> Iterator[TableBatch]:
        """Rows up to the end of the block in which the last one ends."""
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
                yield TableBatch(places, [texts(row[i] for row in rows) for i in columns], problems)
                places, rows, problems = [], [], {}
        if rows:
            yield TableBatch(places, [texts(row[i] for row in rows) for i in columns], problems)


class BedFile(SeparatedFile):
    """A BED file: tab-separated genomic intervals, usually without a header."""

    guess = False
    """Whether columns without a known name may be labels: no, since a BED file has scores."""

    def _header(self, lines: Lines) -> list[str]:
        """The names in a header, or those of BED; `lines` is then positioned before the first interval."""
        self._separator = "\t"
        names: list[str] = []
        for line in lines:
            fields = line.rstrip("\n").split("\t")
            if not line.strip() or line.startswith(("track", "browser")):
                continue
            if fields[1:] and fields[1].strip().isdigit():
                lines.back()
                self.head = self.head if names else ""
                known = (*BED[:6], *NARROW_PEAK) if "peak" in self.path.name.casefold() else BED
                given = [*known, *(f"column_{i}" for i in range(len(known) + 1, len(fields) + 1))]
                return names or given[: len(fields)]
            if len(fields) < 3 and not line.startswith("#"):
                raise InputError(
                    f"{self.path}, line {lines.number}: a BED file must have chrom, start and end between tabs, but "
                    f"got {shown(line.strip())!r}."
                )
            if len(fields) > 2:  # `#chrom start end …`, the last one before the first interval
                names, self.head = [name.strip().lstrip("#") for name in fields], f"line {lines.number}"
        return names


def _known(names: Sequence[str]) -> int:
    return sum(plain(name) in KNOWN for name in names)


def _is_sequence(text: str) -> bool:
    return len(text) > 3 and sequence_problem(text) is None
