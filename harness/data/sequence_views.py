"""Lazy views of sequences: decoded, reverse-complemented, concatenated."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import overload

from lingo.sequences import reverse_complement


class SequenceView(Sequence[str]):
    """Sequences computed on access, in batches."""

    @abstractmethod
    def made(self, rows: slice) -> list[str]:
        """The sequences of some rows; `start` and `stop` are within the view, and `step` is 1."""

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if not isinstance(at, slice):
            at = range(len(self))[at]
            return self.made(slice(at, at + 1))[0]
        start, stop, step = at.indices(len(self))
        if step == 1:
            return self.made(slice(start, max(start, stop)))
        return [self[row] for row in range(start, stop, step)]


class OtherStrand(SequenceView):
    """The reverse complements of sequences, in order."""

    def __init__(self, sequences: Sequence[str]) -> None:
        self.sequences = sequences

    def __len__(self) -> int:
        return len(self.sequences)

    def made(self, rows: slice) -> list[str]:
        return reverse_complement(list(self.sequences[rows]))


class Concatenated(SequenceView):
    """Two lists of sequences, concatenated."""

    def __init__(self, first: Sequence[str], second: Sequence[str]) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def made(self, rows: slice) -> list[str]:
        middle = len(self.first)
        behind = self.second[max(rows.start - middle, 0) : max(rows.stop - middle, 0)]
        return [*self.first[rows.start : rows.stop], *behind]
