"""Support for accounts without a writable home folder, as in containers and on restricted clusters.

Libraries keep caches and settings there, and some fail without one at import (MLflow, Ray's token). A private folder in
the temporary folder is used instead.
"""

import os
import tempfile
from functools import cache
from pathlib import Path

FOLDERS = {
    "XDG_CACHE_HOME": "cache",
    "XDG_CONFIG_HOME": "config",
    "MPLCONFIGDIR": "matplotlib",
    "TRITON_CACHE_DIR": "triton",
}
"""Environment variables for the write locations of libraries, and their folders."""

NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""Variables that `getpass.getuser` reads before the user database, which may lack the account."""


def trouble() -> str:
    """Reason why the home folder cannot be used; empty if it can."""
    folder = os.path.expanduser("~") if os.environ.get("HOME") != "" else "~"  # noqa: PTH111 - never raises
    if folder == "~":
        return "there is no home folder (HOME is not set, and this account has no entry in the user database)"
    if not os.path.isdir(folder):  # noqa: PTH112 - never raises
        return f"the home folder {folder} does not exist"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"the home folder {folder} is not writable"
    return ""


@cache
def provide() -> str:
    """Set folders for libraries in place of an unusable home folder; variables already set are kept.

    Returns:
        Message for the user; empty if nothing was needed. Later calls in this process return the same.
    """
    found = trouble()
    if not found:
        return ""
    try:
        ours = private_folder()
    except OSError:
        return ""  # users of a temporary folder report this
    usual = Path(os.path.expanduser("~"), ".cache", "huggingface")  # noqa: PTH111 - never raises
    if "is not writable" not in found:
        os.environ["HOME"] = str(ours)
    for name, folder in FOLDERS.items():
        os.environ.setdefault(name, str(ours / folder))
    if "HF_HOME" not in os.environ:
        # models in a read-only home folder are used from there
        there = os.path.isdir(usual)  # noqa: PTH112 - never raises
        os.environ["HF_HOME"] = str(usual if there else ours / "huggingface")
        os.environ.setdefault("HF_DATASETS_CACHE", str(ours / "huggingface" / "datasets"))
    if not any(os.environ.get(name) for name in NAMES):
        os.environ["LOGNAME"] = f"uid-{os.geteuid()}"
    found = found[0].upper() + found[1:]
    return f"{found}: caches of libraries are stored in {ours}. Set HOME to a folder of yours to keep them."


def path_of(name: str | Path) -> Path:
    """A path with `~` and `~name` expanded to home folders; without such a folder they are kept, which gives a
    nonexistent path."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 - `Path.expanduser` raises


def private_folder() -> Path:
    """This account's folder in the temporary folder, which no other account can enter; a new name is used if another
    account has taken it. Raises `OSError` if no temporary folder is writable."""
    base = Path(next(iter(temporary_folders())))
    folder = base / f"lingo-{os.geteuid()}"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        state = folder.lstat()
        if folder.is_symlink() or not folder.is_dir() or state.st_uid != os.geteuid():
            return Path(tempfile.mkdtemp(prefix="lingo-home-", dir=base))
        folder.chmod(0o700)
    return folder


def named(folder: str) -> str:
    """The absolute path of a requested folder. Raises `OSError` if it is not writable."""
    if not _usable(folder):
        raise OSError(f"RAY_TMPDIR must be a writable folder, but {folder} is not.")
    return str(Path(folder).absolute())


def temporary_folders() -> list[str]:
    """Writable folders for temporary files, the requested one first.

    Raises:
        OSError: If there is none.
    """
    wishes = [os.environ.get(name, "") for name in ("TMPDIR", "TEMP", "TMP")]
    asked = [str(Path(wish).absolute()) for wish in wishes if wish]
    found = [name for name in dict.fromkeys([*asked, "/tmp", "/var/tmp", "/dev/shm"]) if _usable(name)]
    if not found:
        raise OSError("no writable folder for temporary files found: set one with TMPDIR.")
    return found


def _usable(folder: str) -> bool:
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)  # noqa: PTH112 - never raises


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; what cannot be a name, such as one that is too long, is not there."""
    return os.path.exists(path)  # noqa: PTH110 - never raises
