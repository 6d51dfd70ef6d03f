"""Text files of any size and encoding, read in blocks of whole lines."""

import codecs
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from harness.core.errors import InputError
from harness.core.wording import words

BLOCK = 1 << 20
"""Bytes read at once."""

PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}
MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], Any]]:
    """The file on disk, and its decompressed content."""
    with path.open("rb") as raw:
        start = raw.read(4)
        raw.seek(0)
        codec = next((name for magic, name in PACKED.items() if start.startswith(magic)), None)
        yield raw, raw if codec is None else pa.CompressedInputStream(pa.PythonFile(raw, "r"), codec)


class TextFile:
    """A text file, read in blocks of whole UTF-8 lines that end with a line feed."""

    unit = "line"

    def __init__(self, path: Path, start: bytes) -> None:
        self.path, self.head = path, "line 1"
        self.names: Sequence[str] = ()
        self.notes: list[str] = []
        self.total = max(1, path.stat().st_size)
        self._raw: IO[bytes] | None = None
        self._encoding = next((name for mark, name in MARKS.items() if start.startswith(mark)), "utf-8")
        if self._encoding != "utf-8":
            self.notes.append("is UTF-16")
        elif b"\0" in start:
            raise InputError(
                f"{path}: must be a text file in UTF-8, but holds zero bytes; save it as UTF-8, or as Parquet."
            )
        letters = start.decode(self._encoding, "ignore")
        self._old_mac = "\r" in letters and "\n" not in letters
        if self._old_mac:
            self.notes.append("has classic Mac line endings")

    @property
    def done(self) -> int:
        """Bytes read of the file on disk."""
        try:
            return self._raw.tell() if self._raw is not None else 0
        except ValueError:  # closed at the end of the file
            return self.total

    def blocks(self) -> Iterator[bytes]:
        """The text; bytes that are not UTF-8 become U+FFFD, which is refused in sequences and labels."""
        decoder = codecs.getincrementaldecoder(self._encoding)() if self._encoding != "utf-8" else None
        waiting: list[bytes] = []
        begun = False
        try:
            with opened(self.path) as (raw, stream):
                self._raw = raw
                while chunk := stream.read(BLOCK):
                    if decoder is not None:
                        chunk = decoder.decode(chunk).encode()
                    if not begun:
                        chunk, begun = chunk.removeprefix(codecs.BOM_UTF8), True
                    if self._old_mac:
                        chunk = chunk.replace(b"\r", b"\n")
                    end = chunk.rfind(b"\n") + 1
                    if not end:
                        waiting.append(chunk)
                        continue
                    yield self._utf8(b"".join([*waiting, chunk[:end]]))
                    waiting = [chunk[end:]]
        except UnicodeDecodeError:
            raise InputError(f"{self.path}: must be a text file in UTF-8, but is broken UTF-16.") from None
        except (OSError, EOFError, pa.ArrowException) as error:
            raise InputError(f"{self.path}: is damaged or cannot be read ({words(error)}).") from None
        if decoder is not None and decoder.getstate()[0]:
            raise InputError(f"{self.path}: must be a text file in UTF-8, but is broken UTF-16.")
        if rest := b"".join(waiting):
            yield self._utf8(rest + b"\n")

    def _utf8(self, block: bytes) -> bytes:
        block = block.replace(b"\r\n", b"\n") if b"\r" in block else block
        if block.isascii():
            return block
        try:
            block.decode()
        except UnicodeDecodeError:
            return block.decode(errors="replace").encode()
        return block


class Lines:
    """The lines of a text, one by one, or the rest of a block at once."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._block, self._at, self._last = blocks, b"", 0, 0
        self.number = 0
        """Number of lines returned so far."""

    @property
    def pending(self) -> bool:
        """Whether the current block has further lines."""
        return self._at < len(self._block)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if not self.pending:
            self._block, self._at = next(self._blocks), 0
        end = self._block.index(b"\n", self._at) + 1
        line = self._block[self._at : end]
        self._last, self._at, self.number = self._at, end, self.number + 1
        return line.decode()

    def back(self) -> None:
        """Return the last line once more."""
        self._at, self.number = self._last, self.number - 1

    def rest(self) -> bytes:
        """The rest of the block, or the next block; empty at the end. It is consumed by `skip` or line by line."""
        if not self.pending:
            self._block, self._at = next(self._blocks, b""), 0
        elif self._at:
            self._block, self._at = self._block[self._at :], 0
        return self._block

    def skip(self, lines: int) -> None:
        """Mark the whole block as consumed."""
        self._block, self._at, self.number = b"", 0, self.number + lines
