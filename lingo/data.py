"""Training data of a trial: tokenised splits with labels, in memory or memory-mapped."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Kind = Literal["classification", "multilabel", "regression"]
Indices = Sequence[int] | NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Split:
    """Concatenated token ids of n sequences, and their labels. Arrays are never copied or changed.

    Attributes:
        ids: Token ids of all sequences, int16 or int32 `[tokens]`; may be memory-mapped.
        offsets: int64 `[n + 1]`; sequence i is `ids[offsets[i]:offsets[i + 1]]`.
        labels: int64 `[n]` (classification), uint8 or float32 `[n, labels]` of 0 and 1, NaN for unknown labels
            (multi-label), or float64 or float32 `[n]` or `[n, targets]` (regression), in the user's unit.

    Raises:
        ValueError: If the shapes do not fit together.
    """

    ids: NDArray[np.integer]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64] | NDArray[np.float64] | NDArray[np.float32] | NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.ids.ndim != 1 or self.offsets.ndim != 1 or len(self.offsets) < 1:
            raise ValueError(
                f"`ids` and `offsets` must be flat, but got {self.ids.shape} and {self.offsets.shape}."
            )
        if len(self.labels) != len(self):
            raise ValueError(
                f"`labels` must be as many as the {len(self)} sequences, but got {len(self.labels)}."
            )
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.ids) or (np.diff(self.offsets) < 0).any():
            raise ValueError(
                f"`offsets` must rise from 0 to the {len(self.ids)} token ids, "
                f"but got {self.offsets[0]} to {self.offsets[-1]}."
            )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence, int64 `[n]`."""
        return np.diff(self.offsets)

    def batch(self, indices: Indices) -> list[NDArray[np.int64]]:
        """The token ids of the sequences `indices`, each int64 `[tokens]`."""
        return [self.ids[self.offsets[i] : self.offsets[i + 1]].astype(np.int64) for i in indices]

    def padded(
        self, indices: Indices, pad_id: int, width: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The sequences `indices`, padded on the right.

        Args:
            indices: B rows of this split, in any order.
            pad_id: Token id after a sequence's end.
            width: Tokens of a row (S); `None` for the longest of these sequences.

        Returns:
            Token ids int64 `[B, S]` and lengths int64 `[B]`.

        Raises:
            ValueError: If a sequence is longer than `width`.
        """
        chosen = np.asarray(indices, dtype=np.int64)
        starts = self.offsets[chosen]
        lengths = self.offsets[chosen + 1] - starts
        longest = int(lengths.max(initial=0))
        if width is not None and width < longest:
            raise ValueError(f"`width` must be at least the longest sequence, {longest}, but got {width}.")
        padded = np.full((len(chosen), longest if width is None else width), pad_id, dtype=np.int64)
        for row, start, length in zip(padded, starts.tolist(), lengths.tolist(), strict=True):
            row[:length] = self.ids[start : start + length]
        return padded, lengths


@dataclass(frozen=True)
class Scale:
    """Standardisation of a regression's targets to mean 0 and standard deviation 1 for training.

    Attributes:
        mean, sd: Of the training targets, in the user's unit (`sd` over n), of several targets each; 0 and 1 for other
            kinds of task.
    """

    mean: float | Sequence[float] = 0.0
    sd: float | Sequence[float] = 1.0

    @classmethod
    def of(cls, targets: NDArray[np.generic]) -> "Scale":
        """That of targets `[n]` or `[n, targets]`, n ≥ 1. `sd` is 0 where all are equal."""
        values = np.asarray(targets, dtype=np.float64)
        if values.ndim == 2:
            each = [cls.of(column) for column in values.T]
            return cls(tuple(float(one.mean) for one in each), tuple(float(one.sd) for one in each))  # type: ignore[arg-type]
        if not np.ptp(values):
            return cls(float(values[0]), 0.0)
        mean = float(values.mean())
        # Relative to the largest deviation: squares of very small or large targets leave the number range.
        most = float(np.abs(values - mean).max())
        return cls(mean, most * float(np.sqrt(np.mean(((values - mean) / most) ** 2))))

    def standardised(self, targets: NDArray[np.generic]) -> NDArray[np.float64]:
        """Standardised targets, any shape."""
        return np.asarray((np.asarray(targets, dtype=np.float64) - self.mean) / self.sd)

    def restored(self, outputs: NDArray[np.floating]) -> NDArray[np.float64]:
        """Outputs of a head in the user's unit, any shape: the inverse of `standardised`."""
        return np.asarray(np.asarray(outputs, dtype=np.float64) * self.sd + self.mean)

    @property
    def square(self) -> float:
        """A squared error of standardised targets converted to the user's unit, averaged over several targets."""
        return float(np.mean(np.square(self.sd)))


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskData:
    """The data of one task for training. The test split is not included: only the final stage opens it.

    Attributes:
        name: The task's name, `EMP/H3`.
        kind: `classification`, `multilabel` or `regression`.
        num_labels: Outputs of the head: classes, labels, or targets of a regression.
        metric: The metric of the dev split that selects a trial, a key of `lingo.metrics.score`.
        pad_id: Token id of padding, as the backbone's tokenizer has it.
        train, dev: The splits.
        digest: Digest of data, tokenizer, prompt and length, for results; empty when not known.

    Raises:
        ValueError: If `kind` is unknown, the labels do not fit `kind` and `num_labels`, or the training targets of a
            regression are all equal.
    """

    name: str
    kind: Kind
    num_labels: int
    metric: str
    pad_id: int
    train: Split
    dev: Split
    digest: str = ""

    def __post_init__(self) -> None:
        problems = [
            f"{self.name}, {name}: {problem}"
            for name, split in (("train", self.train), ("dev", self.dev))
            for problem in label_problems(self.kind, self.num_labels, split.labels)
        ]
        if not problems and len(self.train) and not np.all(self.scale.sd):
            same = np.atleast_1d(self.scale.mean)[np.atleast_1d(self.scale.sd) == 0][0]
            problems.append(
                f"{self.name}, train: targets must differ, but all {len(self.train):,} are {same:g}."
            )
        if problems:
            raise ValueError("\n".join(problems))

    @cached_property
    def usual_length(self) -> int:
        """90th percentile of the lengths of training sequences, in tokens."""
        return int(np.quantile(self.train.lengths, 0.9, method="higher")) if len(self.train) else 0

    @cached_property
    def scale(self) -> Scale:
        """Mean and standard deviation of the training targets; those of a regression alone are not 0 and 1."""
        regression = self.kind == "regression" and len(self.train) > 0
        return Scale.of(self.train.labels) if regression else Scale()

    @cached_property
    def class_weights(self) -> NDArray[np.float64]:
        """n / (C · n_c) of each of C classes that train has, `[num_labels]`; of several labels n / (2 · n_v) of the
        values 0 and 1, `[2, num_labels]`, from the n rows where the label is known. 1 for those that do not occur in
        train."""
        labels = np.asarray(self.train.labels)
        if self.kind == "classification":
            counts = np.bincount(labels, minlength=self.num_labels)
            rows, kinds = counts.sum(), (counts > 0).sum()
        else:
            ones = np.nansum(labels, axis=0, dtype=np.float64)
            rows, kinds = (~np.isnan(labels.astype(np.float32))).sum(axis=0), np.int64(2)
            counts = np.stack([rows - ones, ones])
            counts = np.where((counts == 0).any(axis=0), 0, counts)
        return np.asarray(np.where(counts > 0, rows / np.maximum(1, kinds * counts), 1.0), dtype=np.float64)

    @cached_property
    def first_bias(self) -> NDArray[np.float64]:
        """The initial bias of a head, `[num_labels]`: the best prediction without a sequence.

        Classification: log(max(n_c, ½) / n) from the n_c of n training rows that have class c, so that a softmax
        gives the classes' shares and two outputs differ by the log-odds. Multi-label: log(p / (1 - p)) with
        p = min(max(n_1, ½), n - ½) / n from the n_1 of n rows with a known label that have it. Counting half a
        row keeps it finite where a class or a label has no rows, or all. Regression: 0, the mean of the targets.
        """
        labels, rows = self.train.labels, max(1, len(self.train))
        if self.kind == "regression":
            return np.zeros(self.num_labels)
        if self.kind == "classification":
            counts = np.bincount(labels, minlength=self.num_labels)
            return np.asarray(np.log(np.maximum(counts, 0.5) / rows), dtype=np.float64)
        if labels.dtype.kind == "f":
            rows = np.maximum(1, (~np.isnan(labels)).sum(axis=0))
        positive = np.clip(np.nansum(labels, axis=0, dtype=np.float64), 0.5, rows - 0.5)
        return np.asarray(np.log(positive / (rows - positive)), dtype=np.float64)


def label_problems(kind: str, num_labels: int, labels: NDArray[np.generic]) -> list[str]:
    """Why `labels` are invalid for a task of this kind; empty if they are valid."""
    if kind not in get_args(Kind):
        return [f"`kind` must be one of {', '.join(get_args(Kind))}, but got {kind!r}."]
    if kind == "multilabel":
        if labels.ndim != 2 or labels.shape[1] != num_labels or labels.dtype.kind not in "fu":
            return [
                f"labels must be uint8 or float32 [n, {num_labels}], but got {labels.dtype} {list(labels.shape)}."
            ]
        return []
    expected = "i" if kind == "classification" else "f"
    if (
        kind == "regression"
        and labels.ndim == 2
        and labels.shape[1] == num_labels
        and labels.dtype.kind == "f"
    ):
        return []
    if labels.ndim != 1 or labels.dtype.kind != expected:
        name = "int64" if kind == "classification" else "float64"
        return [f"labels must be {name} [n], but got {labels.dtype} {list(labels.shape)}."]
    if kind == "classification" and len(labels):
        low, high = labels.min(), labels.max()
        if low < 0 or high >= num_labels:
            return [f"labels must be 0 to {num_labels - 1}, but got {low} to {high}."]
    return []
