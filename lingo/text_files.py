"""Files of text and JSON that somebody else may have made: what is neither raises `ValueError`, and none is waited
for."""

import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any


def read_text(path: Path | str) -> str:
    """A file's text in UTF-8.

    A pipe is read to its end as a file is; one to which nobody writes is empty, where an ordinary `open` would wait.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no text.
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
    """What a text in JSON says. Raises `ValueError` for anything else, also for one that is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def read_json(path: Path | str) -> Any:
    """What a file in JSON says.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no JSON.
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
    """As `read_json`, of a file that must hold an object. Raises `OSError`, `ValueError`."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError("must hold a JSON object")
    return found
