"""Free space on the disks that a run writes to: checked before the start, and reported when one becomes full."""

import errno
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20

RAY_NEEDS = 64 * MIB
"""Ray's logs and sockets, and the search's own files (measured: 2 MiB for a short run)."""

STORE_NEEDS = 75 * MIB
"""Minimum size of Ray's object store, in shared memory or else next to Ray's logs."""

SCRATCH_NEEDS = 16 * MIB
OUT_NEEDS = 32 * MIB
"""Records, store and checkpoints of a small run; `plan` estimates larger ones."""

FULL = MIB
"""A disk with less free space counts as full."""

SHM = Path("/dev/shm")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder that a run writes to.

    Attributes:
        name: Description.
        folder: Path; need not exist yet.
        needs: Bytes that must be free at the start.
        cure: How to choose another one.
    """

    name: str
    folder: Path
    needs: int
    cure: str


def ray_place(folder: Path) -> Place:
    """Ray's temporary folder; it must also hold the object store if shared memory cannot."""
    in_memory = free(SHM)[0] >= STORE_NEEDS if SHM.is_dir() else False
    needs = RAY_NEEDS + (0 if in_memory else STORE_NEEDS)
    return Place(
        name="Ray's temporary folder", folder=folder, needs=needs, cure="set another folder with RAY_TMPDIR"
    )


def shared_memory() -> list[Place]:
    """Shared memory for Ray's object store, unless it is too small, in which case Ray does not use it."""
    try:
        state = os.statvfs(SHM)
    except OSError:
        return []
    place = Place(name="shared memory", folder=SHM, needs=0, cure="give the container more with --shm-size")
    return [place] if state.f_blocks * state.f_frsize >= STORE_NEEDS else []


def scratch_place(folder: Path) -> Place:
    """Python's folder for temporary files."""
    return Place(
        name="the folder for temporary files",
        folder=folder,
        needs=SCRATCH_NEEDS,
        cure="set another folder with TMPDIR",
    )


def out_place(folder: Path) -> Place:
    """The output folder."""
    return Place(
        name="the output folder", folder=folder, needs=OUT_NEEDS, cure="choose another folder with --out"
    )


def shortages(places: Iterable[Place]) -> list[str]:
    """One line per disk with a place that lacks space; nonexistent places are ignored."""
    found: dict[object, str] = {}
    for place in places:
        there = _there(place.folder)
        if line := _shortage(place, there):
            found.setdefault((there.stat().st_dev, place.needs), line)
    return list(found.values())


def full(places: Iterable[Place]) -> str:
    """Message about the first full disk; empty if there is none."""
    for place in places:
        left, files = free(place.folder)
        if left < FULL or files == 0:
            return _line(place, left, files)
    return ""


def size(count: float) -> str:
    """Human-readable size."""
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count:.0f} bytes"


def _shortage(place: Place, there: Path) -> str:
    left, files = free(there)
    if left < place.needs or files == 0 or (os.access(there, os.W_OK) and not _takes(there)):
        return _line(place, left, files)
    return ""


def _line(place: Place, left: int, files: int | None) -> str:
    if files == 0:
        lacks = "cannot hold another file (0 inodes free)"
    elif left >= max(place.needs, FULL):
        lacks = f"accepts no more data although its disk has {size(left)} free: the quota of this account is used up"
    elif place.needs:
        lacks = f"has {size(left)} free and needs {size(place.needs)}"
    else:
        lacks = f"is full: {size(left)} free"
    return f"{place.name}, {place.folder}, {lacks}; free some space there, or {place.cure}."


def _takes(folder: Path) -> bool:
    """Whether a megabyte can be written; quotas are not visible in the free space."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, FULL)
    except OSError as error:
        return error.errno not in (errno.ENOSPC, errno.EDQUOT)
    return True


def _there(folder: Path) -> Path:
    """The folder itself, or its nearest existing and accessible parent."""
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if os.access(each, os.F_OK))


def free(folder: Path) -> tuple[int, int | None]:
    """(bytes, files) that this account may still write on the disk of `folder`; `None` if the number of files is
    unlimited."""
    state = os.statvfs(_there(folder))
    return state.f_bavail * state.f_frsize, state.f_favail if state.f_files else None
