"""The rules of `lingo.methods.rules`, fitted on the bases of a training split (ids of `lingo.nucleotides.bare_bases`).

Linear rules are `lingo.kmers.KmerModel` on other features. The twin and the neighbour rule copy from training rows:
the prediction is m + s·(y' − m), with m the mean target of train, y' that of the row's partners, and s a slope (from
pairs inside train, or the similarity). A slope of −1 is "the opposite of my twin".
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lingo.data import Split, TaskData
from lingo.kmers import CHUNK, LETTERS, KmerModel, kmer_counts, sampled_rows
from lingo.trial import TrialConfig

MARKOV_K = 4
"""A Markov chain of order 3 depends on four letters; its log-odds are linear in their counts."""

PROFILE_K = 8
"""Length of the k-mers by which neighbours are found, on either strand and at any position."""

MOST_POSITIONS = 1024
"""Number of positions from the start of a sequence for the position rule, and as many from its end."""

MOST_IN_A_GROUP = 50
"""Maximum number of rows with the same signature; more are of low complexity and ignored."""

MOST_ALIKE = 0.6
"""Twins have the same base at fewer than this share of positions: others are copies of each other."""

MOST_COMPARED = 60_000
"""Maximum number of training rows for the search of neighbours; of more, a seeded sample is taken."""

LEAST_LENGTH = 20
"""Minimum length: shorter sequences have twins by chance."""

EDGE = 1e-3
"""Probabilities of copied labels are kept this far from 0 and 1."""


def composition(split: Split, rows: NDArray[np.int64]) -> sparse.csr_matrix:
    """Length, shares of unknown bases, bases and dinucleotides, CpG observed over expected: `[rows, 23]`."""
    bases, pairs = (kmer_counts(split, k, rows).toarray().astype(np.float64) for k in (1, 2))
    length = split.lengths[rows].astype(np.float64)
    known = np.maximum(1.0, bases.sum(axis=1, keepdims=True))
    share = bases / known
    # A, T, C, G in the order of the ids: CG is pair 2·4 + 3.
    expected = np.maximum(bases[:, 2] * bases[:, 3], 1.0)
    parts = [
        length[:, None],
        1 - bases.sum(axis=1, keepdims=True) / np.maximum(1.0, length[:, None]),
        share,
        pairs / np.maximum(1.0, pairs.sum(axis=1, keepdims=True)),
        (pairs[:, 11] * known[:, 0] / expected)[:, None],
    ]
    return sparse.csr_matrix(np.concatenate(parts, axis=1))


def positions(split: Split, rows: NDArray[np.int64]) -> sparse.csr_matrix:
    """The base at each position counted from the start, and from the end: 0 or 1, `[rows, 8 · 1024]`."""
    ids, lengths = split.padded(rows, 0)
    ids, width = ids[:, :MOST_POSITIONS], LETTERS * MOST_POSITIONS
    row, place = np.nonzero((ids >= 1) & (ids <= LETTERS))
    base = ids[row, place].astype(np.int64) - 1
    whole, _ = split.padded(rows, 0)
    far, at = np.nonzero((whole >= 1) & (whole <= LETTERS))
    back = lengths[far].astype(np.int64) - 1 - at
    near = back < MOST_POSITIONS
    far, back, last = far[near], back[near], whole[far[near], at[near]].astype(np.int64) - 1
    columns = np.concatenate([place * LETTERS + base, width + back * LETTERS + last])
    ones = np.ones(len(columns), dtype=np.float32)
    shape = (len(rows), 2 * width)
    return sparse.coo_matrix((ones, (np.concatenate([row, far]), columns)), shape=shape).tocsr()


def markov(split: Split, rows: NDArray[np.int64]) -> sparse.csr_matrix:
    """Counts of four letters in a row."""
    return kmer_counts(split, MARKOV_K, rows)


class CopyRule:
    """Common part of the twin rule and the neighbour rule, see the module. Replaces a `KmerModel`."""

    iterations = 1

    def __init__(self, config: TrialConfig, data: TaskData) -> None:
        self._config, self._data = config, data
        self.rows, self.parameters, self.train_loss = len(data.train), 0, float("nan")
        self._mean: NDArray[np.float64] = np.zeros(data.num_labels)

    def fit(self) -> "CopyRule":
        """Fit on the training split."""
        targets = self._targets()
        with np.errstate(invalid="ignore"):
            self._mean = np.nan_to_num(np.nanmean(targets, axis=0))
        self._fit(np.where(np.isnan(targets), self._mean, targets))
        self.parameters = self._data.num_labels
        self.train_loss = self._constant_loss(targets)
        return self

    def predict(self, split: Split) -> NDArray[np.float64]:
        """Logits [rows, labels] (values [rows, 1] of a regression, in the user's unit)."""
        copied = self._mean + self._copied(split)
        if self._data.kind == "regression":
            return self._data.scale.restored(copied)
        share = np.clip(copied, EDGE, 1 - EDGE)
        return np.log(share) if self._data.kind == "classification" else np.log(share / (1 - share))

    def _targets(self) -> NDArray[np.float64]:
        """Labels of train as numbers [n, labels]: one column a class, 0 and 1, or standardised targets."""
        labels = np.asarray(self._data.train.labels)
        if self._data.kind == "classification":
            return np.eye(self._data.num_labels)[labels]
        if self._data.kind == "regression":
            labels = self._data.scale.standardised(labels)
        return labels.reshape(len(labels), -1).astype(np.float64)

    def _constant_loss(self, targets: NDArray[np.float64]) -> float:
        """Mean loss of the constant prediction, an upper limit of a copy rule's loss on its own rows."""
        if self._data.kind == "regression":
            return float(np.nanvar(targets))
        share = np.clip(self._mean, EDGE, 1 - EDGE)
        if self._data.kind == "classification":
            return float(-(share * np.log(share)).sum())
        return float(-(share * np.log(share) + (1 - share) * np.log(1 - share)).mean())

    def _fit(self, targets: NDArray[np.float64]) -> None:
        raise NotImplementedError

    def _copied(self, split: Split) -> NDArray[np.float64]:
        """s·(y' − m) for each row, 0 for a row without partner: [rows, labels]."""
        raise NotImplementedError


class TwinRule(CopyRule):
    """The label of other training rows with the same length, first and last base and dinucleotide counts, which a
    dinucleotide shuffle of a sequence preserves. The slope is fitted on such pairs inside train."""

    def _fit(self, targets: NDArray[np.float64]) -> None:
        self._codes = signatures(self._data.train)
        self._order = np.argsort(self._codes, kind="stable")
        self._sorted = self._codes[self._order]
        self._centred = targets - self._mean
        rows = np.arange(len(self._codes))
        _, partner_sum, number = self._partners(self._data.train, rows, self._codes)
        paired = number > 0
        partner = partner_sum[paired] / number[paired, None]
        power = (partner**2).sum(axis=0)
        product = (self._centred[paired] * partner).sum(axis=0)
        self._slope = np.divide(product, power, out=np.zeros_like(power), where=power > 0).clip(-1, 1)

    def _copied(self, split: Split) -> NDArray[np.float64]:
        _, total, number = self._partners(split, np.arange(len(split)), signatures(split))
        return self._slope * total / np.maximum(1, number)[:, None]

    def _partners(
        self, split: Split, rows: NDArray[np.int64], codes: NDArray[np.uint64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        """(rows, sum of their partners' targets, number of partners) of `rows` with these signatures."""
        first = np.searchsorted(self._sorted, codes, side="left")
        count = np.searchsorted(self._sorted, codes, side="right") - first
        total, number = np.zeros((len(rows), self._centred.shape[1])), np.zeros(len(rows), dtype=np.int64)
        fitting = (count > 0) & (count <= MOST_IN_A_GROUP) & (split.lengths[rows] >= LEAST_LENGTH)
        for shift in range(int(count[fitting].max(initial=0))):
            here = np.flatnonzero(fitting & (count > shift))
            there = self._order[first[here] + shift]
            other = _alike(split, rows[here], self._data.train, there) < MOST_ALIKE
            total[here[other]] += self._centred[there[other]]
            number[here[other]] += 1
        return rows, total, number


class NeighbourRule(CopyRule):
    """The label of the training row whose profile of 8-mers, counted on both strands, is nearest by the cosine; the
    slope is the cosine. Finds relatives: near duplicates, shifted windows, homologous sequences."""

    def _fit(self, targets: NDArray[np.float64]) -> None:
        rows = sampled_rows(len(self._data.train), MOST_COMPARED, self._config.seed)
        self.rows = len(rows)
        self._centred = (targets - self._mean)[rows]
        self._profiles = profiles(self._data.train, rows).T.tocsr()

    def _copied(self, split: Split) -> NDArray[np.float64]:
        parts = [np.empty((0, self._centred.shape[1]))]
        step = max(1, CHUNK // 16)
        for at in range(0, len(split), step):
            rows = np.arange(at, min(at + step, len(split)))
            cosines = np.asarray((profiles(split, rows) @ self._profiles).todense())
            nearest = cosines.argmax(axis=1)
            parts.append(cosines[np.arange(len(rows)), nearest, None] * self._centred[nearest])
        return np.concatenate(parts)


def signatures(split: Split) -> NDArray[np.uint64]:
    """One number a sequence from its length, ends and dinucleotide counts; equal numbers mean equal signatures but
    for collisions of 64-bit hashes."""
    draw = np.random.default_rng(0).integers(1, 2**63, size=LETTERS**2 + 3, dtype=np.uint64) | np.uint64(1)
    parts = [np.empty(0, dtype=np.uint64)]
    for at in range(0, len(split), CHUNK):
        rows = np.arange(at, min(at + CHUNK, len(split)))
        counts = kmer_counts(split, 2, rows).toarray().astype(np.uint64)
        lengths = split.lengths[rows]
        filled = lengths > 0
        ends = np.zeros((len(rows), 2), dtype=np.uint64)
        starts = split.offsets[rows][filled]
        ends[filled, 0] = split.ids[starts]
        ends[filled, 1] = split.ids[starts + lengths[filled] - 1]
        table = np.concatenate([counts, ends, lengths[:, None].astype(np.uint64)], axis=1)
        mixed = table * draw
        parts.append(((mixed ^ (mixed >> np.uint64(29))) * draw).sum(axis=1, dtype=np.uint64))
    return np.concatenate(parts)


def profiles(split: Split, rows: NDArray[np.int64]) -> sparse.csr_matrix:
    """Counts of 8-mers on both strands, each row of length 1."""
    counts = kmer_counts(split, PROFILE_K, rows)
    counts = counts + counts[:, _other_strand(PROFILE_K)]
    norm = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1)).ravel())
    return sparse.csr_matrix(sparse.diags(1 / np.maximum(norm, 1e-12)) @ counts)


def _other_strand(k: int) -> NDArray[np.int64]:
    """For each k-mer the number of its reverse complement; ids 1 to 4 are A, T, C, G."""
    numbers, other = np.arange(LETTERS**k), np.zeros(LETTERS**k, dtype=np.int64)
    for place in range(k):
        other = other * LETTERS + ((numbers // LETTERS**place) % LETTERS ^ 1)
    return other


def _alike(
    one: Split, rows: NDArray[np.int64], other: Split, others: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Share of positions with the same base, of pairs of rows of equal length."""
    parts = [np.empty(0)]
    for at in range(0, len(rows), CHUNK):
        first, _ = one.padded(rows[at : at + CHUNK], 0)
        second, lengths = other.padded(others[at : at + CHUNK], 0)
        width = min(first.shape[1], second.shape[1])
        same = ((first[:, :width] == second[:, :width]) & (second[:, :width] > 0)).sum(axis=1)
        parts.append(same / np.maximum(1, lengths))
    return np.concatenate(parts)


LINEAR: dict[str, tuple[Callable[[Split, NDArray[np.int64]], sparse.csr_matrix], float]] = {
    "rule_composition": (composition, 1.0),
    "rule_markov": (markov, 0.01),
    "rule_positions": (positions, 0.01),
}
"""Features of each linear rule, and the inverse strength of its penalty."""

COPYING: dict[str, type[CopyRule]] = {"rule_twin": TwinRule, "rule_neighbour": NeighbourRule}


def rule_model(config: TrialConfig, data: TaskData) -> Any:
    """The unfitted model of a rule: a `KmerModel` or a `CopyRule`."""
    if config.method in COPYING:
        return COPYING[config.method](config, data)
    features, penalty = LINEAR[config.method]
    return KmerModel(config, data, features=features, C=penalty)
