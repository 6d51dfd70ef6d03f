"""Splits that a person's data lacks, cut from train: the same rows each time, equal sequences together."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import InputError
from harness.data.hashes import strand_hashes
from harness.data.labelled_files import Rows
from lingo.data import Kind

SHARE = 0.1
"""Of the rows in train, for each split that is cut."""

MOST = 0.02
"""Of the rows of a class by which equal sequences may exceed a split's share; larger groups stay in train."""

LEAST = 10
"""Rows without which nothing is cut."""

CUT = 1
"""Part of the digest of a cut split: raised when the same file would be cut another way. 2 where a group stays in train
that would have exceeded its share."""


def told_cut(splits: Mapping[str, Rows], cut: Sequence[str], staying: int) -> str:
    every = sum(len(splits[split].labels) for split in {"train", *cut})
    shares = ", ".join(f"{split} {len(splits[split].labels) / every:.1%}" for split in cut)
    stay = f"; {staying:,} rows of sequences that stand too often stay in train" if staying else ""
    return f"{' and '.join(cut)} cut from train, {SHARE:.0%} each, by its content ({shares}{stay})."


def cut_splits(
    path: Path, kind: Kind, splits: dict[str, Rows], digests: dict[str, str], cut: Sequence[str]
) -> tuple[dict[str, Rows], dict[str, str], int]:
    """`SHARE` of the rows of train for each split in `cut`; the last number is that of rows in too large groups."""
    train, digest = splits["train"], digests["train"]
    if len(train.labels) < LEAST:
        raise InputError(
            f"{path}: must have at least {LEAST} rows for {' and '.join(cut)} to be cut from it, "
            f"but has {len(train.labels)}."
        )
    strata = train.labels if kind == "classification" else np.zeros(len(train.labels), dtype=np.int64)
    place, staying = _places(train.sequences, strata, len(cut), np.random.default_rng(int(digest[:16], 16)))
    made = {**splits, "train": train.take(np.flatnonzero(place == 0))}
    marks = {"train": f"{digest} without {' '.join(cut)}"}
    for number, split in enumerate(cut, 1):
        made[split] = train.take(np.flatnonzero(place == number))
        marks[split] = f"{digest} {split} of {' '.join(cut)}"
        if not len(made[split].labels):
            raise InputError(f"{path}: has too few different sequences for {split} to be cut from it.")
    way = CUT + bool(staying)
    own = {name: hashlib.sha256(f"{way} {SHARE} {text}".encode()).hexdigest() for name, text in marks.items()}
    return made, {**digests, **own}, staying


def _places(
    sequences: Sequence[str], strata: NDArray[np.int64], parts: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], int]:
    """Where each row goes: 0 for train, 1 to `parts` for the others, `SHARE` of each stratum to each of them.

    Rows of one sequence, or of its other strand, go together, with the stratum of the first. Groups that would exceed a
    part's share by more than `MOST` of the stratum stay in train; how many rows these have is told as well.
    """
    own, turned = strand_hashes(sequences)
    _, first, group, sizes = np.unique(
        np.minimum(own, turned), return_index=True, return_inverse=True, return_counts=True
    )
    shuffled = np.argsort(first)[rng.permutation(len(first))]
    stratum_of = strata[first]
    place, staying = np.zeros(len(first), dtype=np.int64), 0
    for stratum in np.unique(strata).tolist():
        mine = shuffled[stratum_of[shuffled] == stratum]
        counts = sizes[mine]
        every, left = int(counts.sum()), len(mine)
        quota = max(1, round(SHARE * every))
        for part in range(1, parts + 1):
            taken = 0
            while taken < quota and left > 1:
                left -= 1
                size = int(counts[left])
                if size > 1 and taken + size > quota + MOST * every:
                    staying += size
                    continue
                place[mine[left]] = part
                taken += size
    return place[group], staying
