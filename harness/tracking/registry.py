"""The best adapter of a study in MLflow's registry, as `champion`."""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import InputError, command
from harness.core.store_address import one_line
from harness.runs.store import load
from harness.tracking.models import log_adapter
from harness.tracking.study import champion
from harness.tracking.sync import address_of, open_store, read_setting, unreachable
from harness.tracking.tags import record_name, study_name

ALIAS = "champion"


@dataclass(frozen=True)
class Registered:
    """Address of a registered model, its version, and the final run that made it."""

    address: str
    version: str
    run: str


def register_best(out: Path, study: str, name: str, *, uri: str | None = None) -> Registered:
    """Register a study's best adapter under a name, with the alias `champion`; the same adapter only once.

    Args:
        out: Output folder.
        study: `task|backbone|method`.
        name: Name in the registry, created if absent.
        uri: Tracking address; `None` for the benchmark's own.

    Raises:
        InputError: If the study has no adapter yet, its run is not in the store, or the store refuses.
    """
    if not re.fullmatch(r"[\w .-]+", name):
        raise InputError(
            f"`--register` must consist of letters, digits, spaces, dots and dashes, but got {name!r}."
        )
    setting = read_setting(out)
    records = [record for record in load(out) if record.study == study]
    best = champion(records)
    if best is None:
        raise InputError(
            f"`--register` needs an adapter of a finished final run, but {study_name(study)} has none."
        )
    address = address_of(out, setting, uri)
    store = open_store(out, setting, address)
    try:
        parent, final = store.find(study), store.find(best.id)
        if parent is None or final is None:
            raise InputError(
                f"`--register` needs the runs in the store; write them with `{command('sync', out)}`."
            )
        model = log_adapter(store, parent, final, best, out)
        if model is None:
            raise InputError(f"`--register` needs the adapter {best.facts['adapter']}, which does not exist.")
        version = _version(store.client, name, model, final.info.run_id)
        store.client.set_registered_model_alias(name, ALIAS, version)
    except InputError:
        raise
    except Exception as error:  # any error of MLflow
        if store.answers():
            raise InputError(f"`--register` failed: {one_line(error, address)}") from None
        raise InputError(unreachable(address, error)) from None
    return Registered(f"models:/{name}@{ALIAS}", version, record_name(best.id, study))


def _version(client: Any, name: str, model: str, run_id: str) -> str:
    """The version of a registered model for this logged model, created if absent."""
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):  # it exists, or the next call reports the error
        client.create_registered_model(name)
    source = client.get_logged_model(model).artifact_location
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.source == source:
            return str(version.version)
    return str(client.create_model_version(name, source, run_id=run_id, model_id=model).version)
