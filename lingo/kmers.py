"""Counts of k-mers and a linear model on them: the simplest baseline for DNA."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from lingo.data import Split, TaskData
from lingo.losses import LOSSES
from lingo.streams import stream_seed
from lingo.trial import TrialConfig

LETTERS = 4
MOST_COUNTS = 2**27
"""Counts that are kept in memory, 1 GiB of them; of a larger training split a seeded sample is used."""

CHUNK = 4096
MAX_ITERATIONS = 1000
TINY = 1e-12

Features = Callable[[Split, NDArray[np.int64]], Any]
"""What a linear model sees of rows of a split: float `[rows, features]`, sparse, or dense and then centred as well."""


def kmer_counts(split: Split, k: int, rows: NDArray[np.int64] | None = None) -> sparse.csr_matrix:
    """How often each k-mer stands in each sequence, overlapping; k-mers with N are left out.

    Args:
        split: Base ids as `lingo.nucleotides.bare_bases` has them (1 to 4, other ids are unknown bases).
        k: Length, 1 to 8.
        rows: Rows to count; all when `None`.

    Returns:
        float32 `[rows, 4^k]`.
    """
    rows = np.arange(len(split)) if rows is None else rows
    blocks = [_block(split, k, rows[at : at + CHUNK]) for at in range(0, len(rows), CHUNK)]
    empty = sparse.csr_matrix((0, LETTERS**k), dtype=np.float32)
    return sparse.vstack([empty, *blocks], format="csr", dtype=np.float32)


def _block(split: Split, k: int, rows: NDArray[np.int64]) -> sparse.csr_matrix:
    ids, _ = split.padded(rows, 0)
    known = (ids >= 1) & (ids <= LETTERS)
    width = ids.shape[1] - k + 1
    if width < 1:
        return sparse.csr_matrix((len(rows), LETTERS**k), dtype=np.float32)
    code = np.zeros((len(rows), width), dtype=np.int64)
    whole = np.ones((len(rows), width), dtype=bool)
    for place in range(k):
        code = code * LETTERS + (ids[:, place : place + width] - 1) * known[:, place : place + width]
        whole &= known[:, place : place + width]
    row, column = np.nonzero(whole)
    ones = np.ones(len(row), dtype=np.float32)
    shape = (len(rows), LETTERS**k)
    return sparse.coo_matrix((ones, (row, code[row, column])), shape=shape).tocsr()


def sampled_rows(rows: int, most: int, seed: int) -> NDArray[np.int64]:
    """Numbers of all rows, or of a seeded sample of `most`, in order."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(stream_seed(seed, "sample")).permutation(rows)[:most])


class KmerModel:
    """Logistic regression (one against the rest for several labels) or ridge regression on scaled counts.

    Args:
        config: Its `k`, `C`, `feature_scaling` and `seed` are read.
        data: The task, as base ids.
        features: What is scaled instead of counts of k-mers.
        C: Inverse strength of the penalty instead of the configuration's.

    Attributes:
        rows: Training sequences that are used.
        iterations: Of the solver, after `fit`.
        parameters: Numbers fitted, after `fit`.
        train_loss: Mean loss on the training rows, after `fit`, without the penalty.
    """

    def __init__(
        self, config: TrialConfig, data: TaskData, *, features: Features | None = None, C: float | None = None
    ) -> None:
        self._config, self._data, self._C = config, data, C or config.C
        self._features = features or (lambda split, rows: kmer_counts(split, config.k, rows))
        self._scale: Any = None
        self._model: Any = None
        self._constant: NDArray[np.float64] | None = None
        per_row = max(1.0, len(data.train.ids) / max(1, len(data.train)))
        self.rows = min(len(data.train), max(1, int(MOST_COUNTS / per_row)))
        self.iterations = self.parameters = 0
        self.train_loss = float("nan")

    def fit(self) -> "KmerModel":
        """Fit on the training split."""
        train = self._data.train
        rows = sampled_rows(len(train), self.rows, self._config.seed)
        counts = self._features(train, rows)
        dense = not sparse.issparse(counts)
        scaled = self._config.feature_scaling == "standard"
        self._scale = StandardScaler(with_mean=dense and scaled, with_std=scaled, copy=dense)
        counts = self._scale.fit_transform(counts)
        labels = np.asarray(train.labels)[rows]
        if self._data.kind == "regression":
            self._model = Ridge(alpha=1 / self._C).fit(counts, self._data.scale.standardised(labels))
            self.iterations = 1
        elif self._data.kind == "multilabel":
            self._fit_labels(counts, labels)
        elif np.ptp(labels):
            self._model = self._logistic().fit(counts, labels)
            self.iterations = int(np.max(self._model.n_iter_))
        else:
            raise ValueError(f"{self._data.name}: train must hold at least two classes, but has one.")
        self.parameters = (counts.shape[1] + 1) * self._outputs()
        self.train_loss = self._loss(self._logits(counts), labels)
        return self

    def _outputs(self) -> int:
        """Boundaries that were fitted: one for two classes."""
        if self._data.kind == "classification":
            return int(np.atleast_2d(self._model.coef_).shape[0])
        return 1 if self._constant is None else int(np.isnan(self._constant).sum())

    def _loss(self, logits: NDArray[np.float64], labels: NDArray[np.generic]) -> float:
        truth = torch.from_numpy(np.ascontiguousarray(labels))
        truth = truth if self._data.kind == "classification" else truth.double()
        wide = torch.ones(1, 1, logits.shape[1], dtype=torch.bool)
        return float(LOSSES[self._data.kind](torch.from_numpy(logits)[None], truth[None], wide, None).mean())

    def _logistic(self) -> LogisticRegression:
        weight = "balanced" if self._config.class_weights == "balanced" else None
        return LogisticRegression(C=self._C, max_iter=MAX_ITERATIONS, tol=1e-3, class_weight=weight)

    def _fit_labels(self, counts: Any, labels: NDArray[Any]) -> None:
        """Labels that are the same in all rows have no boundary: their log-odds are those of their share."""
        known = ~np.isnan(labels) if labels.dtype.kind == "f" else np.ones(labels.shape, dtype=bool)
        present = np.nansum(labels, axis=0, dtype=np.float64)
        share = np.clip(present / np.maximum(1, known.sum(axis=0)), TINY, 1 - TINY)
        same = (present == 0) | (present == known.sum(axis=0))
        self._constant = np.where(same, np.log(share / (1 - share)), np.nan)
        varied = np.isnan(self._constant)
        if varied.any():
            chosen = np.flatnonzero(varied)
            self._model = [self._fit_label(counts, labels[:, i], known[:, i]) for i in chosen.tolist()]
            self.iterations = max(int(np.max(one.n_iter_)) for one in self._model)

    def _fit_label(self, counts: Any, labels: NDArray[Any], known: NDArray[np.bool_]) -> LogisticRegression:
        if known.all():
            return self._logistic().fit(counts, labels)
        return self._logistic().fit(counts[known], labels[known])

    def linear(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weight [labels, features] and bias [labels] that give the logits from features as they are, in the unit of
        standardised targets for a regression; after `fit`, of dense features."""
        labels = self._data.num_labels
        weight, bias = np.zeros((labels, self._scale.n_features_in_)), np.zeros(labels)
        if self._data.kind == "regression":
            weight[:], bias[:] = np.atleast_2d(self._model.coef_), self._model.intercept_
        elif self._data.kind == "multilabel":
            assert self._constant is not None
            bias = np.nan_to_num(self._constant)
            for place, one in zip(np.flatnonzero(np.isnan(self._constant)), self._model or (), strict=True):
                weight[place], bias[place] = one.coef_[0], one.intercept_[0]
        else:
            classes, coef = self._model.classes_, self._model.coef_
            both = len(coef) == 1  # of two classes the first has logit 0
            bias[:] = np.log(TINY)
            bias[classes] = [0.0, self._model.intercept_[0]] if both else self._model.intercept_
            weight[classes] = np.stack([np.zeros_like(coef[0]), coef[0]]) if both else coef
        if self._config.feature_scaling == "none":
            return weight, bias
        weight = weight / self._scale.scale_
        return weight, bias - weight @ self._scale.mean_

    def predict(self, split: Split) -> NDArray[np.float64]:
        """Logits [rows, labels] (values [rows, 1] of a regression, in the user's unit)."""
        parts = [
            self._logits(self._scale.transform(self._features(split, np.arange(at, end))))
            for at in range(0, len(split), CHUNK)
            for end in [min(at + CHUNK, len(split))]
        ]
        return np.concatenate([np.empty((0, self._data.num_labels)), *parts])

    def _logits(self, counts: Any) -> NDArray[np.float64]:
        if self._data.kind == "regression":
            return self._data.scale.restored(self._model.predict(counts)).reshape(counts.shape[0], -1)
        if self._data.kind == "multilabel":
            return self._label_logits(counts)
        found = np.asarray(self._model.decision_function(counts), dtype=np.float64)
        if found.ndim == 1:
            found = np.stack([np.zeros_like(found), found], axis=1)
        # Classes without a training row are never predicted.
        logits = np.full((len(found), self._data.num_labels), np.log(TINY))
        logits[:, self._model.classes_] = found
        return logits

    def _label_logits(self, counts: Any) -> NDArray[np.float64]:
        assert self._constant is not None
        logits = np.tile(self._constant, (counts.shape[0], 1))
        varied = np.isnan(self._constant)
        if varied.any():
            logits[:, varied] = np.stack([one.decision_function(counts) for one in self._model], axis=1)
        return logits
