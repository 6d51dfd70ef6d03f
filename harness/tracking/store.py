"""The parts of an MLflow store that the mirror needs: runs found or created by key, batches written once.

Methods raise the errors of MLflow if the store does not answer.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import InputError
from harness.core.store_address import driver_uri, shown, store_command
from harness.tracking.tags import Point, texts

KEY, OWNER = "lingo.key", "lingo.benchmark"
TABLES = "mlflow.loggedArtifacts"
"""Tag that marks artifacts as tables for the UI."""

TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""Tag that makes the UI open an experiment on its training runs instead of on traces."""

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Default environment of the client: no telemetry, no messages, few retries."""


def quiet() -> None:
    """Suppress MLflow's own messages."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for logger in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    # It prints long tracebacks before it raises; users get one line instead.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def client_of(uri: str) -> Any:
    """A client of a store without messages; nothing is sent, but a missing database is created."""
    quiet()
    from mlflow.tracking import MlflowClient

    quiet()  # its import sets the level of its loggers
    return MlflowClient(driver_uri(uri))


def _forget_places() -> None:
    """MLflow caches artifact locations by run id: for a folder and its copy, which share ids, it would write artifacts
    of one into the other."""
    from mlflow.tracking._tracking_service import utils

    getattr(utils, "_artifact_repos_cache", {}).clear()


def find_experiment(client: Any, name: str, uri: str) -> Any | None:
    """The experiment of a store at `uri`, or `None`.

    Raises:
        InputError: If it has been deleted: its runs exist but are hidden.
        ValueError: If the server is not an MLflow server.
    """
    found = client.get_experiment_by_name(name)
    if found is not None and not found.experiment_id:  # a server that answers `{}` to everything
        raise ValueError(f"{shown(uri)} must be an MLflow server, but answers as none does.")
    if found is not None and found.lifecycle_stage == "deleted":
        restore = ("mlflow", "experiments", "restore", "--experiment-id", str(found.experiment_id))
        raise InputError(
            f"the experiment {name!r} has been deleted in the store at {shown(uri)}: "
            f"`{store_command(uri, *restore)}` restores it with its runs."
        )
    return found


class Store:
    """Runs of one benchmark in one experiment.

    Args:
        uri: Tracking address: `sqlite:///…` or `http://…`.
        experiment: Name of the experiment, created if absent.
        identity: Unique name of the benchmark; part of every key.
        artifacts: Folder of a new experiment's artifacts; `None` leaves it to the store.
    """

    def __init__(self, uri: str, *, experiment: str, identity: str, artifacts: Path | None = None) -> None:
        self.client = client_of(uri)
        _forget_places()
        self.uri, self.name = uri, experiment
        self._identity, self._artifacts = identity, artifacts
        self._experiment: Any = None

    @property
    def experiment_id(self) -> str:
        """Id of the experiment, created if absent."""
        self._experiment = self._experiment or self._find_experiment()
        return str(self._experiment.experiment_id)

    @property
    def fingerprint(self) -> str:
        """Differs between stores and experiments, also for a recreated one. That of a folder's own store does not
        change when the folder is moved or copied."""
        experiment_id = self.experiment_id
        store = shown(self.uri) if self._artifacts is None else "the folder's own"
        text = f"{store}\n{experiment_id}\n{self._experiment.creation_time}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def mark(self, tags: Mapping[str, str], *, same: Callable[[str, str], bool] = str.__eq__) -> None:
        """Set tags of the experiment that differ from what it has, by `same`."""
        held = self.client.get_experiment(self.experiment_id).tags
        for name, value in texts(tags).items():
            if name not in held or not same(held[name], value):
                self.client.set_experiment_tag(self.experiment_id, name, value)

    @property
    def owner(self) -> str:
        """Condition that leaves only this benchmark's runs; empty in a store of its own."""
        return "" if self._artifacts is not None else f" and tags.`{OWNER}` = '{self._identity}'"

    @property
    def prefix(self) -> str:
        """What tells this benchmark's views from those of others in the experiment."""
        return self._identity[:8]

    def answers(self) -> bool:
        """Whether the store can be reached."""
        try:
            self.client.get_experiment_by_name(self.name)
        except Exception:  # MLflow raises many types, all meaning no
            return False
        return True

    def find(self, key: str) -> Any | None:
        """The run of this key, or `None`."""
        text = f"tags.`{KEY}` = '{self._hashed(key)}'"
        found = self.client.search_runs([self.experiment_id], text, max_results=1)
        return found[0] if found else None

    def run(self, key: str, *, name: str, tags: Mapping[str, Any], started: float) -> Any:
        """The run of this key, created if absent, in the state RUNNING."""
        found = self.find(key)
        if found is not None:
            if found.info.status != "RUNNING":
                self.client.update_run(found.info.run_id, status="RUNNING")
                self.client.set_tag(found.info.run_id, "status", "running")
            return found
        own = {KEY: self._hashed(key), OWNER: self._identity}
        return self.client.create_run(
            self.experiment_id, start_time=int(started * 1000), tags=texts(tags) | own, run_name=name
        )

    def running(self) -> list[Any]:
        """Runs of this benchmark in the state RUNNING."""
        return self.runs(" and attributes.status = 'RUNNING'")

    def lacking(self, keys: Iterable[str]) -> dict[str, str | None]:
        """Keys without a run, each with the id of a deleted run that can be restored, if any."""
        there = {run.data.tags.get(KEY) for run in self.runs()}
        gone = {key: self._hashed(key) for key in keys if self._hashed(key) not in there}
        deleted = {run.data.tags.get(KEY): run.info.run_id for run in self.runs(deleted=True)} if gone else {}
        return {key: deleted.get(hashed) for key, hashed in gone.items()}

    def runs(self, condition: str = "", *, deleted: bool = False) -> list[Any]:
        """Runs of this benchmark; if `deleted`, only deleted ones."""
        from mlflow.entities import ViewType

        text = f"tags.`{OWNER}` = '{self._identity}'{condition}"
        view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
        runs: list[Any] = []
        token: str | None = None
        while True:
            page = self.client.search_runs([self.experiment_id], text, view, 1000, page_token=token)
            runs += page
            token = page.token
            if not token:
                return runs

    def steps(self, run: Any, metric: str) -> set[int]:
        """Steps at which a run has a metric."""
        if metric not in run.data.metrics:
            return set()
        return {point.step for point in self.client.get_metric_history(run.info.run_id, metric)}

    def write(
        self,
        run: Any,
        *,
        points: Iterable[Point] = (),
        tags: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        """Write metrics, tags, and missing parameters, which MLflow cannot change."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [
            Metric(name, float(value), run.info.start_time + int(seconds * 1000), step)
            for values, step, seconds in points
            for name, value in values.items()
        ]
        given = {
            name: ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            for name, value in (params or {}).items()
            if name not in run.data.params
        }
        batch: dict[str, Any] = {
            "tags": [RunTag(name, value) for name, value in texts(tags or {}).items()],
            "params": [Param(name, value) for name, value in given.items()],
        }
        if not (metrics or batch["tags"] or batch["params"]):
            return
        for start in range(0, max(len(metrics), 1), 800):  # MLflow accepts 1000 entries at once
            self.client.log_batch(run.info.run_id, metrics=metrics[start : start + 800], **batch)
            batch = {}

    def datasets(self, run: Any, name: str, digest: str, splits: Iterable[str]) -> None:
        """Log the prepared data of a run as inputs, per split."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"tags": {"task": name, "data_digest": digest}})
        data = Dataset(name=name, digest=digest[:36], source_type="code", source=source)
        inputs = [DatasetInput(data, [InputTag("mlflow.data.context", ", ".join(splits))])]
        self.client.log_inputs(run.info.run_id, inputs)

    def tables(self, run: Any, tables: Mapping[str, Any]) -> None:
        """Write tables as artifacts, replacing earlier ones of the same name."""
        for name, table in tables.items():
            self.client.log_dict(run.info.run_id, table, name)
        if tables:
            listed = json.dumps([{"path": name, "type": "table"} for name in tables])
            self.client.set_tag(run.info.run_id, TABLES, listed)

    def end(self, run: Any, status: str, ended: float | None = None) -> None:
        """End a run as FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run.info.run_id, status, None if ended is None else int(ended * 1000))

    def _hashed(self, key: str) -> str:
        return hashlib.sha256(f"{self._identity}\n{key}".encode()).hexdigest()

    def _find_experiment(self) -> Any:
        from mlflow.exceptions import MlflowException

        found = find_experiment(self.client, self.name, self.uri)
        if found is None:
            location = self._artifacts.resolve().as_uri() if self._artifacts is not None else None
            try:
                self.client.create_experiment(self.name, artifact_location=location, tags=dict(TRAINING))
            except MlflowException:  # another writer was faster, or the store refuses permanently
                found = self.client.get_experiment_by_name(self.name)
                if found is None:
                    raise
            found = found or self.client.get_experiment_by_name(self.name)
        return found
