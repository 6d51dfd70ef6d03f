"""Files that are complete or not there, and what is said where a disk refuses them."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.core.disk_space import free, size
from harness.core.errors import RunStopped


class Unwritable(RunStopped):
    """An output folder that refuses to be written: a full disk, a lost mount.

    Attributes:
        out: The folder.
        reason: The system's own words.
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
    """Writing below the output folder `out`. Raises `Unwritable` where the system raises `OSError`."""
    try:
        yield
    except OSError as error:
        raise Unwritable(out, error) from error


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file so that it is complete or not there, whatever happens meanwhile."""
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
