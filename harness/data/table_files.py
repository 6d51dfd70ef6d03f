"""Readers of tables of any size: CSV and similar formats, BED, FASTA, FASTQ, JSON lines, Parquet and Arrow, also
compressed.

The content determines the format: Parquet, Arrow, gzip, zstandard and bzip2 by their first bytes, FASTA and JSON by
    their first character, the encoding by the byte order mark, the separator by the header. Every value is returned as
    text, in batches of bounded size, each row with its line (of text) or number (of other formats).
"""

import codecs
from pathlib import Path

import pyarrow as pa

from harness.core.errors import InputError
from harness.core.wording import words
from harness.data.columnar_files import COLUMNAR, ColumnFile
from harness.data.columns import EXPECTED
from harness.data.record_files import FastaFile, FastqFile, JsonFile
from harness.data.separated_files import BedFile, SeparatedFile
from harness.data.table_batches import TableFile
from harness.data.text_blocks import MARKS, opened

FASTA = (".fa", ".fasta", ".fna", ".ffn", ".fas")
FASTQ = (".fq", ".fastq")
BED = (".bed", ".narrowpeak", ".broadpeak")
ENDINGS: tuple[str, ...] = (
    ".csv",
    ".tsv",
    ".tab",
    ".txt",
    *FASTA,
    *FASTQ,
    *BED,
    ".jsonl",
    ".ndjson",
    ".json",
)
ENDINGS += (".parquet", ".arrow", ".feather")
"""Extensions of table files in a folder; each may be followed by one of `PACKED_ENDINGS`."""

PACKED_ENDINGS = ("", ".gz", ".bgz", ".zst", ".bz2")


def open_table(path: Path) -> TableFile:
    """Open a table of any format.

    Raises:
        InputError: If it cannot be read, or is empty; one line.
    """
    try:
        with opened(path) as (_, stream):
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
        return ColumnFile(path, outside)
    if start.startswith(COLUMNAR) or path.name.casefold().endswith((".parquet.gz", ".arrow.gz")):
        raise InputError(
            f"{path}: is compressed; Parquet and Arrow are compressed internally, so decompress it first."
        )
    if start.startswith(b"PK\x03\x04"):
        raise InputError(f"{path}: is an Excel workbook or zip archive; save its table as CSV.")
    first = start.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    if first in (b"{", b"[") and not start.startswith(tuple(MARKS)):
        return JsonFile(path, start)
    if first in (b">", b";") or _ends(path, FASTA):
        return FastaFile(path, start)
    if first == b"@" and _ends(path, FASTQ):
        return FastqFile(path, start)
    if _ends(path, BED):
        return BedFile(path, start)
    return SeparatedFile(path, start)


def _ends(path: Path, endings: tuple[str, ...]) -> bool:
    name = path.name.casefold()
    name = next((name.removesuffix(end) for end in PACKED_ENDINGS[1:] if name.endswith(end)), name)
    return name.endswith(endings)
