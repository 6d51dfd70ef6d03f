"""Step-by-step parity with the installed peft, beyond the frozen numbers of `test_peft_oracle`."""

import pytest
import torch

from lingo.pack import Pack
from lingo.trial import TrialConfig
from tests.lingo import toy
from tests.lingo.live_peft import EXACT, TARGETS, TASK, compare_logits, in_peft, parts


def trial(method: str, seed: int, **values: object) -> TrialConfig:
    return toy.trial(method, seed, adapter_dropout=0.0, **values)


TRIALS = {
    "lora": trial("lora", 11, rank=5, learning_rate=5e-3, warmup_ratio=0.2),
    "lora, clipped": trial(
        "lora", 12, rank=2, alpha=7, max_grad_norm=0.2, weight_decay=0.1, targets=("W_q", "W_v")
    ),
    "adalora": trial("adalora", 13, b0=5, bT=2, delta_T=4, max_grad_norm=None),
    "adalora, clipped": trial(
        "adalora",
        14,
        b0=6,
        bT=1,
        max_grad_norm=0.3,
        beta1=0.7,
        beta2=0.9,
        alpha=16,
        orthogonality=0.2,
        warmup_ratio=0.3,
        initial_warmup_ratio=0.25,
        final_finetune_ratio=0.2,
        targets=tuple(TARGETS),
    ),
    "adalora, constant rate": trial(
        "adalora",
        15,
        b0=3,
        bT=2,
        delta_T=5,
        lr_schedule="constant",
        warmup_ratio=0.0,
        targets=("W_v", "W_f2"),
    ),
}


@pytest.mark.parametrize(("dtype", "tolerance"), EXACT)
@pytest.mark.parametrize("name", TRIALS)
def test_every_step_follows_peft(name: str, dtype: torch.dtype, tolerance: float) -> None:
    pack = Pack(toy.opt_backbone(dtype=dtype), max_rank=7, max_labels=4, dtype=dtype)
    slot = pack.admit(TRIALS[name], TASK)
    theirs = in_peft(pack, slot)
    assert len(theirs.trained()) == len(slot.paths) * (2 + slot.svd) + 2
    masked = 0
    while not slot.done:
        rows = slot.batch()
        ids, _ = TASK.train.padded(rows, TASK.pad_id)
        loss = theirs.step(torch.from_numpy(ids), torch.from_numpy(TASK.train.labels[rows]))
        pack.step()
        assert pack.take_loss(slot) == pytest.approx(loss, abs=tolerance), slot.step
        for what, ours, expected in parts(pack, slot, theirs.model):
            torch.testing.assert_close(
                ours, expected.detach(), rtol=0, atol=tolerance, msg=f"{slot.step} {what}"
            )
            if what.endswith("lam"):
                assert torch.equal(ours != 0, expected != 0), (slot.step, what)
                masked += int((expected == 0).sum())
    assert (masked > 50) == slot.svd
    compare_logits(pack, slot, theirs.model, tolerance)
