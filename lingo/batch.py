"""The sequences of all slots in one step, padded to one block, and the sources of their dropout masks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lingo.balance import plain_weights, target_weights
from lingo.data import Kind
from lingo.dropout import Draws
from lingo.memory import sent
from lingo.slot import Slot


@dataclass(frozen=True)
class Share:
    """The part of each batch that this worker computes: rank `index` of `of` workers."""

    index: int = 0
    of: int = 1

    def rows(self, count: int) -> slice:
        """The contiguous part of `count` rows for this worker."""
        return slice(count * self.index // self.of, count * (self.index + 1) // self.of)


@dataclass(frozen=True)
class Batch:
    """Rows of n slots, B each.

    Attributes:
        ids: int64 [n, B, S], padded on the right.
        lengths: int64 [n, B]; 1 for filler rows.
        weight: [n, B]: 1 / (rows of the slot's batch over all workers), 0 for filler rows.
        labels: For each kind of task present: (slots of that kind or None for all, labels [m, B] or [m, B, C]);
            targets of a regression are standardised.
        factors: For each kind of task where some slot has them: `lingo.balance.target_weights`, [m, B, C].
        padded: Whether some row has fewer than S tokens.
        draws: Source of the dropout masks of these rows, or None.
    """

    ids: Tensor
    lengths: Tensor
    weight: Tensor
    labels: dict[Kind, tuple[Tensor | None, Tensor]]
    padded: bool
    draws: Draws | None
    factors: Mapping[Kind, Tensor] = field(default_factory=dict)

    def parts(self, count: int) -> Iterator["Batch"]:
        """The batch in up to `count` micro-batches along B; their losses add up to that of the whole batch."""
        size = -(-self.ids.shape[1] // count)
        for start in range(0, self.ids.shape[1], size):
            at = slice(start, start + size)
            yield Batch(
                self.ids[:, at],
                self.lengths[:, at],
                self.weight[:, at],
                {kind: (slots, labels[:, at]) for kind, (slots, labels) in self.labels.items()},
                self.padded,
                self.draws.part(at) if self.draws else None,
                {kind: factors[:, at] for kind, factors in self.factors.items()},
            )


def gather(
    slots: Sequence[Slot],
    *,
    share: Share,
    labels: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Batch:
    """The next batch of every slot. The width S is that of the longest sequence of any whole batch, so that it
    does not depend on how many workers share the batches."""
    chosen = [slot.batch() for slot in slots]
    own = [rows[share.rows(len(rows))] for rows in chosen]
    widths = [int(_lengths(slot, rows).max()) for slot, rows in zip(slots, chosen, strict=True)]
    n, size, width = len(slots), max(1, *(len(rows) for rows in own)), max(widths)
    ids = np.zeros((n, size, width), dtype=np.int32)
    lengths = np.ones((n, size), dtype=np.int64)
    weight = np.zeros((n, size))
    for i, (slot, rows) in enumerate(zip(slots, own, strict=True)):
        ids[i] = slot.data.pad_id
        ids[i, : len(rows)], lengths[i, : len(rows)] = slot.data.train.padded(rows, slot.data.pad_id, width)
        weight[i, : len(rows)] = 1 / len(chosen[i])
    return Batch(
        sent(ids, device).long(),
        sent(lengths, device),
        sent(weight, device).to(dtype),
        _labels(slots, own, size, labels, device=device, dtype=dtype),
        bool((lengths < width).any()),
        _dropout(slots, chosen, share, size, device),
        _factors(slots, own, size, labels, device=device, dtype=dtype),
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
        labels = sent(block, device)
        index = None if len(members) == len(slots) else torch.tensor(members).to(device, non_blocking=True)
        found[kind] = (index, labels if kind == "classification" else labels.to(dtype))
    return found


def _factors(
    slots: Sequence[Slot],
    own: Sequence[np.ndarray],
    size: int,
    width: int,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[Kind, Tensor]:
    """Factors of the loss by kind of task; empty if no slot has any."""
    found: dict[Kind, Tensor] = {}
    each = [target_weights(slot.config, slot.data, rows) for slot, rows in zip(slots, own, strict=True)]
    for kind in dict.fromkeys(
        slot.data.kind for slot, factors in zip(slots, each, strict=True) if factors is not None
    ):
        members = [i for i, slot in enumerate(slots) if slot.data.kind == kind]
        block = np.zeros((len(members), size, width))
        for place, i in enumerate(members):
            given = each[i]
            factors = plain_weights(slots[i].data, own[i]) if given is None else given
            block[place, : len(factors), : factors.shape[1]] = factors
        found[kind] = sent(block, device).to(dtype)
    return found


def _dropout(
    slots: Sequence[Slot], chosen: Sequence[np.ndarray], share: Share, size: int, device: torch.device
) -> Draws | None:
    """Source of the dropout masks of this worker's `size` rows of each batch; `None` without dropout."""
    if not any(slot.dropout for slot in slots):
        return None
    first = [share.rows(len(rows)).start for rows in chosen]
    return Draws.of(
        [slot.config.seed for slot in slots],
        [slot.step for slot in slots],
        [slot.dropout for slot in slots],
        np.array(first)[:, None] + np.arange(size),
        device=device,
    )
