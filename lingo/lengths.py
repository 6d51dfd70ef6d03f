"""Which slots of a pack are computed in one block: those whose sequences are about as long.

A block is as wide as its longest sequence, and a task of 70 tokens beside one of 500 would be computed at 500. So slots
are ordered by length, and a step computes several blocks where that is less work. No slot waits.
"""

from collections.abc import Sequence

import torch

OVERHEAD = {"cpu": 128, "cuda": 2048}
"""Tokens that take as long as the launches of one block more."""


def overhead_of(device: torch.device) -> int:
    """Its entry of `OVERHEAD`; other accelerators are taken for GPUs."""
    return OVERHEAD["cpu" if device.type == "cpu" else "cuda"]


def blocks_of(slots: Sequence[tuple[int, int]], *, overhead: int) -> list[slice]:
    """The cheapest way of cutting slots into consecutive blocks.

    Args:
        slots: (usual tokens of a sequence, sequences of a batch) of each slot, the longest first.
        overhead: Cost of a block, in tokens.

    Returns:
        The blocks in order; they cover all slots.
    """
    best: list[tuple[int, int]] = [(0, 0)]  # cost of the first i slots, and where their last block starts
    for end in range(1, len(slots) + 1):
        rows, options = 0, []
        for start in range(end - 1, -1, -1):
            rows += slots[start][1]
            options.append((best[start][0] + overhead + slots[start][0] * rows, start))
        best.append(min(options))
    found: list[slice] = []
    end = len(slots)
    while end:
        start = best[end][1]
        found.insert(0, slice(start, end))
        end = start
    return found
