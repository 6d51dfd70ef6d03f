"""Access of a worker, on any host, to the files of the output folder."""

import shutil
from pathlib import Path
from typing import Protocol


class Files(Protocol):
    """Files of the driver's host as accessed by a worker. Picklable; methods may be called from any thread."""

    def fetch(self, folder: str) -> Path:
        """A local copy of an immutable folder (prepared data, a backbone, one generation of a checkpoint),
        fetched once. Raises `OSError` if it does not exist."""

    def send(self, local: Path, folder: str) -> None:
        """Move a finished local folder or file to `folder` on the driver's host, atomically. Raises `OSError` if it
        cannot be written there."""

    def place(self, folder: str) -> Path:
        """Path at which a worker writes what will be sent to `folder`; its parent exists."""

    def names(self, folder: str) -> list[str]:
        """Sorted names of the entries of `folder` on the driver's host; empty if it does not exist."""

    def remove(self, folder: str) -> None:
        """Remove a folder or file of the driver's host and its local copies, if they exist."""


class LocalFiles:
    """Workers on the driver's host, or on a shared file system: paths are used unchanged."""

    def fetch(self, folder: str) -> Path:
        return Path(folder)

    def send(self, local: Path, folder: str) -> None:
        if local != Path(folder):
            raise ValueError(f"{local} must be {folder} when all hosts share their files.")

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
