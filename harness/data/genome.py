"""Sequences given as genomic intervals: a BED file, or any table with chrom, start and end."""

import mmap
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness.core.errors import InputError
from harness.core.wording import words
from harness.data.columns import ROLES, listed, plain, shown
from harness.data.table_batches import TableBatch, TableFile, texts
from harness.data.text_blocks import opened

PLACE = {
    "chrom": ("chrom", "chr", "chromosome"),
    "start": ("start", "chromstart"),
    "end": ("end", "stop", "chromend"),
    "strand": ("strand",),
}
"""Column names of an interval; 0-based and half-open, as in BED."""

STRANDS = {"+": False, "-": True, ".": False, "": False}
COMPLEMENT = bytes.maketrans(b"ACGTURYSWKMBDHVacgturyswkmbdhv", b"TGCAAYRSWMKVHDBtgcaayrswmkvhdb")
LOOK = 1 << 24
"""Bytes scanned for line ends at once."""


@dataclass(frozen=True)
class _Piece:
    """One sequence of a genome: offset of its first base in the file, line length, and sequence length."""

    at: int
    bases: int
    line: int
    length: int


class Genome:
    """A FASTA file with random access: memory-mapped, after decompression to a temporary file if necessary.

    Args:
        path: The file.

    Attributes:
        pieces: Its sequences by name, in file order.

    Raises:
        InputError: If it is not a FASTA file, or the lines of a sequence differ in length.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with opened(path) as (raw, stream):
                held: Any = raw
                if raw is not stream:
                    held = tempfile.TemporaryFile()  # noqa: SIM115 (mapped, it lives as long as the map)
                    shutil.copyfileobj(stream, held, LOOK)
                    held.flush()
                self._map = mmap.mmap(held.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError, EOFError, pa.ArrowException) as error:
            raise InputError(
                f"`--genome` must be a FASTA file, but {path} cannot be read ({words(error)})."
            ) from None
        if self._map[:1] != b">":
            raise InputError(f"`--genome` must be a FASTA file, but {path} does not begin with `>`.")
        self.pieces = dict(self._index())

    def _index(self) -> Iterator[tuple[str, _Piece]]:
        seen: set[str] = set()
        at, size = 0, len(self._map)
        while at < size:
            begin = self._map.find(b"\n", at) + 1 or size
            following = self._map.find(b"\n>", begin - 1)
            end = size if following < 0 else following + 1
            header = self._map[at + 1 : begin].split()
            name = header[0].decode(errors="replace") if header else ""
            if name in seen or not name:
                what = f"{name!r} twice" if name else "a header without a name"
                raise InputError(f"{self.path}: must name each sequence once, but has {what}.")
            seen.add(name)
            yield name, self._piece(name, begin, end)
            at = end

    def _piece(self, name: str, begin: int, end: int) -> _Piece:
        while end > begin and self._map[end - 1] in b"\r\n":
            end -= 1
        stop = self._map.find(b"\n", begin, end)
        if stop < 0:
            return _Piece(begin, max(1, end - begin), max(1, end - begin), end - begin)
        line = stop + 1 - begin
        bases = line - (2 if self._map[stop - 1] == 0x0D else 1)
        every = np.frombuffer(self._map, np.uint8, end - begin, begin)
        ends = sum(int((every[i : i + LOOK] == 0x0A).sum()) for i in range(0, len(every), LOOK))
        if not bases or not (every[line - 1 :: line] == 0x0A).all() or ends != len(every[line - 1 :: line]):
            raise InputError(
                f"{self.path}: all lines of {name} except the last must have the same length; wrap it again."
            )
        return _Piece(begin, bases, line, end - begin - ends * (line - bases))

    def fetch(self, name: str, start: int, end: int) -> bytes:
        """Bases `start` (from 0) to `end` (exclusive) of a sequence, as written."""
        piece = self.pieces[name]
        first, last = (
            piece.at + at // piece.bases * piece.line + at % piece.bases for at in (start, end - 1)
        )
        return self._map[first : last + 1].translate(None, b"\r\n")


@lru_cache(maxsize=2)
def _genome(path: Path, size: int, changed: int) -> Genome:
    return Genome(path)


def open_genome(path: Path) -> Genome:
    """Open a genome; each file is indexed once.

    Raises:
        InputError: As for `Genome`, or if the file does not exist.
    """
    if not path.is_file():
        raise InputError(f"`--genome` must be a FASTA file, but there is no {path}.")
    state = path.stat()
    return _genome(path, state.st_size, state.st_mtime_ns)


def with_sequences(file: TableFile, genome: str, asked: Sequence[str] = ()) -> TableFile:
    """The table, with an added column `sequence` if it has genomic intervals instead of sequences.

    Args:
        file: Any table.
        genome: Path of the genome's FASTA file; empty for none.
        asked: Roles with requested columns.

    Raises:
        InputError: If it has intervals but no genome is given, or the reverse.
    """
    known = [plain(name) for name in file.names]
    names = [name for role in ("sequence", "sequence_a") for name in ROLES[role]]
    own = any(name in names for name in known) or bool({"sequence", "sequence_a"} & set(asked))
    place = {
        role: next((known.index(one) for one in some if one in known), None) for role, some in PLACE.items()
    }
    whole = all(place[role] is not None for role in ("chrom", "start", "end"))
    if own or (not genome and not whole):
        if genome:
            file.notes.append("has sequences of its own, so `--genome` is not used")
        return file
    head = f"{file.path}{', ' * bool(file.head)}{file.head}"
    if not whole:
        raise InputError(
            f"{head}: must have chrom, start and end with `--genome`, but has {listed(file.names)}."
        )
    if not genome:
        raise InputError(
            f"{head}: has intervals (chrom, start, end) but no sequences; `--genome FILE` names the FASTA file of "
            "their genome."
        )
    return _PlacedFile(
        file, open_genome(Path(genome)), {role: at for role, at in place.items() if at is not None}
    )


class _PlacedFile:
    """A table with the sequences of its intervals as the last column."""

    def __init__(self, file: TableFile, genome: Genome, place: dict[str, int]) -> None:
        self._file, self._genome, self._place = file, genome, place
        self.path, self.unit, self.head, self.total = file.path, file.unit, file.head, file.total
        self.names: Sequence[str] = [*file.names, "sequence"]
        self.guess = getattr(file, "guess", True)
        strand = "" if "strand" in place else "; all of them on the forward strand"
        self.notes = [*file.notes, f"sequences are taken from {genome.path.name}{strand}"]

    @property
    def done(self) -> int:
        """Position of the last iterator."""
        return self._file.done

    def batches(self, columns: Sequence[int]) -> Iterator[TableBatch]:
        """As `TableFile.batches`."""
        last = len(self.names) - 1
        wanted = list(dict.fromkeys([*(i for i in columns if i != last), *self._place.values()]))
        for batch in self._file.batches(wanted):
            held: dict[int, pa.LargeStringArray] = dict(zip(wanted, batch.columns, strict=True))
            problems = dict(batch.problems)
            if last in columns:
                held[last] = self._sequences(held, problems)
            yield TableBatch(batch.places, [held[i] for i in columns], problems)

    def _sequences(
        self, held: dict[int, pa.LargeStringArray], problems: dict[int, str]
    ) -> pa.LargeStringArray:
        roles, found = list(self._place), []
        cells = zip(*(held[at].to_pylist() for at in self._place.values()), strict=True)
        for row, values in enumerate(cells):
            cut = "" if row in problems else self._cut(dict(zip(roles, map(str.strip, values), strict=True)))
            if isinstance(cut, str):
                problems.setdefault(row, cut)
            found.append("" if isinstance(cut, str) else cut.decode(errors="replace"))
        return texts(found)

    def _cut(self, place: dict[str, str]) -> bytes | str:
        """The bases of an interval, or an error message."""
        name, strand = place["chrom"], STRANDS.get(place.get("strand", ""))
        piece = self._genome.pieces.get(name)
        if piece is None:
            return (
                f"`chrom` must be a sequence of {self._genome.path.name} ({listed(list(self._genome.pieces)[:4])}, …), "
                f"but got {shown(name, 30)!r}."
            )
        for role in ("start", "end"):
            if not (place[role].isascii() and place[role].isdigit() and len(place[role]) < 16):
                return f"`{role}` must be a whole number from 0, but got {shown(place[role], 30)!r}."
        start, end = int(place["start"]), int(place["end"])
        if not start < end <= piece.length:
            return (
                f"`end` must be above `start` and at most {piece.length}, the length of {name}, but the interval is "
                f"{start} to {end}."
            )
        if strand is None:
            return f"`strand` must be +, - or ., but got {shown(place['strand'], 30)!r}."
        bases = self._genome.fetch(name, start, end)
        return bases.translate(COMPLEMENT)[::-1] if strand else bases
