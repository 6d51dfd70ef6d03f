"""One driver per output folder: a lock that is released when its process ends, in whatever way."""

import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from filelock import lock_descriptor

from harness.core.errors import InputError
from harness.runs.layout import RunFolder
from harness.runs.record import now
from lingo.text_files import read_json


@contextmanager
def only_driver(out: Path | str) -> Iterator[None]:
    """Lock the output folder within the block.

    The kernel holds the lock, so that of a killed driver is released at once; the file still names it. If bad input
    ends the block, folders that were created for it are removed, if they are empty.

    Raises:
        InputError: if another running driver holds the folder, or it cannot be written.
    """
    out = Path(out)
    path = RunFolder(out).lock
    new = [folder for folder in (path, out, *out.parents) if not folder.exists()]
    with _opened(path, new) as file:
        if not lock_descriptor(file.fileno(), blocking=False):
            raise InputError(
                f"`--out` must not be in use, but another run ({_holder(path)}) writes {out}; wait until it ends, "
                "interrupt it, or use another `--out`."
            )
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now()}) + "\n")
        file.flush()
        try:
            yield
        except InputError:
            _take_back(path, new)
            raise
        finally:
            file.truncate(0)


def _opened(path: Path, new: Sequence[Path]) -> IO[str]:
    """Open the lock's file, creating its folders. Raises `InputError` if they cannot be created or written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+")
    except OSError as error:
        _take_back(path, new)
        raise InputError(
            f"`--out` must be a writable folder, but {path.parent} is not ({error.strerror})."
        ) from None


def _take_back(lock: Path, new: Sequence[Path]) -> None:
    """Remove what was created: the lock, and folders that are empty."""
    out = lock.parent
    if lock in new:
        with suppress(OSError):  # it was never created
            lock.unlink()
    inner = sorted((path for path in out.rglob("*") if path.is_dir()), reverse=True) if out in new else []
    for folder in [*inner, *(folder for folder in new if folder != lock)]:
        with suppress(OSError):  # it is not empty
            folder.rmdir()


def driver_of(out: Path | str) -> str:
    """The process that writes an output folder, by its lock; empty if none is running on this machine."""
    path = RunFolder(out).lock
    try:
        held = read_json(path)
        if held["host"] == socket.gethostname():
            os.kill(int(held["pid"]), 0)
            with path.open("a") as file:  # the process id may have been reused
                if lock_descriptor(file.fileno(), blocking=False):
                    return ""
    except PermissionError:  # of another account
        pass
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return ""
    return _holder(path)


def _holder(path: Path) -> str:
    try:
        held = read_json(path)
        return f"process {held['pid']} on {held['host']} since {held['since'][:19]}Z"
    except (OSError, ValueError, KeyError, TypeError):
        return "one that has just started"
