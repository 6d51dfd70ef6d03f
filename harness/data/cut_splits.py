"""Missing splits of a custom dataset, cut from train: deterministic, and identical sequences stay in one split."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import InputError
from harness.data.hashes import groups, strand_hashes
from harness.data.labelled_files import Rows
from lingo.data import Kind

SHARE = 0.1
"""Share of train's rows for each split that is cut."""

MOST = 0.02
"""Share of a class's rows by which a group of identical sequences may exceed a split's share; larger groups stay in
train."""

LEAST = 10
"""Minimum number of rows for cutting splits."""

CUT = 1
"""Version of the algorithm, part of the digest of a cut split. 2: groups that would exceed a split's share stay in
train."""


def told_cut(splits: Mapping[str, Rows], cut: Sequence[str], staying: int) -> str:
    every = sum(len(splits[split].labels) for split in {"train", *cut})
    shares = ", ".join(f"{split} {len(splits[split].labels) / every:.1%}" for split in cut)
    stay = f"; {staying:,} rows of sequences that occur too often stay in train" if staying else ""
    return f"{' and '.join(cut)} cut from train, {SHARE:.0%} each, by its content ({shares}{stay})."


def cut_splits(
    path: Path, kind: Kind, splits: dict[str, Rows], digests: dict[str, str], cut: Sequence[str]
) -> tuple[dict[str, Rows], dict[str, str], int]:
    """Cut `SHARE` of the rows of train for each split in `cut`. The last value is the number of rows in groups that
    are too large."""
    train, digest = splits["train"], digests["train"]
    if len(train.labels) < LEAST:
        raise InputError(
            f"{path}: must have at least {LEAST} rows for {' and '.join(cut)} to be cut from it, "
            f"but has {len(train.labels)}."
        )
    strata = train.labels if kind == "classification" else np.zeros(len(train.labels), dtype=np.int64)
    together = np.minimum(*strand_hashes(train.sequences))
    place, staying = deal(together, strata, [SHARE] * len(cut), np.random.default_rng(int(digest[:16], 16)))
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


def deal(
    together: NDArray[Any], strata: NDArray[np.int64], shares: Sequence[float], rng: np.random.Generator
) -> tuple[NDArray[np.int64], int]:
    """Assign each row to a split: 0 for train, 1 to `len(shares)` for the others, by shares of each stratum.

    Rows with the same value of `together` stay together, in the stratum of the first. Groups that would exceed a
    split's share by more than `MOST` of the stratum stay in train; the number of their rows is returned as well.
    """
    order, starts = groups(together)
    sizes = np.diff(starts, append=len(order))
    first = np.minimum.reduceat(order, starts)
    shuffled = np.argsort(first)[rng.permutation(len(first))]
    stratum_of = np.unique(strata, return_inverse=True)[1][first[shuffled]]
    by_stratum = shuffled[np.argsort(stratum_of, kind="stable")]
    place, staying = np.zeros(len(first), dtype=np.int64), 0
    for mine in np.split(by_stratum, np.cumsum(np.bincount(stratum_of))[:-1]):
        counts = sizes[mine]
        every, left = int(counts.sum()), len(mine)
        for part, share in enumerate(shares, 1):
            quota, taken = max(1, round(share * every)), 0
            while taken < quota and left > 1:
                # all groups from the end on, up to the one that fills the part or is too large for it
                totals = taken + np.cumsum(counts[1:left][::-1])
                large = (counts[1:left][::-1] > 1) & (totals > quota + MOST * every)
                ends = np.flatnonzero((totals >= quota) | large)
                fitting = int(ends[0]) + (not large[ends[0]]) if len(ends) else left - 1
                place[mine[left - fitting : left]] = part
                taken, left = int(totals[fitting - 1]) if fitting else taken, left - fitting
                if len(ends) and large[ends[0]]:
                    left -= 1
                    staying += int(counts[left])
    found = np.zeros(len(order), dtype=np.int64)
    found[order] = np.repeat(place, sizes)
    return found, staying
