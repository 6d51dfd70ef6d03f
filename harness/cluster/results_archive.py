"""Results of an existing cluster: without SSH access, a job prints them as an archive.

Run on its head as `python -m harness.cluster.results_archive FOLDER`.
"""

import argparse
import base64
import hashlib
import io
import json
import tarfile
import zlib
from pathlib import Path
from typing import Any

from harness.core.errors import InputError

PREFIX = "#parcel "
MOST = 64_000_000
"""Maximum bytes of an archive; the output of a job is text that Ray stores."""

LINE = 60_000
"""Bytes per line."""


def wrap(folder: Path, most: int, stays: tuple[str, ...]) -> tuple[bytes, dict[str, Any]]:
    """The files of an output folder as a compressed archive, and its contents.

    Args:
        most: Maximum bytes of the archive.
        stays: Names in the folder to be omitted; hidden files are omitted too.

    Returns:
        The archive, empty if it would be too large; `folder`, `files` (sha256 by name) and `bytes`.
    """
    names = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    inside = [path.relative_to(folder) for path in names]
    chosen = [name for name in inside if name.parts[0] not in stays and not name.parts[0].startswith(".")]
    packed, files = io.BytesIO(), {}
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=6) as archive:
        for name in chosen:
            content = (folder / name).read_bytes()
            files[name.as_posix()] = hashlib.sha256(content).hexdigest()
            info = tarfile.TarInfo(name.as_posix())
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
            if packed.tell() > most:
                return b"", {"folder": str(folder), "files": {}, "bytes": packed.tell()}
    return packed.getvalue(), {"folder": str(folder), "files": files, "bytes": packed.tell()}


def unwrap(text: str, folder: Path) -> None:
    """Extract the output of `main` into a local folder; nothing is written outside of it.

    Raises:
        InputError: If the archive is incomplete, or contains files that do not belong there.
    """
    lines = [line.removeprefix(PREFIX) for line in text.splitlines() if line.startswith(PREFIX)]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        content = b"".join(base64.b64decode(line) for line in lines)
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            extract(archive, folder)
    except (tarfile.TarError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{folder}: results did not arrive whole ({error}); `attach` tries again.") from None


def extract(archive: tarfile.TarFile, folder: Path) -> None:
    """Extract an archive of files and folders. (`filter="data"` of tarfile does this from Python 3.11.4 on.)

    Raises:
        ValueError: For a member that is something else, or that would lie outside of `folder`.
    """
    inside = folder.resolve()
    for member in archive:
        target = (inside / member.name).resolve()
        if not target.is_relative_to(inside) or not (member.isfile() or member.isdir()):
            raise ValueError(f"{member.name} does not belong there")
        if content := archive.extractfile(member):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.read())
        else:
            target.mkdir(parents=True, exist_ok=True)


def main() -> None:
    from harness.runs.layout import NOT_DOWNLOADED

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    packed, told = wrap(parser.parse_args().folder.expanduser().resolve(), MOST, NOT_DOWNLOADED)
    for start in range(0, len(packed), LINE):
        print(PREFIX + base64.b64encode(packed[start : start + LINE]).decode())
    print(json.dumps(told))


if __name__ == "__main__":
    main()
