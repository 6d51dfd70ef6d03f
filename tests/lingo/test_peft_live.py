"""Step-by-step parity with the installed peft, beyond the frozen numbers of `test_peft_oracle`."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import OPTForSequenceClassification, get_linear_schedule_with_warmup

from lingo.pack import Pack
from lingo.slot import Slot
from lingo.trial import TrialConfig
from tests.lingo import toy

peft = pytest.importorskip("peft")

TASK = toy.task(rows=40, labels=3, longest=10)
TARGETS = {"W_q": "q_proj", "W_k": "k_proj", "W_v": "v_proj", "W_o": "out_proj", "W_f1": "fc1", "W_f2": "fc2"}


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


@dataclass
class Theirs:
    """The same trial in peft, with a plain training loop."""

    config: TrialConfig
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    step_count: int = 0

    def step(self, ids: Tensor, labels: Tensor) -> float:
        """One step in the order of peft's documentation. Returns the loss without the orthogonality term."""
        out = self.model(input_ids=ids, attention_mask=(ids != 1).long(), labels=labels)
        loss = F.cross_entropy(out.logits, labels)
        # transformers' own loss may pass through float32; what peft adds to it is taken as it is.
        (out.loss - self.model_loss(out.logits, labels) + loss).backward()
        if self.config.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.trained(), self.config.max_grad_norm)
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


def in_peft(pack: Pack, slot: Slot) -> Theirs:
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
        "lora_dropout": 0.0,
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
    else:
        ranks = peft.LoraConfig(r=config.rank, **common)
    wrapped = peft.get_peft_model(model, ranks).to(pack.dtype)
    wrapped.eval()  # the backbone's own dropout is off here
    for name, parameter in wrapped.named_parameters():
        if "ranknum" in name:  # peft makes this count trainable when it moves it to another number type
            parameter.requires_grad_(False)
    theirs = Theirs(config, wrapped, *optimiser(wrapped, slot))
    copy(pack, slot, wrapped)
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


@torch.no_grad()
def copy(pack: Pack, slot: Slot, model: nn.Module) -> None:
    for _, ours, theirs in parts(pack, slot, model):
        theirs.copy_(ours)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
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


@torch.no_grad()
def compare_logits(pack: Pack, slot: Slot, model: nn.Module, tolerance: float) -> None:
    ids, _ = TASK.dev.padded(range(len(TASK.dev)), TASK.pad_id)
    ids = torch.from_numpy(ids)
    logits = model(input_ids=ids, attention_mask=(ids != 1).long()).logits.double()
    ours = torch.from_numpy(pack.predict(slot, TASK.dev))
    torch.testing.assert_close(ours, logits, rtol=0, atol=10 * tolerance)
