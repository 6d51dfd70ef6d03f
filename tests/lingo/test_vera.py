"""VeRA: equal to peft's step by step, its fixed pair drawn as peft draws it, and its exports."""

from pathlib import Path

import pytest
import torch

from lingo.pack import Pack
from lingo.slot import Slot
from lingo.streams import stream_seed
from lingo.trial import TrialConfig
from tests.lingo import toy
from tests.lingo.live_peft import CASES, Theirs, check_export, check_products, follow, in_peft


def in_vera(pack: Pack, slot: Slot) -> Theirs:
    """peft draws its fixed pair itself, by the same key."""
    theirs = in_peft(pack, slot, projection_prng_key=stream_seed(slot.config.seed, "init"))
    assert sum(one.numel() for one in theirs.trained()) == sum(
        slot.rank + pack.layout.site(path).d_out for path in slot.paths
    ) + 3 * (pack.layout.hidden + 1)
    return theirs


@pytest.mark.parametrize(("dropout", "dtype", "tolerance", "beside"), CASES)
def test_every_step_follows_peft(
    dropout: float, dtype: torch.dtype, tolerance: float, beside: tuple[TrialConfig, ...]
) -> None:
    config = toy.trial("vera", 11, rank=5, learning_rate=3e-2, weight_decay=0.1, adapter_dropout=dropout)
    pack, slot = follow(config, dtype, tolerance, theirs=in_vera, beside=beside)
    fresh = Pack(toy.opt_backbone(dtype=dtype), max_rank=7, max_labels=4, outputs=True, dtype=dtype)
    start = fresh.admit(config, slot.data)
    for path in slot.paths:
        own, first = (
            held.layout.parts(held.bank.theta[one.row : one.row + 1], held.layout.site(path))
            for held, one in ((pack, slot), (fresh, start))
        )
        (p, lam, q), (p0, lam0, q0), rank = own, first, slot.rank
        assert torch.equal(p[:, :rank], p0) and torch.equal(q[:rank], q0)  # as they were
        assert not torch.equal(lam[:rank], lam0)


def test_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_export("vera", tmp_path, monkeypatch, layout="vera")


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_its_products_are_counted(dropout: float) -> None:
    check_products("vera", dropout=dropout)
