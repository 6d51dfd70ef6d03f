"""How a worker gets at the files of the output folder, on whatever host it runs."""

import shutil
from pathlib import Path
from typing import Protocol


class Files(Protocol):
    """Files of the driver's host, as a worker sees them. Picklable; every method may be called from any thread."""

    def fetch(self, folder: str) -> Path:
        """A local copy of a folder that does not change any more (prepared data, a backbone, one generation of a
        checkpoint), fetched once. Raises `OSError` when it is not there."""

    def send(self, local: Path, folder: str) -> None:
        """Bring a finished local folder, or file, to `folder` on the driver's host, whole or not at all. Raises
        `OSError` when that host's disk refuses."""

    def place(self, folder: str) -> Path:
        """Where a worker writes what will be sent to `folder`; the folder above it is there."""

    def names(self, folder: str) -> list[str]:
        """Names of what `folder` on the driver's host holds now, sorted; none when it is not there."""

    def remove(self, folder: str) -> None:
        """Remove a folder or file of the driver's host and its local copies; what is not there is no error."""


class LocalFiles:
    """Workers on the driver's host, or on a file system that all hosts share: paths are what they are."""

    def fetch(self, folder: str) -> Path:
        return Path(folder)

    def send(self, local: Path, folder: str) -> None:
        if local != Path(folder):
            raise ValueError(f"{local} must be {folder} where all hosts share their files.")

    def place(self, folder: str) -> Path:
        path = Path(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def names(self, folder: str) -> list[str]:
        path = Path(folder)
        return sorted(found.name for found in path.iterdir()) if path.is_dir() else []

    def remove(self, folder: str) -> None:
        path = Path(folder)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
