"""A saved trial goes on as if it had never stopped; what cannot be used is refused with one line."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lingo.data import TaskData
from lingo.pack import Pack
from lingo.parameters import rank_pattern
from lingo.slot import Slot
from lingo.state import StateError, load_slot, save_slot
from lingo.trial import TrialConfig
from tests.lingo import toy

TASK = toy.task(rows=24, longest=9)
LABELLED = toy.task("many", rows=22, longest=11, labels=3, kind="multilabel", seed=3)

METHODS = {
    "fmft": toy.trial("fmft", 1, learning_rate=1e-3),
    "lora": toy.trial("lora", 2),
    "adalora": toy.trial("adalora", 3),
    "ars": toy.trial("ars", 4, p=0.3),
    "held": toy.trial("ars", 5, p=0.3, rank_update="held"),
    "published_code": toy.trial("ars", 6, p=0.3, rank_update="published_code"),
    "lingo": toy.trial("lingo", 7, targets=("W_q", "W_o")),
    "pissa": toy.trial("pissa", 8),
    "dora": toy.trial("dora", 9),
    "vera": toy.trial("vera", 10),
}
"""24 steps, 6 an epoch: allocations after 3, 6, … 15 and, the last, 17."""


def pack_for(configs: Sequence[TrialConfig], *, dtype: torch.dtype = torch.float64, **shape: int) -> Pack:
    full = configs[0].method == "fmft"
    outputs = any(config.kind.outputs != "none" for config in configs)
    values = {"capacity": len(configs), "max_rank": 5, "max_labels": 3, "outputs": outputs} | shape
    return Pack(toy.opt_backbone(dtype=dtype), full=full, dtype=dtype, **values)


def train(pack: Pack, steps: int) -> None:
    for _ in range(steps):
        pack.step()


def tensors(pack: Pack) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in pack.tensors().items()}


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


# --- going on ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, dict[str, Tensor]]:
    ends = {}
    for name, config in METHODS.items():
        pack = pack_for([config])
        slot = pack.admit(config, TASK)
        train(pack, slot.total_steps)
        ends[name] = tensors(pack)
    return ends


STOPS = [0, 2, 3, 4, 9, 16, 17, 18, 24]
"""Before the first step; around the first allocation, one in mid-epoch, and the last; at the end."""


@pytest.mark.parametrize("method", METHODS)
def test_resumed_is_bit_equal_alone(method: str, uninterrupted: dict, tmp_path: Path) -> None:
    config = METHODS[method]
    pack = pack_for([config])
    slot = pack.admit(config, TASK)
    for stop in STOPS if method in ("ars", "held") else STOPS[3:7:2]:
        train(pack, stop - slot.step)
        save_slot(pack, slot, tmp_path / str(stop))
        other = pack_for([config])
        resumed = load_slot(other, tmp_path / str(stop), TASK)
        assert (resumed.config, resumed.step) == (config, stop)
        assert_equal(tensors(other), tensors(pack))
        train(other, resumed.total_steps - stop)
        assert resumed.done
        assert_equal(tensors(other), uninterrupted[method])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_resumed_is_bit_equal_beside_neighbours(dtype: torch.dtype, tmp_path: Path) -> None:
    entries = [(METHODS["ars"], TASK), (METHODS["lora"], LABELLED), (METHODS["held"], TASK)]
    configs = [config for config, _ in entries]
    whole = pack_for(configs, dtype=dtype)
    slots = [whole.admit(*entry) for entry in entries]
    folders = {stop: tmp_path / str(stop) for stop in (4, 15, 17)}
    for stop, folder in folders.items():
        train(whole, stop - slots[0].step)
        for number, slot in enumerate(slots):
            save_slot(whole, slot, folder / str(number))
    train(whole, 24 - slots[0].step)
    for stop, folder in folders.items():
        other = pack_for(configs, dtype=dtype)
        resumed = [load_slot(other, folder / str(i), data) for i, (_, data) in enumerate(entries)]
        assert [slot.row for slot in resumed] == [slot.row for slot in slots]
        train(other, 24 - stop)
        assert_equal(tensors(other), tensors(whole))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_resumed_elsewhere_is_the_same_trial(dtype: torch.dtype, tolerance: float, tmp_path: Path) -> None:
    """Another slot of a larger pack of other ranks and outputs, beside trials of another task."""
    entries = [(METHODS["ars"], TASK), (METHODS["held"], LABELLED), (METHODS["lora"], LABELLED)]
    for i, (config, data) in enumerate(entries):
        alone = pack_for([config], dtype=dtype)
        slot = alone.admit(config, data)
        train(alone, 8)
        save_slot(alone, slot, tmp_path / str(i))
        train(alone, slot.total_steps - 8)
        other = pack_for([config], dtype=dtype, capacity=4, max_rank=8, max_labels=6)
        neighbours = [other.admit(toy.trial("adalora", s, b0=6), toy.task(longest=17)) for s in (8, 9)]
        train(other, 3)
        resumed = load_slot(other, tmp_path / str(i), data)
        assert resumed.row == 2
        other.release(neighbours[0])  # the resumed trial moves to another row
        train(other, resumed.total_steps - 8)
        assert rank_pattern(other, resumed) == rank_pattern(alone, slot)
        assert other.take_loss(resumed) == pytest.approx(alone.take_loss(slot), abs=tolerance * 24)
        logits = [pack.predict(s, data.dev) for pack, s in ((other, resumed), (alone, slot))]
        np.testing.assert_allclose(*logits, rtol=0, atol=tolerance)


def test_a_saved_slot_can_be_saved_again_from_another_pack(tmp_path: Path) -> None:
    """What is written depends on the trial alone, not on the shape of its pack."""
    pack, slot = trained("ars")
    save_slot(pack, slot, tmp_path / "a")
    other = pack_for([slot.config], capacity=3, max_rank=9, max_labels=7)
    other.admit(METHODS["lora"], TASK)
    save_slot(other, load_slot(other, tmp_path / "a", TASK), tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / file.name).read_bytes() == file.read_bytes()


# --- the files --------------------------------------------------------------------------------------------


def trained(method: str, steps: int = 7) -> tuple[Pack, Slot]:
    pack = pack_for([METHODS[method]])
    slot = pack.admit(METHODS[method], TASK)
    train(pack, steps)
    return pack, slot


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    pack, slot = trained("ars")
    save_slot(pack, slot, tmp_path / "slot")
    return tmp_path / "slot"


def refusal(folder: Path, data: TaskData = TASK, *, pack: Pack | None = None) -> str:
    """The line with which a folder is refused; the pack stays as empty as it was."""
    pack = pack or pack_for([METHODS["ars"]])
    with pytest.raises(StateError) as caught:
        load_slot(pack, folder, data)
    assert not pack.slots
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_a_saved_slot_is_one_tensor_file_and_one_json(saved: Path) -> None:
    pack = pack_for([METHODS["ars"]])
    slot = load_slot(pack, saved, TASK)
    for _ in range(3):
        pack.step()
        save_slot(pack, slot, saved)
    names = sorted(path.name for path in saved.iterdir())
    assert len(names) == 2
    assert names[1] == "slot.json" and names[0].endswith(".safetensors")
    header = (saved / names[0]).read_bytes()
    size = int.from_bytes(header[:8], "little")
    assert len(json.loads(header[8 : 8 + size])) > 100
    assert json.loads((saved / "slot.json").read_text())["step"] == 10


def test_any_damaged_byte_is_refused(saved: Path) -> None:
    rng = np.random.default_rng(0)
    for path in sorted(saved.iterdir()):
        content = path.read_bytes()
        for at in rng.choice(len(content) - 1, 25, replace=False):
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            try:
                refusal(saved)
            except pytest.fail.Exception:
                # Where only the layout of the JSON is hit, its content is still the one saved.
                assert path.suffix == ".json" and content[at : at + 1].isspace()
        path.write_bytes(content[: len(content) // 2])
        refusal(saved)
        path.write_bytes(b"")
        refusal(saved)
        path.unlink()
        refusal(saved)
        path.write_bytes(content)
    load_slot(pack_for([METHODS["ars"]]), saved, TASK)


@pytest.mark.parametrize(
    "content", ["[]", "{}", "null", '{"format": 2}', '{"format": 1}', '{"format": 1, "seal": 3}']
)
def test_foreign_json_is_refused(saved: Path, content: str) -> None:
    (saved / "slot.json").write_text(content)
    refusal(saved)


def test_another_backbone_task_or_number_type_is_refused_by_name(saved: Path) -> None:
    ars = METHODS["ars"]
    assert "torch.float32" in refusal(saved, pack=pack_for([ars], dtype=torch.float32))
    assert "task 'toy', here 'mine'" in refusal(saved, replace(TASK, name="mine"))
    assert "digest 'toy-0', here 'changed'" in refusal(saved, replace(TASK, digest="changed"))
    backbone = replace(toy.opt_backbone(), digest="retrained")
    pack = Pack(backbone, max_rank=5, dtype=torch.float64)
    assert "backbone_digest 'toy', here 'retrained'" in refusal(saved, pack=pack)


def test_a_pack_without_room_refuses(saved: Path) -> None:
    for pack in (pack_for([METHODS["fmft"]]), pack_for([METHODS["ars"]], max_rank=2)):
        with pytest.raises(ValueError, match="pack"):
            load_slot(pack, saved, TASK)
        assert not pack.slots


@pytest.mark.parametrize("moment", range(5))
def test_killed_while_saving_leaves_the_old_state_or_the_new(
    saved: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies before, between and after the two writes and their renames."""
    pack = pack_for([METHODS["ars"]])
    slot = load_slot(pack, saved, TASK)
    before = tensors(pack)
    train(pack, 3)
    calls = 0

    def dying(method: str) -> Callable[..., object]:
        real = getattr(Path, method)

        def call(path: Path, *args: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls - 1 == moment:
                if method == "write_bytes":
                    real(path, args[0][:1000])  # type: ignore[index]
                raise KeyboardInterrupt
            return real(path, *args, **options)

        return call

    with monkeypatch.context() as patch:
        for method in ("write_bytes", "replace", "unlink"):
            patch.setattr(Path, method, dying(method))
        with pytest.raises(KeyboardInterrupt):
            save_slot(pack, slot, saved)
    other = pack_for([METHODS["ars"]])
    resumed = load_slot(other, saved, TASK)
    new = moment == 4  # the JSON is there; only the old file was still to be removed
    assert resumed.step == (10 if new else 7)
    assert_equal(tensors(other), tensors(pack) if new else before)
    save_slot(pack, slot, saved)
    assert len(list(saved.iterdir())) == 2
