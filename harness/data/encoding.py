"""Sequences of a whole split to token ids, chunk by chunk, with a count of those that had to be cut."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import InputError
from lingo.nucleotides import Units
from lingo.prompts import Prompt
from lingo.tokenization import tokenize

CHUNK = 8192
"""Sequences tokenised between two reports of progress."""

Progress = Callable[[str, int, int], None]
"""Told what is being tokenised, the rows done and the rows in all."""


class Encoder:
    """Tokenises whole sequences, and cuts only those rows that are longer than the backbone takes.

    Token ids wait in a file without a name in `scratch`, since those of a large task do not fit in memory.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompt: Prompt | None,
        max_length: int | None,
        progress: Progress | None,
        scratch: Path | None = None,
    ) -> None:
        self.tokenizer, self.prompt, self.max_length = tokenizer, prompt, max_length
        self.progress, self.scratch = progress, scratch
        self.longest = 0

    def encode(
        self, name: str, sequences: Sequence[str]
    ) -> tuple[NDArray[np.integer], NDArray[np.int64], int]:
        """Flat ids, offsets `[n + 1]`, and how many sequences were cut."""
        with tempfile.TemporaryFile(dir=self.scratch) as file:
            lengths, dtype, cut = self._write(name, sequences, file)
            offsets = np.zeros(len(sequences) + 1, dtype=np.int64)
            np.cumsum(lengths, out=offsets[1:])
            file.flush()
            ids: NDArray[np.integer] = (
                np.memmap(file, dtype=dtype, mode="r") if offsets[-1] else np.empty(0, dtype)
            )
        return ids, offsets, cut

    def _write(
        self, name: str, sequences: Sequence[str], file: IO[bytes]
    ) -> tuple[NDArray[np.int64], np.dtype[Any], int]:
        lengths: list[NDArray[np.int64]] = []
        cut = 0
        dtype: np.dtype[Any] = np.dtype(np.int16)
        for start in range(0, len(sequences), CHUNK):
            chunk = sequences[start : start + CHUNK]
            ids, offsets = self._tokenize(chunk, None)
            whole = np.diff(offsets)
            self.longest = max(self.longest, int(whole.max()))
            if self.max_length is not None and whole.max() > self.max_length:
                cut += int((whole > self.max_length).sum())
                ids, offsets = self._tokenize(chunk, self.max_length)
            file.write(np.ascontiguousarray(ids).data)
            lengths.append(np.diff(offsets))
            dtype = ids.dtype
            if self.progress is not None:
                self.progress(name, start + len(chunk), len(sequences))
        return np.concatenate([np.empty(0, np.int64), *lengths]), dtype, cut

    def _tokenize(
        self, chunk: Sequence[str], max_length: int | None
    ) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
        try:
            if isinstance(self.tokenizer, Units):
                return self.tokenizer.tokenize(chunk, self.prompt, max_length)
            return tokenize(chunk, self.tokenizer, self.prompt, max_length)
        except ValueError as error:
            raise InputError(
                f"the prompt leaves no room in the backbone's {max_length} tokens: {error}"
            ) from None
