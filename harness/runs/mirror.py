"""A copy of an output folder elsewhere: a folder, or a bucket (`s3://`, `gs://`), through pyarrow's file systems.

The copy has `MANIFEST.json`, the sha256 of each file, written last: the files that it names are complete.
"""

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from pyarrow import ArrowException
from pyarrow import fs as arrow_fs

from harness.core.errors import InputError
from harness.core.home import path_of
from harness.core.store_address import masked, place_without_secret, shown
from harness.core.wording import words
from harness.runs.layout import COPIED, NOT_MIRRORED

MANIFEST = "MANIFEST.json"

SCHEMES = ("s3", "gs", "file")
REFUSALS = {
    "NO_SUCH_BUCKET": "the bucket does not exist: create it first (`aws s3 mb s3://NAME`)",
    "ACCESS_DENIED": "these credentials have no write permission, see clusters/README.md",
    "INVALID_ACCESS_KEY_ID": "these credentials are rejected: check `aws sts get-caller-identity`",
    "EXPIRED_TOKEN": "these credentials are expired: log in again",
    "NETWORK_CONNECTION": "there is no answer: is this machine online?",
}
"""Explanations of S3's refusals, by the error names of AWS's C++ library."""

BLOCK = 4 * 2**20
EVERY_S = 120.0


def connect(uri: str) -> tuple[arrow_fs.FileSystem, str]:
    """File system and path of a storage address. Credentials come from the environment or the machine's role.

    Raises:
        InputError: If it is not an address, or its region or credentials cannot be found.
    """
    if "://" not in uri:
        return arrow_fs.LocalFileSystem(), str(path_of(uri).resolve())
    parts = urlsplit(uri)
    try:
        if parts.scheme == "s3":
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
            options = {"endpoint_override": endpoint} if endpoint else {}
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
            if endpoint or region:
                options["region"] = region or "us-east-1"
            return arrow_fs.S3FileSystem(**options), f"{parts.netloc}{parts.path}".rstrip("/")
        system, path = arrow_fs.FileSystem.from_uri(uri)
        return system, path.rstrip("/")
    except (OSError, ValueError, ArrowException) as error:
        line = words(error)
        raise InputError(f"`--storage-path` {uri}: cannot be used ({masked(line)}).") from None


def address_problems(uri: str) -> list[str]:
    """Problems of a storage address itself, without network access."""
    try:
        place_without_secret(uri)
    except ValueError as error:
        return [f"`--storage-path` {error}"]
    if "://" not in uri:
        return []
    parts = urlsplit(uri)
    if parts.scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        return [f"`--storage-path` must be a folder or begin with {known}, but got {shown(uri)}."]
    if parts.scheme != "file" and not parts.netloc:
        return [f"`--storage-path` must name a bucket, as in {parts.scheme}://bucket/folder, but got {uri}."]
    return []


def storage_problems(uri: str) -> list[str]:
    """Why the storage cannot be written, if so: a small file is written, read and removed."""
    if problems := address_problems(uri):
        return problems
    try:
        system, path = connect(uri)
        probe = f"{path}/.lingo-probe"
        if isinstance(system, arrow_fs.LocalFileSystem):
            system.create_dir(path, recursive=True)
        with system.open_output_stream(probe) as stream:
            stream.write(b"probe")
        with system.open_input_stream(probe) as stream:
            read = stream.read()
        system.delete_file(probe)
        return (
            []
            if read == b"probe"
            else [f"`--storage-path` {uri}: a test file was read back with different contents."]
        )
    except InputError as error:
        return error.problems
    except (OSError, ArrowException) as error:
        return [f"`--storage-path` {uri}: must be writable, but {_why(error)}."]


def _why(error: Exception) -> str:
    """A storage's refusal with its explanation, if there is one."""
    line = words(error, 400)
    code = re.search(r"AWS Error (\w+)", line)
    plain = REFUSALS.get(code[1]) if code else None
    return plain or f"access is refused ({masked(line)[:200]})"


def files_of(folder: Path) -> Iterator[Path]:
    """The files of an output folder that are copied, relative to it."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.is_file() and relative.parts[0] not in NOT_MIRRORED and not hidden:
            yield relative


class Copy:
    """The copy of one output folder.

    Args:
        folder: Output folder here.
        uri: Address of the storage; the copy is below it, under the folder's name.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder = folder
        self._system, path = connect(uri)
        self._root = f"{path}/{folder.resolve().name}"
        self._stamps: dict[str, tuple[int, int]] = {}
        self._sums: dict[str, str] = {}

    def push(self) -> int:
        """Copy files that are new or have changed since the last push, then the manifest; returns the number of files.

        Raises:
            OSError: If the storage refuses them.
        """
        if not self._sums:
            self._sums = self.manifest()
        copied = 0
        for relative in files_of(self.folder):
            name, path = relative.as_posix(), self.folder / relative
            with suppress(FileNotFoundError):  # replaced or removed in the meantime: left to the next push
                stat = path.stat()
                if self._stamps.get(name) == (stat.st_size, stat.st_mtime_ns):
                    continue
                content = path.read_bytes()
                digest = hashlib.sha256(content).hexdigest()
                if self._sums.get(name) != digest:
                    self._write(name, content)
                    self._sums[name] = digest
                    copied += 1
                self._stamps[name] = (stat.st_size, stat.st_mtime_ns)
        if copied:
            self._write(MANIFEST, json.dumps(self._sums, indent=1, sort_keys=True).encode())
        return copied

    def manifest(self) -> dict[str, str]:
        """sha256 of the files in the copy; empty if there is none yet."""
        try:
            with self._system.open_input_stream(f"{self._root}/{MANIFEST}") as stream:
                found: dict[str, str] = json.loads(stream.read())
                return found
        except FileNotFoundError:
            return {}

    def pull(self) -> int:
        """Download every file of the manifest, each verified before it is put in place; returns their number.

        Raises:
            InputError: If a file differs from the manifest.
        """
        manifest, wrong = self.manifest(), []
        for name, digest in manifest.items():
            target = self.folder / name
            if not target.resolve().is_relative_to(self.folder.resolve()):
                wrong.append(f"{MANIFEST}: {name} lies outside its folder.")
                continue
            with self._system.open_input_stream(f"{self._root}/{name}") as stream:
                content = stream.read()
            if hashlib.sha256(content).hexdigest() != digest:
                wrong.append(f"{self._root}/{name}: does not match its manifest; copy it again.")
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.parent / f".{target.name}.part"
            part.write_bytes(content)
            part.replace(target)
        if wrong:
            raise InputError(wrong)
        return len(manifest)

    def _write(self, name: str, content: bytes) -> None:
        path = f"{self._root}/{name}"
        if isinstance(self._system, arrow_fs.LocalFileSystem):
            self._system.create_dir(str(Path(path).parent), recursive=True)
            part = f"{path}.part"
            with self._system.open_output_stream(part) as stream:
                stream.write(content)
            self._system.move(part, path)
            return
        with self._system.open_output_stream(path) as stream:  # an object store shows it once it is complete
            for start in range(0, len(content), BLOCK):
                stream.write(content[start : start + BLOCK])


@contextmanager
def copied(folder: Path, uri: str | None, warn: object = None) -> Iterator[None]:
    """Keep a copy of an output folder at `uri` up to date within the block, and complete it at the end.

    A storage that refuses causes a warning, never the end of the run.

    Args:
        warn: Takes one line.
    """
    if uri is None:
        yield
        return
    copy, done = Copy(folder, uri), threading.Event()

    def push() -> None:
        try:
            copy.push()
            (folder / COPIED).touch()
        except (OSError, ArrowException) as error:
            if callable(warn):
                warn(f"not copied to {uri}: {masked(' '.join(str(error).split()))[:200]}")

    def keep() -> None:
        while not done.wait(EVERY_S):
            push()

    thread = threading.Thread(target=keep, name="storage", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        push()
