"""Usage of a run and searches ended by budgets, in `<out>/search.json`, for reports and later runs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.config.benchmark import Benchmark
from harness.config.values import seconds_of
from harness.core.atomic_files import write_whole
from harness.pipeline.budgets import Budgets, Limits, Spent
from harness.runs.layout import RunFolder
from harness.runs.record import Record
from lingo.text_files import read_object


def budgets_of(
    benchmark: Benchmark, *, groups: int, gpus: float, records: Sequence[Record], out: Path
) -> Budgets:
    """The budgets of a benchmark, with the usage of earlier runs in its folder.

    Args:
        groups, gpus: Worker groups, and the GPUs of each.
        records: All records of the folder.
    """
    return Budgets(
        overall=_limits(benchmark.time_budget, benchmark.max_gpu_hours, benchmark.max_cost),
        per_study=_limits(
            benchmark.study_time_budget, benchmark.study_max_gpu_hours, benchmark.study_max_cost
        ),
        price_per_hour=benchmark.price_per_hour or 0.0,
        groups=groups,
        gpus_per_group=gpus,
        before=Spent(
            gpu_seconds=gpu_seconds(records), seconds_paid=float(read_usage(out).get("wall_s", 0.0))
        ),
        before_of={
            study: Spent(
                gpu_seconds=gpu_seconds(mine),
                seconds_paid=sum(_number(record, "device_seconds") for record in mine) / max(1, groups),
            )
            for study, mine in _by_study(records).items()
        },
    )


def _limits(span: str | None, gpu_hours: float | None, cost: float | None) -> Limits:
    return Limits(seconds=seconds_of(span) if span else None, gpu_hours=gpu_hours, cost=cost)


def gpu_seconds(records: Sequence[Record]) -> float:
    """GPU-seconds of records."""
    return sum(_number(record, "device_seconds") * _number(record, "gpus") for record in records)


def _number(record: Record, name: str) -> float:
    value = record.facts.get(name, 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def _by_study(records: Sequence[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.study, []).append(record)
    return found


def read_usage(out: Path) -> dict[str, Any]:
    """The content of `search.json`; empty without it."""
    try:
        return read_object(RunFolder(out).usage)
    except (OSError, ValueError):
        return {}


def write_usage(
    out: Path,
    benchmark: Benchmark,
    records: Sequence[Record],
    *,
    cut: Sequence[str],
    pool: Mapping[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """Write `search.json`. Wall time and the pool's times are added to those of earlier runs in the folder.

    Args:
        cut: One line for each study whose search was ended by a budget.
        pool: `busy_s` and `idle_s` of the pool's slots while jobs were queued.
        seconds: Wall time of this run.

    Raises:
        OSError: if the file cannot be written.
    """
    before = read_usage(out)
    wall = before.get("wall_s", 0.0) + seconds
    times = {
        name: before.get("pool", {}).get(name, 0.0) + float(pool.get(name, 0.0))
        for name in ("busy_s", "idle_s")
    }
    total = sum(times.values())
    usage = {
        "cut": list(cut),
        "searcher": benchmark.searcher,
        "scheduler": benchmark.scheduler,
        "scope": benchmark.scope,
        "pool": {**times, "idle_share": times["idle_s"] / total if total else 0.0},
        "samples": {
            "trained": sum(_number(record, "samples") for record in records),
            "shared": sum(_number(record, "samples_shared") for record in records),
        },
        "gpu_hours": gpu_seconds(records) / 3600,
        "cost": wall / 3600 * benchmark.price_per_hour if benchmark.price_per_hour else None,
        "wall_s": wall,
    }
    write_whole(RunFolder(out).usage, json.dumps(usage, indent=1) + "\n")
    return usage
