"""Output folders with final runs that a real engine trained, for tests of what is done with them later."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.data.prepared import PreparedTask
from harness.data.tasks import TaskRow
from harness.runs.environment import capture
from harness.runs.jobs import Job, Report
from harness.runs.record import Record
from harness.runs.store import ResultStore
from harness.workers.packed_engine import LingoEngine
from lingo.backbones import load_backbone


def final_runs(
    out: Path,
    row: TaskRow,
    prepared: PreparedTask,
    backbone: Path,
    *,
    method: str,
    seeds: Sequence[int],
    marks: Sequence[str] = ("smoke",),
    engine: Any = None,
    **settings: Any,
) -> list[Record]:
    """Train final jobs one after the other and write their records as a run does, adapters below `adapters`."""
    study = f"{row.name}|tiny|{method}"
    engine = engine or LingoEngine()
    store, records = ResultStore(out, {"suite": "test"}), []
    for seed in seeds:
        adapter = out / "adapters" / row.name.replace("/", "_") / "tiny" / method / f"seed-{seed}"
        job = Job(
            id=f"{study}/final/seed-{seed}",
            study=study,
            stage="final",
            backbone=str(backbone),
            data=str(prepared.folder),
            config={"method": method, "seed": seed, **settings},
            adapter=str(adapter),
            predictions=str(out / "predictions"),
        )
        record = Record.of(
            job,
            train(engine, job),
            "finished",
            benchmark="test",
            family=row.family,
            metric=row.metric,
            trial=None,
            data_digest=prepared.digest,
            backbone_digest=load_backbone(backbone).digest,
            environment=capture().to_dict(),
            marks=list(marks),
        )
        store.append(record)
        records.append(record)
    engine.close()
    return records


def train(engine: Any, job: Job) -> list[Report]:
    """Every report of a job, to its end."""
    engine.admit(job)
    reports: list[Report] = []
    for _ in range(100_000):
        reports += engine.advance()
        if reports and reports[-1].status != "running":
            assert reports[-1].status == "finished", reports[-1].error
            return reports
    raise AssertionError(f"{job.id} did not end")
