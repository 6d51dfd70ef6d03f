"""A Ray instance on this machine only; reasons why it does not start are reported in one line.

It needs nothing in the home folder: its token and all its files are in a private folder, which is removed with it.
"""

import json
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from filelock import lock_descriptor
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.exceptions import RayError
from ray.job_config import JobConfig

from harness.core.disk_space import Place, full, ray_place, shared_memory, shortages
from harness.core.errors import InputError
from harness.core.home import named, temporary_folders
from harness.core.paths import ROOT
from harness.core.wording import last_line
from harness.pool.ray_causes import SLOW_START, Cause, PoolError, RayTrouble, cause_of, tails

START_S = 150.0
"""Seconds after which a start of Ray is aborted; Ray itself usually gives up after about 30."""

MOST_BYTES = 40
"""Maximum length of the path of Ray's folder: socket names add 66 bytes, with a limit of 107."""

PACKAGES = ("harness", "lingo")
"""What workers import."""

PREFIX, OWNER = "lingo-ray-", "owner"

SETTINGS = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_maximum_startup_concurrency": "16",  # otherwise Ray warns about the many small processes
    # Under load a process may take longer to start than Ray's 60 s; it would be killed and restarted.
    "RAY_worker_register_timeout_seconds": "300",
}


class OwnModulesFirst(JobConfig):
    """Let workers import this program and its libraries from the same paths as the driver.

    By default Ray puts the driver's working directory first, so that libraries would import the user's `data.py` or
    `random.py`; it does not if the job has a working directory of its own.
    """

    def __init__(self, first: Sequence[str]) -> None:
        super().__init__(_py_driver_sys_path=list(first))

    def _runtime_env_has_working_dir(self) -> bool:
        return True


def own_modules(links: Path | None = None) -> list[str]:
    """First entry of a worker's path, with which it imports the same program as this process: the program's folder, or
    nothing if it is installed.

    Args:
        links: Folder for links to the program, for a process that has the program's folder last, because it may contain
            other modules.
    """
    here = [Path(entry or ".").resolve() for entry in sys.path]
    if ROOT not in here or ROOT.name in ("site-packages", "dist-packages"):
        return []
    if links is None or here.index(ROOT) < len(here) - 1:
        return [str(ROOT)]
    links.mkdir(exist_ok=True)
    for name in (*PACKAGES, "search_spaces", "clusters"):
        if not (links / name).exists():
            (links / name).symlink_to(ROOT / name)
    return [str(links)]


@contextmanager
def local_ray(num_cpus: int, num_gpus: int | None = None) -> Iterator[Path]:
    """A Ray instance on this machine for the duration of the block, without log output.

    Yields:
        A folder for the files of Ray's libraries, removed at the end.

    Raises:
        RayTrouble: If it does not start, with cause and remedy.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    refuse_without_loopback()
    with _private_folder() as folder, _environment(folder):
        _start(folder, num_cpus, num_gpus)
        try:
            scratch = folder / "scratch"
            scratch.mkdir()
            yield scratch
        finally:
            ray.shutdown()


def places(folder: Path) -> list[Place]:
    """Disks of a run whose Ray instance uses `folder` or a folder in it."""
    base = next((each.parent for each in folder.parents if each.name.startswith(PREFIX)), folder)
    return [ray_place(base), *shared_memory()]


def full_disk(folder: Path | None) -> str:
    """Message about a disk of the run that has become full; empty if none.

    Args:
        folder: Yielded by `local_ray`; `None` if Ray was not started here.
    """
    return full(places(folder or Path(temporary_folders()[0])))


@contextmanager
def troubles_told(folder: Path | None) -> Iterator[None]:
    """Re-raise fatal errors of the pool or Ray as `RayTrouble` with their cause.

    Args:
        folder: Yielded by `local_ray`; `None` if Ray was not started here.
    """
    try:
        yield
    except InputError:
        raise  # raised in a task, it is also a RayError
    except (PoolError, RayError) as error:
        here = places(folder) if folder else []
        logged = tails(folder.parent) if folder else ""
        what = str(error) if isinstance(error, PoolError) else f"Ray cannot continue: {last_line(str(error))}"
        known = cause_of(str(error), logged, here)
        if known in (None, SLOW_START):
            known = Cause(what if what.endswith(".") else f"{what}.", known.cure if known else "")
        raise RayTrouble(known) from error


def ray_folder() -> Path:
    """Parent of Ray's folder: `RAY_TMPDIR`, or else the first temporary folder that Ray can use.

    Raises:
        RayTrouble: If there is none.
    """
    wish = os.environ.get("RAY_TMPDIR", "")
    with suppress(OSError):
        Path(wish).mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        bases = [named(wish)] if wish else temporary_folders()
    except OSError as error:
        raise RayTrouble(Cause("Ray needs a folder for temporary files.", f"{error}")) from None
    longest = MOST_BYTES - len(f"/{PREFIX}12345678/r")
    fitting = [base for base in bases if len(os.fsencode(base)) <= longest]
    if not fitting:
        raise RayTrouble(
            Cause(
                f"The path of Ray's temporary folder is limited to {longest} bytes, but {bases[0]} is longer, and no "
                "other folder is writable.",
                "Set a short one with RAY_TMPDIR.",
            )
        )
    return Path(fitting[0])


def refuse_without_loopback() -> None:
    """Check that this machine can reach its own addresses, which Ray's processes use; they would wait forever.

    Raises:
        RayTrouble: If they cannot be reached.
    """
    _reach("127.0.0.1")
    _reach(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def _reach(address: str) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as server:
            server.bind((address, 0))
            server.listen(1)
            socket.create_connection(server.getsockname()[:2], timeout=5).close()
    except OSError as error:
        raise RayTrouble(
            Cause(
                f"This machine cannot reach itself at {address} ({error.strerror or error}).",
                "Bring the loopback interface up (`ip link set lo up`), and allow connections of the machine "
                "to itself in the firewall or VPN.",
            )
        ) from None


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder that no other account can enter, removed afterwards; folders of killed runs are removed first.

    Ray makes its own folder accessible to everyone, so it is created inside this one.
    """
    base = ray_folder()
    _sweep(base)
    if lines := shortages([ray_place(base)]):
        raise RayTrouble(Cause(f"{lines[0][0].upper()}{lines[0][1:]}", ""))
    try:
        made = Path(tempfile.mkdtemp(prefix=".lingo-", dir=base))
        owner = (made / OWNER).open("w")
    except OSError as error:
        raise RayTrouble(
            Cause(f"No folder can be created in {base} ({error.strerror}).", "Set another with RAY_TMPDIR.")
        ) from None
    with owner:
        with suppress(OSError):  # file systems without locks: no folder is removed there
            lock_descriptor(owner.fileno())
        outer = made.rename(base / f"{PREFIX}{made.name[-8:]}")
        (outer / "r").mkdir()
        try:
            yield outer / "r"
        except RayTrouble as error:
            if str(outer) not in str(error):  # the user is told the path of its logs
                shutil.rmtree(outer, ignore_errors=True)
            raise
        except BaseException:
            shutil.rmtree(outer, ignore_errors=True)
            raise
        else:
            shutil.rmtree(outer, ignore_errors=True)


def _sweep(base: Path) -> None:
    """Remove folders of dead processes, whose lock is released."""
    for folder in base.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if folder.lstat().st_uid != os.geteuid() or folder.is_symlink():
                continue
            with (folder / OWNER).open("r+") as owner:
                if lock_descriptor(owner.fileno(), blocking=False):
                    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Set this instance's token, and put Python's own folders first in every process, while Ray is up.

    By default Ray uses tokens; a mode that was set for clusters (or `disabled`) is restored afterwards."""
    token = folder.parent / "token"
    handle = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))
    ours: dict[str, str | None] = {
        "RAY_AUTH_MODE": None,
        "RAY_AUTH_TOKEN": None,
        "RAY_AUTH_TOKEN_PATH": str(token),
        "PYTHONSAFEPATH": "1",
    }
    before = {name: os.environ.get(name) for name in ours}
    _set(ours)
    try:
        yield
    finally:
        _set(before)


def _set(values: dict[str, str | None]) -> None:
    """Set environment variables, and make Ray, which caches them in this process, read them again."""
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _start(folder: Path, num_cpus: int, num_gpus: int | None) -> None:
    """Start Ray; a slow start is tried once more."""
    for last in (False, True):
        try:
            with _limited(folder):
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    num_gpus=num_gpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    job_config=OwnModulesFirst(own_modules(folder.parent / "modules")),
                    _temp_dir=str(folder),
                )
            return
        except Exception as error:  # Ray raises many types
            text, logged = f"{type(error).__name__}: {error}", tails(folder)
            _end(folder)
            cause = cause_of(text, logged, places(folder))
            if cause is SLOW_START and not last:
                continue
            raise RayTrouble(cause or _unknown(text, folder)) from error
        except BaseException:
            _end(folder)
            raise


def _unknown(text: str, folder: Path) -> Cause:
    return Cause(
        f"Ray does not start on this machine: {last_line(text)}.",
        f"Its logs are in {folder}/session_latest/logs until the next run.",
    )


@contextmanager
def _limited(folder: Path) -> Iterator[None]:
    """Abort a hanging start: end Ray's processes, which makes it raise; otherwise end this process."""
    done = threading.Event()

    def watch() -> None:
        if done.wait(START_S):
            return
        _kill(folder)
        if not done.wait(15.0):
            print(f"Stopped: {SLOW_START}", file=sys.stderr, flush=True)
            shutil.rmtree(folder.parent, ignore_errors=True)
            os._exit(1)

    threading.Thread(target=watch, name="start", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _end(folder: Path) -> None:
    """Clean up after a failed start."""
    with suppress(Exception):
        ray.shutdown()
    _kill(folder)


def _kill(folder: Path) -> None:
    """End the processes with this instance's folder in their command line, that is, only those of this Ray instance."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.fsencode(folder) in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)


def ray_processes() -> dict[str, Any]:
    """Ray processes started by this process, by type; none if it has joined a cluster."""
    node = getattr(ray._private.worker, "_global_node", None)
    started = getattr(node, "all_processes", {}) if node is not None else {}
    return {kind: infos[0].process for kind, infos in started.items() if infos}


def try_ray(seconds: float = 60.0) -> str:
    """Start Ray on this machine, run one task on it and stop it again.

    Returns:
        Address of the node that ran the task.

    Raises:
        RayTrouble: If Ray does not start, or its task does not end in time.
    """
    with local_ray(1) as folder:
        try:
            answer: str = ray.get(ray.remote(ray.util.get_node_ip_address).remote(), timeout=seconds)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            raise RayTrouble(
                cause_of(text, "", places(folder)) or Cause(f"Ray does not run tasks: {last_line(text)}.", "")
            ) from error
    return answer


def tell_trial() -> None:
    """`try_ray` as a separate process, for the doctor: prints the problem as JSON and exits with code 1."""
    try:
        try_ray()
    except RayTrouble as error:
        print(json.dumps([error.cause.what, error.cause.cure]))
        sys.exit(1)
