"""Comparison of two runs on the same rows of the test split."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness.core.errors import InputError
from harness.pipeline.best import best_of, records_of
from harness.runs.front import by_study, leading
from harness.runs.intervals import LEAST_SEEDS, over_rows_and_seeds, range_of
from harness.runs.layout import RunFolder, file_name
from harness.runs.record import Record
from harness.workers.confidence import resampled
from lingo.metrics import score

RESAMPLES = 1_000
Key = tuple[str, str, str]
Predictions = tuple[str, NDArray[np.float64], NDArray[np.generic]]
"""Kind of the task, logits [rows, outputs], and labels."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One study of each run on one task.

    Attributes:
        task, metric: The task and its test metric.
        a, b: `backbone method` of the study in the first and the second run.
        seeds: Common seeds.
        score_a, score_b: Means over these seeds.
        difference: `score_b - score_a`.
        low, high: 95 % interval of the difference over test rows and seeds
            (`harness.runs.intervals.over_rows_and_seeds`: both runs and all seeds have the same resampled rows);
            `None` if there is none, with the reason in `why`.
        why: Why there is no interval; empty if there is one.
    """

    task: str
    metric: str
    a: str
    b: str
    seeds: Sequence[int]
    score_a: float
    score_b: float
    difference: float
    low: float | None = None
    high: float | None = None
    why: str = ""

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def compare(a: Path, b: Path, tasks: Sequence[str] = ()) -> list[Comparison]:
    """Compare each study that both runs have; for a task without a common study, each run's study with the best dev
    score.

    Args:
        a, b: Output folders.
        tasks: Only these tasks; if empty, all common ones.

    Raises:
        InputError: If a folder is not a run, or they have no common task with final runs.
    """
    both = [_finals(out) for out in (a, b)]
    common = sorted({key[0] for key in both[0]} & {key[0] for key in both[1]})
    chosen = [task for task in common if not tasks or task in tasks]
    if not chosen:
        asked = f" of {', '.join(tasks)}" if tasks else ""
        raise InputError(
            f"`compare` needs a task{asked} with final runs in both {a} and {b}, but there is none."
        )
    found = []
    for task in chosen:
        same = sorted({key for key in both[0] if key[0] == task} & set(both[1]))
        pairs = [(key, key) for key in same] or [(_champion(a, both[0], task), _champion(b, both[1], task))]
        found += [_compared((a, both[0][one]), (b, both[1][other])) for one, other in pairs]
    return found


def _finals(out: Path) -> dict[Key, list[Record]]:
    found: dict[Key, list[Record]] = {}
    for record in (one for records in by_study(records_of(out)).values() for one in leading(records)):
        if record.stage == "final" and record.status == "finished" and record.test:
            found.setdefault((record.task, record.backbone, record.method), []).append(record)
    return found


def _champion(out: Path, finals: dict[Key, list[Record]], task: str) -> Key:
    """The tested study of a task with the best dev score."""
    order = [(one.task, one.backbone, one.method) for one in best_of(records_of(out)) if one.task == task]
    return next((key for key in order if key in finals), next(key for key in finals if key[0] == task))


def _compared(first: tuple[Path, Sequence[Record]], second: tuple[Path, Sequence[Record]]) -> Comparison:
    (out_a, a), (out_b, b) = ((out, {r.seed: r for r in records}) for out, records in (first, second))
    seeds, metric = sorted(a.keys() & b.keys()), first[1][0].metric
    paired = bool(seeds)
    chosen_a, chosen_b = ([r[s] for s in seeds] if paired else list(r.values()) for r in (a, b))
    means = [_mean(records, metric) for records in (chosen_a, chosen_b)]
    low = high = None
    why = "no seed in common"
    if paired:
        limits = _interval([(_read(out_a, a[s]), _read(out_b, b[s])) for s in seeds], metric)
        why = limits if isinstance(limits, str) else ""
        low, high = (None, None) if isinstance(limits, str) else limits
    return Comparison(
        task=first[1][0].task,
        metric=metric,
        a=_name(first[1][0]),
        b=_name(second[1][0]),
        seeds=seeds,
        score_a=means[0],
        score_b=means[1],
        difference=means[1] - means[0],
        low=low,
        high=high,
        why=why,
    )


def _name(record: Record) -> str:
    return f"{record.backbone} {record.method}"


def _mean(records: Iterable[Record], metric: str) -> float:
    return statistics.fmean((record.test or {}).get(metric, float("nan")) for record in records)


def _read(out: Path, record: Record) -> Predictions | None:
    """The predictions of a final run; `None` if there are none."""
    path = RunFolder(out).predictions / f"{file_name(record.id).removesuffix('.json')}.parquet"
    try:
        return predictions_of(pq.read_table(path))
    except (OSError, pa.ArrowException, KeyError):
        return None


def predictions_of(table: pa.Table) -> Predictions:
    """Read what `harness.workers.evaluation.write_predictions` wrote, with logits that give the same probabilities."""
    names = table.schema.names
    scores = np.column_stack([table[name].to_numpy() for name in names if name.startswith("score")]).astype(
        float
    )
    if "label" in names:
        labels = table["label"].to_numpy()
        if "score" in names:
            return "regression", scores, labels
        return "classification", np.log(np.clip(scores, 1e-300, None)), labels
    columns = [table[name] for name in names if name.startswith("label_")]
    several = not pa.types.is_integer(columns[0].type)
    held = np.column_stack([column.to_numpy(zero_copy_only=False).astype(float) for column in columns])
    if several:
        return "regression", scores, held
    chances = np.clip(scores, 1e-12, 1 - 1e-12)
    return "multilabel", np.log(chances) - np.log1p(-chances), held


def _interval(pairs: Sequence[tuple[Any, Any]], metric: str) -> tuple[float, float] | str:
    """95 % limits of the mean difference over the seeds, or the reason why there are none."""
    if any(one is None or other is None for one, other in pairs):
        return "predictions are missing"
    first = pairs[0][0][2]
    for one, other in pairs:
        labels = [one[2], other[2]]
        if any(
            len(held) != len(first) or not np.array_equal(held, first, equal_nan=_floats(first))
            for held in labels
        ):
            return "the test rows differ"
    if len(pairs) < LEAST_SEEDS:
        return f"an interval needs {LEAST_SEEDS} seeds in common"
    differences, scores = [], []
    for one, other in pairs:
        values = [
            resampled(kind, logits, labels, rng=np.random.default_rng(0), resamples=RESAMPLES).get(metric)
            for kind, logits, labels in (one, other)
        ]
        if values[0] is None or values[1] is None:
            return f"{metric} cannot be resampled"
        differences.append((values[1] - values[0]).tolist())
        own = [score(kind, logits, labels)[metric] for kind, logits, labels in (one, other)]
        scores.append(own[1] - own[0])
    low, high = range_of(metric)
    found = over_rows_and_seeds(differences, scores, (low - high, high - low))
    return found or f"{metric} is undefined, or the same in all resamples"


def _floats(values: NDArray[np.generic]) -> bool:
    return bool(np.issubdtype(values.dtype, np.floating))
