"""Choice of the weights that a final run tests: those of its best evaluation on dev, or those of the last.

With patience, evaluations are compared by the study's metric; ties by the lower loss, then the earlier one. With a rank
budget, only evaluations from T on count, whose ranks are within it. Without patience (`--patience 0`), the last weights
are tested.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from harness.runs.jobs import Job
from lingo.metrics import LOWER_IS_BETTER


def better(dev: Mapping[str, float], than: Mapping[str, float], metric: str) -> bool:
    """Whether the scores of one evaluation are better than those of another; undefined ones are worst."""
    return _place(dev, metric) > _place(than, metric)


def best_of(told: Iterable[tuple[int, Mapping[str, float]]], metric: str) -> int | None:
    """Number of the best of ordered evaluations (number, scores); `None` if there are none."""
    best: tuple[int, Mapping[str, float]] | None = None
    for number, dev in told:
        if best is None or better(dev, best[1], metric):
            best = number, dev
    return best[0] if best else None


def tested_facts(
    job: Job, *, stopped: float, best: tuple[float, Mapping[str, float]] | None, counts_from: int = 0
) -> dict[str, Any]:
    """Facts about the weights that a final run tests.

    Args:
        stopped: Epoch of the last evaluation.
        best: Epoch and dev scores of the best; `None` without patience.
        counts_from: First step whose evaluation counts.

    Returns:
        `weights`, the rule in words; `stopped_epoch`; with patience `best_epoch` and `best_dev`.
    """
    if best is None:
        return {"weights": "last evaluation", "stopped_epoch": stopped}
    rule = f"best dev {job.metric}" + (f" from step {counts_from} on" if counts_from else "")
    return {"weights": rule, "stopped_epoch": stopped, "best_epoch": best[0], "best_dev": dict(best[1])}


def _place(dev: Mapping[str, float], metric: str) -> tuple[float, float]:
    value, loss = dev.get(metric, math.nan), dev.get("loss", math.nan)
    value = -value if metric in LOWER_IS_BETTER else value
    return (-math.inf if math.isnan(value) else value, -math.inf if math.isnan(loss) else -loss)
