"""The other strand of a task's sequences, made when it is read."""

from collections.abc import Sequence
from typing import overload

from lingo.sequences import reverse_complement


class OtherStrand(Sequence[str]):
    """The reverse complements of some sequences, in their order."""

    def __init__(self, sequences: Sequence[str]) -> None:
        self.sequences = sequences

    def __len__(self) -> int:
        return len(self.sequences)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return reverse_complement(self.sequences[at])
        return reverse_complement([self.sequences[at]])[0]


class Joined(Sequence[str]):
    """Two rows of sequences, one behind the other."""

    def __init__(self, first: Sequence[str], second: Sequence[str]) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        middle = len(self.first)
        if not isinstance(at, slice):
            at = range(len(self))[at]
            return self.first[at] if at < middle else self.second[at - middle]
        start, stop, step = at.indices(len(self))
        if step != 1:
            return [self[i] for i in range(start, stop, step)]
        behind = self.second[max(start - middle, 0) : max(stop - middle, 0)]
        return [*self.first[min(start, middle) : min(stop, middle)], *behind]
