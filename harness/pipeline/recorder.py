"""From the pool's events to records, tracking and progress; records are written as soon as a job ends."""

import logging
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.config.studies import PreparedStudy
from harness.core.atomic_files import written
from harness.runs.intervals import NO_BETTER, no_better
from harness.runs.jobs import OPEN, Event, Job, Report
from harness.runs.layout import RunFolder, checkpoint_folder
from harness.runs.open_trials import OpenTrials
from harness.runs.record import Record, Status, now
from harness.runs.selection import OBJECTIVES
from harness.runs.store import ResultStore
from lingo.methods import METHODS
from lingo.trial import TrialConfig

log = logging.getLogger(__name__)

KEPT: dict[str, Status] = {
    "finished": "finished",
    "stopped": "stopped",
    "failed": "failed",
    "interrupted": "killed",
}
"""Status of an ended job: from the pool's name to the record's."""

CUT_MARK = "cut by budget"
BY_USER = "user"
"""Who asked for a trial that was added, and what cut one that was stopped."""
UNREGULARISED_MARK = "no model dropout"
AFTER_TEST_MARK = "steered after test"


def let_go_of_ended(out: Path, records: Iterable[Record]) -> None:
    """Remove job and checkpoints of trials whose driver was killed just after writing the record.

    A trial with the status `killed` continues, and keeps them.
    """
    opened, checkpoints = OpenTrials(out), RunFolder(out).checkpoints
    for record in records:
        if record.status != "killed":
            opened.drop(record.id)
            shutil.rmtree(checkpoint_folder(checkpoints, record.id), ignore_errors=True)
    with suppress(OSError):
        checkpoints.rmdir()  # only if it is empty


def above_budget(record: Record) -> str | None:
    """An error message if a finished run of a method with a rank budget kept more ranks than bT."""
    kept = record.facts.get("kept_ranks")
    method = METHODS.get(record.method)
    if record.status != "finished" or not kept or method is None or not method.has_budget:
        return None
    mean, most = sum(kept.values()) / len(kept), record.config.get("bT", TrialConfig.bT)
    if mean <= most:
        return None
    return (
        f"the mean kept rank must be at most bT = {most}, but is {mean:.2f}: its scores do not belong to that "
        "budget."
    )


Watch = Callable[[Job, Report, str], None]
"""Takes a job, its latest report and its status."""


class Recorder:
    """Writes one record for each ended job, and stores open jobs.

    A job that was interrupted, or has lost its driver, stays open and continues later.

    Args:
        store: Store of the records.
        studies: The studies, by their keys.
        benchmark: Name of the benchmark.
        environment: Versions and code state, the same for all records.
        objectives: Those of the search; if there are several, every record has them as a fact.
        watchers: Called with every event.
        on_record: Called with every record after it was written.

    Attributes:
        after_test: Keys of the studies whose trials a user changed when their test scores could be read.
    """

    def __init__(
        self,
        store: ResultStore,
        studies: Sequence[PreparedStudy],
        *,
        benchmark: str,
        environment: Mapping[str, Any],
        objectives: Sequence[str] = (),
        watchers: Sequence[Watch] = (),
        on_record: Callable[[Record], None] = lambda record: None,
    ) -> None:
        self._store, self._benchmark, self._environment = store, benchmark, environment
        self._studies = {study.key: study for study in studies}
        self.after_test: set[str] = set()
        self._watchers, self._on_record, self._open = watchers, on_record, OpenTrials(store.out)
        self._started: dict[str, str] = {}
        several = {OBJECTIVES: list(objectives), "early_stopping": "none"}
        self._facts: dict[str, Any] = several if len(objectives) > 1 else {}

    def __call__(self, event: Event) -> None:
        """Process an event of the pool; events of a job come in order."""
        job, status = event.job, event.status
        if status == "queued":
            with written(self._store.out):
                self._open.keep(job)
        if status == "started":
            self._started.setdefault(job.id, now())
        if status in OPEN and (status != "queued" or job.id in self._started):
            with written(self._store.out):
                self._open.note(job.id, status, event.reports)
        for watcher in self._watchers:
            watcher(job, event.report, status)
        if status in KEPT:
            by_user = event.report.facts.get("cut") == BY_USER
            if job.id in self._started or status == "failed" or by_user:
                reports = self._with_earlier(job, event.reports) if by_user else event.reports
                self._write(job, reports, KEPT[status])
            if status != "interrupted":
                self._let_go(job)

    def _with_earlier(self, job: Job, reports: Sequence[Report]) -> Sequence[Report]:
        """The reports of a job that was stopped, also those that only an earlier driver has seen."""
        earlier = self._open.curve(job.id)[1]
        if len(earlier) <= sum(bool(report.dev) for report in reports):
            return reports
        facts = {**earlier[-1].facts, **(reports[-1].facts if reports else {})}
        return [*earlier[:-1], replace(earlier[-1], facts=facts)]

    def _let_go(self, job: Job) -> None:
        """Remove files of a job that are not needed after its record."""
        self._open.drop(job.id)
        if job.checkpoints:
            shutil.rmtree(checkpoint_folder(job.checkpoints, job.id), ignore_errors=True)

    def _write(self, job: Job, reports: Sequence[Report], status: Status) -> None:
        study = self._studies[job.study]
        record = Record.of(
            job,
            reports,
            status,
            benchmark=self._benchmark,
            family=study.task.family,
            metric=study.task.metric,
            trial=trial_of(job),
            started=self._started.pop(job.id, ""),
            data_digest=study.data_digest,
            backbone_digest=_digest(study, reports),
            environment=self._environment,
            marks=list(study.marks),
        )
        types = {"backbone_type": study.backbone_type} if study.backbone_type else {}
        asked = {"asked_by": job.asked_by} if job.asked_by == BY_USER else {}
        facts = {**study.facts, **types, **self._facts, **asked, **record.facts}
        problem = above_budget(record)
        if problem is not None:
            log.error("%s: %s", record.id, problem)
            record = replace(record, status="failed", error=problem, test=None)
        late = [AFTER_TEST_MARK] if record.test is not None and record.study in self.after_test else []
        record = replace(record, facts=facts, marks=[*record.marks, *_own_marks(record, facts), *late])
        with written(self._store.out):
            self._store.append(record, replace=True)
        self._on_record(record)


def trial_of(job: Job) -> int | None:
    """The trial of the search that a job is, or whose configuration it has as a point of a front, see `final_jobs`."""
    if job.stage == "search":
        return int(job.id.rsplit("-", 1)[1])
    found = re.search(r"/final/point-(\d+)/", job.id)
    return int(found[1]) if found else None


def _digest(study: PreparedStudy, reports: Sequence[Report]) -> str:
    """Digest of the backbone; with random weights that measured by the worker, empty if it is missing."""
    if not study.is_control:
        return study.backbone_digest
    return next((str(d) for one in reversed(reports) if (d := one.facts.get("backbone_digest"))), "")


def _own_marks(record: Record, facts: Mapping[str, Any]) -> list[str]:
    """Caveats of a single trial."""
    marks = {CUT_MARK: facts.get("cut") == "budget", UNREGULARISED_MARK: bool(facts.get("model_dropout"))}
    useless = record.test is not None and no_better(record.metric, record.test, facts.get("constant") or {})
    return [mark for mark, holds in {**marks, NO_BETTER: useless}.items() if holds]
