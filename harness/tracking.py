"""MLflow as a mirror of the results: one parent run for each study, one child for each trial and final seed.

The truth is `harness.results`; nothing here can fail or delay a trial. One thread of one process writes.
Every run is looked up by a key before it is created, and no evaluation is logged that the run already has, so
that writing twice (a restart, a second writer, a repair after an outage) changes nothing.
"""

import hashlib
import logging
import os
import queue
import shlex
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.jobs import Job, Report
from harness.results import Record, config_hash

LOG = logging.getLogger(__name__)
KEY = "lingo.key"
TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""Tag of an experiment that the UI then opens on its training runs, not on traces of language models."""

EVALUATED = "train_loss"
"""The metric that every evaluation has."""

PARENT = "mlflow.parentRunId"
RUN_STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""Environment of the client where the user has set nothing: no telemetry, no chatter, few retries."""

QUEUED = 20_000
"""Pieces of news that wait for a slow store before further reports are dropped (records hold them too)."""

LONGEST_TAG = 500
"""Characters of a tag's value."""


def default_uri(out: Path | str) -> str:
    """The embedded store in the output folder."""
    return f"sqlite:///{Path(out).resolve() / 'mlflow.db'}"


def ui_command(uri: str) -> str:
    """What a person types to look at the runs."""
    return uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {shlex.quote(uri)}"


Point = tuple[Mapping[str, float], int, float]
"""Metrics, the optimiser step at which they were measured, and the seconds since the run's start."""


class Mirror:
    """Writes records and reports to an MLflow store, at once and in the calling thread.

    Every method may raise whatever MLflow raises when the store does not answer.
    """

    def __init__(self, uri: str, *, experiment: str, identity: str, artifacts: Path | None = None) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            uri: Tracking address: `sqlite:///…` or `http://…`.
            experiment: Name of the experiment, made when absent.
            identity: Name of the benchmark that no other has (`ResultStore.identity`); part of every key.
            artifacts: Folder of a new experiment's artifacts; `None` leaves it to the store.
        """
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        for logger in ("mlflow", "alembic", "urllib3.connectionpool"):
            logging.getLogger(logger).setLevel(logging.ERROR)
        self._client = MlflowClient(uri)
        self._name, self._identity, self._artifacts = experiment, identity, artifacts
        self._experiment: str | None = None
        self._studies: dict[str, str] = {}
        self._live: dict[str, Any] = {}
        self._there: dict[str, set[int]] = {}
        self._ended: set[str] = set()

    def answers(self) -> bool:
        """Whether the store can be reached."""
        try:
            self._find_experiment()
        except Exception:  # MLflow raises many kinds, and any of them means no
            return False
        return True

    def study(self, study: str, tags: Mapping[str, Any] | None = None) -> str:
        """Run id of a study, which is made when absent and runs again when it had ended."""
        if study not in self._studies:
            parts = _study_tags(study) | {"stage": "study", "benchmark": self._name} | dict(tags or {})
            run = self._run(study, name=study, tags=parts, started=time.time())
            self._studies[study] = run.info.run_id
        return self._studies[study]

    def report(self, job: Job, report: Report) -> None:
        """Dev metrics of one evaluation; test metrics wait for the record. Late news is passed over."""
        if job.id in self._ended:
            return
        run = self._live.get(job.id)
        if run is None:
            run = self._trial(job.id, job.study, time.time() - report.seconds, _job_tags(job), job.config)
            self._live[job.id] = run
        self._points(run, [(_evaluation(report.train_loss, report.dev), report.step, report.seconds)])

    def write(self, record: Record) -> None:
        """Everything of one trial, whether or not parts of it are there; its run ends."""
        started = datetime.fromisoformat(record.started).timestamp() if record.started else time.time()
        run = self._live.pop(record.id, None)
        if run is None:
            run = self._trial(record.id, record.study, started, _record_tags(record), record.config)
        self._points(run, list(_record_points(record)))
        self._tag(run, _record_tags(record))
        end = run.info.start_time + int(record.seconds * 1000)
        self._there.pop(run.info.run_id, None)
        self._client.set_terminated(run.info.run_id, RUN_STATUS[record.status], end)
        self._ended.add(record.id)

    def study_ended(self, study: str, status: str, metrics: Mapping[str, float] | None = None) -> None:
        """End a study's run; `status` is `finished`, `failed` or `killed`."""
        run = self._client.get_run(self.study(study))
        self._points(run, [(metrics or {}, 0, 0.0)])
        self._tag(run, {"status": status})
        self._client.set_terminated(run.info.run_id, RUN_STATUS[status])
        del self._studies[study]

    def abandon(self) -> None:
        """End every run that is still open as killed."""
        for run in self._live.values():
            self._tag(run, {"status": "killed"})
            self._client.set_terminated(run.info.run_id, "KILLED")
        self._live.clear()
        for study in list(self._studies):
            self.study_ended(study, "killed")

    def _trial(
        self, name: str, study: str, started: float, tags: Mapping[str, Any], config: Mapping[str, Any]
    ) -> Any:
        tags = {**tags, PARENT: self.study(study)}
        run = self._run(name, name=name.rsplit("/", 1)[-1], tags=tags, started=started)
        if not run.data.params:
            self._parameters(run, config)
        return run

    def _run(self, key: str, *, name: str, tags: Mapping[str, Any], started: float) -> Any:
        """The run of this key, found or made, and running."""
        hashed = hashlib.sha256(f"{self._identity}\n{key}".encode()).hexdigest()
        experiment = self._experiment or self._find_experiment()
        self._experiment = experiment
        found = self._client.search_runs([experiment], f"tags.`{KEY}` = '{hashed}'", max_results=1)
        if found:
            past = self._client.get_metric_history(found[0].info.run_id, EVALUATED)
            self._there[found[0].info.run_id] = {point.step for point in past}
            if found[0].info.status != "RUNNING":
                self._client.update_run(found[0].info.run_id, status="RUNNING")
            return found[0]
        texts = {key: str(value)[:LONGEST_TAG] for key, value in tags.items()} | {KEY: hashed}
        return self._client.create_run(experiment, start_time=int(started * 1000), tags=texts, run_name=name)

    def _find_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(self._name)
        if found is None:
            location = self._artifacts.resolve().as_uri() if self._artifacts is not None else None
            try:
                return str(
                    self._client.create_experiment(
                        self._name, artifact_location=location, tags=dict(TRAINING)
                    )
                )
            except MlflowException:  # another writer was faster, or the store refuses for good
                found = self._client.get_experiment_by_name(self._name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _points(self, run: Any, points: Iterable[Point]) -> None:
        """Log metrics, but no evaluation of a step that the run has already."""
        from mlflow.entities import Metric

        there = self._there.setdefault(run.info.run_id, set())
        metrics = [
            Metric(name, float(value), run.info.start_time + int(seconds * 1000), step)
            for values, step, seconds in points
            if EVALUATED not in values or step not in there
            for name, value in values.items()
        ]
        for start in range(0, len(metrics), 1000):  # the most that MLflow takes at once
            self._client.log_batch(run.info.run_id, metrics=metrics[start : start + 1000])
        there.update(metric.step for metric in metrics if metric.key == EVALUATED)

    def _parameters(self, run: Any, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        texts = {k: ",".join(map(str, v)) if isinstance(v, list | tuple) else v for k, v in config.items()}
        self._client.log_batch(run.info.run_id, params=[Param(k, str(v)) for k, v in texts.items()])

    def _tag(self, run: Any, tags: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(
            run.info.run_id, tags=[RunTag(k, str(v)[:LONGEST_TAG]) for k, v in tags.items()]
        )


def mirror_records(mirror: Mirror, records: Iterable[Record]) -> None:
    """Write whatever of these records the store lacks, studies included.

    A study counts as finished when it has final records and all of them are finished.
    """
    finals: dict[str, list[bool]] = {}
    for record in records:
        mirror.write(record)
        done = finals.setdefault(record.study, [])
        if record.stage == "final":
            done.append(record.status == "finished")
    for study, done in finals.items():
        mirror.study_ended(study, "finished" if done and all(done) else "failed")


Write = Callable[[Mirror], object]


class Tracker:
    """Mirrors a running benchmark in the background. No call waits for the store, and none raises."""

    def __init__(
        self,
        out: Path | str,
        *,
        experiment: str,
        identity: str,
        uri: str | None = None,
        warn: Callable[[str], None] = LOG.warning,
        retry_s: float = 30.0,
    ) -> None:
        """Start the writer.

        Args:
            out: Output folder; the embedded store lies in it.
            experiment, identity: See `Mirror`.
            uri: Tracking address; `None` for the embedded store.
            warn: Told once, in one line, when the store does not answer, and once more at the end.
            retry_s: Seconds without a try after the store did not answer.
        """
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        self.uri = uri or default_uri(out)
        self._warn, self._retry_s = warn, retry_s
        self._news: queue.Queue[tuple[Write, bool] | None] = queue.Queue()
        self._waiting: deque[Write] = deque()
        self._quiet_until = 0.0
        self._warned = self._dropped = False
        self._mirror: Mirror | None = None
        artifacts = out / "mlartifacts" if uri is None else None
        try:
            self._mirror = Mirror(self.uri, experiment=experiment, identity=identity, artifacts=artifacts)
        except Exception as error:  # a wrong address must not keep a benchmark from running
            self._outage(error)
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def study_started(self, study: str, **tags: Any) -> None:
        """A study begins; `tags` are further axes, such as `family` and `marks`."""
        self._news.put((lambda mirror: mirror.study(study, tags), True))

    def trial_report(self, job: Job, report: Report) -> None:
        """An evaluation of a trial or a final run."""
        if report.dev and self._news.qsize() < QUEUED:
            self._news.put((lambda mirror: mirror.report(job, report), False))

    def trial_ended(self, record: Record) -> None:
        """A trial of the search, or a final run, has ended and has its record."""
        self._news.put((lambda mirror: mirror.write(record), True))

    def study_ended(self, study: str, status: str, **metrics: float) -> None:
        """A study has ended `finished`, `failed` or `killed`; `metrics` sum it up."""
        self._news.put((lambda mirror: mirror.study_ended(study, status, metrics), True))

    def close(self, timeout: float = 30.0) -> bool:
        """Write what is left, end open runs as killed, and return whether the store has everything.

        Takes no longer than about `timeout` seconds.
        """
        self._news.put(None)
        self._thread.join(timeout)
        complete = not (self._thread.is_alive() or self._waiting or self._dropped)
        if not complete:
            self._warn(
                f"MLflow at {self.uri} lacks some runs; the records in the output folder are complete."
            )
        return complete

    def _work(self) -> None:
        while (news := self._news.get()) is not None:
            write, needed = news
            away = time.monotonic() < self._quiet_until
            if self._mirror is None:
                self._dropped = True
            elif needed or not away:
                self._waiting.append(write)
            if not away:
                self._catch_up()
        self._waiting.append(Mirror.abandon)
        self._catch_up()

    def _catch_up(self) -> None:
        """Write in order until all is written or the store does not answer."""
        while self._waiting and self._mirror is not None:
            try:
                self._waiting[0](self._mirror)
            except Exception as error:  # whatever the store does, the benchmark goes on
                self._outage(error)
                if not self._mirror.answers():
                    return
                self._dropped = True
            self._waiting.popleft()

    def _outage(self, error: Exception) -> None:
        self._quiet_until = time.monotonic() + self._retry_s
        if not self._warned:
            self._warned = True
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            self._warn(f"MLflow at {self.uri} fails ({reason}); the benchmark goes on without it.")


def _study_tags(study: str) -> dict[str, str]:
    return dict(zip(("task", "backbone", "method"), study.split("|"), strict=True))


def _job_tags(job: Job) -> dict[str, Any]:
    tags = {"stage": job.stage, "seed": job.config["seed"], "status": "running", "selection": "dev"}
    return _study_tags(job.study) | tags | {"config_hash": config_hash(job.config)}


def _record_tags(record: Record) -> dict[str, Any]:
    tags = {
        "benchmark": record.benchmark,
        "task": record.task,
        "family": record.family,
        "backbone": record.backbone,
        "method": record.method,
        "stage": record.stage,
        "seed": record.seed,
        "trial": record.trial,
        "status": record.status,
        "error": record.error,
        "config_hash": record.config_hash,
        "data_digest": record.data_digest,
        "git_sha": record.environment.get("git_sha"),
        "git_dirty": record.environment.get("git_dirty"),
        "marks": ", ".join(record.marks),
        "selection": record.selection,
    }
    return {name: value for name, value in tags.items() if value not in (None, "")}


def _evaluation(train_loss: float, dev: Mapping[str, float]) -> dict[str, float]:
    return {EVALUATED: train_loss} | {f"dev_{name}": value for name, value in dev.items()}


def _record_points(record: Record) -> Iterator[Point]:
    step = 0
    for entry in record.history:
        step = entry["step"]
        yield _evaluation(entry["train_loss"], entry["dev"]), step, entry["seconds"]
    end = {f"test_{name}": value for name, value in (record.test or {}).items()} | {"seconds": record.seconds}
    if record.trained_parameters is not None:
        end["trained_parameters"] = float(record.trained_parameters)
    yield end, step, record.seconds
