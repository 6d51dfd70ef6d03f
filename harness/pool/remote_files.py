"""File transfer through Ray objects between the driver's host and workers on hosts without a shared file system.

An actor on the driver's host reads and writes files; workers hold its handle. Folders are sent in blocks of a few MB,
verified by digest and renamed when complete, so that existing folders are always complete.
"""

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from filelock import lock_descriptor
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.core.wording import words
from lingo.text_files import file_digest

BLOCK = 4 * 2**20
"""Bytes per message."""

AHEAD = 4
"""Blocks requested before the first one has arrived."""


@dataclass(frozen=True)
class Entry:
    """A file of a folder (or the file itself, with an empty name): path, size, sha256."""

    name: str
    size: int
    digest: str


def entries(path: Path) -> list[Entry]:
    """All files below a folder, or the file `path`, by name. Raises `OSError` if it does not exist."""
    if path.is_file():
        return [Entry("", path.stat().st_size, file_digest(path))]
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder or file {path}.")
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return [
        Entry(file.relative_to(path).as_posix(), file.stat().st_size, file_digest(file)) for file in files
    ]


class FileHost:
    """The actor on the driver's host.

    Args:
        home: The driver's working directory, base of relative paths.
    """

    def __init__(self, home: str) -> None:
        self._home = Path(home)
        self._known: dict[str, list[Entry]] = {}

    def entries(self, name: str) -> list[Entry] | None:
        """Files of an immutable folder; `None` for a name that is not a path on this host."""
        path = self._home / name
        if not path.exists() and not Path(name).is_absolute():
            return None
        if name not in self._known:
            self._known[name] = entries(path)
        return self._known[name]

    def read(self, name: str, file: str, start: int) -> bytes:
        """One block of a file."""
        with self._path(name, file).open("rb") as stream:
            stream.seek(start)
            return stream.read(BLOCK)

    def write(self, name: str, token: str, file: str, start: int, block: bytes) -> None:
        """Write one block to a temporary file next to `name`. Idempotent."""
        path = self._staged(name, token)
        path = path / file if file else path
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(handle, block, start)
        finally:
            os.close(handle)

    def finish(self, name: str, token: str, wanted: list[Entry]) -> None:
        """Verify the written files, then move them into place. Idempotent."""
        staged, path = self._staged(name, token), self._home / name
        if not staged.exists() and path.exists() and entries(path) == wanted:
            return
        if not wanted:
            staged.mkdir(parents=True, exist_ok=True)
        if entries(staged) != wanted:
            raise OSError(f"{name} was not transferred completely.")
        _replace(staged, path)
        self._known.pop(name, None)

    def names(self, name: str) -> list[str]:
        """Current entries of a folder."""
        path = self._home / name
        return sorted(found.name for found in path.iterdir()) if path.is_dir() else []

    def remove(self, name: str) -> None:
        """Remove a folder or file."""
        self._known.pop(name, None)
        _remove(self._home / name)

    def _path(self, name: str, file: str) -> Path:
        path = self._home / name
        return path / file if file else path

    def _staged(self, name: str, token: str) -> Path:
        path = self._home / name
        return path.parent / f".{path.name}.{token}.part"


def _replace(new: Path, path: Path) -> None:
    """Rename, replacing an existing folder."""
    old = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.old"
    if path.is_dir():
        path.replace(old)
    new.replace(path)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def serve_files(node: str) -> "ShippedFiles":
    """Start the actor on the node of this process; it ends with the driver.

    Args:
        node: Id of the node of this process.
    """
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    host = (
        ray.remote(FileHost)
        .options(
            num_cpus=0, max_concurrency=8, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here
        )
        .remote(str(Path.cwd()))
    )
    return ShippedFiles(host, node, uuid.uuid4().hex[:12])


class ShippedFiles:
    """`harness.pool.files.Files` for workers on any host. On the driver's host paths are used unchanged.

    Args:
        host: Handle of a `FileHost`.
        node: Id of its node.
        run: Name of the run, for the folder of copies in each host's temporary folder.
    """

    def __init__(self, host: Any, node: str, run: str) -> None:
        self._host, self._node, self._run = host, node, run

    def fetch(self, folder: str) -> Path:
        """A complete, verified copy on this host, shared by its workers. Raises `OSError` if it cannot be made."""
        if self._at_home():
            return Path(folder)
        copy = self._copies() / hashlib.sha256(folder.encode()).hexdigest()[:24] / Path(folder).name
        if copy.exists():
            return copy
        copy.parent.mkdir(parents=True, exist_ok=True)
        with _alone(copy.parent / ".lock"):
            if copy.exists():
                return copy
            wanted: list[Entry] | None = self._ask("entries", folder)
            if wanted is None:
                return Path(folder)
            staged = copy.parent / f".{uuid.uuid4().hex[:8]}.part"
            try:
                self._download(folder, wanted, staged)
                staged.replace(copy)
            finally:
                _remove(staged)
        return copy

    def send(self, local: Path, folder: str) -> None:
        """Move a folder or file to the driver's host, atomically."""
        if self._at_home():
            if local != Path(folder):
                raise ValueError(f"{local} must be {folder} on the driver's host.")
            return
        token, wanted = uuid.uuid4().hex[:8], entries(local)
        under_way: list[Any] = []
        for entry in wanted:
            with (local / entry.name if entry.name else local).open("rb") as stream:
                for start in range(0, max(entry.size, 1), BLOCK):
                    block = stream.read(BLOCK)
                    under_way.append(self._host.write.remote(folder, token, entry.name, start, block))
                    if len(under_way) >= AHEAD:
                        _answer(under_way.pop(0))
        for question in under_way:
            _answer(question)
        self._ask("finish", folder, token, wanted)
        _remove(local)

    def place(self, folder: str) -> Path:
        """A path local to this host, in a separate folder."""
        if self._at_home():
            path = Path(folder)
        else:
            path = self._copies() / "outgoing" / uuid.uuid4().hex[:12] / Path(folder).name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def names(self, folder: str) -> list[str]:
        found: list[str] = self._ask("names", folder)
        return found

    def remove(self, folder: str) -> None:
        """Remove it on the driver's host and the copy on this host."""
        self._ask("remove", folder)
        _remove(self._copies() / hashlib.sha256(folder.encode()).hexdigest()[:24])

    def _at_home(self) -> bool:
        return bool(ray.get_runtime_context().get_node_id() == self._node)

    def _copies(self) -> Path:
        # a simulated cluster has several nodes on one host, each with its own copies
        node = ray.get_runtime_context().get_node_id()[:12]
        return Path(tempfile.gettempdir()) / f"lingo-files-{self._run}" / node

    def _ask(self, method: str, *arguments: Any) -> Any:
        return _answer(getattr(self._host, method).remote(*arguments))

    def _download(self, folder: str, wanted: list[Entry], staged: Path) -> None:
        if not wanted:
            staged.mkdir(parents=True)
        for entry in wanted:
            path = staged / entry.name if entry.name else staged
            path.parent.mkdir(parents=True, exist_ok=True)
            starts = range(0, entry.size, BLOCK)
            with path.open("wb") as stream:
                for block in _in_order(self._host.read, folder, entry.name, starts):
                    stream.write(block)
            if file_digest(path) != entry.digest:
                raise OSError(f"{folder}/{entry.name} was not transferred completely.")


def _in_order(read: Any, folder: str, file: str, starts: range) -> Iterator[bytes]:
    """Blocks in order, a few requested at a time."""
    ahead: list[Any] = []
    for start in starts:
        ahead.append(read.remote(folder, file, start))
        if len(ahead) >= AHEAD:
            yield _answer(ahead.pop(0))
    for question in ahead:
        yield _answer(question)


def _answer(question: Any) -> Any:
    """Ray's answer; errors on the other host or in transfer as `OSError`."""
    try:
        return ray.get(question)
    except RayError as error:
        cause = error.cause if hasattr(error, "cause") else None
        if isinstance(cause, OSError):
            raise cause from None
        raise OSError(f"the driver's host did not answer: {words(error, 300)}") from error


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Lock held by one process of this host at a time."""
    with lock.open("w") as file:
        lock_descriptor(file.fileno())
        yield
