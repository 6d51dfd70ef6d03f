"""What the search is told of each study: its plan, what has ended of it, and what goes on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.config import Benchmark
from harness.jobs import Job
from harness.ledger import Cell
from harness.open_trials import OpenTrials
from harness.results import Record
from harness.scopes import group_of, siblings_of
from harness.studies import Past, StudyPlan

CHECKPOINTS = "checkpoints"
"""Folder below the output folder in which trials keep their state."""


def study_plans(
    cells: Sequence[Cell], benchmark: Benchmark, records: Sequence[Record], out: Path
) -> list[StudyPlan]:
    """The plans of the studies in `cells`, with the past that records and open trials tell of."""
    opened = OpenTrials(out).load()
    return [
        _plan(cell, benchmark, _ended(records, cell), _open(records, opened, cell), out) for cell in cells
    ]


def options_of(benchmark: Benchmark) -> dict[str, Any]:
    """Settings that say how far a search goes, as `harness.winners.unsearched` takes them."""
    return {"scope": benchmark.scope, "searcher": benchmark.searcher}


def _ended(records: Sequence[Record], cell: Cell) -> list[Record]:
    return [
        record
        for record in records
        if (record.study, record.stage) == (cell.study.key, "search") and record.status != "killed"
    ]


def _open(
    records: Sequence[Record], opened: Sequence[Job], cell: Cell
) -> tuple[tuple[int, dict[str, Any]], ...]:
    """Numbers and configurations of trials that have begun and not ended; of those without a file from their
    records, which say that they were killed."""
    mine = [record for record in records if (record.study, record.stage) == (cell.study.key, "search")]
    ended = {record.id for record in mine if record.status != "killed"}
    found = {record.id: dict(record.config) for record in mine if record.status == "killed"}
    found |= {job.id: job.config for job in opened if (job.study, job.stage) == (cell.study.key, "search")}
    return tuple((number_of(name), config) for name, config in sorted(found.items()) if name not in ended)


def number_of(job_id: str) -> int:
    """7 of `…/trial-0007`."""
    return int(job_id.rsplit("-", 1)[1])


def _plan(
    cell: Cell,
    benchmark: Benchmark,
    ended: Sequence[Record],
    opened: tuple[tuple[int, dict[str, Any]], ...],
    out: Path,
) -> StudyPlan:
    study = cell.study
    names = {"task": study.task.name, "backbone": study.backbone, "method": study.method}
    return StudyPlan(
        key=study.key,
        task=study.task.name,
        backbone=cell.source,
        method=study.method,
        data=str(cell.data),
        fixed={"seed": benchmark.seed, "epochs": benchmark.epochs, "batch_size": benchmark.batch_size},
        space=study.space,
        first_points=study.space.first_points,
        num_samples=benchmark.num_samples,
        seed=benchmark.seed,
        metric=study.task.metric,
        epochs=benchmark.epochs,
        group=group_of(benchmark.scope, family=study.task.family, **names),
        searcher=benchmark.searcher,
        scheduler=benchmark.scheduler,
        siblings=siblings_of(study.space, benchmark.siblings),
        deterministic=benchmark.deterministic,
        history=tuple(Past.of(record, study.space.leaves) for record in ended),
        open=opened,
        work=cell.work,
        checkpoints=str(out / CHECKPOINTS),
    )
