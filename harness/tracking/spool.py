"""Journal of the records already in a store; records not in the journal are still to be sent."""

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
    """Journal of the records in one store: one line each, appended after the store has accepted it.

    If a process dies in between, the record is sent again, which has no effect. Every store, also a recreated one, has
    its own file.

    Args:
        out: Output folder.
        fingerprint: Name of the store, see `harness.tracking.store.Store`.
        forget: Start with an empty journal.
    """

    def __init__(self, out: Path, fingerprint: str, *, forget: bool = False) -> None:
        self._path = out / FOLDER / f"{fingerprint[:16]}.jsonl"
        if forget:
            self._path.unlink(missing_ok=True)
        self._held = dict(_lines(self._path))

    def lacks(self, record: Record) -> bool:
        """Whether the store lacks this record, or has an earlier version of it."""
        return self._held.get(record.id) != _state(record)

    def note(self, record: Record) -> None:
        """Note that the store has this record."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([record.id, _state(record)]) + "\n")
        self._held[record.id] = _state(record)


def all_records(out: Path) -> list[Record]:
    """The records of an output folder, including those set aside.

    Raises:
        InputError: With one line for each file that is not a record.
    """
    return load(out) + load_folder(RunFolder(out).superseded)


def _state(record: Record) -> str:
    """Text that changes when a record is rewritten."""
    return f"{record.status} {record.ended} {', '.join(record.marks)}"


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """The journal; the last line may be incomplete."""
    if path.exists():
        for line in read_text(path).splitlines():
            try:
                name, state = json.loads(line)
            except ValueError:
                continue
            yield name, state


@contextmanager
def only_writer(out: Path, give_up: Callable[[], bool], poll_s: float = 0.2) -> Iterator[bool]:
    """Hold the lock of the only process that writes this folder's runs; yields False if another process still holds it
    at `give_up()`.

    The system releases the lock of a dead process. On file systems without locks there is no exclusion.
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
