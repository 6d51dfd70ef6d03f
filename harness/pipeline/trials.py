"""Every trial of a run's searches, from its folder alone: configuration, curve so far, state."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from harness.core.errors import InputError
from harness.runs.layout import RunFolder
from harness.runs.lock import driver_of
from harness.runs.open_trials import OpenTrials
from harness.runs.record import Record, evaluation
from harness.runs.store import load
from lingo.text_files import read_object

State = Literal["queued", "running", "interrupted", "finished", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class TrialState:
    """A trial of a search.

    Attributes:
        id: `task|backbone|method/trial-0007`.
        study, trial: Its study's key and its number there.
        metric: The dev metric by which the study's trials are compared.
        state: `interrupted` is one that goes on with `resume`.
        searched: Names of the settings that the search varies.
        config: The whole configuration.
        evaluations: One entry for each: epoch, step, seconds, train_loss, and the dev metrics as `dev`.
        why: What ended a stopped or failed one: `scheduler`, `budget`, a task that failed, or the error.
    """

    id: str
    study: str
    trial: int
    metric: str
    state: State
    searched: Sequence[str]
    config: Mapping[str, Any]
    evaluations: Sequence[Mapping[str, Any]]
    why: str = ""

    @property
    def curve(self) -> list[float]:
        """The metric after each evaluation, NaN where undefined."""
        return [float(one["dev"].get(self.metric, math.nan)) for one in self.evaluations]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "curve": self.curve}


def planned_studies(out: Path) -> dict[str, dict[str, Any]]:
    """The studies of a run as its plan.json has them, by their keys.

    Raises:
        InputError: If `out` is no output folder of a benchmark.
    """
    try:
        studies = {str(one["key"]): one for one in read_object(RunFolder(out).plan)["studies"]}
        if all(isinstance(one["space"]["leaves"], dict) for one in studies.values()):
            return studies
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise InputError(f"RUN must be the output folder of a benchmark, but {out} has no readable plan.json.")


def trials_of_run(out: Path) -> list[TrialState]:
    """The trials of a run's searches by study and number, ended ones and those under way.

    Raises:
        InputError: If `out` is no output folder of a benchmark.
    """
    planned = {key: list(one["space"]["leaves"]) for key, one in planned_studies(out).items()}
    opened = OpenTrials(out)
    jobs = [job for job in opened.load() if job.stage == "search" and job.study in planned]
    curves = {job.id: opened.curve(job.id) for job in jobs}
    records = [one for one in load(out) if one.stage == "search" and one.study in planned]
    under_way = driver_of(out) != ""
    found = {record.id: _of_record(record, planned[record.study]) for record in records}
    for job in jobs:
        known = found.get(job.id)
        if known is not None and known.state != "interrupted":
            continue  # its record was written meanwhile
        status, reports = curves[job.id]
        evaluations: list[Mapping[str, Any]] = [evaluation(report) for report in reports if report.dev]
        if known is not None and len(evaluations) < len(known.evaluations):
            evaluations = list(known.evaluations)
        state: State = "interrupted" if not under_way else "queued" if status == "queued" else "running"
        found[job.id] = TrialState(
            id=job.id,
            study=job.study,
            trial=int(job.id.rsplit("-", 1)[1]),
            metric=job.metric,
            state=state,
            searched=planned[job.study],
            config=job.config,
            evaluations=evaluations,
        )
    order = {key: place for place, key in enumerate(planned)}
    return sorted(found.values(), key=lambda one: (order[one.study], one.trial))


def _of_record(record: Record, searched: Sequence[str]) -> TrialState:
    cut = str(record.facts.get("cut", "scheduler"))
    return TrialState(
        id=record.id,
        study=record.study,
        trial=record.trial or 0,
        metric=record.metric,
        state="interrupted" if record.status == "killed" else record.status,
        why=record.error or "" if record.status == "failed" else cut if record.status == "stopped" else "",
        searched=searched,
        config=record.config,
        evaluations=record.history,
    )
