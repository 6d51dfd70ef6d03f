"""Sequences of a whole split to token ids, chunk by chunk, with a count of those that had to be cut."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import InputError
from lingo.prompts import Prompt
from lingo.tokenization import tokenize

CHUNK = 8192
"""Sequences tokenised between two reports of progress."""

Progress = Callable[[str, int, int], None]
"""Told what is being tokenised, the rows done and the rows in all."""


class Encoder:
    """Tokenises whole sequences, and cuts only those rows that are longer than the backbone takes."""

    def __init__(
        self, tokenizer: Any, prompt: Prompt | None, max_length: int | None, progress: Progress | None
    ) -> None:
        self.tokenizer, self.prompt, self.max_length = tokenizer, prompt, max_length
        self.progress = progress
        self.longest = 0

    def encode(self, name: str, sequences: list[str]) -> tuple[NDArray[np.integer], NDArray[np.int64], int]:
        """Flat ids, offsets `[n + 1]`, and how many sequences were cut."""
        parts: list[NDArray[np.integer]] = []
        lengths: list[NDArray[np.int64]] = []
        cut = 0
        for start in range(0, len(sequences), CHUNK):
            chunk = sequences[start : start + CHUNK]
            ids, offsets = self._tokenize(chunk, None)
            whole = np.diff(offsets)
            self.longest = max(self.longest, int(whole.max()))
            if self.max_length is not None and whole.max() > self.max_length:
                cut += int((whole > self.max_length).sum())
                ids, offsets = self._tokenize(chunk, self.max_length)
            parts.append(ids)
            lengths.append(np.diff(offsets))
            if self.progress is not None:
                self.progress(name, start + len(chunk), len(sequences))
        offsets = np.zeros(len(sequences) + 1, dtype=np.int64)
        np.cumsum(np.concatenate(lengths), out=offsets[1:])
        return np.concatenate(parts), offsets, cut

    def _tokenize(
        self, chunk: list[str], max_length: int | None
    ) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
        try:
            return tokenize(chunk, self.tokenizer, self.prompt, max_length)
        except ValueError as error:
            raise InputError(
                f"the prompt leaves no room in the backbone's {max_length} tokens: {error}"
            ) from None
