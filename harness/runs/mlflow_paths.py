"""Paths of artifacts in the MLflow database of an output folder that has moved."""

import sqlite3
from contextlib import closing
from pathlib import Path

from harness.runs.layout import ARTIFACTS, RunFolder

PLACES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}
"""Columns in which MLflow stores locations of artifacts."""

BUSY_S = 20.0


def rehome(database: Path, out: Path | str) -> int:
    """Update the locations of artifacts in the store of an output folder that was moved or copied to `out`.

    Args:
        database: The folder's own store.
        out: Absolute path under which the folder is used, here or on another machine.

    Returns:
        Number of changed locations.
    """
    home = RunFolder(out).artifacts.as_uri()
    if not database.is_file():
        return 0
    changed = 0
    with closing(sqlite3.connect(database, timeout=BUSY_S)) as connection, connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "experiments" not in tables:
            return 0
        rows = connection.execute("SELECT artifact_location FROM experiments").fetchall()
        for old in {root for (place,) in rows if (root := _root(place)) and root != home}:
            for table, columns in PLACES.items():
                there = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
                for column in there.intersection(columns):
                    cursor = connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                        (home, len(old) + 1, old, len(old) + 1, f"{old}/"),
                    )
                    changed += cursor.rowcount
    return changed


def _root(place: str | None) -> str | None:
    """`…/mlartifacts` of the location of an experiment's artifacts; `None` if they are elsewhere."""
    if not place or not place.startswith(("file:", "/")):
        return None
    before, found, behind = place.rpartition(f"/{ARTIFACTS}")
    return before + found if found and (not behind or behind[1:].isdigit()) else None
