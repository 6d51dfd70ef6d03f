"""rsLoRA: equal to peft's step by step, and its exports."""

import math
from pathlib import Path

import pytest
import torch

from lingo.methods import METHODS
from lingo.trial import TrialConfig
from tests.lingo import toy
from tests.lingo.live_peft import CASES, check_export, follow, in_peft


@pytest.mark.parametrize(("dropout", "dtype", "tolerance", "beside"), CASES)
def test_every_step_follows_peft(
    dropout: float, dtype: torch.dtype, tolerance: float, beside: tuple[TrialConfig, ...]
) -> None:
    config = toy.trial(
        "rslora", 11, rank=5, alpha=7, adapter_dropout=dropout, warmup_ratio=0.2, max_grad_norm=0.5
    )
    follow(config, dtype, tolerance, theirs=lambda *own: in_peft(*own, use_rslora=True), beside=beside)


def test_the_scale_falls_with_the_root_of_the_rank() -> None:
    scales = [METHODS["rslora"].scale(toy.trial("rslora", rank=rank, alpha=6)) for rank in (1, 4, 9)]
    assert scales == [6, 3, 2]
    assert METHODS["rslora"].scale(toy.trial("rslora", rank=8, alpha=math.sqrt(8))) == pytest.approx(1)


def test_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_export("rslora", tmp_path, monkeypatch)
