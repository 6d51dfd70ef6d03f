"""What a benchmark still has to do, and which configuration of a study won: read from records alone."""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.jobs import Job
from harness.ledger import Cell
from harness.results import Record
from lingo.methods import METHODS


def winner(records: Iterable[Record], study: str, metric: str) -> Record | None:
    """The search trial of `study` with the best last dev `metric` among those that trained all epochs.

    Higher is better, of equals the earlier trial wins. `None` when no trial finished with a defined metric.
    """
    finished = [
        record
        for record in records
        if (record.study, record.stage, record.status) == (study, "search", "finished")
        and not math.isnan(record.dev.get(metric, math.nan))
    ]
    return min(finished, key=lambda record: (-record.dev[metric], record.trial or 0), default=None)


def unsearched(records: Sequence[Record], cells: Sequence[Cell], num_samples: int) -> list[Cell]:
    """The studies without `num_samples` ended trials; a trial that an interrupt killed has not ended."""

    def ended(cell: Cell) -> int:
        return sum(
            record.study == cell.study.key and record.stage == "search" and record.status != "killed"
            for record in records
        )

    return [cell for cell in cells if ended(cell) < num_samples]


def missing(records: Sequence[Record], cells: Sequence[Cell], seeds: Sequence[int]) -> list[tuple[Cell, int]]:
    """The (study, seed) pairs without a finished final run."""
    have = {
        (record.study, record.seed)
        for record in records
        if (record.stage, record.status) == ("final", "finished")
    }
    return [(cell, seed) for cell in cells for seed in seeds if (cell.study.key, seed) not in have]


def final_jobs(
    records: Sequence[Record], cells: Sequence[Cell], seeds: Sequence[int], adapters: Path | None = None
) -> list[Job]:
    """The final runs still to do, of studies that have a winner; their adapters go below `adapters`."""
    best = {cell.study.key: winner(records, cell.study.key, cell.study.task.metric) for cell in cells}
    jobs = []
    for cell, seed in missing(records, cells, seeds):
        won = best[cell.study.key]
        if won is not None:
            jobs.append(
                Job(
                    id=f"{cell.study.key}/final/seed-{seed}",
                    study=cell.study.key,
                    stage="final",
                    backbone=cell.source,
                    data=str(cell.data),
                    config={**won.config, "seed": seed},
                    adapter=_adapter_folder(adapters, cell, seed),
                )
            )
    return jobs


def _adapter_folder(adapters: Path | None, cell: Cell, seed: int) -> str | None:
    """`<task>/<backbone>/<method>/seed-<n>`; none for full fine-tuning, whose result is a whole model."""
    study = cell.study
    if adapters is None or METHODS[study.method].adapter == "none":
        return None
    names = [re.sub(r"[^\w.-]+", "_", name) for name in (study.task.name, study.backbone, study.method)]
    return str(adapters.joinpath(*names, f"seed-{seed}"))
