"""The leakage audit of packed data: millions of sequences, compared by 64-bit hashes of their bases."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data.labelled_files import Rows
from harness.data.leakage import Across, Leaks, Within, resolve
from harness.data.packed import PackedSequences
from harness.data.two_bit import Bytes

CHUNK = 4096
COMPLEMENT = np.arange(256, dtype=np.uint8)
COMPLEMENT[list(b"ACGT")] = list(b"TGCA")

Hashes = NDArray[np.uint64]


def packed_audit(
    name: str, splits: Mapping[str, Rows], marks: dict[str, str], *, drop: bool
) -> tuple[dict[str, Rows], dict[str, Any]]:
    """As `harness.data.leakage.audited`, for rows whose sequences are `PackedSequences` of one length.

    Hashes are of 64 bits: among millions of sequences two different ones share one with a chance of 10⁻⁶.
    `conflicting` and `other_label` compare the first row of a sequence with the others.
    """
    hashes = {split: _hashes(rows) for split, rows in splits.items()}
    within = {split: _within(*hashes[split], _labels(splits[split])) for split in splits}
    across = {
        (earlier, later): _across(
            hashes[later], hashes[earlier][0], _labels(splits[later]), _labels(splits[earlier])
        )
        for earlier, later in combinations(splits, 2)
    }
    kept = None
    if drop:
        held = np.concatenate([hashes[split][0] for split in splits if split != "train"])
        own, turned = hashes["train"]
        kept = np.flatnonzero(~(np.isin(own, held) | np.isin(turned, held)))
    return resolve(name, splits, marks, Leaks(within=within, across=across), kept)


def _hashes(rows: Rows) -> tuple[Hashes, Hashes]:
    """Hashes of all rows, and of their other strands."""
    assert isinstance(rows.sequences, PackedSequences)
    split, numbers = rows.sequences.split, rows.sequences.rows
    own, turned = np.empty(len(numbers), np.uint64), np.empty(len(numbers), np.uint64)
    for start in range(0, len(numbers), CHUNK):
        letters = split.letters(numbers[start : start + CHUNK])
        own[start : start + CHUNK] = _hash(letters)
        turned[start : start + CHUNK] = _hash(np.ascontiguousarray(COMPLEMENT[letters][:, ::-1]))
    return own, turned


def _hash(letters: Bytes) -> Hashes:
    """64 bits of each row: every word is mixed on its own, then weighted by its place."""
    words = np.pad(letters, ((0, 0), (0, -letters.shape[1] % 8))).view(np.uint64)
    weights = np.random.default_rng(0).integers(0, 2**63, words.shape[1], dtype=np.uint64) * 2 + 1
    words = words * np.uint64(0x9E3779B97F4A7C15)
    words ^= words >> np.uint64(29)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(32)
    return np.asarray((words * weights).sum(axis=1, dtype=np.uint64))


def _labels(rows: Rows) -> Hashes:
    return _hash(np.ascontiguousarray(rows.labels))


def _within(own: Hashes, turned: Hashes, labels: Hashes) -> Within:
    distinct, first, inverse = np.unique(own, return_index=True, return_inverse=True)
    other = np.unique(inverse[labels != labels[first][inverse]])
    return Within(
        repeated=len(own) - len(distinct),
        conflicting=len(other),
        reverse_complement=int((np.isin(turned, distinct) & (turned != own)).sum()),
    )


def _across(later: tuple[Hashes, Hashes], held: Hashes, labels: Hashes, held_labels: Hashes) -> Across:
    own, turned = later
    distinct, first = np.unique(held, return_index=True)
    place = np.minimum(np.searchsorted(distinct, own), len(distinct) - 1)
    exact = distinct[place] == own
    opposite = np.isin(turned, distinct) & (turned != own)
    return Across(
        rows=len(own),
        exact=int(exact.sum()),
        other_label=int((exact & (held_labels[first][place] != labels)).sum()),
        reverse_complement=int(opposite.sum()),
        shared=int((exact | opposite).sum()),
    )
