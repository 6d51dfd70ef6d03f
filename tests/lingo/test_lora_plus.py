"""LoRA+: equal to peft's optimiser for it step by step, and its exports."""

import math
from pathlib import Path

import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from lingo.pack import Pack
from lingo.slot import Slot
from lingo.trial import TrialConfig
from tests.lingo import toy
from tests.lingo.live_peft import CASES, Theirs, check_export, follow, in_peft


def in_lora_plus(pack: Pack, slot: Slot) -> Theirs:
    from peft.optimizers import create_loraplus_optimizer

    theirs, config = in_peft(pack, slot), slot.config
    theirs.optimizer = create_loraplus_optimizer(
        theirs.model,
        torch.optim.AdamW,
        lr=config.learning_rate,
        loraplus_lr_ratio=config.lr_ratio,
        loraplus_weight_decay=config.weight_decay,
    )
    warmup = math.ceil(config.warmup_ratio * slot.total_steps)
    theirs.schedule = get_linear_schedule_with_warmup(theirs.optimizer, warmup, slot.total_steps)
    return theirs


@pytest.mark.parametrize(("dropout", "dtype", "tolerance", "beside"), CASES)
def test_every_step_follows_peft(
    dropout: float, dtype: torch.dtype, tolerance: float, beside: tuple[TrialConfig, ...]
) -> None:
    config = toy.trial(
        "lora_plus", 11, rank=5, lr_ratio=9.0, learning_rate=3e-3, weight_decay=0.2, adapter_dropout=dropout,
        warmup_ratio=0.2,
    )  # fmt: skip
    follow(config, dtype, tolerance, theirs=in_lora_plus, beside=beside)


def test_at_the_ratio_one_it_is_lora_to_the_bit_and_no_neighbour_is_changed() -> None:
    found = []
    for method in ("lora", "lora_plus"):
        pack = Pack(toy.opt_backbone(dtype=torch.float32), capacity=3, max_rank=4)
        others = [toy.trial("lora_plus", 4, lr_ratio=20.0)] if method == "lora_plus" else []
        slots = [
            pack.admit(config, toy.task())
            for config in (toy.trial(method, 1, lr_ratio=1.0), toy.trial("ars", 2), *others)
        ]
        for _ in range(8):
            pack.step()
        found.append(pack.bank.theta[[slot.row for slot in slots[:2]]].clone())
    assert torch.equal(*found)


def test_a_ratio_below_one_is_refused() -> None:
    assert toy.trial("lora_plus", lr_ratio=0.5).problems() == [
        "`lr_ratio` must be at least 1 and at most 1000, but got 0.5."
    ]
    assert not toy.trial("lora", lr_ratio=0.5).problems()  # not read
    assert "lr_ratio" not in toy.trial("lora").to_dict() and "lr_ratio" in toy.trial("lora_plus").to_dict()


def test_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_export("lora_plus", tmp_path, monkeypatch)
