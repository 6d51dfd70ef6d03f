"""Columns of sequences: contiguous in memory, with normalised letters and counts of the letters as written."""

import mmap
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harness.core.errors import InputError
from harness.data.sequence_views import SequenceView
from harness.data.table_batches import texts
from lingo.sequences import ACCEPTED, CASES, CODES, PAIR, UNIFORM, Case, sequence_problem

ACCEPTED_BYTES = "".join(sorted(ACCEPTED)).encode()
TABLES: Mapping[Case, bytes] = {
    case: bytes(UNIFORM[case].get(code, code) for code in range(256)) for case in CASES
}
LOWER = {"upper": "are raised", "mask": "are read as N", "keep": "are kept"}
BLOCK = 1 << 20
"""Letters counted per block."""


HELD = 1 << 28
"""Maximum number of letters held in memory; larger tables are kept on disk."""


class Texts(SequenceView):
    """Sequences contiguous in memory: one byte per letter and eight per sequence; a selection of rows takes eight more
    per row.

    Args:
        column: The sequences.
        rows: Selected rows in order; `None` for all.
    """

    def __init__(self, column: pa.LargeStringArray, rows: NDArray[np.int64] | None = None) -> None:
        self.column, self.rows = column, rows

    def __len__(self) -> int:
        return len(self.column if self.rows is None else self.rows)

    def made(self, rows: slice) -> list[str]:
        sequences: list[str] = self.part(rows).to_pylist()
        return sequences

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), 8192):
            yield from self[start : start + 8192]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def part(self, at: slice) -> pa.LargeStringArray:
        """A range of the sequences, contiguous in memory."""
        return self.column[at] if self.rows is None else self.column.take(pa.array(self.rows[at]))

    def take(self, indices: NDArray[np.int64]) -> "Texts":
        """Select rows, in this order."""
        return Texts(self.column, indices if self.rows is None else self.rows[indices])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of each sequence."""
        lengths = np.diff(_offsets(self.column))
        return lengths if self.rows is None else lengths[self.rows]


class Gathered:
    """Concatenated sequences, in memory up to `HELD` bytes and beyond that in an unlinked temporary file."""

    def __init__(self) -> None:
        self._letters = bytearray()
        self._lengths: list[NDArray[np.int64]] = []
        self._file: IO[bytes] | None = None
        self.count = 0
        """Sequences."""

    def add(self, column: pa.LargeStringArray) -> None:
        """Append sequences.

        Raises:
            InputError: If the folder for temporary files is full.
        """
        self._letters += letters(column)
        self._lengths.append(np.diff(_offsets(column)))
        self.count += len(column)
        if len(self._letters) <= HELD:
            return
        try:
            self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the column)
            self._file.write(self._letters)
            self._file.flush()
        except OSError as error:
            folder = tempfile.gettempdir()
            raise InputError(
                f"{folder}: must have room for the sequences of a large table, but has not ({error.strerror}); free "
                "some space there, or set another folder with TMPDIR."
            ) from None
        self._letters = bytearray()

    def column(self) -> pa.LargeStringArray:
        """All sequences; nothing can be added afterwards."""
        offsets = np.zeros(self.count + 1, np.int64)
        np.cumsum(np.concatenate([np.zeros(0, np.int64), *self._lengths]), out=offsets[1:])
        self._lengths = []
        held: bytearray | mmap.mmap = self._letters
        if self._file is not None:
            self._file.write(self._letters)
            self._file.flush()
            held = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(held)]
        return pa.Array.from_buffers(pa.large_string(), self.count, buffers)


def _offsets(column: pa.LargeStringArray) -> NDArray[np.int64]:
    held = np.frombuffer(column.buffers()[1] or b"\0" * 8, np.int64)
    return held[column.offset : column.offset + len(column) + 1]


def letters(column: pa.LargeStringArray) -> memoryview:
    """All letters of a column, concatenated."""
    offsets = _offsets(column)
    return memoryview(column.buffers()[2] or b"")[int(offsets[0]) : int(offsets[-1])]


def cleaned(
    column: pa.LargeStringArray, counts: "LetterCounts | None" = None, case: Case = "upper"
) -> tuple[pa.LargeStringArray, dict[int, str]]:
    """Normalise sequences to A, C, G, T and N. Returns them with an error message for each invalid row, whose sequence
    is then empty.

    Args:
        column: Sequences as written.
        counts: Collects the counts of their letters.
        case: What lower case means.
    """
    raw = letters(column).tobytes()
    offsets = _offsets(column)
    problems: dict[int, str] = {}
    if counts is not None:
        counts.add(raw)
    if not np.diff(offsets).all() or raw.translate(None, ACCEPTED_BYTES):
        kept = []
        for row, text in enumerate(column.to_pylist()):
            text = text.strip()
            if problem := sequence_problem(text):
                problems[row], text = problem, ""
            kept.append(text)
        column = texts(kept)
        raw, offsets = letters(column).tobytes(), _offsets(column)
    if not len(column):
        return column, problems
    buffers = [
        None,
        pa.py_buffer((offsets - offsets[0]).tobytes()),
        pa.py_buffer(raw.translate(TABLES[case])),
    ]
    return pa.Array.from_buffers(pa.large_string(), len(column), buffers), problems


def halves(column: pa.LargeStringArray) -> tuple[pa.LargeStringArray, pa.LargeStringArray] | None:
    """Both sequences of pairs in one column, separated by `lingo.sequences.PAIR`; `None` if no row has it. A row
    without it gets an empty second sequence, which is refused later."""
    if PAIR.encode() not in letters(column).tobytes():
        return None
    parts = [text.partition(PAIR) for text in column.to_pylist()]
    return texts(first for first, _, _ in parts), texts(second for _, _, second in parts)


def joined_pairs(first: pa.LargeStringArray, second: pa.LargeStringArray) -> pa.LargeStringArray:
    """Both sequences of each pair as one text, separated by `lingo.sequences.PAIR`."""
    return pc.binary_join_element_wise(first, second, pa.scalar(PAIR, pa.large_string()))


@dataclass(eq=False)
class LetterCounts:
    """Counts of letters as written, in all rows, valid and invalid.

    Attributes:
        counts: int64 `[256]`, by byte.
    """

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))

    def add(self, raw: bytes) -> None:
        """Add the letters of a column."""
        codes = np.frombuffer(raw, np.uint8)
        for start in range(0, len(codes), BLOCK):
            self.counts += np.bincount(codes[start : start + BLOCK], minlength=256)

    def __add__(self, other: "LetterCounts") -> "LetterCounts":
        return LetterCounts(self.counts + other.counts)

    def report(self) -> dict[str, int]:
        """By kind of letter: A, C, G, T, N, U, `other IUPAC codes`, `gaps` (`-`, `.`, `*`) and `others` in either case;
        `lower case` is the number of lower-case codes among them."""
        found = {letter: self._both(letter) for letter in "ACGTNU"}
        found["other IUPAC codes"] = sum(map(self._both, CODES.replace("U", "")[5:]))
        found["gaps"] = int(self.counts[list(b"-.*")].sum())
        # Of multi-byte characters only the first byte counts; white space around a sequence is ignored.
        every = int(self.counts.sum() - self.counts[list(b" \t\r\n")].sum() - self.counts[0x80:0xC0].sum())
        found["others"] = every - sum(found.values())
        return found | {"lower case": int(self.counts[list(CODES.lower().encode())].sum())}

    def _both(self, letter: str) -> int:
        return int(self.counts[ord(letter)] + self.counts[ord(letter.lower())])

    def note(self, case: Case = "upper") -> str:
        """How letters other than A, C, G, T and N were read; empty without any."""
        found = self.report()
        codes = [code for code in CODES if code not in "ACGTNU" and self._both(code)]
        told = []
        if found["lower case"]:
            told.append(f"{found['lower case']:,} lower-case letters {LOWER[case]}")
        if found["U"]:
            told.append(f"{found['U']:,} U are read as T")
        if codes:
            told.append(f"{found['other IUPAC codes']:,} IUPAC codes ({', '.join(codes)}) are read as N")
        return ", ".join(told)
