"""One step's sequences of all slots, padded to one block, with their dropout masks."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lingo.data import Kind
from lingo.layout import Layout
from lingo.slot import Slot
from lingo.streams import stream

FLOAT_MASK = 1 << 24
"""Elements up to which dropout masks have the type of the activations: a CPU multiplies by them six times
faster than by bool, at four times the memory."""


@dataclass(frozen=True)
class Share:
    """Which part of each batch this worker computes: rank `index` of `of` workers."""

    index: int = 0
    of: int = 1

    def rows(self, count: int) -> slice:
        """The contiguous part of `count` rows that falls to this worker."""
        return slice(count * self.index // self.of, count * (self.index + 1) // self.of)


@dataclass(frozen=True)
class Batch:
    """Rows of n slots, B each.

    Attributes:
        ids: int64 [n, B, S], padded on the right.
        lengths: int64 [n, B]; 1 for rows that only fill up the block.
        weight: [n, B]: 1 / (rows of the slot's batch over all workers), 0 for filling rows.
        labels: For each kind of task present: (slots of that kind or None for all, labels [m, B] or [m, B, C]);
            targets of a regression are standardised.
        padded: Whether some row has fewer than S tokens.
        kept: [n, B, S, Σ d_in], 1 or True for inputs that dropout keeps, or None; see `FLOAT_MASK`.
    """

    ids: Tensor
    lengths: Tensor
    weight: Tensor
    labels: dict[Kind, tuple[Tensor | None, Tensor]]
    padded: bool
    kept: Tensor | None

    def parts(self, count: int) -> Iterator["Batch"]:
        """The batch in up to `count` micro-batches along B; their losses add up to that of the whole."""
        size = -(-self.ids.shape[1] // count)
        for start in range(0, self.ids.shape[1], size):
            at = slice(start, start + size)
            yield Batch(
                self.ids[:, at],
                self.lengths[:, at],
                self.weight[:, at],
                {kind: (slots, labels[:, at]) for kind, (slots, labels) in self.labels.items()},
                self.padded,
                self.kept[:, at] if self.kept is not None else None,
            )


def gather(
    slots: Sequence[Slot],
    *,
    share: Share,
    labels: int,
    layout: Layout,
    device: torch.device,
    dtype: torch.dtype,
    compute_dtype: torch.dtype,
) -> Batch:
    """The next batch of every slot. The width S is that of the longest sequence of any whole batch, so that it
    does not depend on how many workers share the batches."""
    chosen = [slot.batch() for slot in slots]
    own = [rows[share.rows(len(rows))] for rows in chosen]
    widths = [int(_lengths(slot, rows).max()) for slot, rows in zip(slots, chosen, strict=True)]
    n, size, width = len(slots), max(1, *(len(rows) for rows in own)), max(widths)
    ids = np.zeros((n, size, width), dtype=np.int64)
    lengths = np.ones((n, size), dtype=np.int64)
    weight = np.zeros((n, size))
    for i, (slot, rows) in enumerate(zip(slots, own, strict=True)):
        ids[i] = slot.data.pad_id
        ids[i, : len(rows)], lengths[i, : len(rows)] = slot.data.train.padded(rows, slot.data.pad_id, width)
        weight[i, : len(rows)] = 1 / len(chosen[i])
    to: dict[str, Any] = {"device": device, "non_blocking": True}
    return Batch(
        torch.from_numpy(ids).to(**to),
        torch.from_numpy(lengths).to(**to),
        torch.from_numpy(weight).to(dtype=dtype, **to),
        _labels(slots, own, size, labels, device=device, dtype=dtype),
        bool((lengths < width).any()),
        _dropout(slots, chosen, widths, share, layout, (n, size, width), device=device, dtype=compute_dtype),
    )


def _lengths(slot: Slot, rows: np.ndarray) -> np.ndarray:
    offsets = slot.data.train.offsets
    return np.asarray(offsets[rows + 1] - offsets[rows])


def _labels(
    slots: Sequence[Slot],
    own: Sequence[np.ndarray],
    size: int,
    width: int,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[Kind, tuple[Tensor | None, Tensor]]:
    found: dict[Kind, tuple[Tensor | None, Tensor]] = {}
    for kind in dict.fromkeys(slot.data.kind for slot in slots):
        members = [i for i, slot in enumerate(slots) if slot.data.kind == kind]
        wide = any(slots[i].data.train.labels.ndim == 2 for i in members)
        shape = (len(members), size, width) if wide else (len(members), size)
        block = np.zeros(shape, dtype=np.int64 if kind == "classification" else np.float64)
        for place, i in enumerate(members):
            values = slots[i].data.train.labels[own[i]]
            if kind == "regression":
                values = slots[i].data.scale.standardised(values)
            if wide:
                values = values.reshape(len(values), -1)
                block[place, : len(values), : values.shape[1]] = values
            else:
                block[place, : len(values)] = values
        labels = torch.from_numpy(block).to(device, non_blocking=True)
        index = None if len(members) == len(slots) else torch.tensor(members).to(device, non_blocking=True)
        found[kind] = (index, labels if kind == "classification" else labels.to(dtype))
    return found


def _dropout(
    slots: Sequence[Slot],
    chosen: Sequence[np.ndarray],
    widths: Sequence[int],
    share: Share,
    layout: Layout,
    shape: tuple[int, int, int],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor | None:
    """Masks of all sites, one draw a slot. A slot's numbers depend on its own batch alone: every worker draws
    the whole batch and takes its rows, and padding by longer neighbours is filled with `keep`."""
    if not any(slot.dropout for slot in slots):
        return None
    depth = sum(site.d_in for site in layout.sites)
    size = math.prod(shape) * depth
    kept = torch.ones(*shape, depth, dtype=dtype if size <= FLOAT_MASK else torch.bool, device=device)
    for i, (slot, rows) in enumerate(zip(slots, chosen, strict=True)):
        if not slot.dropout:
            continue
        generator = stream(slot.config.seed, "dropout", slot.step, device=device)
        mask = _bernoulli((len(rows), widths[i], depth), slot.dropout, generator)
        own = mask[share.rows(len(rows))]
        kept[i, : own.shape[0], : widths[i]] = own
    return kept


def _bernoulli(shape: tuple[int, int, int], rate: float, generator: torch.Generator) -> Tensor:
    """True with probability 1 - rate (a multiple of 2⁻¹⁶): four draws from each 64 random bits, which is five
    times faster than `bernoulli_` on a CPU."""
    count = shape[0] * shape[1] * shape[2]
    words = torch.empty(-(-count // 4), dtype=torch.int64, device=generator.device)
    words.random_(-(2**63), None, generator=generator)
    below = round(rate * 65536) - 32768
    return (words.view(torch.int16)[:count] >= below).view(shape)
