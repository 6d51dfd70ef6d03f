"""Text and JSON files from other sources: invalid ones raise `ValueError`, and reading never blocks."""

import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any


def read_text(path: Path | str) -> str:
    """A file's text in UTF-8.

    A pipe is read to its end; one without a writer is empty, whereas an ordinary `open` would block.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not text.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        os.set_blocking(handle, True)
        with open(handle, encoding="utf-8", closefd=False) as file:
            return file.read()
    finally:
        os.close(handle)


def parse_json(text: str) -> Any:
    """Parse JSON. Raises `ValueError` if it is invalid or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def read_json(path: Path | str) -> Any:
    """The content of a JSON file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not JSON.
    """
    return parse_json(read_text(path))


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def one_line(error: BaseException, limit: int = 160) -> str:
    """An exception's message on one line of at most `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def read_object(path: Path | str) -> dict[str, Any]:
    """As `read_json`, for a file that must contain an object. Raises `OSError`, `ValueError`."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError("must hold a JSON object")
    return found
