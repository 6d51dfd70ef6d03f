"""A trial of a pack beside the same trial in the installed peft, with a plain training loop."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import OPTForSequenceClassification, get_linear_schedule_with_warmup

from lingo.adapters import AdapterBank
from lingo.export import export_adapter
from lingo.pack import Pack
from lingo.predict import Encoded, open_adapter
from lingo.slot import Slot
from lingo.trial import TrialConfig
from tests.lingo import toy
from tests.lingo.test_export import assert_adapters_matter, loaded
from tests.lingo.tiny import Checkpoints, task
from tests.lingo.tiny import train as train_tiny
from tests.support.merged import merge

peft = pytest.importorskip("peft")

TASK = toy.task(rows=40, labels=3, longest=10)
TARGETS = {"W_q": "q_proj", "W_k": "k_proj", "W_v": "v_proj", "W_o": "out_proj", "W_f1": "fc1", "W_f2": "fc2"}
EXACT = [(torch.float32, 1e-5), (torch.float64, 1e-10)]
"""Number types and the largest difference in each."""

BESIDE = (toy.trial("ars", 2), toy.trial("lora", 3, rank=7))
CASES = [(0.0, torch.float32, 1e-5, BESIDE), (0.3, torch.float64, 1e-10, ())]
"""Dropout, number type, largest difference, and what trains in the same pack."""


@dataclass
class Theirs:
    """The same trial in peft, with a plain training loop."""

    config: TrialConfig
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    step_count: int = 0
    gradients: dict[int, Tensor] = field(default_factory=dict)
    """Of the last step, clipped, by the parameter's id."""

    def step(self, ids: Tensor, labels: Tensor) -> float:
        """One step in the order of peft's documentation. Returns the loss without the orthogonality term."""
        out = self.model(input_ids=ids, attention_mask=(ids != 1).long(), labels=labels)
        loss = F.cross_entropy(out.logits, labels)
        # transformers' own loss may pass through float32; what peft adds to it is taken as it is.
        (out.loss - self.model_loss(out.logits, labels) + loss).backward()
        if self.config.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.trained(), self.config.max_grad_norm)
        self.gradients = {id(one): one.grad.clone() for one in self.trained() if one.grad is not None}
        self.optimizer.step()
        self.schedule.step()
        self.step_count += 1
        if self.config.kind.has_budget:
            self.model.base_model.update_and_allocate(self.step_count)
        self.optimizer.zero_grad()
        return float(loss.detach())

    def model_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        config = self.model.config
        return self.model.get_base_model().loss_function(labels=labels, pooled_logits=logits, config=config)

    def trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


class Masked(nn.Module):
    """Dropout by the masks that a pack, in which the slot is alone, drew in its last step."""

    def __init__(self, pack: Pack, slot: Slot, path: str) -> None:
        super().__init__()
        self.pack, self.share, self.path = pack, 1 - slot.dropout, path

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.pack.bank, AdapterBank)
        kept = self.pack.bank._modules[self.path].dropped.kept
        return x if kept is None or not self.training else x * kept.view(x.shape) / self.share


def in_peft(pack: Pack, slot: Slot, *, copied: bool = True, **settings: Any) -> Theirs:
    """The slot's trial, at step 0; `settings` are more arguments of peft's configuration, whose first values are ours
    where `copied`."""
    config, base = slot.config, toy.opt_backbone(dtype=pack.dtype).model
    base.config.num_labels = TASK.num_labels
    model = OPTForSequenceClassification(base.config)
    model.score = nn.Linear(model.score.in_features, TASK.num_labels)  # transformers' own has no bias
    model.to(pack.dtype)
    model.model.load_state_dict(base.state_dict())
    common = {
        "task_type": "SEQ_CLS",
        "target_modules": [TARGETS[name] for name in config.targets],
        "modules_to_save": ["score"],
        "lora_alpha": config.alpha,
        "lora_dropout": config.adapter_dropout,
    }
    if slot.svd:
        first, last = config.budget_phase(slot.total_steps)
        ranks = peft.AdaLoraConfig(
            init_r=config.b0,
            target_r=config.bT,
            tinit=first,
            tfinal=slot.total_steps - last,
            total_step=slot.total_steps,
            deltaT=config.delta_T,
            beta1=config.beta1,
            beta2=config.beta2,
            orth_reg_weight=config.orthogonality,
            **common,
        )
    elif config.kind.outputs == "scales":
        del common["lora_alpha"], common["lora_dropout"]
        ranks = peft.VeraConfig(r=config.rank, vera_dropout=config.adapter_dropout, **common, **settings)
    else:
        ranks = peft.LoraConfig(r=config.rank, **common, **settings)
    wrapped = peft.get_peft_model(model, ranks).to(pack.dtype)
    wrapped.eval()  # the backbone's own dropout is off here
    for name, parameter in wrapped.named_parameters():
        if "ranknum" in name:  # peft makes this count trainable when it moves it to another number type
            parameter.requires_grad_(False)
    theirs = Theirs(config, wrapped, *optimiser(wrapped, slot))
    if copied:
        copy(pack, slot, wrapped)
    for path in slot.paths if slot.dropout else ():
        layer = wrapped.get_base_model().model.get_submodule(path).train()
        held = layer.vera_dropout if config.kind.outputs == "scales" else layer.lora_dropout
        held["default"] = Masked(pack, slot, path)
    return theirs


def optimiser(
    model: nn.Module, slot: Slot
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    config = slot.config
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    bias = score(model).bias  # not decayed
    groups = [
        {"params": [parameter for parameter in trained if parameter is not bias]},
        {"params": [bias], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
    if config.lr_schedule == "constant":
        return adamw, torch.optim.lr_scheduler.LambdaLR(adamw, lambda _: 1.0)
    warmup = math.ceil(config.warmup_ratio * slot.total_steps)
    return adamw, get_linear_schedule_with_warmup(adamw, warmup, slot.total_steps)


def parts(pack: Pack, slot: Slot, model: nn.Module) -> list[tuple[str, Tensor, Tensor]]:
    """(name, ours, theirs) of every trained tensor."""
    row = slice(slot.row, slot.row + 1)
    theta, layout = pack.bank.theta[row], pack.layout
    found = [
        ("head", layout.head(theta)[0, :, : TASK.num_labels].t(), score(model).weight),
        ("bias", layout.head_bias(theta)[0, 0, : TASK.num_labels], score(model).bias),
    ]
    for path in slot.paths:
        site = pack.layout.site(path)
        p, lam, q = pack.layout.parts(pack.bank.theta[row], site)
        layer = model.get_base_model().model.get_submodule(path)
        if slot.config.kind.outputs != "none":
            outputs = layout.out(theta, layout.groups[site.group])[0, site.index]
        if slot.config.kind.outputs == "scales":
            found.append((f"{path}.d", lam[: slot.rank], layer.vera_lambda_d["default"]))
            found.append((f"{path}.b", outputs, layer.vera_lambda_b["default"]))
            continue
        if slot.config.kind.outputs == "lengths":
            found.append((f"{path}.m", outputs, layer.lora_magnitude_vector["default"].weight))
        names = ("lora_A", "lora_B", "lora_E")[: 2 + slot.svd]
        a, b, *e = (getattr(layer, name)["default"] for name in names)
        a, b = (part.weight if isinstance(part, nn.Linear) else part for part in (a, b))
        found += [(f"{path}.P", p[:, : slot.rank].t(), a), (f"{path}.Q", q[: slot.rank].t(), b)]
        if slot.svd:
            keep = pack.layout.of_group(pack.bank.keep[row], pack.layout.groups[site.group])[0, site.index]
            found.append((f"{path}.lam", (lam * keep)[: slot.rank], e[0][:, 0]))
    return found


def score(model: nn.Module) -> nn.Linear:
    return model.base_model.model.score.modules_to_save["default"]


def gradients(pack: Pack, slot: Slot, theirs: Theirs) -> list[tuple[str, Tensor, Tensor]]:
    """(name, ours, theirs) of every trained tensor's gradient in the last step. A budget uses them up."""
    theta, pack.bank.theta = pack.bank.theta, pack.bank.grad[:, :-1]
    try:
        ours = parts(pack, slot, theirs.model)
    finally:
        pack.bank.theta = theta
    return [(name, own, theirs.gradients[id(other)]) for name, own, other in ours]


@torch.no_grad()
def copy(pack: Pack, slot: Slot, model: nn.Module) -> None:
    for _, ours, theirs in parts(pack, slot, model):
        theirs.copy_(ours)


@torch.no_grad()
def compare_logits(pack: Pack, slot: Slot, model: nn.Module, tolerance: float) -> None:
    ids, _ = TASK.dev.padded(range(len(TASK.dev)), TASK.pad_id)
    ids = torch.from_numpy(ids)
    logits = model(input_ids=ids, attention_mask=(ids != 1).long()).logits.double()
    ours = torch.from_numpy(pack.predict(slot, TASK.dev))
    torch.testing.assert_close(ours, logits, rtol=0, atol=10 * tolerance)


def follow(
    config: TrialConfig,
    dtype: torch.dtype,
    tolerance: float,
    *,
    theirs: Callable[[Pack, Slot], Theirs] = in_peft,
    beside: Sequence[TrialConfig] = (),
) -> tuple[Pack, Slot]:
    """Train to the end beside peft, and compare loss, gradients (in a pack without others) and weights of each step,
    then the logits."""
    pack = Pack(
        toy.opt_backbone(dtype=dtype),
        capacity=1 + len(beside),
        max_rank=7,
        max_labels=4,
        outputs=True,
        dtype=dtype,
    )
    for other in beside:
        pack.admit(other, toy.task(rows=200, seed=3))
    slot = pack.admit(config, TASK)
    peer = theirs(pack, slot)
    while not slot.done:
        rows = slot.batch()
        ids, _ = TASK.train.padded(rows, TASK.pad_id)
        pack.step()
        loss = peer.step(torch.from_numpy(ids), torch.from_numpy(TASK.train.labels[rows]))
        assert pack.take_loss(slot) == pytest.approx(loss, abs=tolerance), slot.step
        compared = parts(pack, slot, peer.model)
        if not beside:
            compared += [(f"gradient of {name}", *two) for name, *two in gradients(pack, slot, peer)]
        for what, ours, expected in compared:
            torch.testing.assert_close(
                ours, expected.detach(), rtol=0, atol=tolerance, msg=f"{slot.step} {what}"
            )
    assert len(pack.running) == len(beside)
    compare_logits(pack, slot, peer.model.eval(), tolerance)
    return pack, slot


def check_export(
    method: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, layout: str = "lora", **settings: Any
) -> None:
    """Exports of a trained slot predict as the slot does, in plain peft (the program of their model card) and in
    `lingo.predict`; merged ones too."""
    checkpoints = Checkpoints(folder / "models")
    for name in ("opt", "gpt2"):
        backbone = checkpoints(name)
        pack = Pack(backbone, capacity=2, max_rank=8, outputs=True)
        values = {"epochs": 2, "learning_rate": 3e-2, "bT": 1, **settings}
        trials = [toy.trial(method, 1, **values), toy.trial("ars", 2, **values)]
        slot, _ = train_tiny(pack, task(backbone), trials, 25)
        assert_adapters_matter(pack, slot)
        expected = pack.predict(slot, slot.data.dev)
        out = export_adapter(pack, slot, folder / name, card={})
        merged = merge(pack, slot, folder / f"{name}-merged", card={})
        pack.close()
        for made in (out, merged):
            logits, _ = loaded(made, slot, monkeypatch)
            np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5)
        opened = open_adapter(out)
        assert opened.facts.layout == layout
        encoded = Encoded(slot.data.dev, len(slot.data.dev), 0)
        np.testing.assert_allclose(opened.compute(encoded), expected, rtol=0, atol=2e-5)


def check_products(method: str, *, dropout: float) -> None:
    """A step of a trial costs what a step of LoRA does and what the method says that it does beside that."""
    counts = {}
    for name in ("lora", method):
        pack = Pack(toy.opt_backbone(dtype=torch.float32), max_rank=3, max_labels=3, outputs=True)
        slot = pack.admit(toy.trial(name, 1, adapter_dropout=dropout), TASK)
        width = int(TASK.train.lengths[slot.batch()].max())
        with FlopCounterMode(display=False) as counter:
            pack.step()
        counts[name] = counter.get_total_flops()
    more = 0.0
    for path in slot.paths:
        site = pack.layout.site(path)
        first = ".0.self_attn" in path  # reads what no adapter has changed
        more += sum(
            slot.config.kind.products(
                slot.config, tokens=4 * width, d_in=site.d_in, d_out=site.d_out, needs_grad=not first
            )
        )
    assert counts[method] - counts["lora"] == pytest.approx(more)
