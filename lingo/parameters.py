"""Number of trained parameters of a trial, and of those that its ranks still use."""

import torch
from torch import Tensor

from lingo.pack import Pack
from lingo.slot import Slot


def rank_pattern(pack: Pack, slot: Slot) -> dict[str, list[bool]]:
    """Which singular values of each adapted matrix are in use, by module path; waits for the device."""
    layout, used = pack.layout, _used(pack, slot)
    pattern = {}
    for path in slot.paths:
        site = layout.site(path)
        part = layout.of_group(used.to(torch.uint8), layout.groups[site.group])[0, site.index, : slot.rank]
        pattern[path] = part.bool().tolist()
    return pattern


def rank_counts(pack: Pack, slot: Slot) -> Tensor:
    """Number of singular values in use for each of `slot.paths`, [paths], on the device, without waiting for it."""
    counts = _used(pack, slot).view(-1, pack.layout.rank).sum(1)
    return counts[[pack.layout.site(path).number for path in slot.paths]]


def _used(pack: Pack, slot: Slot) -> Tensor:
    """Which of a slot's singular values the forward pass uses, bool [1, R]."""
    layout, row = pack.layout, slice(slot.row, slot.row + 1)
    return (layout.lam(pack.bank.theta[row]) * pack.bank.keep[row] != 0) | (pack.bank.unit[row] != 0)


def trained_parameters(pack: Pack, slot: Slot) -> int:
    """Parameters updated by the optimiser: factors at their initial rank, singular values and the head; or all."""
    head = (pack.layout.hidden + 1) * slot.data.num_labels
    if pack.full:
        return pack.layout.head_start + head
    return head + sum(_of_rank(pack, slot, path, slot.rank) for path in slot.paths)


def used_parameters(pack: Pack, slot: Slot) -> int:
    """Trained parameters that the forward pass still uses: those of the kept ranks, and the head."""
    if pack.full:
        return trained_parameters(pack, slot)
    head = (pack.layout.hidden + 1) * slot.data.num_labels
    return head + sum(
        _of_rank(pack, slot, path, sum(kept)) for path, kept in rank_pattern(pack, slot).items()
    )


def _of_rank(pack: Pack, slot: Slot, path: str, rank: int) -> int:
    site = pack.layout.site(path)
    return slot.config.kind.size(rank, site.d_in, site.d_out)
