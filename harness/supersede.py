"""Final runs of a configuration that is no longer the winner: set aside when a search has gone on."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from harness.jobs import Job
from harness.ledger import Cell
from harness.results import Record, ResultStore, config_hash, load_folder
from harness.scopes import Scope
from harness.winners import winners

FOLDER = "superseded"
"""Beside `records`: what was true before the search went on."""


def outdated(records: Sequence[Record], cells: Sequence[Cell], scope: Scope) -> list[Record]:
    """The final records whose configuration is not, or no longer, that of their study's winner."""
    best = winners(records, cells, scope)
    return [
        record
        for record in records
        if record.stage == "final"
        and record.study in best
        and config_hash({**record.config, "seed": 0}) != config_hash({**best[record.study].config, "seed": 0})
    ]


def set_aside(store: ResultStore, records: Iterable[Record]) -> list[Record]:
    """Move records to `superseded/`, marked so.

    Returns:
        The records as they are kept there.
    """
    kept = [replace(record, marks=[*record.marks, "superseded"]) for record in records]
    for record in kept:
        store.move(record, FOLDER)
    return kept


def with_new_names(jobs: Iterable[Job], out: Path, best: dict[str, Record]) -> list[Job]:
    """The final jobs; one whose name an outdated run has had gets another, with the winner's number in it."""
    used = {record.id for record in load_folder(out / FOLDER)}
    return [_renamed(job, best) if job.id in used else job for job in jobs]


def _renamed(job: Job, best: dict[str, Record]) -> Job:
    study, _, seed = job.id.rpartition("/")
    return replace(job, id=f"{study}/trial-{best[job.study].trial or 0:04d}/{seed}")
