"""64-bit hashes of sequences, reverse complements and labels, to compare millions of rows in little memory.

The probability of a collision among ten million distinct sequences is 3 · 10⁻⁶.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data.packed import PackedSequences
from harness.data.sequence_column import Texts, letters
from harness.data.steps import tell
from harness.data.table_batches import texts
from harness.data.two_bit import Bytes
from lingo.sequences import PAIR, reverse_complement

Hashes = NDArray[np.uint64]

CHUNK = 4096
LETTERS = 1 << 22
"""Maximum number of letters in a block of sequences of equal length."""

COMPLEMENT = np.arange(256, dtype=np.uint8)
COMPLEMENT[list(b"ACGT")] = list(b"TGCA")
UPPER = np.arange(256, dtype=np.uint8)
UPPER[list(b"acgtn")] = list(b"ACGTN")
LAST = ord("Z")


def strand_hashes(sequences: Sequence[str]) -> tuple[Hashes, Hashes]:
    """Hashes of sequences of A, C, G, T and N in either case, and of their reverse complements, `[n]` each; of a pair,
    one hash of both sequences."""
    own, turned = np.zeros(len(sequences), np.uint64), np.zeros(len(sequences), np.uint64)
    done = 0
    for rows, block in _blocks(sequences):
        block = UPPER[block] if (block > LAST).any() else block
        own[rows] = mixed(block)
        turned[rows] = mixed(np.ascontiguousarray(_turned(block)))
        done += len(block)
        tell("comparing sequences", done, len(sequences))
    return own, turned


def same_sequences(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether two splits contain the same set of sequences."""
    one, other = (np.unique(strand_hashes(each)[0]) for each in (first, second))
    return np.array_equal(one, other)


def _turned(block: Bytes) -> Bytes:
    if not (block == ord(PAIR)).any():
        return COMPLEMENT[block][:, ::-1]
    turned = reverse_complement([row.tobytes().decode() for row in block])
    return np.frombuffer("".join(turned).encode(), np.uint8).reshape(block.shape)


def _blocks(sequences: Sequence[str]) -> Iterator[tuple[Any, Bytes]]:
    """Blocks of rows of equal length, and their letters `[rows, length]`."""
    for start in range(0, len(sequences), CHUNK):
        if isinstance(sequences, PackedSequences):
            part = sequences.rows[start : start + CHUNK]
            yield slice(start, start + len(part)), sequences.split.letters(part)
            continue
        chunk = slice(start, start + CHUNK)
        held = Texts(sequences.part(chunk) if isinstance(sequences, Texts) else texts(sequences[chunk]))
        lengths, raw = held.lengths, np.frombuffer(letters(held.column), np.uint8)
        ends = np.cumsum(lengths)
        for length in np.unique(lengths[lengths > 0]).tolist():
            rows = np.flatnonzero(lengths == length)
            for some in np.array_split(rows, -(-len(rows) * length // LETTERS)):
                begins = (ends[some] - length).tolist()
                if len(some) * length == len(raw):
                    block = raw.reshape(-1, length)
                else:
                    block = np.stack([raw[begin : begin + length] for begin in begins])
                yield start + some, block


def mixed(values: NDArray[Any]) -> Hashes:
    """64-bit hash of each row of bytes `[n, width]`: every word is mixed separately, then weighted by position."""
    words = np.pad(values, ((0, 0), (0, -values.shape[1] % 8))).view(np.uint64)
    weights = np.random.default_rng(0).integers(0, 2**63, words.shape[1], dtype=np.uint64) * 2 + 1
    words = words * np.uint64(0x9E3779B97F4A7C15)
    words ^= words >> np.uint64(29)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(32)
    return np.asarray((words * weights).sum(axis=1, dtype=np.uint64))


def label_hashes(labels: NDArray[Any]) -> Hashes:
    """Hashes of the labels of each row, `[n]`; equal means equal bits."""
    return mixed(np.ascontiguousarray(labels).reshape(len(labels), -1).view(np.uint8))


def paired(sequences: Hashes, labels: Hashes) -> Hashes:
    """Hashes of sequences together with their labels."""
    return mixed(np.stack([sequences, labels], axis=1).view(np.uint8))


def among(values: Hashes, held: Hashes) -> NDArray[np.bool_]:
    """Which values are in `held`, bool `[n]`; looked up in sorted order, because row order misses the caches."""
    found = np.zeros(len(values), dtype=bool)
    if len(held):
        order, ordered = np.argsort(values), np.sort(held)
        wanted = values[order]
        place = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        found[order] = ordered[place] == wanted
    return found


def groups(values: Hashes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows sorted by value, `[n]`, and the start of each distinct value in that order, `[distinct]`."""
    order = np.argsort(values)
    ordered = values[order]
    return order, np.flatnonzero(
        np.concatenate([np.ones(min(1, len(values)), bool), ordered[1:] != ordered[:-1]])
    )
