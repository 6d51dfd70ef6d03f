"""Slots of different lengths in one pack: computed in blocks, at the cost of training them apart."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from lingo.lengths import OVERHEAD, blocks_of, overhead_of
from lingo.pack import Pack
from lingo.state import load_slot, save_slot
from tests.lingo import toy

MIXED = [(500, 8), (300, 8), (160, 8), (70, 8)]


def cost(slots: list[tuple[int, int]], blocks: list[slice], overhead: int) -> int:
    return sum(overhead + slots[block.start][0] * sum(rows for _, rows in slots[block]) for block in blocks)


def test_lengths_far_apart_are_apart_and_equal_ones_together() -> None:
    assert blocks_of(MIXED, overhead=128) == [slice(i, i + 1) for i in range(4)]
    assert blocks_of([(70, 8)] * 5, overhead=128) == [slice(0, 5)]
    assert blocks_of([(500, 8), (70, 8), (70, 8)], overhead=2048) == [slice(0, 1), slice(1, 3)]
    assert blocks_of(MIXED, overhead=10**6) == [slice(0, 4)]
    assert blocks_of([], overhead=1) == []


@pytest.mark.parametrize("seed", range(20))
def test_no_other_cut_is_cheaper(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = sorted(rng.integers(20, 600, rng.integers(1, 8)).tolist(), reverse=True)
    slots = [(length, int(rng.integers(1, 17))) for length in lengths]
    found = blocks_of(slots, overhead=700)
    assert [i for block in found for i in range(block.start, block.stop)] == list(range(len(slots)))
    inner = range(1, len(slots))
    cuts = [
        [0, *some, len(slots)] for count in range(len(slots)) for some in itertools.combinations(inner, count)
    ]
    every = [[slice(a, b) for a, b in itertools.pairwise(cut)] for cut in cuts]
    assert cost(slots, found, 700) == min(cost(slots, blocks, 700) for blocks in every)


def test_other_accelerators_are_taken_for_gpus() -> None:
    assert overhead_of(torch.device("cpu")) == OVERHEAD["cpu"]
    assert overhead_of(torch.device("meta")) == OVERHEAD["cuda"]


LENGTHS = (7, 50, 16, 30)


def tasks() -> list[Any]:
    """Tasks of sequences of one length each, in no order."""
    made = []
    for length in LENGTHS:
        task = toy.task(str(length), rows=24, longest=3)
        ids = np.random.default_rng(length).integers(2, 20, 24 * length).astype(np.int16)
        split = type(task.train)(ids, np.arange(25, dtype=np.int64) * length, task.train.labels)
        made.append(dataclasses.replace(task, train=split))
    return made


def test_mixed_lengths_cost_what_they_cost_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that the backbone computes in a training, and the results of each trial."""
    monkeypatch.setitem(OVERHEAD, "cpu", 8)
    tokens = [0]
    real = Pack._logits

    def counted(self: Pack, ids: torch.Tensor, *args: Any, **more: Any) -> torch.Tensor:
        tokens[0] += ids.numel() * torch.is_grad_enabled()
        return real(self, ids, *args, **more)

    monkeypatch.setattr(Pack, "_logits", counted)
    methods = ("ars", "adalora", "lora", "lingo")
    configs = [toy.trial(method, seed, epochs=3, delta_T=2) for seed, method in enumerate(methods)]

    def trained(entries: list[Any]) -> list[Any]:
        pack = Pack(toy.opt_backbone(), capacity=len(entries), max_rank=4, dtype=torch.float64)
        slots = [pack.admit(*entry) for entry in entries]
        while pack.running:
            pack.step()
        found = [pack.predict(slot, slot.data.dev) for slot in slots]
        pack.close()
        return found

    entries = list(zip(configs, tasks(), strict=True))
    together = trained(entries)
    mixed, tokens[0] = tokens[0], 0
    apart = [trained([entry])[0] for entry in entries]
    assert mixed <= 1.1 * tokens[0]
    for ours, alone in zip(together, apart, strict=True):
        np.testing.assert_allclose(ours, alone, rtol=0, atol=1e-9)


def test_coming_and_going_keeps_every_trial_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Rows move when longer trials come; a released trial goes on from its files."""
    monkeypatch.setitem(OVERHEAD, "cpu", 8)
    data = tasks()
    pack = Pack(toy.opt_backbone(), capacity=3, max_rank=4, dtype=torch.float64)
    first = pack.admit(toy.trial("ars", 0, epochs=3, delta_T=2), data[0])
    pack.step()
    longer = pack.admit(toy.trial("adalora", 1, epochs=3, delta_T=2), data[1])
    assert (longer.row, first.row) == (0, 1) and pack.slots == [longer, first]
    for _ in range(3):
        pack.step()
    middle = pack.admit(toy.trial("lora", 2, epochs=3), data[2])
    assert [slot.row for slot in (longer, middle, first)] == [0, 1, 2] and len(pack.blocks) == 3
    pack.step()
    save_slot(pack, first, tmp_path / "slot")
    pack.release(first)
    pack.step()
    again = load_slot(pack, tmp_path / "slot", data[0])
    while pack.running:
        pack.step()
    found = pack.predict(again, data[0].dev)
    pack.close()
    pack = Pack(toy.opt_backbone(), capacity=1, max_rank=4, dtype=torch.float64)
    alone = pack.admit(toy.trial("ars", 0, epochs=3, delta_T=2), data[0])
    while pack.running:
        pack.step()
    np.testing.assert_allclose(pack.predict(alone, data[0].dev), found, rtol=0, atol=1e-9)
