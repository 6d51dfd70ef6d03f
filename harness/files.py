"""How a worker gets at the files of the output folder, on whatever host it runs."""

from pathlib import Path
from typing import Protocol


class Files(Protocol):
    """Files of the driver's host, as a worker sees them. Picklable; every method may be called from any thread."""

    def fetch(self, folder: str) -> Path:
        """A local copy of a folder that does not change any more (prepared data, a backbone), fetched once."""

    def send(self, local: Path, folder: str) -> None:
        """Bring a finished local folder to `folder` on the driver's host, whole or not at all."""

    def place(self, folder: str) -> Path:
        """Where a worker writes what will be sent to `folder`."""


class LocalFiles:
    """Workers on the driver's host, or on a file system that all hosts share: paths are what they are."""

    def fetch(self, folder: str) -> Path:
        return Path(folder)

    def send(self, local: Path, folder: str) -> None:
        if local != Path(folder):
            raise ValueError(f"{local} must be {folder} where all hosts share their files.")

    def place(self, folder: str) -> Path:
        return Path(folder)
