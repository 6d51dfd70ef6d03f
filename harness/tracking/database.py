"""SQLite files of MLflow: created atomically, and checked before MLflow opens them.

MLflow creates a database in about seventy irreversible steps: if interrupted, the database can never be opened. It also
stores absolute artifact paths, which become wrong when a folder is moved or copied.
"""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from harness.core.errors import InputError, command, typed
from harness.core.store_address import default_uri, driver_uri
from harness.runs.layout import RunFolder
from harness.runs.mlflow_paths import BUSY_S, rehome

State = Literal["absent", "whole", "half", "damaged", "older", "newer"]

HEADER = b"SQLite format 3\0"
BESIDE = ("-journal", "-wal", "-shm")
"""Suffixes of files that belong to a database; next to a different database they would corrupt it."""

SCRATCH = ".mlflow-"


def prepare(
    out: Path | None, uri: str, *, writer: bool, say: Callable[[str], object] = lambda line: None
) -> None:
    """Ensure that MLflow can open a store in an SQLite file; other stores are not checked.

    Args:
        out: The output folder, if any.
        uri: Address of the store.
        writer: Whether the caller may create the file. If the folder's own store cannot be opened, it is then also set
            aside and recreated from the records; the caller must be its only writer.
        say: Receives a message about a file that was set aside.

    Raises:
        InputError: If it does not exist or cannot be used.
    """
    path = sqlite_file(uri)
    if path is None:
        return
    own = out is not None and uri == default_uri(out)
    artifacts = RunFolder(Path(out).resolve()).artifacts if own and out is not None else None
    try:
        state, revision = look(path)
        if own and writer and state in ("half", "damaged"):
            kept = set_aside(path)
            say(
                f"{path}: {WHY[state]}; it is kept as {kept.name}, and the runs are rewritten from the records."
            )
            state = "absent"
        if state == "absent" and writer:
            make(path, artifacts)
        elif state != "whole":
            raise InputError(_refusal(path, state, revision, out if own else None))
        elif artifacts is not None:
            rehome(path, artifacts.parent)
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise InputError(
            f"`--tracking-uri` must be a readable and writable store, but {path} is not "
            f"({reason or error}); free disk space, correct its permissions or end the process that locks it, then "
            "try again."
        ) from None


WHY = {
    "half": "its creation was interrupted, and MLflow cannot open it",
    "damaged": "is no longer a valid database",
}


def _refusal(path: Path, state: State, revision: str | None, out: Path | None) -> str:
    """Message about an unusable database, with the command that repairs it."""
    sync = f"`{command('sync', out)}`"
    version = metadata.version("mlflow")
    away = (
        f"{sync} keeps it under another name and rewrites the runs from the records"
        if out
        else "move it away, and the same command with `sync` creates a new one"
    )
    if state == "absent":
        return f"RUN must have an MLflow store, but there is none at {path}; " + (
            f"{sync} creates it from the records." if out else "`sync RUN --tracking-uri …` creates it."
        )
    if state == "older":
        return (
            f"{path}: was written by an older MLflow than {version}; keep a copy of it, and upgrade it with "
            f"`{typed('mlflow', 'db', 'upgrade', driver_uri(f'sqlite:///{path}'))}`."
        )
    if state == "newer":
        again = f" move it away, and {sync} rewrites the runs from the records." if out else " move it away."
        return (
            f"{path}: was written by a newer MLflow than {version} (its schema {revision} is unknown); install "
            f"that version (`pip install --upgrade mlflow`), or{again}"
        )
    return f"{path}: {WHY[state]}; {away}."


def sqlite_file(uri: str) -> Path | None:
    """The file of an `sqlite:///…` address; `None` for any other store."""
    if not uri.startswith("sqlite:///"):
        return None
    name = uri.removeprefix("sqlite:///")
    return Path(name) if name and name != ":memory:" else None


def look(path: Path) -> tuple[State, str | None]:
    """State of a database, and its schema revision.

    `half`: creation was interrupted before it contained data. `older`, `newer`: of another MLflow version.

    Raises:
        OSError, sqlite3.Error: If it cannot be read: no permission, locked, a failing disk.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            return "damaged", None  # a pipe, which would block, or a device
        with path.open("rb") as file:
            start = file.read(len(HEADER))
    except FileNotFoundError:
        return "damaged" if path.is_symlink() else "absent", None  # a link to nowhere, on which MLflow waits
    if not start:
        return "absent", None
    if start != HEADER:
        return "damaged", None
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_S)) as database:
            if database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                return "damaged", None
            return _schema(database)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:  # an invalid page
        return "damaged", None


def _schema(database: sqlite3.Connection) -> tuple[State, str | None]:
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    found = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    row = None
    if "alembic_version" in found:
        row = database.execute("SELECT version_num FROM alembic_version").fetchone()
    revision = row[0] if row else None
    spec = find_spec("mlflow")
    assert spec is not None and spec.origin is not None
    known = ScriptDirectory(str(Path(spec.origin).parent / "store" / "db_migrations"))
    if revision in known.get_heads():
        return "whole", revision
    try:
        if revision is not None:
            known.get_revision(revision)
    except CommandError:
        return "newer", revision
    torn = any(name.startswith("_alembic_tmp_") for name in found)
    held = any(
        name in found and database.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone()
        for name in ("runs", "registered_models")
    )
    return "older" if held and not torn else "half", revision


def make(path: Path, artifacts: Path | None = None) -> None:
    """Create an empty store in a temporary folder next to `path`, then move it into place.

    Args:
        path: Target. A store created there meanwhile by another process is kept.
        artifacts: Artifact folder of the default experiment.

    Raises:
        InputError: If the folder's path is no text.
    """
    folder = path.parent.resolve()
    if os.fsencode(folder) != str(folder).encode("utf-8", "replace"):  # MLflow puts the path into an address
        raise InputError(
            f"{folder}: the folder of a new MLflow database must have a path that is text, but it has bytes that are "
            "none in this locale; rename it, or set LC_ALL=C.UTF-8."
        )
    from harness.tracking.store import quiet

    quiet()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    if artifacts is not None:  # as the only writer: remove remains of a killed one
        for left in path.parent.glob(f"{SCRATCH}*"):
            shutil.rmtree(left, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=path.parent, ignore_cleanup_errors=True) as scratch:
        made = Path(scratch).resolve() / "new.db"
        build: Any = SqlAlchemyStore  # untyped
        store = build(
            driver_uri(f"sqlite:///{made}"), str(artifacts or RunFolder(path.resolve().parent).artifacts)
        )
        store.engine.dispose()
        if path.exists() and not path.stat().st_size:
            path.unlink()
        if not path.exists():
            for end in BESIDE:  # of a previous database, which would be replayed into this one
                path.with_name(path.name + end).unlink(missing_ok=True)
        try:
            os.link(made, path)
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            made.replace(path)


def set_aside(path: Path) -> Path:
    """Rename a database and its auxiliary files; returns the new name."""
    number = 1
    while (kept := path.with_name(f"{path.name}.unusable-{number}")).exists():
        number += 1
    path.replace(kept)
    for end in BESIDE:
        if (beside := path.with_name(path.name + end)).exists():
            beside.replace(kept.with_name(kept.name + end))
    return kept
