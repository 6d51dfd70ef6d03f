"""Factors narrowed to the ranks kept: the same trial, with less work."""

import numpy as np
import pytest
import torch

from lingo.pack import Pack
from lingo.parameters import rank_pattern
from lingo.slot import Slot
from tests.lingo import toy

TASK = toy.task(rows=28, longest=9)
CONFIGS = [
    toy.trial("ars", 1, max_grad_norm=None, p=0.3, b0=6, bT=1),
    toy.trial("ars", 2, max_grad_norm=None, p=0.3, b0=6, bT=1, rank_update="held"),
    toy.trial("adalora", 3, max_grad_norm=None, b0=5, bT=1),
]
"""28 steps, the last allocation after 20."""


def packed(count: int, *, compact: bool) -> tuple[Pack, list[Slot]]:
    pack = Pack(toy.opt_backbone(), capacity=3, max_rank=6, dtype=torch.float64, compact=compact)
    return pack, [pack.admit(config, TASK) for config in CONFIGS[:count]]


def widths(pack: Pack) -> list[int]:
    """Ranks that each adapted module computes; 0 where it is the frozen layer alone."""
    modules = [pack.bank.model.get_submodule(path) for path in pack.slots[0].paths]
    return [0 if module.p is None else module.p.shape[-1] for module in modules]


@pytest.mark.parametrize("count", [1, 3])
def test_outputs_are_the_same_and_buffers_narrower(count: int) -> None:
    (wide, slots), (narrow, others) = (packed(count, compact=compact) for compact in (False, True))
    while not slots[0].done:
        wide.step()
        narrow.step()
        past = slots[0].step > 20
        assert max(widths(wide)) == 6
        assert (sum(widths(narrow)) < 0.8 * sum(widths(wide))) == past, widths(narrow)
        for ours, theirs in zip(others, slots, strict=True):
            assert narrow.take_loss(ours) == pytest.approx(wide.take_loss(theirs), abs=1e-9)
    for ours, theirs in zip(others, slots, strict=True):
        pattern = rank_pattern(narrow, ours)
        assert pattern == rank_pattern(wide, theirs)
        assert sum(map(sum, pattern.values())) == len(ours.paths) * ours.config.bT
        logits = [pack.predict(slot, TASK.dev) for pack, slot in ((narrow, ours), (wide, theirs))]
        np.testing.assert_allclose(*logits, rtol=0, atol=1e-9)
        assert np.ptp(logits[0]) > 0.01


def test_each_module_is_as_wide_as_the_ranks_it_kept() -> None:
    pack, (slot,) = packed(1, compact=True)
    while not slot.done:
        pack.step()
    kept = [sum(pattern) for pattern in rank_pattern(pack, slot).values()]
    assert widths(pack) == kept
    assert len(set(kept)) > 1


def test_a_trial_before_T_widens_the_pack_again() -> None:
    pack, (slot,) = packed(1, compact=True)
    alone, (single,) = packed(1, compact=True)
    while not single.done:
        alone.step()
    for _ in range(22):
        pack.step()
    narrow = widths(pack)
    guest = pack.admit(CONFIGS[1], TASK)
    pack.step()
    assert max(widths(pack)) == 6 > max(narrow)
    pack.release(guest)
    while not slot.done:
        pack.step()
    np.testing.assert_allclose(
        pack.predict(slot, TASK.dev), alone.predict(single, TASK.dev), rtol=0, atol=1e-9
    )
