"""Download of the output folder from the head, with every file verified by its digest."""

import shlex
import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from harness.cluster.jobs_api import Jobs
from harness.cluster.results_archive import MOST, unwrap
from harness.cluster.session import Session
from harness.core.errors import InputError
from harness.runs.layout import NOT_DOWNLOADED, RunFolder
from harness.runs.mlflow_paths import rehome
from lingo.text_files import file_digest


def bring_home(session: Session) -> int:
    """Copy the output folder from the head into the session's; returns the number of files.

    Raises:
        InputError: If a file differs from the head's copy, which still exists.
    """
    session.remote.pull(session.folder, session.out, exclude=[f"/{name}" for name in NOT_DOWNLOADED])
    there = manifest(session)
    _compare(there, session.out)
    rehome(RunFolder(session.out).store, session.out.resolve())
    return len(there)


def bring_parcel(session: Session, jobs: Jobs) -> int | None:
    """The same from an existing cluster, through its Jobs API; `None` if the results are too large for it.

    Raises:
        InputError: If a file differs from the head's copy.
    """
    arguments = ["-m", "harness.cluster.results_archive", session.folder]
    told, text = jobs.answer(arguments, name="results", timeout=600)
    if told["bytes"] > MOST:
        return None
    unwrap(text, session.out)
    _compare(told["files"], session.out)
    rehome(RunFolder(session.out).store, session.out.resolve())
    return len(told["files"])


def bring_back(session: Session) -> bool:
    """Upload the results downloaded from an earlier head, so that the benchmark continues from them; returns whether it
    did.

    A head that already has files of this benchmark keeps them.
    """
    if not RunFolder(session.out).benchmark.is_file():
        return False
    folder = shlex.quote(session.folder)
    if session.remote.run(f"test -e {folder}/benchmark.json && echo there || true").strip():
        return False
    exclude = [*(f"/{name}" for name in NOT_DOWNLOADED), "/cluster.json", "/mlflow.db*"]
    session.remote.push(session.out, session.folder, exclude=exclude)
    database = RunFolder(session.out).store
    if database.is_file():
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / database.name
            with closing(sqlite3.connect(database)) as here, closing(sqlite3.connect(copy)) as there:
                here.backup(there)
            rehome(copy, session.folder)
            session.remote.push(copy, session.folder)
    return True


def manifest(session: Session) -> dict[str, str]:
    """sha256 of every file to be downloaded from the head, by path."""
    skip = " ".join(f"-path {shlex.quote('./' + name)} -prune -o" for name in NOT_DOWNLOADED)
    line = f"cd {shlex.quote(session.folder)} && find . {skip} -type f -exec sha256sum {{}} +"
    rows = (row.split("  ", 1) for row in session.remote.run(line, timeout=1800).splitlines())
    return {name.removeprefix("./"): digest for digest, name in rows}


def _compare(there: Mapping[str, str], folder: Path) -> None:
    if wrong := differing(there, folder):
        raise InputError(
            [f"{folder / name}: differs from the copy on the head; download it again." for name in wrong[:20]]
        )


def differing(there: Mapping[str, str], folder: Path) -> list[str]:
    """Files that differ from the copies on the head."""
    wrong = []
    for name, digest in sorted(there.items()):
        try:
            mine = file_digest(folder / name)
        except OSError:
            mine = ""
        if mine != digest:
            wrong.append(name)
    return wrong
