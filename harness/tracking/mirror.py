"""Records and reports as MLflow runs: one parent run per study, one child run per trial and final run.

Every run is looked up by its key before it is created, and evaluations already in the run are not written again, so
that writing is idempotent (after a restart, an outage, a repair).
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from harness.core.store_address import one_line
from harness.runs.info import Setting
from harness.runs.jobs import Job, Report
from harness.runs.record import Record
from harness.runs.selection import group_of_record
from harness.runs.shortcuts import SHORTCUT, shortcut_tasks
from harness.tracking import notes, views
from harness.tracking.artifacts import pictures, tables
from harness.tracking.models import log_adapter
from harness.tracking.spool import Spool
from harness.tracking.store import Store
from harness.tracking.study import Summary, champion, leaders, study_end, tested_merit
from harness.tracking.tags import (
    NOTE,
    Point,
    job_tags,
    origin_tags,
    record_points,
    record_tags,
    report_points,
    run_name,
    study_name,
    study_tags,
)

PARENT = "mlflow.parentRunId"
RUN_STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


@dataclass(frozen=True)
class SendResult:
    """A record and the error of the store, if any."""

    record: Record
    error: Exception | None = None


class Mirror:
    """Writes to a store synchronously, in the calling thread. Methods raise the errors of the store."""

    def __init__(self, store: Store, setting: Setting) -> None:
        self.store, self._setting = store, setting
        self._summaries: dict[str, Summary] = {}
        self._begun: dict[str, float] = {}
        self._studies: dict[str, Any] = {}
        self._live: dict[str, Any] = {}
        self._there: dict[tuple[str, str], set[int]] = {}
        self._ended: set[str] = set()
        self._groups: dict[str, set[str]] = {}
        self._best: dict[str, str] = {}
        self._described = 0
        self._made: set[str] = set()
        self._held: set[str] = set()
        self.problems: list[str] = []
        """Messages about adapters that could not be logged as models."""

    def send(self, records: Iterable[Record], spool: Spool) -> Iterator["SendResult"]:
        """Write the records missing in the store, in the order in which they ended; yields each result."""
        ordered = sorted(records, key=lambda record: (record.ended, record.id))
        for record in ordered:
            begun = self._begun.setdefault(record.study, _started(record))
            self._begun[record.study] = min(begun, _started(record))
        for record in ordered:
            if not spool.lacks(record):
                self.knows(record)
                self._held.add(record.study)
                continue
            try:
                self.write(record)
            except Exception as error:  # the caller determines whether it is due to the record or the store
                yield SendResult(record, error)
                continue
            spool.note(record)
            yield SendResult(record)

    def report(self, job: Job, report: Report) -> None:
        """Write the dev metrics of one evaluation; everything else follows with the record. Late reports are
        ignored."""
        if job.id in self._ended:
            return
        if job.id not in self._live:
            started = time.time() - report.seconds
            run = self._child(job.id, job.study, started, job_tags(job, self._setting))
            self.store.write(run, params=job.config)
            self._live[job.id] = run
        self._points(self._live[job.id], report_points(report))

    def knows(self, record: Record) -> None:
        """Count a record that is already in the store."""
        self._summaries.setdefault(record.study, Summary(record.metric)).add(record)
        self._groups.setdefault(group_of_record(record, self._setting.scope), set()).add(record.study)
        if record.status != "killed":
            self._ended.add(record.id)

    def write(self, record: Record) -> None:
        """Write everything of one trial, whether or not parts exist; its run ends."""
        run = self._live.pop(record.id, None)
        tags = record_tags(record, self._setting)
        if record.stage == "final":
            tags[NOTE] = notes.of_final(record, self._setting)
        if run is None:
            run = self._child(record.id, record.study, _started(record), tags)
        self._points(run, record_points(record))
        self.store.write(run, tags=tags, params=record.config)
        if record.data_digest:
            splits = ("train", "dev", "test") if record.test is not None else ("train", "dev")
            self.store.datasets(run, record.task, record.data_digest, splits)
        self.store.tables(run, dict(tables(record)))
        for name, figure in pictures(record):
            self.store.client.log_figure(run.info.run_id, figure, name)
        self.store.end(run, RUN_STATUS[record.status], run.info.start_time / 1000 + record.seconds)
        self.knows(record)
        self._stand(record)
        if record.stage == "final":
            self._keep_adapter(record)

    def finish(self) -> None:
        """End every study with its current status, and abandoned trials as killed."""
        for run in self.store.running():
            status, ended = "killed", None
            if run.data.tags.get("stage") == "study":
                key = "|".join(run.data.tags[axis] for axis in ("task", "backbone", "method"))
                if key in self._summaries:
                    records = self._summaries[key].records
                    status = study_end(records, self._setting.seeds)
                    ended = max(map(_ended, records))
            self.store.write(run, tags={"status": status})
            self.store.end(run, RUN_STATUS[status], ended)
        self._adopt()
        self._mark_shortcuts()
        self._describe()
        self._live.clear()
        self._studies.clear()
        self._there.clear()

    def _mark_shortcuts(self) -> None:
        """Tag studies and final runs of tasks that a rule answers about as well as others, known at the end alone."""
        easy = shortcut_tasks(filter(None, map(tested_merit, self._summaries.values())))
        for study, summary in self._summaries.items():
            finals = [record for record in summary.records if record.stage == "final"]
            for key in (study, *(record.id for record in finals)) if finals else ():
                run = self.store.find(key)
                held = {} if run is None else run.data.tags
                holds, tag = study.split("|")[0] in easy, f"mark.{SHORTCUT}"
                marks = [mark for mark in held.get("marks", "").split(", ") if mark not in ("", SHORTCUT)]
                tags = {"marks": ", ".join([*marks, *[SHORTCUT] * holds]), tag: str(holds).lower()}
                if run is not None and (holds or tag in held):
                    self.store.write(run, tags=tags)

    def _study(self, study: str) -> Any:
        """The run of a study, created if absent and set to running again if it had ended."""
        if study not in self._studies:
            tags = study_tags(study, self._setting) | {"stage": "study", "status": "running"}
            started = self._begun.get(study, time.time())
            if study in self._held and self.store.find(study) is None:
                self._made.add(study)
            self._studies[study] = self.store.run(study, name=study_name(study), tags=tags, started=started)
        return self._studies[study]

    def _child(self, name: str, study: str, started: float, tags: Mapping[str, Any]) -> Any:
        self._begun.setdefault(study, started)
        tags = {**tags, PARENT: self._study(study).info.run_id}
        run = self.store.run(name, name=run_name(name, study), tags=tags, started=started)
        self._below(run, tags[PARENT])
        return run

    def _below(self, run: Any, parent: str) -> None:
        if run.data.tags.get(PARENT) != parent:
            self.store.write(run, tags={PARENT: parent})

    def _adopt(self) -> None:
        """If the run of a study was deleted and recreated, attach its trials to the new one."""
        for run in self.store.runs() if self._made else ():
            key = "|".join(run.data.tags.get(axis, "") for axis in ("task", "backbone", "method"))
            if key in self._made and run.data.tags.get("stage") != "study":
                self._below(run, self._study(key).info.run_id)
        self._made.clear()

    def _points(self, run: Any, points: Iterable[Point]) -> None:
        """Write only what the run lacks, so that no metric has two values at a step after a trial was run again."""
        new = []
        for values, step, seconds in points:
            lacking = {name: value for name, value in values.items() if step not in self._steps(run, name)}
            new.append((lacking, step, seconds))
        self.store.write(run, points=new)
        for values, step, _ in new:
            for name in values:
                self._steps(run, name).add(step)

    def _steps(self, run: Any, metric: str) -> set[int]:
        """Steps at which the run has the metric."""
        key = (run.info.run_id, metric)
        if key not in self._there:
            self._there[key] = self.store.steps(run, metric)
        return self._there[key]

    def _stand(self, record: Record) -> None:
        """Update best score, counts and costs of the study after this record, and the best of studies that share its
        search."""
        fellows = self._groups[group_of_record(record, self._setting.scope)]
        best = leaders({study: self._summaries[study] for study in fellows})
        changed = {study for study, won in best.items() if self._best.get(study) != won.id}
        for study in sorted(changed | {record.study}):
            standing = self._summaries[study].standing(best.get(study))
            run = self._study(study)
            seconds = max(_ended(record) - run.info.start_time / 1000, 0.0)
            metrics, tags = standing.metrics, dict(standing.tags)
            tags[NOTE] = notes.of_study(study, self._setting, metrics, tags)
            if study == record.study:
                tags |= origin_tags(record, self._setting)
            else:
                metrics = {name: value for name, value in metrics.items() if name.startswith("best/")}
                seconds += 0.001  # of two values at the same step and time MLflow shows the higher one
            self.store.write(run, points=[(metrics, standing.ended, seconds)], tags=tags)
        self._best |= {study: won.id for study, won in best.items()}
        if len(self._summaries) > self._described:
            self._describe()

    def _describe(self) -> None:
        """Write the saved views and the description of the experiment."""
        if not self._summaries:
            return
        self._described = len(self._summaries)
        metrics = [summary.metric for summary in self._summaries.values()]
        tasks = list(dict.fromkeys(study.split("|")[0] for study in sorted(self._summaries)))
        found = views.tags(views.views(metrics, tasks, self.store.owner), self.store.prefix)
        self.store.mark(found, same=views.same)
        self.store.mark({NOTE: notes.of_experiment(self._setting, tasks)})

    def _keep_adapter(self, record: Record) -> None:
        """Once all seeds of a study are finished, log its best adapter as a model."""
        records, out = self._summaries[record.study].records, self._setting.out
        best = champion(records)
        if out is None or best is None or study_end(records, self._setting.seeds) != "finished":
            return
        final = self.store.find(best.id)
        try:
            log_adapter(self.store, self._study(record.study), final, best, out)
        except Exception as error:  # an adapter that cannot be logged must not affect the runs
            if not self.store.answers():
                raise
            self.problems.append(f"{best.id}: {one_line(error, self.store.uri)}")


def _started(record: Record) -> float:
    return datetime.fromisoformat(record.started).timestamp() if record.started else time.time()


def _ended(record: Record) -> float:
    return datetime.fromisoformat(record.ended).timestamp() if record.ended else time.time()
