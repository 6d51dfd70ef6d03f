"""The rows of a task's variant: new splits by homology or by chromosome, or few rows of each class drawn from train.

A division reads the sequences of all splits, test included, and of the labels only the classes, for stratification.
Rows are divided before anything is trained, and the new test split is read in the final stage like any other.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import InputError
from harness.core.wording import some
from harness.data.cut_splits import deal
from harness.data.hashes import strand_hashes
from harness.data.labelled_files import Rows
from harness.data.tasks import SPLITS, TaskRow
from harness.data.variants import Variant

CHANGED = "changed split"
"""Caveat of splits that differ from the published ones."""

FEW = "k-shot"
"""Caveat of results from few training rows."""

K = 21
"""Length of the k-mers by which sequences are compared, as in the shortcut audit."""

HOLDERS = 64
"""Maximum number of sequences with which each sequence that contains a k-mer is compared, as in the audit; the first
ones of more."""

MOST_ROWS = 400_000
"""Maximum number of rows that are compared; more would exceed the memory of ordinary machines."""

MOST_CLASSES = 20
"""Maximum number of classes that are counted separately."""

WAY = 1
"""Version of the algorithms, part of each digest: incremented when they would give other rows."""


@dataclass(frozen=True, kw_only=True)
class VariedRows:
    """Rows of a variant.

    Attributes:
        splits: Rows of train, dev and test.
        marks: Caveats, each with a line that gives the reason.
        facts: The same as plain data: `way`, `identity`, `shots`, `seed`, by split `rows` and `labels` (rows of each
            class), `staying` (rows of groups too large for dev or test) and `places` (chromosomes by split).
    """

    splits: Mapping[str, Rows]
    marks: Mapping[str, str]
    facts: Mapping[str, Any]


def varied_digests(digests: Mapping[str, str], variant: Variant) -> dict[str, str]:
    """Digests of a variant's splits; unchanged splits keep theirs."""
    made = dict(digests)
    if variant.way != "published":
        text = replace(variant, shots=None).text
        whole = " ".join(digests[split] for split in SPLITS)
        made = {
            split: hashlib.sha256(f"{WAY} {whole} {text} {split}".encode()).hexdigest() for split in SPLITS
        }
    if variant.shots is not None:
        text = f"{WAY} {made['train']} {variant.shots}-shot {variant.seed}"
        made["train"] = hashlib.sha256(text.encode()).hexdigest()
    return made


def varied_rows(
    row: TaskRow, splits: Mapping[str, Rows], digests: Mapping[str, str], names: Sequence[str] = ()
) -> VariedRows:
    """The rows of a task's variant.

    Args:
        row: The task with its `variant`.
        splits: Its published rows.
        digests: Digests of their content.
        names: Names of classes, if any: `label_names`.

    Raises:
        InputError: If the rows cannot be divided in this way.
    """
    variant, marks = row.variant, dict[str, str]()
    facts: dict[str, Any] = {"way": variant.way, "seed": variant.seed}
    made = dict(splits)
    if variant.way != "published":
        pooled, shares = _pooled(splits), [len(splits[s].labels) for s in SPLITS]
        strata = pooled.labels if row.kind == "classification" else np.zeros(len(pooled.labels), np.int64)
        place, more = (_by_homology if variant.way == "homology" else _by_chromosome)(
            row, pooled, strata, shares
        )
        made = {split: pooled.take(np.flatnonzero(place == part)) for part, split in enumerate(SPLITS)}
        if empty := [split for split, rows in made.items() if not len(rows.labels)]:
            raise InputError(
                f"{row.name}: `--split {variant.way}` must leave rows for every split, but {' and '.join(empty)} would "
                f"have none: {_why(row, pooled, more)}."
            )
        facts |= more
    if variant.shots is not None:
        made["train"], lacking = _drawn(
            made["train"], variant, varied_digests(digests, replace(variant, shots=None)), names
        )
        facts |= {"shots": variant.shots}
        less = f"; {lacking}" if lacking else ""
        marks[FEW] = (
            f"{row.name}: {variant.shots} of each class drawn from train by seed {variant.seed}, "
            f"{some(made['train'].labels, 'training row')}{less}."
        )
    facts |= {"rows": {split: len(rows.labels) for split, rows in made.items()}}
    if row.kind == "classification" and row.num_labels <= MOST_CLASSES:
        facts["labels"] = {
            split: {_name(names, label): int((rows.labels == label).sum()) for label in range(row.num_labels)}
            for split, rows in made.items()
        }
    if variant.way != "published":
        marks[CHANGED] = f"{row.name}: {_told(variant, facts)}; scores do not compare with published ones."
    return VariedRows(splits=made, marks=marks, facts=facts)


def _name(names: Sequence[str], label: int) -> str:
    return names[label] if label < len(names) else str(label)


def _pooled(splits: Mapping[str, Rows]) -> Rows:
    """All rows, train first."""
    rows = [splits[split] for split in SPLITS]
    codes = [one.chromosomes for one in rows if one.chromosomes is not None]
    return Rows(
        [str(text) for one in rows for text in one.sequences],
        np.concatenate([one.labels for one in rows]),
        np.concatenate(codes) if len(codes) == len(rows) else None,
    )


def _told(variant: Variant, facts: Mapping[str, Any]) -> str:
    parts = []
    for split, count in facts["rows"].items():
        shares = [
            f"{name} {number / max(1, count):.0%}"
            for name, number in facts.get("labels", {}).get(split, {}).items()
        ]
        where = f", {'+'.join(facts['places'][split])}" if split != "train" and "places" in facts else ""
        classes = f" ({', '.join(shares)})" if shares else ""
        parts.append(f"{split} {count:,} rows{where}{classes}")
    how = (
        "chromosome"
        if variant.way == "chromosome"
        else f"homology ({facts['groups']:,} groups at {variant.identity:g})"
    )
    stay = f"; {some(facts['staying'], 'row')} of large groups stay in train" if facts.get("staying") else ""
    return f"divided anew by {how}: {'; '.join(parts)}{stay}"


def _why(row: TaskRow, pooled: Rows, facts: Mapping[str, Any]) -> str:
    if row.variant.way == "chromosome":
        return "there are too few chromosomes"
    return (
        f"of {some(pooled.labels, 'row')} {facts['staying']:,} are in groups of similar sequences too large for it; a "
        f"higher `--similarity` than {row.variant.identity:g} makes smaller ones"
    )


# --- homology ----------------------------------------------------------------------------------------------


def similar(
    sequences: Sequence[str], references: Sequence[str], identity: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (sequence, reference) that share as many 21-mers, on either strand, as sequences of this identity do.

    Sequences of identity p with random substitutions share p²¹ of their 21-mers. As in the shortcut audit, k-mers of
    more than `HOLDERS` references are ignored.
    """
    from seqleak.audit.kmers import auto_scale, build_index, query

    index = build_index(references, k=K, scale=auto_scale([len(text) for text in (*references, *sequences)]))
    hits = query(index, sequences, max_df=HOLDERS, keep_c=identity**K)
    found = hits.containment() >= identity**K
    return hits.q[found], hits.r[found]


def homology_groups(sequences: Sequence[str], identity: float) -> NDArray[np.int64]:
    """Group number of each sequence `[n]`: connected components of similar sequences."""
    from seqleak.audit.kmers import Index, auto_scale, build_index, query

    _, first, of = np.unique(np.minimum(*strand_hashes(sequences)), return_index=True, return_inverse=True)
    different = [sequences[i] for i in first.tolist()]
    index = build_index(different, k=K, scale=auto_scale([len(text) for text in different]))
    # sequences are compared with the first ones of each k-mer: links large families in linear time
    rank = np.arange(len(index.kmer)) - np.searchsorted(index.kmer, index.kmer)
    few = rank < HOLDERS
    fields = {name: getattr(index, name)[few] for name in ("kmer", "item", "pos", "ori")}
    ahead = Index(**fields, **{n: getattr(index, n) for n in ("n_items", "n_kmers", "max_len", "k", "scale")})
    hits = query(ahead, different, max_df=HOLDERS, keep_c=identity**K, exclude=np.arange(len(different)))
    shared = hits.shared / np.maximum(1, np.minimum(index.n_kmers[hits.q], index.n_kmers[hits.r]))
    found = shared >= identity**K
    return joined(len(different), hits.q[found], hits.r[found])[of]


def joined(count: int, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Component number of each of `count` nodes `[count]`, where pairs are edges."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(count, count))
    return np.asarray(connected_components(links, directed=False)[1], np.int64)


def _by_homology(
    row: TaskRow, pooled: Rows, strata: NDArray[np.int64], sizes: Sequence[int]
) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Assign groups of similar sequences to splits; groups that the audit still links across splits are merged and
    assigned again."""
    variant, every = row.variant, len(pooled.labels)
    if every > MOST_ROWS:
        raise InputError(
            f"{row.name}: `--split homology` compares at most {MOST_ROWS:,} rows with each other, but there are "
            f"{every:,}."
        )
    group = homology_groups(pooled.sequences, variant.identity)
    shares = [size / every for size in sizes[1:]]
    while True:
        place, staying = deal(group, strata, shares, np.random.default_rng(variant.seed))
        links = [np.zeros((2, 0), np.int64)]
        for part in (1, 2):
            later, earlier = np.flatnonzero(place == part), np.flatnonzero(place < part)
            if len(later) and len(earlier):
                new, old = ([pooled.sequences[i] for i in rows.tolist()] for rows in (later, earlier))
                first, second = similar(new, old, variant.identity)
                links.append(np.stack([group[later[first]], group[earlier[second]]]))
        first, second = np.concatenate(links, axis=1)
        if not len(first):
            break
        group = joined(int(group.max()) + 1, first, second)[group]
    facts = {"identity": variant.identity, "groups": len(np.unique(group)), "staying": staying}
    return place, facts


# --- chromosomes -------------------------------------------------------------------------------------------


def _by_chromosome(
    row: TaskRow, pooled: Rows, strata: NDArray[np.int64], sizes: Sequence[int]
) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Assign whole chromosomes in a seeded order: each split takes those that bring it nearer to its share."""
    codes = pooled.chromosomes
    if codes is None:
        raise InputError(
            f"{row.name}: `--split chromosome` needs a column chrom, chr or chromosome, but there is none; "
            "`--split homology` divides by the sequences."
        )
    present = np.unique(codes)
    if len(present) < len(SPLITS):
        raise InputError(
            f"{row.name}: `--split chromosome` needs at least {len(SPLITS)} chromosomes, but got {', '.join(present)}."
        )
    counts = {name: int((codes == name).sum()) for name in present.tolist()}
    left = [present[i] for i in np.random.default_rng(row.variant.seed).permutation(len(present)).tolist()]
    places: dict[str, list[str]] = {}
    for number, size in ((2, sizes[2]), (1, sizes[1])):
        taken: list[str] = []
        for name in list(left[:-number]):
            total = sum(counts[one] for one in taken)
            if abs(total + counts[name] - size) < abs(total - size):
                taken.append(name)
        taken = taken or [min(left, key=lambda name: counts[name])]
        places[SPLITS[number]] = sorted(taken)
        left = [name for name in left if name not in taken]
    places["train"] = sorted(left)
    place = np.zeros(len(codes), np.int64)
    for part, split in enumerate(SPLITS):
        place[np.isin(codes, places[split])] = part
    return place, {"places": {split: places[split] for split in SPLITS}}


# --- few rows ----------------------------------------------------------------------------------------------


def _drawn(
    train: Rows, variant: Variant, digests: Mapping[str, str], names: Sequence[str]
) -> tuple[Rows, str]:
    """The first rows of a permutation of each class, which depends on the content of train and the seed: fewer shots
    are a subset of more."""
    assert variant.shots is not None
    chosen, lacking = [], []
    for label in np.unique(train.labels).tolist():
        rows = np.flatnonzero(train.labels == label)
        rng = np.random.default_rng([int(digests["train"][:16], 16), variant.seed, label])
        chosen.append(rng.permutation(rows)[: variant.shots])
        if len(rows) < variant.shots:
            lacking.append(f"class {_name(names, label)} has {len(rows):,}")
    told = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more have fewer" if len(lacking) > 5 else "")
    return train.take(np.sort(np.concatenate(chosen))), told
