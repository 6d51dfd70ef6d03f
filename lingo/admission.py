"""Whether a trial fits into a pack, and rows that hold what the pack's trials train."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from lingo.adapters import FLAT, AdapterBank, padded_rank
from lingo.backbones import Backbone
from lingo.data import TaskData
from lingo.full import FullBank
from lingo.heads import pooling_of
from lingo.layout import Layout
from lingo.ranks import Importance
from lingo.slot import Slot
from lingo.trial import TrialConfig


class _Pack(Protocol):
    """What is read and changed of a pack."""

    backbone: Backbone
    bank: AdapterBank | FullBank
    capacity: int
    device: torch.device
    full: bool
    importance: Importance
    layout: Layout
    max_rank: int
    moment: Tensor
    shapes: dict[str, tuple[int, int]]
    square: Tensor

    @property
    def free(self) -> int: ...


def misfits(pack: _Pack, config: TrialConfig, data: TaskData) -> list[str]:
    """Why a trial does not fit into a pack."""
    rank = config.kind.rank(config)
    checks = [
        (not pack.free, f"the pack has {pack.capacity} slots and all are taken."),
        (
            pack.full != config.kind.trains_all,
            f"`method` {config.method} does not go into a pack for "
            f"{'full fine-tuning' if pack.full else 'adapters'}.",
        ),
        (
            rank > pack.max_rank and not pack.full,
            f"rank must be at most the pack's {pack.max_rank}, but got {rank}.",
        ),
        (
            config.kind.outputs != "none" and not pack.layout.outputs,
            f"`method` {config.method} needs a pack with `outputs`.",
        ),
        (
            data.num_labels > pack.layout.labels,
            f"`num_labels` must be at most the pack's {pack.layout.labels}, but got {data.num_labels}.",
        ),
    ]
    found = [text for wrong, text in checks if wrong]
    try:
        pooling_of(config.pooling, pack.backbone.pooling)
    except ValueError as error:
        found.append(str(error))
    return found


def fit(pack: _Pack, slots: Sequence[Slot]) -> None:
    """Give a pack rows that hold what these slots train: their matrices, and the largest of their ranks. Where there
    is no memory for them, the pack stays as it is."""
    if not isinstance(pack.bank, AdapterBank):
        return
    old, only = pack.layout, {path for slot in slots for path in slot.paths}
    rank = min(pack.max_rank, padded_rank(max(slot.rank for slot in slots), pack.device))
    if rank == old.rank and len(only) == len(old.sites) and only.issuperset(old.order):
        return
    new = Layout(pack.shapes, rank=rank, hidden=old.hidden, labels=old.labels, outputs=old.outputs, only=only)
    owned = [
        *((pack, name) for name in ("moment", "square")),
        *((pack.importance, name) for name in ("sensitivity", "uncertainty")),
        *((pack.bank, name) for name in FLAT),
    ]
    moved = [new.moved(getattr(owner, name), old) for owner, name in owned]
    for (owner, name), tensor in zip(owned, moved, strict=True):
        setattr(owner, name, tensor)
    pack.layout = pack.importance.layout = pack.bank.layout = new
    pack.bank.forget()
