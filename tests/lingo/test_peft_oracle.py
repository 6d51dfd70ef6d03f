"""Step-by-step parity with peft 0.21.2, from frozen numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import OPTConfig, OPTForCausalLM

from lingo.backbones import Backbone
from lingo.batch import Batch
from lingo.data import Split, TaskData
from lingo.pack import Pack
from lingo.slot import Slot
from lingo.trial import TrialConfig

DTYPES = {"f32": torch.float32, "f64": torch.float64}
NAMES = {
    "W_q": "self_attn.q_proj",
    "W_k": "self_attn.k_proj",
    "W_v": "self_attn.v_proj",
    "W_f1": "fc1",
    "W_f2": "fc2",
}


class LanguageModelPack(Pack):
    """A pack whose loss is that of the fixture: causal language modelling on given batches."""

    batches: dict[str, Tensor]

    def _losses(self, batch: Batch, rows: slice) -> Tensor:
        self.bank.drop()
        step = self.slots[0].step
        ids, mask, labels = (self.batches[k][step] for k in ("input_ids", "attention_mask", "labels"))
        logits = self.backbone.model(input_ids=ids, attention_mask=mask).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        return loss[None]


def fixture_pack(folder: Path, dtype: torch.dtype, method: str) -> tuple[LanguageModelPack, Slot]:
    config = json.loads((folder / "base_config.json").read_text())
    with torch.device("cpu"):
        model = OPTForCausalLM(OPTConfig(**config))
    model.load_state_dict(load_file(folder / "base_model.safetensors"), strict=False)
    model.tie_weights()
    model = model.to(dtype).eval().requires_grad_(False)
    layers = range(config["num_hidden_layers"])
    backbone = Backbone(
        name="oracle",
        model=model,
        tokenizer=None,
        hidden_size=32,
        max_length=64,
        causal=True,
        pad_id=1,
        pooling="last",
        matrices={k: [f"model.decoder.layers.{i}.{v}" for i in layers] for k, v in NAMES.items()},
        trained=True,
        digest="",
        source="",
    )
    rows = 30 * 4
    split = Split(np.ones(rows, np.int16), np.arange(rows + 1), np.zeros(rows, np.int64))
    data = TaskData(
        name="oracle", kind="classification", num_labels=1, metric="mcc", pad_id=1, train=split, dev=split
    )
    trial = TrialConfig(
        method=method,
        seed=0,
        learning_rate=1e-3,
        lr_schedule="constant",
        warmup_ratio=0.0,
        batch_size=4,
        epochs=1,
        weight_decay=5e-3,
        max_grad_norm=None,
        adapter_dropout=0.0,
        alpha=32,
        rank=8,
        b0=12,
        bT=6,
        delta_T=3,
        initial_warmup_ratio=5 / 30,
        final_finetune_ratio=8 / 30,
    )
    pack = LanguageModelPack(backbone, max_rank=12, max_labels=1, dtype=dtype)
    pack.batches = load_file(folder / "batches.safetensors")
    slot = pack.admit(trial, data)
    return pack, slot


def load_adapter(pack: Pack, slot: Slot, state: dict[str, Tensor], prefix: str = "base_model.model.") -> None:
    for path in slot.paths:
        p, lam, q = pack.layout.parts(pack.bank.theta[slot.row : slot.row + 1], pack.layout.site(path))
        a, b = (_find(state, prefix + path, name) for name in ("lora_A", "lora_B"))
        p[:, : a.shape[0]] = a.t()
        q[: b.shape[1]] = b.t()
        if slot.svd:
            lam[: len(a)] = _find(state, prefix + path, "lora_E")[:, 0]


def _find(state: dict[str, Tensor], path: str, name: str) -> Tensor:
    (key,) = [k for k in state if k.startswith(f"{path}.{name}")]
    return state[key]


def worst_weight(pack: Pack, slot: Slot, state: dict[str, Tensor]) -> float:
    worst = 0.0
    row = slice(slot.row, slot.row + 1)
    for path in slot.paths:
        p, lam, q = pack.layout.parts(pack.bank.theta[row], pack.layout.site(path))
        site = pack.layout.site(path)
        keep = pack.layout.of_group(pack.bank.keep[row], pack.layout.groups[site.group])[0, site.index]
        a, b = (_find(state, "base_model.model." + path, name) for name in ("lora_A", "lora_B"))
        pairs = [(p[:, : a.shape[0]].t(), a), (q[: b.shape[1]].t(), b)]
        if slot.svd:
            pairs.append((lam * keep, _find(state, "base_model.model." + path, "lora_E")[:, 0]))
        worst = max([worst, *(float((ours - theirs).abs().max()) for ours, theirs in pairs)])
    return worst


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("method", ["lora", "adalora"])
def test_losses_weights_budgets_masks_and_scores_follow_peft(shared: Path, method: str, kind: str) -> None:
    folder = shared / "oracles" / "peft"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    own = folder / method
    tolerance = {"f32": 1e-5, "f64": 1e-11}[kind]
    pack, slot = fixture_pack(folder, DTYPES[kind], method)
    load_adapter(pack, slot, load_file(own / "initial_state.safetensors"))
    trace = json.loads((own / f"trace_{kind}.json").read_text())
    states = load_file(own / f"states_{kind}.safetensors")
    masks = json.loads((own / "rank_masks.json").read_text())["masks"] if slot.svd else {}
    scores = load_file(own / f"scores_{kind}.safetensors") if slot.svd else {}
    for step in range(1, 31):
        pack.step()
        expected = trace[step - 1].get("loss_without_orth", trace[step - 1]["loss"])
        assert pack.take_loss(slot) == pytest.approx(expected, abs=tolerance)
        at = {k.split("/", 1)[1]: v for k, v in states.items() if k.startswith(f"step{step:02d}/")}
        if at:
            assert worst_weight(pack, slot, at) < tolerance, step
        if slot.schedule:
            assert slot.schedule.budget(step) == trace[step - 1]["budget"]
            assert slot.schedule.allocates(step) == trace[step - 1]["masked"]
        if f"step{step:02d}" in masks:
            check_masks(pack, slot, masks[f"step{step:02d}"])
        compared = check_scores(pack, slot, scores, step, tolerance)
        assert compared == (60 if slot.svd and step in (1, 5, 6, 12, 21) else 0)


def check_masks(pack: Pack, slot: Slot, masks: dict[str, list[bool]]) -> None:
    row = slice(slot.row, slot.row + 1)
    for path in slot.paths:
        (name,) = [k for k in masks if path in k]
        _, lam, _ = pack.layout.parts(pack.bank.theta[row], pack.layout.site(path))
        assert (lam != 0).tolist() == np.ravel(masks[name]).tolist()


def check_scores(pack: Pack, slot: Slot, scores: dict[str, Tensor], step: int, tolerance: float) -> int:
    """Compare the smoothed importance of every factor; returns how many tensors the fixture has at this step."""
    row = slice(slot.row, slot.row + 1)
    importance, compared = pack.importance, 0
    for path in slot.paths:
        site = pack.layout.site(path)
        for flat, name in ((importance.sensitivity, "exp_avg_ipt"), (importance.uncertainty, "exp_avg_unc")):
            for part, factor in zip(
                pack.layout.parts(flat[row], site), ("lora_A", "lora_E", "lora_B"), strict=True
            ):
                keys = [k for k in scores if k.startswith(f"step{step:02d}/{name}/{path}.{factor}")]
                for key in keys:
                    theirs = scores[key] if factor != "lora_E" else scores[key][:, 0]
                    ours = part if part.ndim == 1 else part.t()
                    assert torch.allclose(ours, theirs, rtol=0, atol=tolerance), key
                    compared += 1
    return compared
