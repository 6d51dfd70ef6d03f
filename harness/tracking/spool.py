"""What a store has of an output folder. The records are the spool: what is not noted here is still to be sent."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

from harness.runs.layout import RunFolder
from harness.runs.record import Record
from harness.runs.store import load, load_folder
from lingo.text_files import read_text

FOLDER = "tracked"
LOCK = ".writer"


class Spool:
    """Notes which records one store has: a line for each, appended after the store took it.

    A process that dies in between leaves a record that is sent again, which changes nothing. The notes of
    another store, or of a store that was deleted and made again, are in another file.

    Args:
        out: Output folder.
        fingerprint: Name of the store, see `harness.tracking.store.Store`.
        forget: Take the store to have nothing.
    """

    def __init__(self, out: Path, fingerprint: str, *, forget: bool = False) -> None:
        self._path = out / FOLDER / f"{fingerprint[:16]}.jsonl"
        if forget:
            self._path.unlink(missing_ok=True)
        self._held = dict(_lines(self._path))

    def lacks(self, record: Record) -> bool:
        """Whether the store has no record of this id, or an earlier one."""
        return self._held.get(record.id) != _state(record)

    def note(self, record: Record) -> None:
        """The store has this record now."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([record.id, _state(record)]) + "\n")
        self._held[record.id] = _state(record)


def all_records(out: Path) -> list[Record]:
    """The records of an output folder, those set aside included.

    Raises:
        InputError: with one line for each file that is no record.
    """
    return load(out) + load_folder(RunFolder(out).superseded)


def _state(record: Record) -> str:
    """What changes when a record is written again."""
    return f"{record.status} {record.ended} {', '.join(record.marks)}"


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """The notes; the last line may be torn."""
    if path.exists():
        for line in read_text(path).splitlines():
            try:
                name, state = json.loads(line)
            except ValueError:
                continue
            yield name, state


@contextmanager
def only_writer(out: Path, give_up: Callable[[], bool], poll_s: float = 0.2) -> Iterator[bool]:
    """Be the one process that writes this folder's runs; False when another one still is at `give_up()`.

    The system ends the claim of a process that dies. Where files cannot be locked, nobody is kept out.
    """
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while not (ours := _lock(handle)) and not give_up():
            time.sleep(poll_s)
        yield ours
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        return lock_descriptor(handle, blocking=False)
    except OSError:  # a file system without locks
        return True
