"""Frozen weights in 4 bits: what is computed, what is refused, and that nothing else changes."""

import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lingo import quantized
from lingo.backbones import Backbone
from lingo.foreign import peft_trial
from lingo.pack import Pack
from lingo.packed_bits import is_packed, numbers_in, unpacked
from lingo.quantized import four_bit_problem, load_frozen, quantize
from tests.lingo import toy
from tests.lingo.tiny import Checkpoints

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.gpu]),
]


@pytest.fixture
def bits() -> Iterator[None]:
    pytest.importorskip("bitsandbytes")
    yield


def wide(device: str) -> tuple[Backbone, Backbone]:
    """The same backbone twice: in 4 bits, and dense with the values that the 4 bits stand for."""
    packed, dense = (toy.opt_backbone(dtype=torch.float32, hidden=128, ffn=256, layers=2) for _ in range(2))
    quantize(packed)
    packed.model.to(device)
    dense.model.to(device)
    for path in {path for paths in packed.matrices.values() for path in paths}:
        weight = packed.model.get_submodule(path).weight
        assert is_packed(weight)
        with torch.no_grad():
            dense.model.get_submodule(path).weight.copy_(unpacked(weight))
    return packed, dense


@pytest.mark.parametrize("device", DEVICES)
def test_a_pack_on_4_bits_is_one_on_the_weights_they_stand_for(bits: None, device: str) -> None:
    losses = []
    for backbone in wide(device):
        pack = Pack(backbone, capacity=2)
        slots = [pack.admit(toy.trial(method, 1), toy.task()) for method in ("lora", "ars")]
        for _ in range(20):
            pack.step()
        losses.append([pack.take_loss(slot) for slot in slots])
        pack.close()
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_weights_are_near_and_a_quarter_of_their_size(bits: None) -> None:
    packed, dense = wide("cpu")
    plain = toy.opt_backbone(dtype=torch.float32, hidden=128, ffn=256, layers=2)
    path = "decoder.layers.1.fc1"
    weight, near = packed.model.get_submodule(path).weight, dense.model.get_submodule(path).weight
    exact = plain.model.get_submodule(path).weight
    assert weight.numel() * weight.element_size() * 8 == 4 * numbers_in(weight) == 4 * exact.numel()
    assert 0 < (near - exact).abs().max() < 0.2 * exact.abs().max()


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["lokr", "loha"])
def test_methods_of_peft_on_4_bits(bits: None, method: str) -> None:
    pytest.importorskip("peft")
    one = peft_trial(wide("cuda")[0], toy.trial(method, 1), toy.task(), device="cuda")
    losses = []
    while not one.done:
        if one.advance():
            losses.append(one.take_loss())
    assert losses[-1] < losses[0]


def test_layers_without_a_4_bit_form_are_refused(bits: None, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`--frozen 4bit` has no form for h\.0\.attn\.c_attn"):
        quantize(Checkpoints(tmp_path)("gpt2"))


def test_a_machine_without_the_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(
        ValueError, match=r"`--frozen 4bit` needs the library bitsandbytes.*lingo-bench\[4bit\]"
    ):
        load_frozen("nowhere", "4bit")


def test_a_machine_without_a_device_says_what_to_use_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", types.ModuleType("bitsandbytes"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert four_bit_problem() == (
        "needs a CUDA device, and this machine has none; use `--frozen fp32` or `--frozen bf16`."
    )


def test_other_types_need_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "four_bit_problem", lambda: "never asked")
    Checkpoints(tmp_path)("opt")
    for frozen, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), (None, torch.float32)):
        backbone = load_frozen(tmp_path / "opt", frozen)  # type: ignore[arg-type]
        assert {parameter.dtype for parameter in backbone.model.parameters()} == {dtype}
