"""PiSSA: equal to peft's step by step, from the same start, and its exports as a converted LoRA."""

from pathlib import Path

import pytest
import torch

from lingo.pack import Pack
from lingo.slot import Slot
from lingo.trial import TrialConfig
from tests.lingo import toy
from tests.lingo.live_peft import CASES, Theirs, check_export, check_products, follow, in_peft, parts


def in_pissa(pack: Pack, slot: Slot) -> Theirs:
    """peft computes singular values in float32 alone: for float64, W0 is made exact after that."""
    theirs = in_peft(pack, slot)  # a copy of our P and Q at the start
    scale = slot.scale
    for path in slot.paths:
        layer = theirs.model.get_base_model().model.get_submodule(path)
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        layer.base_layer.weight.data -= scale * (b @ a).detach()
    return theirs


@pytest.mark.parametrize(("dropout", "dtype", "tolerance", "beside"), CASES)
def test_every_step_follows_peft(
    dropout: float, dtype: torch.dtype, tolerance: float, beside: tuple[TrialConfig, ...]
) -> None:
    config = toy.trial(
        "pissa", 11, rank=5, alpha=7, adapter_dropout=dropout, warmup_ratio=0.2, max_grad_norm=0.5
    )
    follow(config, dtype, tolerance, theirs=in_pissa, beside=beside)


def test_it_starts_where_peft_does() -> None:
    pack = Pack(toy.opt_backbone(dtype=torch.float32), max_rank=7, max_labels=4)
    slot = pack.admit(toy.trial("pissa", 3, rank=4, alpha=6), toy.task(labels=3))
    ours = {name: part.clone() for name, part, _ in parts(pack, slot, in_peft(pack, slot).model)}
    model = in_peft(pack, slot, init_lora_weights="pissa", copied=False).model
    for path in slot.paths:
        layer = model.get_base_model().model.get_submodule(path)
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        torch.testing.assert_close(ours[f"{path}.P"], a, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours[f"{path}.Q"], b, rtol=1e-4, atol=1e-5)


def test_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_export("pissa", tmp_path, monkeypatch)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_its_products_are_counted(dropout: float) -> None:
    check_products("pissa", dropout=dropout)
