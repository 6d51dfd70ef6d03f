"""rsLoRA: equal to peft's step by step, and its exports."""

import math
from pathlib import Path

import pytest
import torch

from lingo.methods import METHODS
from tests.lingo import toy
from tests.lingo.live_peft import EXACT, check_export, follow, in_peft

BESIDE = (toy.trial("ars", 2), toy.trial("lora", 3, rank=7))


@pytest.mark.parametrize(("dtype", "tolerance"), EXACT)
def test_every_step_follows_peft(dtype: torch.dtype, tolerance: float) -> None:
    config = toy.trial(
        "rslora", 11, rank=5, alpha=7, adapter_dropout=0.0, warmup_ratio=0.2, max_grad_norm=0.5
    )
    beside = BESIDE if dtype == torch.float32 else ()
    follow(config, dtype, tolerance, theirs=lambda *own: in_peft(*own, use_rslora=True), beside=beside)


def test_the_scale_falls_with_the_root_of_the_rank() -> None:
    scales = [METHODS["rslora"].scale(toy.trial("rslora", rank=rank, alpha=6)) for rank in (1, 4, 9)]
    assert scales == [6, 3, 2]
    assert METHODS["rslora"].scale(toy.trial("rslora", rank=8, alpha=math.sqrt(8))) == pytest.approx(1)


def test_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_export("rslora", tmp_path, monkeypatch)
