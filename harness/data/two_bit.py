"""DNA with 2 bits per base, four bases per byte, unpacked by a look-up table.

A base is A 0, C 1, G 2, T 3; the first of four is in the lowest bits of its byte. An unknown base is packed as A, and
its position is stored separately.
"""

import numpy as np
from numpy.typing import NDArray

from lingo.sequences import reverse_complement as reverse_complement

LETTERS = "ACGT"
PER_BYTE = 4
LANES = 1024
"""Sequences packed at once, so that the working set fits in the cache."""

Bytes = NDArray[np.uint8]


def pack(one_hot: Bytes, order: str = LETTERS) -> tuple[Bytes, NDArray[np.int64], NDArray[np.uint16]]:
    """Pack one-hot sequences stored position by position, as MATLAB writes them.

    Args:
        one_hot: uint8 `[length, 4, n]` of 0 and 1; all four 0 for an unknown base. `length` is divisible by 4.
        order: Base of each channel, `AGCT` for DeepSEA.

    Returns:
        Packed bases uint8 `[n, length / 4]`; rows and positions of unknown bases, int64 and uint16 `[unknown]`,
        sorted by row.

    Raises:
        ValueError: If a value is not 0 or 1, or a position has more than one base.
    """
    length, _, n = one_hot.shape
    packed = np.empty((n, length // PER_BYTE), dtype=np.uint8)
    rows: list[NDArray[np.int64]] = []
    positions: list[NDArray[np.uint16]] = []
    for start in range(0, n, LANES):
        lanes = one_hot[:, :, start : start + LANES]
        width = lanes.shape[2]
        # Words of eight lanes: a shift by less than 8 stays within its byte, since values are 0 and 1.
        block = np.zeros((length, 4, -(-width // 8) * 8), dtype=np.uint8)
        block[:, :, :width] = lanes
        columns, count = _pack_lanes(block.view(np.uint64), order)
        packed[start : start + width] = columns.view(np.uint8)[:, :width].T
        if count is not None:
            lane, position = np.nonzero(count.view(np.uint8)[:, :width].T == 0)
            rows.append(lane + start)
            positions.append(position.astype(np.uint16))
    return (
        packed,
        np.concatenate([np.empty(0, np.int64), *rows]),
        np.concatenate([np.empty(0, np.uint16), *positions]),
    )


def _pack_lanes(
    words: NDArray[np.uint64], order: str
) -> tuple[NDArray[np.uint64], NDArray[np.uint64] | None]:
    """Packed bytes `[length / 4, words]`, and the bases known at each position when one is not."""
    a, c, g, t = (words[:, order.index(letter)] for letter in LETTERS)
    low, high = c | t, g | t
    known = a | low
    known |= high
    # One base per position: no two channels share a 1, so `low & high` is T only.
    wrong = (a & (low | high)) | (c & (g | t)) | (g & t)
    ones = np.uint64(0x0101010101010101)
    if wrong.any() or (known & ~ones).any():
        raise ValueError("every position must have at most one base, as a single 1 among 0s")
    out = low[0::4] | high[0::4] << np.uint64(1)
    for k in range(1, PER_BYTE):
        part = low[k::4]
        part |= high[k::4] << np.uint64(1)
        part <<= np.uint64(2 * k)
        out |= part
    return out, None if np.bitwise_and.reduce(known, axis=None) == ones else known


def _table() -> NDArray[np.uint64]:
    """Look-up table: the eight letters of each 16-bit word."""
    words = np.arange(1 << 16, dtype="<u2")
    codes = (words[:, None] >> np.arange(0, 16, 2)) & 3
    letters = np.frombuffer(LETTERS.encode(), dtype=np.uint8)[codes]
    return np.ascontiguousarray(letters).view(np.uint64)[:, 0]


TABLE = _table()


def unpack(packed: Bytes) -> Bytes:
    """Letters in ASCII, uint8 `[n, 4 · bytes]`, of packed bases uint8 `[n, bytes]`; unknown bases are A."""
    n, width = packed.shape
    if width % 2:
        return unpack(np.pad(packed, ((0, 0), (0, 1))))[:, : PER_BYTE * width]
    words = np.ascontiguousarray(packed).view("<u2")
    return np.take(TABLE, words).view(np.uint8).reshape(n, PER_BYTE * width)


def texts(letters: Bytes) -> list[str]:
    """Each row of ASCII letters `[n, length]` as a string."""
    whole, length = letters.tobytes().decode("ascii"), letters.shape[1]
    return [whole[start : start + length] for start in range(0, len(whole), length)]
