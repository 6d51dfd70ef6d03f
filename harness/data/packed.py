"""Sequences of equal length and their 0/1 labels on disk: 2 bits per base, one bit per label, in Arrow files.

A split is a list of shards `<split>-00000.arrow` with the columns `bases` (packed, see `harness.data.two_bit`),
`unknown` (positions of unknown bases) and `labels` (bits, the first label in the most significant bit of the first
byte). `meta.json` beside them gives length, label names, rows and the digest of each shard.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harness.core.errors import InputError
from harness.data.sequence_views import SequenceView
from harness.data.two_bit import Bytes, texts, unpack
from lingo.text_files import read_json

META = "meta.json"


def write_shard(
    path: Path, bases: Bytes, rows: NDArray[np.int64], positions: NDArray[np.uint16], labels: Bytes
) -> str:
    """Write one shard under a temporary name and rename it; returns its sha256.

    Args:
        bases: Packed, uint8 `[n, bytes]`.
        rows, positions: Unknown bases, sorted by row.
        labels: Packed bits, uint8 `[n, bytes]`.
    """
    n = len(bases)
    offsets = np.searchsorted(rows, np.arange(n + 1)).astype(np.int32)
    columns = [_fixed(bases), pa.ListArray.from_arrays(offsets, positions), _fixed(labels)]
    batch = pa.record_batch(columns, names=["bases", "unknown", "labels"])
    temporary = path.with_name(f".{path.name}")
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with temporary.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    temporary.replace(path)
    return digest


def _fixed(values: Bytes) -> pa.Array:
    n, width = values.shape
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), n, [None, buffer])


class PackedSplit:
    """One split, memory-mapped.

    Args:
        folder: Folder with `meta.json` and the shards.
        split: `train`, `dev` or `test`.

    Attributes:
        length: Base pairs of every sequence.
        label_names: Name of each label, not necessarily unique.
        digest: sha256 over the shards, in hexadecimal.
        strands: `both` when the second half of the rows is the reverse complement of the first half.

    Raises:
        InputError: If a shard is missing or incomplete.
    """

    def __init__(self, folder: Path, split: str) -> None:
        try:
            meta = read_json(folder / META)
            about = meta["splits"][split]
            self.length: int = meta["length"]
            self.label_names: list[str] = [label["name"] for label in meta["labels"]]
            self.strands: str = about["strands"]
            shards = about["shards"]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{folder}: is not a converted dataset ({error}); convert it again.") from None
        self.digest = hashlib.sha256("".join(shard["sha256"] for shard in shards).encode()).hexdigest()
        self._shards = [_open(folder / shard["file"], shard["rows"]) for shard in shards]
        self._starts = np.cumsum([0, *(shard["rows"] for shard in shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def forward(self) -> int:
        """Number of rows without reverse complements."""
        return len(self) // 2 if self.strands == "both" else len(self)

    def letters(self, indices: NDArray[np.integer]) -> Bytes:
        """The sequences of these rows as ASCII letters A, C, G, T, N: uint8 `[n, length]`."""
        made = unpack(self._take(indices, 0))
        for place, shard, row in self._places(indices):
            offsets, positions = self._shards[shard][1]
            begin, count = offsets[row], offsets[row + 1] - offsets[row]
            before = np.cumsum(count) - count
            at = np.arange(count.sum()) + np.repeat(begin - before, count)
            made[np.repeat(place, count), positions[at]] = ord("N")
        return made

    def labels(self, indices: NDArray[np.integer]) -> Bytes:
        """The 0/1 labels of these rows: uint8 `[n, labels]`."""
        return np.unpackbits(self._take(indices, 2), axis=1, count=len(self.label_names))

    def _take(self, indices: NDArray[np.integer], column: int) -> Bytes:
        width = self._shards[0][column].shape[1]
        taken = np.empty((len(indices), width), dtype=np.uint8)
        for place, shard, row in self._places(indices):
            taken[place] = self._shards[shard][column][row]
        return taken

    def _places(self, indices: NDArray[np.integer]) -> list[tuple[NDArray[np.int64], int, NDArray[np.int64]]]:
        """For each shard involved: positions in the result, shard number, and rows within it."""
        wanted = np.asarray(indices, dtype=np.int64)
        shards = np.searchsorted(self._starts, wanted, side="right") - 1
        found = []
        for shard in np.unique(shards):
            place = np.flatnonzero(shards == shard)
            found.append((place, int(shard), wanted[place] - self._starts[shard]))
        return found


def _open(path: Path, rows: int) -> tuple[Any, Any, Any]:
    """Bases `[n, bytes]`, (offsets, positions) of unknown bases, and labels `[n, bytes]`."""
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: is an incomplete shard ({error}); convert the data again.") from None
    if batch.num_rows != rows:
        raise InputError(f"{path}: must have {rows:,} rows, but has {batch.num_rows:,}; convert again.")
    unknown = batch.column(1)
    return (
        _flat(batch.column(0)),
        (unknown.offsets.to_numpy(), unknown.values.to_numpy()),
        _flat(batch.column(2)),
    )


def _flat(column: pa.Array) -> Bytes:
    return np.frombuffer(column.buffers()[1], dtype=np.uint8).reshape(len(column), column.type.byte_width)


class PackedSequences(SequenceView):
    """Some rows of a split as strings, decoded on access."""

    def __init__(self, split: PackedSplit, rows: NDArray[np.int64]) -> None:
        self.split, self.rows = split, rows

    def __len__(self) -> int:
        return len(self.rows)

    def made(self, rows: slice) -> list[str]:
        return texts(self.split.letters(self.rows[rows]))

    def take(self, indices: NDArray[np.int64]) -> "PackedSequences":
        """Select rows, in this order."""
        return PackedSequences(self.split, self.rows[indices])
