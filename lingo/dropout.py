"""Dropout masks by counter: each is a function of (seed, step, input, row, position, column), and of nothing else.

A device's own generator draws other numbers on another device, and a draw for each slot costs launches for each. Here
a 64-bit word for four neighbouring columns is the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) over the
sum of three hashes: of the slot's seed and step with the row of its batch, of the position, and of the input with the
columns. Integer arithmetic modulo 2**64 is the same everywhere: a trial has the same masks on every device, in every
pack, and on one worker or two. One pass draws those of all slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lingo.layout import Input
from lingo.memory import sent
from lingo.streams import stream_seed

GOLDEN = 0x9E3779B97F4A7C15
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
"""SplitMix64: its increment; shifts and factors of its finalizer."""

POSITIONS, COLUMNS = stream_seed(0, "dropout positions"), stream_seed(0, "dropout columns")
"""Keys of the hashes that no trial changes."""

WORD = 4
"""Draws of 16 bits in a word."""

RATES = 1 << 16
"""Rates of dropout are multiples of 1/65536."""


def hashed(key: int, counters: NDArray[np.uint64]) -> NDArray[np.int64]:
    """SplitMix64 of `key` at these positions of its sequence, any shape; on the host."""
    x = (counters + np.uint64(1)) * np.uint64(GOLDEN) + np.uint64(key)
    for shift, factor in MIX:
        x ^= x >> np.uint64(shift)
        x *= np.uint64(factor)
    return x.view(np.int64)


def finalized(x: Tensor, shifted: Tensor) -> Tensor:
    """The finalizer of SplitMix64 on int64 words, in place: what `hashed` does after its first line. `shifted`, of the
    same shape, is overwritten."""
    for shift, factor in MIX:
        # PyTorch's shift keeps the sign, that of SplitMix64 brings in zeros.
        torch.bitwise_right_shift(x, shift, out=shifted)
        x.bitwise_xor_(shifted.bitwise_and_((1 << (64 - shift)) - 1))
        if factor != 1:
            x.mul_(factor - (1 << 64))
    return x


@dataclass(frozen=True)
class Draws:
    """What masks of n slots are drawn from.

    Attributes:
        rows: int64 [n, B], hashes of seed, step and row of the slot's whole batch.
        below: int16 [n]: a draw below it is dropped; the least number drops none.
    """

    rows: Tensor
    below: Tensor

    @classmethod
    def of(
        cls,
        seeds: Sequence[int],
        steps: Sequence[int],
        rates: Sequence[float],
        rows: NDArray[np.int64],
        *,
        device: torch.device,
    ) -> "Draws":
        """Those of slots with these seeds, steps and rates, for `rows` [n, B] of their whole batches."""
        keys = [stream_seed(seed, "dropout", step) for seed, step in zip(seeds, steps, strict=True)]
        host = np.stack([hashed(key, own.astype(np.uint64)) for key, own in zip(keys, rows, strict=True)])
        below = np.array([round(rate * RATES) - RATES // 2 for rate in rates], dtype=np.int16)
        return cls(
            sent(host, device),
            sent(below, device),
        )

    def part(self, at: slice) -> "Draws":
        """Those of some rows of each batch."""
        return Draws(self.rows[:, at], self.below)


class Masks:
    """The masks of some inputs, for packs on one device.

    Args:
        inputs: Inputs of the backbone that have a mask.
        device: Where the masks are needed.
        dtype: Of the activations. A GPU has bool masks, a quarter as large as float32; a CPU multiplies by them six
            times slower than by masks of the activations' type.
    """

    def __init__(self, inputs: Sequence[Input], *, device: torch.device, dtype: torch.dtype) -> None:
        self._dtype = dtype if device.type == "cpu" else torch.bool
        self._device = device
        self._positions = torch.empty(0, dtype=torch.int64, device=device)
        by_width: dict[int, list[Input]] = {}
        for one in inputs:
            by_width.setdefault(one.width, []).append(one)
        self._held: dict[str, Tensor] = {}
        self._kinds = [(width, group, self._columns(width, group)) for width, group in by_width.items()]

    def _columns(self, width: int, inputs: Sequence[Input]) -> Tensor:
        """Hashes int64 [inputs, 1, words] of the columns, four in a word."""
        words = np.arange(-(-width // WORD), dtype=np.uint64)
        numbers = np.array([one.number for one in inputs], dtype=np.uint64)
        host = hashed(COLUMNS, (numbers[:, None, None] << np.uint64(32)) + words)
        return torch.from_numpy(host).to(self._device)

    def _room(self, what: str, size: int, dtype: torch.dtype) -> Tensor:
        """Memory for so many numbers, held from step to step: fresh memory costs a CPU more than the numbers in it."""
        held = self._held.get(what)
        if held is None or len(held) < size:
            self._held.pop(what, None)
            held = self._held[what] = torch.empty(size, dtype=dtype, device=self._device)
        return held[:size]

    def draw(self, draws: Draws, width: int) -> dict[int, Tensor]:
        """Input's number → its mask [n, B·S, columns], 1 or True where it is kept, for rows of `width` S tokens.

        They are overwritten by the next call.
        """
        if len(self._positions) < width:
            host = hashed(POSITIONS, np.arange(2 * width, dtype=np.uint64))
            self._positions = torch.from_numpy(host).to(self._device)
        n = len(draws.rows)
        rows = (draws.rows[:, :, None] + self._positions[:width]).view(1, n, -1, 1)
        blocks = [rows.numel() * len(group) * columns.shape[-1] for _, group, columns in self._kinds]
        words = self._room("words", sum(blocks), torch.int64)
        parts = [
            part.view(len(group), n, rows.shape[2], -1)
            for part, (_, group, _) in zip(words.split(blocks), self._kinds, strict=True)
        ]
        for part, (_, _, columns) in zip(parts, self._kinds, strict=True):
            torch.add(rows, columns[:, None], out=part)
        finalized(words, self._room("shifted", sum(blocks), torch.int64))
        found: dict[int, Tensor] = {}
        below = draws.below.view(1, n, 1, 1)
        for part, (width, group, _) in zip(parts, self._kinds, strict=True):
            drawn = part.view(torch.int16)[..., :width]
            mask = self._room(f"mask {width}", drawn.numel(), self._dtype).view(drawn.shape)
            torch.ge(drawn, below, out=mask)
            found |= {one.number: mask[i] for i, one in enumerate(group)}
        return found
