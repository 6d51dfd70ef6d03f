"""Tokenisation of a split, chunk by chunk, with the number of truncated sequences.

Token ids of a large task do not fit in memory and take long to compute: each chunk is appended to files and recorded
    in a journal with its checksum. A later call continues after the last complete chunk.
"""

import json
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import InputError
from harness.data.split_arrow import open_split
from harness.data.steps import Listener, tell
from lingo.long_sequences import encode
from lingo.prompts import Prompt
from lingo.trial import Long

CHUNK = 8192
"""Sequences tokenised between two reports of progress."""


@dataclass(frozen=True, kw_only=True)
class _Done:
    """A line of the journal: the state after a chunk.

    Attributes:
        rows: Sequences.
        ids: Token ids.
        cut: Truncated sequences.
        longest, whole: Tokens of the longest sequence, and of all, before truncation.
        dtype: Type of the ids.
        check: CRC-32 of the chunk's lengths and ids.
        arrow: Size in bytes of the split's complete Arrow file; 0 before it exists.
    """

    rows: int = 0
    ids: int = 0
    cut: int = 0
    longest: int = 0
    whole: int = 0
    dtype: str = "int16"
    check: int = 0
    arrow: int = 0


@dataclass(frozen=True, eq=False)
class EncodedSplit:
    """A tokenised split.

    Attributes:
        ids: Token ids of all rows, concatenated.
        offsets: Start of each row, int64 `[n + 1]`.
        cut: Truncated rows.
        longest, whole: Tokens of the longest row, and of all rows, before truncation.
        written: Whether its Arrow file is already complete.
    """

    ids: NDArray[np.integer]
    offsets: NDArray[np.int64]
    cut: int
    longest: int
    whole: int = 0
    written: bool = False


class Encoder:
    """Tokenises whole sequences, and truncates only rows that exceed the backbone's maximum length.

    Args:
        long: How rows that are too long are handled.
        folder: Folder of the ids, lengths and journal of each split, from which interrupted work continues.
        progress: Progress callback; `None` for the current listener (`harness.data.steps`).
    """

    def __init__(
        self,
        tokenizer: Any,
        prompt: Prompt | None,
        max_length: int | None,
        progress: Listener | None,
        folder: Path,
        long: Long = "truncate",
    ) -> None:
        self.tokenizer, self.prompt, self.max_length = tokenizer, prompt, max_length
        self.long = long
        self.progress, self.folder = progress or tell, folder

    def encode(self, name: str, split: str, sequences: Sequence[str]) -> EncodedSplit:
        """Tokenise a split, or the rest of it."""
        ids, lengths, journal = (self.folder / f"{split}.{kind}" for kind in ("ids", "lengths", "journal"))
        done = _sound(ids, lengths, journal)
        if done.arrow:
            whole = open_split(self.folder / f"{split}.arrow")
            return EncodedSplit(whole.ids, whole.offsets, done.cut, done.longest, done.whole, written=True)
        with ids.open("ab") as ids_file, lengths.open("ab") as lengths_file, journal.open("a") as log:
            for start in range(done.rows, len(sequences), CHUNK):
                chunk = sequences[start : start + CHUNK]
                values, offsets, whole_rows = self._tokenized(chunk)
                each = np.diff(offsets)
                raw, sizes = values.tobytes(), each.tobytes()
                ids_file.write(raw)
                lengths_file.write(sizes)
                ids_file.flush()
                lengths_file.flush()
                done = _Done(
                    rows=start + len(chunk),
                    ids=done.ids + len(values),
                    cut=done.cut + int((whole_rows > each).sum()),
                    longest=max(done.longest, int(whole_rows.max())),
                    whole=done.whole + int(whole_rows.sum()),
                    dtype=values.dtype.name,
                    check=zlib.crc32(raw, zlib.crc32(sizes)),
                )
                _note(log, done)
                self.progress(name, done.rows, len(sequences))
        offsets = np.zeros(len(sequences) + 1, dtype=np.int64)
        np.cumsum(np.fromfile(lengths, np.int64), out=offsets[1:])
        flat = np.memmap(ids, done.dtype, mode="r") if done.ids else np.empty(0, done.dtype)
        return EncodedSplit(flat, offsets, done.cut, done.longest, done.whole)

    def written(self, split: str, size: int) -> None:
        """Record that the split's Arrow file is complete with `size` bytes; the other files are no longer needed."""
        journal = self.folder / f"{split}.journal"
        last = _lines(journal)[-1:] or [_Done()]
        with journal.open("a") as log:
            _note(log, replace(last[0], arrow=size))
        (self.folder / f"{split}.ids").unlink(missing_ok=True)
        (self.folder / f"{split}.lengths").unlink(missing_ok=True)

    def finish(self) -> None:
        """Remove the journals."""
        for journal in self.folder.glob("*.journal"):
            journal.unlink()

    def _tokenized(
        self, chunk: Sequence[str]
    ) -> tuple[NDArray[np.integer], NDArray[np.int64], NDArray[np.int64]]:
        """Ids and offsets of a chunk, and the number of tokens of each row before truncation."""
        ids, offsets = self._tokenize(chunk, None)
        whole = np.diff(offsets)
        if self.max_length is not None and whole.max() > self.max_length:
            ids, offsets = self._tokenize(chunk, self.max_length)
        return ids, offsets, whole

    def _tokenize(
        self, chunk: Sequence[str], max_length: int | None
    ) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
        try:
            return encode(chunk, self.tokenizer, self.prompt, max_length, self.long)
        except ValueError as error:
            raise InputError(
                f"the prompt leaves no room in the backbone's {max_length} tokens: {error}"
            ) from None


def _note(log: Any, done: _Done) -> None:
    log.write(json.dumps(asdict(done)) + "\n")
    log.flush()


def _lines(journal: Path) -> list[_Done]:
    """The journal's lines up to the first incomplete one."""
    found: list[_Done] = []
    with suppress(OSError, ValueError, TypeError):
        for line in journal.read_text(encoding="utf-8").splitlines():
            found.append(_Done(**json.loads(line)))
    return found


def _sound(ids: Path, lengths: Path, journal: Path) -> _Done:
    """The verified state; the files are truncated to it."""
    noted, sound = _lines(journal), list[_Done]()
    if noted and noted[-1].arrow:
        arrow = ids.with_suffix(".arrow")
        if arrow.is_file() and arrow.stat().st_size == noted[-1].arrow:
            return noted[-1]
        noted = []
    last = _Done()
    with suppress(OSError), ids.open("rb") as ids_file, lengths.open("rb") as lengths_file:
        for done in noted:
            raw = ids_file.read((done.ids - last.ids) * np.dtype(done.dtype).itemsize)
            if zlib.crc32(raw, zlib.crc32(lengths_file.read(8 * (done.rows - last.rows)))) != done.check:
                break
            sound.append(done)
            last = done
    for path, size in ((ids, last.ids * np.dtype(last.dtype).itemsize), (lengths, last.rows * 8)):
        with path.open("ab") as file:
            file.truncate(size)
    with journal.open("w", encoding="utf-8") as log:
        for done in sound:
            _note(log, done)
    return last
