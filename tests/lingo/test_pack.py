"""Packed = alone: a trial gives the same masks, losses and metrics with any neighbours."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from lingo.adapters import ALIGNED
from lingo.data import TaskData
from lingo.layout import Layout
from lingo.pack import Pack
from lingo.parameters import rank_pattern
from lingo.slot import Slot
from lingo.state import _views
from lingo.trial import TrialConfig
from tests.lingo import toy

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}

# (trial, task, the step of the pack at which it is admitted)
MIXED: list[tuple[TrialConfig, TaskData, int]] = [
    (toy.trial("ars", 1), toy.task("a"), 0),
    (toy.trial("lora", 2, learning_rate=3e-3, adapter_dropout=0.3), toy.task("b", longest=20, seed=5), 0),
    (toy.trial("adalora", 3, batch_size=6, delta_T=2, epochs=6, bT=1), toy.task("c", labels=5, seed=6), 0),
    (toy.trial("lingo", 4, b0=6, bT=3, rank_update="held", p=0.4), toy.task("a"), 7),
    (
        toy.trial("ars", 5, rank_update="published_code", targets=("W_q", "W_o")),
        toy.task("d", seed=8, rows=90),
        3,
    ),
    (
        toy.trial("lora", 6, rank=5, weight_decay=0.1, max_grad_norm=None),
        toy.task("e", labels=3, kind="multilabel"),
        0,
    ),
    (
        toy.trial("lingo", 7, alpha=8, beta1=0.5, adapter_dropout=0.0),
        toy.task("f", labels=1, kind="regression"),
        11,
    ),
    (toy.trial("adalora", 8, max_grad_norm=0.3, warmup_ratio=0.3), toy.task("b", longest=20, seed=5), 0),
]


def run(
    pack: Pack, entries: Sequence[tuple[TrialConfig, TaskData, int]], steps: int = 50
) -> list[dict[str, object]]:
    """Train each entry for up to `steps` steps from its admission; what it gave, in the entries' order."""
    found: dict[int, dict[str, object]] = {}
    slots: dict[int, Slot] = {}
    now = 0
    while len(found) < len(entries):
        for i, (config, data, start) in enumerate(entries):
            if start == now:
                slots[i] = pack.admit(config, data)
        pack.step()
        now += 1
        for i, slot in list(slots.items()):
            if slot.step == min(steps, slot.total_steps):
                found[i] = outcome(pack, slot)
                pack.release(slots.pop(i))
    return [found[i] for i in range(len(entries))]


def outcome(pack: Pack, slot: Slot) -> dict[str, object]:
    return {
        "loss": pack.take_loss(slot),
        "logits": pack.predict(slot, slot.data.dev),
        "metrics": pack.evaluate(slot, slot.data.dev),
        "pattern": rank_pattern(pack, slot),
    }


def assert_same(ours: dict[str, object], theirs: dict[str, object], tolerance: float) -> None:
    assert ours["pattern"] == theirs["pattern"]
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=0, atol=tolerance * 50)
    np.testing.assert_allclose(ours["logits"], theirs["logits"], rtol=0, atol=tolerance)
    assert ours["metrics"] == pytest.approx(theirs["metrics"], abs=tolerance, nan_ok=True)


@pytest.fixture(scope="module")
def alone() -> dict[torch.dtype, list[dict[str, object]]]:
    results = {}
    for dtype in TOLERANCE:
        backbone = toy.opt_backbone(dtype=dtype)
        results[dtype] = []
        for config, data, _ in MIXED:
            pack = Pack(backbone, capacity=1, max_rank=config.b0 if config.method != "lora" else config.rank,
                        max_labels=data.num_labels, dtype=dtype)  # fmt: skip
            results[dtype] += run(pack, [(config, data, 0)])
            pack.close()
    return results


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("capacity", [1, 3, 8])
def test_packed_equals_alone(capacity: int, dtype: torch.dtype, alone: dict) -> None:
    entries = MIXED[:capacity]
    pack = Pack(toy.opt_backbone(dtype=dtype), capacity=capacity, max_rank=7, max_labels=5, dtype=dtype)
    for packed, single in zip(run(pack, entries), alone[dtype], strict=False):
        assert_same(packed, single, TOLERANCE[dtype])


@pytest.mark.parametrize("count", [2, 3])
def test_micro_batches_change_nothing(count: int, alone: dict) -> None:
    pack = Pack(
        toy.opt_backbone(), capacity=3, max_rank=7, max_labels=5, dtype=torch.float64, micro_batches=count
    )
    for packed, single in zip(run(pack, MIXED[:3]), alone[torch.float64], strict=False):
        assert_same(packed, single, 1e-9)


def test_closing_restores_the_backbone() -> None:
    backbone = toy.opt_backbone(dtype=torch.float32)
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    for full in (False, True):
        pack = Pack(backbone, full=full)
        pack.admit(toy.trial("fmft" if full else "ars"), toy.task())
        for _ in range(3):
            pack.step()
        pack.close()
        after = backbone.model.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], before[name]) for name in before)
        assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


@pytest.mark.parametrize(("first", "second"), [(False, False), (False, True), (True, False), (True, True)])
def test_a_backbone_has_one_open_pack(first: bool, second: bool) -> None:
    """Adapters would be wrapped twice, and full fine-tuning would start from trained weights."""
    backbone = toy.opt_backbone()
    one = Pack(backbone, full=first)
    with pytest.raises(
        ValueError, match="must have one open pack at most, but toy has one already; close that"
    ):
        Pack(backbone, full=second)
    one.close()
    Pack(backbone, full=second).close()


def test_a_pack_that_finds_no_memory_leaves_the_backbone_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = toy.opt_backbone()
    before = [type(module) for module in backbone.model.modules()]

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as short:
        short.setattr("lingo.pack.Importance", full)
        with pytest.raises(torch.OutOfMemoryError):
            Pack(backbone)
    assert [type(module) for module in backbone.model.modules()] == before
    Pack(backbone).close()


def test_ranks_padded_as_on_a_gpu_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks of 3 and 4 computed as 8, in a pack and alone, give what they give unpadded."""
    found = []
    for multiple in (1, 8):
        monkeypatch.setitem(ALIGNED, "cpu", multiple)
        for methods in (("lora", "ars"), ("ars",)):
            pack = Pack(toy.opt_backbone(), capacity=len(methods), max_rank=12, dtype=torch.float64)
            for method in methods:
                slot = pack.admit(toy.trial(method, 1, delta_T=2), toy.task())
            for _ in range(12):
                pack.step()
            found.append(pack.predict(slot, slot.data.dev))
            pack.close()
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=0, atol=1e-9)


def test_rows_hold_what_the_trials_of_a_pack_train() -> None:
    """Rows grow and shrink at admissions; a trial keeps every bit of its state, and goes on as if alone."""
    small = toy.trial("ars", 1, b0=2, bT=1, delta_T=2, targets=("W_q", "W_f2"))
    large = toy.trial("ars", 2, b0=4, bT=2, targets=("W_k", "W_q", "W_f1"))
    pack = Pack(toy.opt_backbone(), capacity=2, max_rank=8, dtype=torch.float64)
    slot = pack.admit(small, toy.task())
    sites = len(slot.paths)
    assert (pack.layout.rank, len(pack.layout.sites)) == (2, sites)
    for _ in range(3):
        pack.step()
    width, before = pack.layout.size, {name: view.clone() for name, view in _views(pack, slot)}
    other = pack.admit(large, toy.task())
    assert (pack.layout.rank, len(pack.layout.sites)) == (4, len({*slot.paths, *other.paths}))
    for name, view in _views(pack, slot):
        assert torch.equal(view, before[name]), name
    for _ in range(3):
        pack.step()
    pack.release(other)
    pack.release(pack.admit(small, toy.task()))
    assert pack.layout.size == width and pack.bank.theta.shape == pack.moment.shape == (2, width)
    for _ in range(3):
        pack.step()
    alone = Pack(toy.opt_backbone(), max_rank=2, dtype=torch.float64)
    same = alone.admit(small, toy.task())
    for _ in range(9):
        alone.step()
    np.testing.assert_allclose(
        pack.predict(slot, slot.data.dev), alone.predict(same, same.data.dev), rtol=0, atol=1e-9
    )


def test_a_pack_without_memory_for_larger_rows_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pack = Pack(toy.opt_backbone(), capacity=2, max_rank=8)
    slot = pack.admit(toy.trial("lora", 1, rank=2), toy.task())
    layout, real, calls = pack.layout, Layout.moved, 0

    def short(self: Layout, *given: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Layout, "moved", short)
        with pytest.raises(torch.OutOfMemoryError):
            pack.admit(toy.trial("lora", 2, rank=8), toy.task())
    assert pack.layout is pack.bank.layout is layout and pack.slots == [slot]
    pack.step()
    assert np.isfinite(pack.take_loss(slot))
