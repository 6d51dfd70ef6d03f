"""Causes of Ray not starting or ending, from its errors and logs, as one line with the remedy.

The table for users is in docs/troubleshooting.md.
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
    """A cause and its remedy; both end with a full stop."""

    what: str
    cure: str

    def __str__(self) -> str:
        return f"{self.what} {self.cure}".strip()


class PoolError(RuntimeError):
    """The pool cannot continue; the message is one line for the user."""


class RayTrouble(RunStopped):
    """Ray does not start on this machine, or has ended."""

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
        "Raise it to 4096 or more, or train fewer trials at a time with --max-concurrent 1.",
    )


def _files() -> Cause:
    return Cause(
        f"The limit of open files is too low for Ray: {_limit('RLIMIT_NOFILE')}.",
        "Raise it with `ulimit -n 4096`.",
    )


MEMORY = Cause(
    "The memory of this machine, or of its control group, is exhausted.",
    "Close other programs, request more memory, or train fewer trials at a time with --max-concurrent 1.",
)
STORE = Cause(
    "There is not enough memory for Ray's object store, which needs at least 75 MiB.",
    "Close other programs, or request more memory.",
)
PATH = Cause(
    "The path of Ray's temporary folder is too long for its sockets.",
    "Set a short one with RAY_TMPDIR, such as /tmp.",
)
HOME = Cause(
    "A library needs a home folder, but this account has none.",
    "Set HOME to a writable folder.",
)
EXECUTE = Cause(
    "Ray's programs cannot be executed here.",
    "Install ray for this machine's processor and C library, on a disk mounted without noexec.",
)
SLOW_START = Cause(
    f"{SLOW}, twice: this machine is overloaded, or blocks new processes.",
    "Wait for other programs to end, or close them, and try again.",
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
"""Patterns in Ray's errors and logs, and their causes; the first match counts."""

SLOW_SIGN = re.compile(r"timed out|time-?out|did not start|deadline exceeded|No worker group started", re.I)

NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded|OutOfDisk|ENOSPC", re.I)

REFUSED = re.compile(r"\[Errno (?:1|13|30)\] (?P<why>[^:]+): '(?P<path>[^']+)'")


def cause_of(message: str, logged: str = "", places: Sequence[Place] = ()) -> Cause | None:
    """Cause of a failure; `None` if unknown.

    Args:
        message: Text of the error.
        logged: Last lines of Ray's logs.
        places: Disks that it writes to; a full one takes precedence over all other causes.
    """
    if line := full(places):
        return Cause(f"{line[0].upper()}{line[1:]}", "")
    if found := NO_SPACE.search(message) or NO_SPACE.search(logged):
        names = ", ".join(f"{place.name} ({place.folder})" for place in places)
        return Cause(
            f"Ray reports a full disk: {found[0]}.",
            f"Free some space on the disks of {names or 'its temporary folder'}, or set another folder with "
            "RAY_TMPDIR.",
        )
    if refused := REFUSED.search(message):
        return Cause(
            f"Ray cannot use {refused['path']} ({refused['why']}).",
            "Correct its permissions, or choose another.",
        )
    for text in (message, logged):
        for sign, cause in RULES:
            if re.search(sign, text):
                return cause()
    return SLOW_START if SLOW_SIGN.search(message) else None


def tails(folder: Path, most: int = 4000) -> str:
    """Last lines of the logs of Ray's processes."""
    found = []
    for pattern in ("gcs_server*", "raylet*", "*agent*.err", "*agent*.log", "dashboard.log"):
        for file in sorted(folder.glob(f"session_latest/logs/{pattern}")):
            try:
                found.append(file.read_bytes()[-most:].decode(errors="replace"))
            except OSError:
                continue
    return "\n".join(found)
