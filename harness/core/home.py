"""An account without a home folder that it can write to, as in containers and on locked-down clusters.

Libraries keep caches and settings there, and some of them fail when they are imported without one (MLflow, Ray's
token). What such an account lacks lies in a private folder of its own in the temporary folder.
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
"""Environment variables with which libraries are told where to write, and the folders that they get."""

NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""Where `getpass.getuser` looks before it asks the list of accounts, which a number alone is not in."""


def trouble() -> str:
    """Why the home folder cannot be used; empty when it can."""
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
    """Give libraries folders in place of a home folder that cannot be used; variables that are set stay.

    Returns:
        One line for the user; empty when nothing was needed. Later calls of this process return the same.
    """
    found = trouble()
    if not found:
        return ""
    try:
        ours = private_folder()
    except OSError:
        return ""  # who needs a temporary folder says so
    usual = Path(os.path.expanduser("~"), ".cache", "huggingface")  # noqa: PTH111 - never raises
    if "is not writable" not in found:
        os.environ["HOME"] = str(ours)
    for name, folder in FOLDERS.items():
        os.environ.setdefault(name, str(ours / folder))
    if "HF_HOME" not in os.environ:
        # models that lie in a home folder which can only be read are used from there
        there = os.path.isdir(usual)  # noqa: PTH112 - never raises
        os.environ["HF_HOME"] = str(usual if there else ours / "huggingface")
        os.environ.setdefault("HF_DATASETS_CACHE", str(ours / "huggingface" / "datasets"))
    if not any(os.environ.get(name) for name in NAMES):
        os.environ["LOGNAME"] = f"uid-{os.geteuid()}"
    found = found[0].upper() + found[1:]
    return f"{found}: caches of libraries are stored in {ours}. Set HOME to a folder of yours to keep them."


def path_of(name: str | Path) -> Path:
    """A path in which `~` and `~name` mean home folders; where there is no such folder they stay as they are, and are
    told as a path that does not exist."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 - `Path.expanduser` raises


def private_folder() -> Path:
    """This account's folder in the temporary folder, which no other account can enter; made anew where somebody
    else has taken its name. Raises `OSError` where no temporary folder can be written to."""
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
    """The absolute path of a folder that was asked for. Raises `OSError` where it cannot be written to."""
    if not _usable(folder):
        raise OSError(f"RAY_TMPDIR must be a writable folder, but {folder} is not.")
    return str(Path(folder).absolute())


def temporary_folders() -> list[str]:
    """Folders for temporary files that can be written to, the one that was asked for first.

    Raises:
        OSError: when there is none.
    """
    wishes = [os.environ.get(name, "") for name in ("TMPDIR", "TEMP", "TMP")]
    asked = [str(Path(wish).absolute()) for wish in wishes if wish]
    found = [name for name in dict.fromkeys([*asked, "/tmp", "/var/tmp", "/dev/shm"]) if _usable(name)]
    if not found:
        raise OSError("no writable folder for temporary files found: set one with TMPDIR.")
    return found


def _usable(folder: str) -> bool:
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)  # noqa: PTH112 - never raises
