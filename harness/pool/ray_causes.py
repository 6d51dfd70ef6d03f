"""Why Ray does not start, or has ended: from what it says and logs to one line with the cure.

docs/troubleshooting.md has the same table for people.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.disk_space import Place, full
from harness.core.errors import RunStopped

SLOW = "Ray's processes did not start in time"


@dataclass(frozen=True)
class Cause:
    """What is wrong, and what to do about it; both end with a full stop."""

    what: str
    cure: str

    def __str__(self) -> str:
        return f"{self.what} {self.cure}".strip()


class PoolError(RuntimeError):
    """The pool cannot work (any more); the message is one line for the user."""


class RayTrouble(RunStopped):
    """Ray does not start on this machine, or has ended there."""

    def __init__(self, cause: Cause) -> None:
        self.cause = cause
        super().__init__(str(cause))

    def __reduce__(self) -> tuple[type["RayTrouble"], tuple[Cause]]:
        return type(self), (self.cause,)


def _limit(kind: str) -> str:
    import resource  # Unix has it

    soft, _ = resource.getrlimit(getattr(resource, kind))
    return "no limit" if soft == resource.RLIM_INFINITY else str(soft)


def _processes() -> Cause:
    return Cause(
        f"Ray could not start another process or thread: this account may have {_limit('RLIMIT_NPROC')} "
        "(`ulimit -u`; in a container also its limit of pids).",
        "Raise it to 4096 or more, or train less at a time with --max-concurrent 1.",
    )


def _files() -> Cause:
    return Cause(
        f"A process may not open as many files as Ray needs: the limit is {_limit('RLIMIT_NOFILE')}.",
        "Raise it with `ulimit -n 4096`.",
    )


MEMORY = Cause(
    "The memory of this machine, or of its control group, is used up.",
    "Close other programs, ask for more memory, or train less at a time with --max-concurrent 1.",
)
STORE = Cause(
    "There is not enough memory for Ray's object store, which takes at least 75 MiB.",
    "Close other programs, or ask for more memory.",
)
PATH = Cause(
    "The path of Ray's temporary folder is longer than its sockets bear.",
    "Name a short one with RAY_TMPDIR, such as /tmp.",
)
HOME = Cause(
    "A library needs a home folder and this account has none.",
    "Set HOME to a folder that can be written to.",
)
EXECUTE = Cause(
    "Ray's programs cannot be executed here.",
    "Install ray for this machine's processor and C library, on a disk that is not mounted with noexec.",
)
SLOW_START = Cause(
    f"{SLOW}, twice: this machine is very busy, or stops new processes.",
    "Wait until other programs have ended, or close them, and try again.",
)

Rule = tuple[str, Callable[[], Cause]]

RULES: Sequence[Rule] = (
    (r"AF_UNIX path", lambda: PATH),
    (r"home directory", lambda: HOME),
    (r"can't start new thread|Resource temporarily unavailable|pthread_create|thread: .*EAGAIN", _processes),
    (r"Too many open files", _files),
    (r"Cannot allocate memory|MemoryError|bad_alloc|OutOfMemoryError|\(OOM\)", lambda: MEMORY),
    (r"cap object store memory|object store and redis memory", lambda: STORE),
    (r"Exec format error|GLIBC\w*_|Illegal instruction", lambda: EXECUTE),
)
"""Signs of what is wrong, in Ray's errors and logs, and what they mean: the first that is found counts."""

SLOW_SIGN = re.compile(r"timed out|time-?out|did not start|deadline exceeded|No worker group came up", re.I)

NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded|OutOfDisk|ENOSPC", re.I)

REFUSED = re.compile(r"\[Errno (?:1|13|30)\] (?P<why>[^:]+): '(?P<path>[^']+)'")


def cause_of(said: str, logged: str = "", places: Sequence[Place] = ()) -> Cause | None:
    """The cause of a failure; `None` for one that is not known.

    Args:
        said: The error's text.
        logged: The ends of Ray's logs.
        places: Where it writes: a full one is the cause of whatever else went wrong.
    """
    if line := full(places):
        return Cause(f"{line[0].upper()}{line[1:]}", "")
    if found := NO_SPACE.search(said) or NO_SPACE.search(logged):
        names = ", ".join(f"{place.name} ({place.folder})" for place in places)
        return Cause(
            f"Ray was told that there is no room: {found[0]}.",
            f"Make room on the disks of {names or 'its temporary folder'}; RAY_TMPDIR names another one.",
        )
    if refused := REFUSED.search(said):
        return Cause(
            f"Ray may not use {refused['path']} ({refused['why']}).", "Mend its permissions, or name another."
        )
    for text in (said, logged):
        for sign, cause in RULES:
            if re.search(sign, text):
                return cause()
    return SLOW_START if SLOW_SIGN.search(said) else None


def tails(folder: Path, most: int = 4000) -> str:
    """The ends of the logs of Ray's own processes."""
    found = []
    for pattern in ("gcs_server*", "raylet*", "*agent*.err", "*agent*.log", "dashboard.log"):
        for file in sorted(folder.glob(f"session_latest/logs/{pattern}")):
            try:
                found.append(file.read_bytes()[-most:].decode(errors="replace"))
            except OSError:
                continue
    return "\n".join(found)
