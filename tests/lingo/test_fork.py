"""A fork before the first allocation equals training the second trial from scratch."""

import pytest
import torch

from lingo.pack import Pack
from lingo.slot import Slot
from lingo.state import fork_slot
from lingo.trial import TrialConfig
from tests.lingo import toy

TASK = toy.task(rows=24, longest=9)
TRUNK = toy.trial("ars", 1, initial_warmup_ratio=0.3)
"""24 steps; b0 up to step 7; allocations after 9, 12, 15 and, the last, 17."""
FILLER = toy.trial("lora", 2, epochs=9)

CHANGES: dict[str, dict[str, object]] = {
    "p": {"p": 0.6},
    "bT": {"bT": 1},
    "delta_T": {"delta_T": 4},
    "rank_update": {"rank_update": "in_place"},
    "all": {"p": 0.0, "bT": 3, "delta_T": 5, "rank_update": "published_code"},
}


def changed(**values: object) -> TrialConfig:
    return TrialConfig.from_dict(TRUNK.to_dict() | values)


def packed(*configs: TrialConfig) -> tuple[Pack, list[Slot]]:
    pack = Pack(toy.opt_backbone(), capacity=3, max_rank=4, dtype=torch.float64)
    return pack, [pack.admit(config, TASK) for config in configs]


def train(pack: Pack, steps: int) -> None:
    for _ in range(steps):
        pack.step()


@pytest.mark.parametrize(("change", "at"), [("all", 0), ("p", 5), *((change, 7) for change in CHANGES)])
def test_a_fork_is_bit_equal_to_the_trial_from_scratch(change: str, at: int) -> None:
    config = changed(**CHANGES[change])
    scratch, (slot, _) = packed(config, FILLER)
    train(scratch, 24)
    pack, (trunk, _) = packed(TRUNK, FILLER)
    train(pack, at)
    fork = fork_slot(pack, trunk, config)
    assert (fork.step, fork.config) == (at, config)
    pack.release(trunk)  # the fork takes its row: a pack of the same shape as that from scratch
    train(pack, 24 - at)
    assert fork.done and fork.row == slot.row
    ends = (pack.tensors(), scratch.tensors())
    for name in ends[0]:
        assert torch.equal(ends[0][name][:2], ends[1][name][:2]), name
    single, (same, _) = packed(TRUNK, FILLER)
    train(single, 24)
    assert not torch.equal(single.bank.theta[same.row], pack.bank.theta[fork.row]), "the change must matter"


def test_the_trunk_goes_on_as_without_a_fork() -> None:
    alone, (single, _) = packed(TRUNK, FILLER)
    pack, (trunk, _) = packed(TRUNK, FILLER)
    train(alone, 24)
    train(pack, 6)
    fork = fork_slot(pack, trunk, changed(p=0.6))
    for name, tensor in pack.tensors().items():
        assert torch.equal(tensor[fork.row], tensor[trunk.row]), name
    train(pack, 18)
    torch.testing.assert_close(pack.bank.theta[trunk.row], alone.bank.theta[single.row], rtol=0, atol=1e-9)
    assert torch.equal(pack.bank.keep[trunk.row], alone.bank.keep[single.row])


@pytest.mark.parametrize(
    ("values", "at", "first"),
    [({"p": 0.6}, 9, 9), ({"p": 0.6}, 14, 9), ({"delta_T": 8}, 8, 8), ({"delta_T": 10}, 9, 9)],
)
def test_after_the_first_allocation_of_either_it_is_refused(
    values: dict[str, object], at: int, first: int
) -> None:
    pack, (trunk, _) = packed(TRUNK, FILLER)
    train(pack, at - 1)
    pack.release(fork_slot(pack, trunk, changed(**values)) if at == first else pack.slots[1])
    train(pack, 1)
    with pytest.raises(ValueError, match=rf"before the first allocation, step {first}, but got step {at}\."):
        fork_slot(pack, trunk, changed(**values))
    assert trunk in pack.slots and all(slot.config in (TRUNK, FILLER) for slot in pack.slots)


@pytest.mark.parametrize(
    "values",
    [
        {"seed": 2},
        {"learning_rate": 2e-2},
        {"b0": 3},
        {"beta1": 0.5},
        {"adapter_dropout": 0.0},
        {"method": "lingo"},
        {"final_finetune_ratio": 0.2},
        {"targets": ("W_q",)},
        {"p": 0.6, "epochs": 5},
    ],
)
def test_another_setting_may_not_differ(values: dict[str, object]) -> None:
    pack, (trunk, _) = packed(TRUNK, FILLER)
    with pytest.raises(ValueError, match="`p`, `bT`, `delta_T` and `rank_update` alone"):
        fork_slot(pack, trunk, changed(**values))
    assert len(pack.slots) == 2


def test_a_fork_needs_a_free_slot_and_a_valid_schedule() -> None:
    pack, (trunk, _, third) = packed(TRUNK, FILLER, FILLER)
    with pytest.raises(ValueError, match="all are taken"):
        fork_slot(pack, trunk, changed(p=0.6))
    pack.release(third)
    with pytest.raises(ValueError, match="use `delta_T` of at most 16"):
        fork_slot(pack, trunk, changed(delta_T=17))
    with pytest.raises(ValueError, match="b0=4, bT=5"):
        fork_slot(pack, trunk, changed(bT=5))
    assert len(pack.slots) == 2
