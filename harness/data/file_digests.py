"""sha256 of files, computed once for each state of a file."""

from functools import lru_cache
from pathlib import Path

from lingo.text_files import file_digest


def digest_of(file: Path) -> str:
    """sha256 of a file's bytes; read again only if its inode, size or times have changed.

    Raises:
        OSError: If it cannot be read.
    """
    state = file.stat()
    return _digest_once(file, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@lru_cache(maxsize=1024)
def _digest_once(file: Path, *_: int) -> str:
    return file_digest(file)
