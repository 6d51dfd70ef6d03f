"""`sync`: write missing records of an output folder to an MLflow store."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from harness.core.errors import InputError
from harness.core.store_address import default_uri, login_cure, one_line, opened, shown
from harness.runs.info import Setting
from harness.runs.layout import RunFolder
from harness.runs.record import Record
from harness.tracking.database import prepare
from harness.tracking.mirror import Mirror
from harness.tracking.spool import Spool, all_records, only_writer
from harness.tracking.store import Store, find_experiment


@dataclass(frozen=True)
class Synced:
    """Result of `sync`: store, number of records, number written, records refused by the store, and the keys of runs
    deleted there, each with its id in the store if it can be restored."""

    uri: str
    records: int
    written: int
    refused: list[str]
    deleted: Mapping[str, str | None]


def read_setting(out: Path) -> Setting:
    """Settings of the runs of a finished or running benchmark.

    Raises:
        InputError: If there is no benchmark in `out`.
    """
    try:
        return Setting.read(out)
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError):
        raise InputError(
            f"RUN must be the output folder of a benchmark, but {out} has no readable benchmark.json and plan.json."
        ) from None


def address_of(out: Path, setting: Setting, uri: str | None) -> str:
    """The store address: the given one, that of the benchmark, or the embedded store.

    Raises:
        InputError: If the benchmark's address had a password, which is not stored.
    """
    try:
        return opened(uri or setting.uri or default_uri(out))
    except ValueError as error:
        raise InputError(f"`--tracking-uri` {error}") from None


def open_store(
    out: Path, setting: Setting, uri: str, *, writer: bool = False, say: Callable[[str], object] = print
) -> Store:
    """The store at `uri`.

    Args:
        writer, say: See `harness.tracking.database.prepare`.

    Raises:
        InputError: If it does not answer, or its experiment has been deleted.
    """
    prepare(out, uri, writer=writer, say=say)
    artifacts = RunFolder(out).artifacts if uri == default_uri(out) else None
    try:
        store = Store(uri, experiment=setting.experiment, identity=setting.identity, artifacts=artifacts)
        find_experiment(store.client, setting.experiment, uri)
    except InputError:
        raise
    except Exception as error:  # any error of MLflow means that the store cannot be used
        raise InputError(unreachable(uri, error)) from None
    return store


def unreachable(uri: str, error: Exception) -> str:
    """Message about a store that does not answer, without passwords."""
    if "out-of-date database schema" in str(error):
        return (
            f"`--tracking-uri` must be a store of MLflow {metadata.version('mlflow')}, but {shown(uri)} is of another "
            f"version ({one_line(error, uri)}); keep a copy of it, and upgrade it with `mlflow db upgrade ADDRESS`."
        )
    return (
        f"`--tracking-uri` must be a store that answers, but {shown(uri)} fails ({one_line(error, uri)})."
        f"{login_cure(error, uri)}"
    )


def sync(
    out: Path,
    *,
    uri: str | None = None,
    again: bool = False,
    on_record: Callable[[Record], object] = lambda record: None,
    say: Callable[[str], object] = print,
) -> Synced:
    """Write the records that a store lacks, and end runs that a dead process left running.

    Args:
        out: Output folder of a benchmark that is not running.
        uri: Tracking address; `None` for the benchmark's own.
        again: Write all records, also those already written (and deleted since).
        on_record: Called with each written record.
        say: Receives a message if the folder's own store was set aside.

    Raises:
        InputError: If there is no benchmark, another process writes its runs, or the store does not answer.
    """
    setting, records = read_setting(out), all_records(out)
    address = address_of(out, setting, uri)
    with only_writer(out, give_up=lambda: True) as ours:
        if not ours:
            raise InputError(
                f"`sync` must wait until the benchmark in {out} has ended, which writes these runs itself."
            )
        store = open_store(out, setting, address, writer=True, say=say)
        mirror, written = Mirror(store, setting), 0
        refused: list[str] = []
        bad: set[str] = set()
        spool = Spool(out, store.fingerprint, forget=again)
        for outcome in mirror.send(records, spool):
            if outcome.error is not None:
                if not store.answers():
                    raise InputError(unreachable(address, outcome.error)) from None
                bad.add(outcome.record.id)
                refused.append(f"{outcome.record.id}: {one_line(outcome.error, address)}")
            else:
                written += 1
            on_record(outcome.record)
        mirror.finish()
        sent = [record for record in records if record.id not in bad]
        keys = dict.fromkeys([record.study for record in sent] + [record.id for record in sent])
        deleted = store.lacking(keys)
    return Synced(shown(address), len(records), written, refused + mirror.problems, deleted)
