"""Records reconstructed from an MLflow store."""

import json
from typing import Any

from harness.core.errors import InputError, nearest
from harness.core.store_address import opened
from harness.runs.record import Record
from harness.runs.selection import OBJECTIVES, SCOPE
from harness.tracking.database import prepare
from harness.tracking.store import OWNER, client_of, find_experiment
from harness.tracking.sync import unreachable
from harness.tracking.tags import RECORD


def records_from_store(uri: str, experiment: str) -> list[Record]:
    """The record of each trial, as far as its MLflow run contains it, for `best_of`.

    Raises:
        InputError: If the store does not answer, or has no such experiment, or it has no runs of a benchmark.
    """
    try:
        address = opened(uri)
    except ValueError as error:
        raise InputError(f"`--tracking-uri` {error}") from None
    try:
        prepare(None, address, writer=False)
        client = client_of(address)
        named = {found.name: found.experiment_id for found in client.search_experiments()}
        if experiment not in named:
            find_experiment(client, experiment, address)
            near = nearest(experiment, named)
            raise InputError(
                f"`--experiment` must be an experiment of the store, but got {experiment!r}.{near}"
            )
        runs = [run for stage in ("search", "final") for run in _runs(client, named[experiment], stage)]
    except InputError:
        raise
    except Exception as error:  # any error of MLflow means that the store cannot be read
        raise InputError(unreachable(address, error)) from None
    if not runs:
        raise InputError(f"`--experiment` must contain runs of a benchmark, but {experiment!r} has none.")
    return [_record(run) for run in runs]


def _runs(client: Any, experiment: str, stage: str) -> list[Any]:
    runs: list[Any] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment], f"tags.stage = '{stage}'", max_results=1000, page_token=token)
        runs += [run for run in page if "config" in run.data.tags and run.data.tags["status"] != "running"]
        token = page.token
        if not token:
            return runs


def _record(run: Any) -> Record:
    tags, metrics = run.data.tags, run.data.metrics
    study = "|".join(tags[axis] for axis in ("task", "backbone", "method"))
    scores = {
        split: {name.removeprefix(split): value for name, value in metrics.items() if name.startswith(split)}
        for split in ("dev_", "test_")
    }
    size = metrics.get("trained_parameters")
    objectives = {OBJECTIVES: tags["objectives"].split(",")} if "objectives" in tags else {}
    return Record(
        id=f"{study}/{tags.get(RECORD, run.info.run_name)}",
        benchmark=tags.get(OWNER, ""),
        study=study,
        task=tags["task"],
        family=tags.get("family", ""),
        backbone=tags["backbone"],
        method=tags["method"],
        metric=tags.get("metric", ""),
        stage=tags["stage"],
        trial=int(tags["trial"]) if "trial" in tags else None,
        seed=int(tags.get("seed", 0)),
        status=tags["status"],
        config=json.loads(tags["config"]),
        dev=scores["dev_"],
        trained_parameters=None if size is None else int(size),
        test=scores["test_"] or None,
        marks=tuple(filter(None, tags.get("marks", "").split(", "))),
        facts={SCOPE: tags.get("scope", "task"), **objectives},
    )
