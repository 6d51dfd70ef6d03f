"""SQLite files of MLflow: made whole or not there, and looked at before MLflow opens them.

MLflow makes a database in some seventy steps, none of which it can take back: one that was cut short never opens
again. It also keeps absolute paths of its artifacts, which a folder that is moved or copied takes along.
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
from harness.core.store_address import default_uri
from harness.runs.layout import RunFolder
from harness.runs.mlflow_paths import BUSY_S, rehome

State = Literal["absent", "whole", "half", "damaged", "older", "newer"]

HEADER = b"SQLite format 3\0"
BESIDE = ("-journal", "-wal", "-shm")
"""Files that belong to a database, by what stands behind its name: beside another one they would destroy it."""

SCRATCH = ".mlflow-"


def prepare(
    out: Path | None, uri: str, *, writer: bool, say: Callable[[str], object] = lambda line: None
) -> None:
    """See to it that MLflow can open a store in an SQLite file; of other stores nothing is looked at.

    Args:
        out: The output folder; `None` where there is none.
        uri: Address of the store.
        writer: Whether the caller may make the file. The folder's own is then also set aside and made anew where
            nothing can open it, as its records have everything; so the caller must be its only writer.
        say: Told in one line what was set aside.

    Raises:
        InputError: With one line, if it is not there or cannot be used.
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
                f"{path}: {WHY[state]}; it is kept as {kept.name}, and the runs are written anew from the records."
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
            f"`--tracking-uri` must be a store that can be read and written, but {path} cannot "
            f"({reason or error}); free the disk, mend its permissions or end what holds it, then try again."
        ) from None


WHY = {
    "half": "its making was interrupted, and MLflow cannot open it",
    "damaged": "is no database any more",
}


def _refusal(path: Path, state: State, revision: str | None, out: Path | None) -> str:
    """One line on a database that cannot be used as it is, with the command that helps."""
    sync = f"`{command('sync', out)}`"
    version = metadata.version("mlflow")
    away = (
        f"{sync} keeps it under another name and writes the runs anew from the records"
        if out
        else "move it away, and the same command with `sync` makes it anew"
    )
    if state == "absent":
        return f"RUN must have an MLflow store, but there is none at {path}; " + (
            f"{sync} makes it from the records." if out else "`sync RUN --tracking-uri …` makes it."
        )
    if state == "older":
        return (
            f"{path}: was written by an older MLflow than {version}; keep a copy of it, and bring it up with "
            f"`{typed('mlflow', 'db', 'upgrade', f'sqlite:///{path}')}`."
        )
    if state == "newer":
        again = (
            f" move it away, and {sync} writes the runs anew from the records." if out else " move it away."
        )
        return (
            f"{path}: was written by a newer MLflow than {version} (its schema {revision} is unknown here); install "
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
    """What a database is, and its schema's revision.

    `half`: its making was cut short before it held anything. `older`, `newer`: of another MLflow.

    Raises:
        OSError, sqlite3.Error: If it cannot be read now: no permission, locked, a failing disk.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            return "damaged", None  # a pipe, which would be waited for, or a device
        with path.open("rb") as file:
            start = file.read(len(HEADER))
    except FileNotFoundError:
        return "absent", None
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
    except sqlite3.DatabaseError:  # a page that is no page of a database
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
    """Make an empty store: in a folder of its own beside `path`, which then gets it whole.

    Args:
        path: Where to. A store that somebody else makes meanwhile is left to them.
        artifacts: Folder of artifacts, for the experiment that every store has.
    """
    from harness.tracking.store import quiet

    quiet()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    if artifacts is not None:  # of the only writer: what an earlier one left that was killed
        for left in path.parent.glob(f"{SCRATCH}*"):
            shutil.rmtree(left, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=path.parent, ignore_cleanup_errors=True) as scratch:
        made = Path(scratch).resolve() / "new.db"
        build: Any = SqlAlchemyStore  # untyped
        store = build(f"sqlite:///{made}", str(artifacts or RunFolder(path.resolve().parent).artifacts))
        store.engine.dispose()
        if path.exists() and not path.stat().st_size:
            path.unlink()
        if not path.exists():
            for end in BESIDE:  # of a database that was here: they would be played back into this one
                path.with_name(path.name + end).unlink(missing_ok=True)
        try:
            os.link(made, path)
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            made.replace(path)


def set_aside(path: Path) -> Path:
    """Give a database and the files that belong to it another name, which is returned."""
    number = 1
    while (kept := path.with_name(f"{path.name}.unusable-{number}")).exists():
        number += 1
    path.replace(kept)
    for end in BESIDE:
        if (beside := path.with_name(path.name + end)).exists():
            beside.replace(kept.with_name(kept.name + end))
    return kept
