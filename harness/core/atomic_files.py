"""Atomic file writes, and errors of the disk."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.core.disk_space import free, size
from harness.core.errors import RunStopped


class Unwritable(RunStopped):
    """An output folder that cannot be written: a full disk, a lost mount.

    Attributes:
        out: The folder.
        reason: Error message of the system.
    """

    def __init__(self, out: Path, error: OSError) -> None:
        self.out, self.reason = out, error.strerror or str(error)
        super().__init__(f"{out} cannot be written: {self.reason}{_room(out, error)}.")


def _room(out: Path, error: OSError) -> str:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    return f" ({size(free(out)[0])} free)"


@contextmanager
def written(out: Path) -> Iterator[None]:
    """Convert an `OSError` when writing below the output folder `out` to `Unwritable`."""
    try:
        yield
    except OSError as error:
        raise Unwritable(out, error) from error


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file atomically."""
    handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
