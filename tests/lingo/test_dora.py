"""DoRA: equal to peft's step by step, also with dropout, and its exports."""

from pathlib import Path

import pytest
import torch

from lingo.pack import Pack
from lingo.trial import TrialConfig
from tests.lingo import toy
from tests.lingo.live_peft import CASES, check_export, check_products, follow, in_peft


@pytest.mark.parametrize(("dropout", "dtype", "tolerance", "beside"), CASES)
def test_every_step_follows_peft(
    dropout: float, dtype: torch.dtype, tolerance: float, beside: tuple[TrialConfig, ...]
) -> None:
    config = toy.trial(
        "dora", 11, rank=5, alpha=7, adapter_dropout=dropout, warmup_ratio=0.2, max_grad_norm=0.5
    )
    follow(config, dtype, tolerance, theirs=lambda *own: in_peft(*own, use_dora=True), beside=beside)


def test_lengths_start_as_those_of_the_frozen_rows() -> None:
    pack = Pack(toy.opt_backbone(), max_rank=4, outputs=True, dtype=torch.float64)
    slot = pack.admit(toy.trial("dora"), toy.task())
    for path in slot.paths:
        site = pack.layout.site(path)
        held = pack.layout.out(pack.bank.theta, pack.layout.groups[site.group])[0, site.index]
        weight = pack.backbone.model.get_submodule(path).weight
        torch.testing.assert_close(held, weight.norm(dim=1))


def test_a_pack_without_numbers_of_outputs_refuses_it() -> None:
    pack = Pack(toy.opt_backbone(), max_rank=4)
    with pytest.raises(ValueError, match="`method` dora needs a pack with `outputs`"):
        pack.admit(toy.trial("dora"), toy.task())


def test_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_export("dora", tmp_path, monkeypatch, layout="dora")


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_its_products_are_counted(dropout: float) -> None:
    check_products("dora", dropout=dropout)
