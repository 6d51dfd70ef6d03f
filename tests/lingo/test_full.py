"""Full fine-tuning through the packed trainer against a plain loop of PyTorch's AdamW."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, GPT2Config, LlamaConfig, get_linear_schedule_with_warmup

from lingo.backbones import Backbone
from lingo.data import TaskData
from lingo.full import model_dropout
from lingo.pack import Pack
from lingo.slot import Slot
from lingo.trial import TrialConfig
from tests.lingo import toy
from tests.lingo.tiny import CAUSAL, ENCODERS, Checkpoints, task

TASK = toy.task(rows=30, labels=3, longest=10)
LABELLED = toy.task(rows=30, labels=2, longest=10, kind="multilabel", seed=2)
TRIALS = [
    (toy.trial("fmft", 1, learning_rate=2e-3, weight_decay=0.2, max_grad_norm=0.5, warmup_ratio=0.2), TASK),
    (toy.trial("fmft", 2, learning_rate=1e-3, batch_size=7, max_grad_norm=None, epochs=5), LABELLED),
]


class Plain(nn.Module):
    """The backbone with a linear head on the last token."""

    def __init__(self, backbone: Backbone, head: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.model = backbone.model.requires_grad_(True)
        self.head, self.bias = nn.Parameter(head.t().clone()), nn.Parameter(bias.clone())

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        hidden = self.model(input_ids=ids, attention_mask=(ids != 1).long()).last_hidden_state
        return hidden[torch.arange(len(ids)), lengths - 1] @ self.head.t() + self.bias

    def loss(self, data: TaskData, rows: object) -> Tensor:
        ids, lengths = (torch.from_numpy(part) for part in data.train.padded(rows, data.pad_id))
        logits, labels = self(ids, lengths), torch.from_numpy(data.train.labels[rows])
        if data.kind == "multilabel":
            return F.binary_cross_entropy_with_logits(logits, labels.to(logits))
        return F.cross_entropy(logits, labels)


def plain_loop(
    config: TrialConfig, slot: Slot, model: Plain
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """Weight decay on matrices alone, as transformers' `Trainer` decides it."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    assert len(matrices) > 10 and len(vectors) > 10
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
    warmup = -int(-config.warmup_ratio * slot.total_steps // 1)
    return optimizer, get_linear_schedule_with_warmup(optimizer, warmup, slot.total_steps)


@pytest.mark.parametrize(("config", "data"), TRIALS)
def test_every_step_equals_a_plain_loop(config: TrialConfig, data: TaskData) -> None:
    pack = Pack(toy.opt_backbone(), full=True, max_labels=4, dtype=torch.float64)
    slot = pack.admit(config, data)
    head, bias = (
        view(pack.bank.theta)[0, :, : data.num_labels] for view in (pack.layout.head, pack.layout.head_bias)
    )
    plain = Plain(toy.opt_backbone(), head, bias[0])
    optimizer, schedule = plain_loop(config, slot, plain)
    while not slot.done:
        rows = slot.batch()
        loss = plain.loss(data, rows)
        optimizer.zero_grad()
        loss.backward()
        if config.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(plain.parameters(), config.max_grad_norm)
        optimizer.step()
        schedule.step()
        pack.step()
        assert pack.take_loss(slot) == pytest.approx(float(loss.detach()), abs=1e-10), slot.step
    theirs = dict(plain.model.named_parameters())
    for name, parameter in pack.backbone.model.named_parameters():
        torch.testing.assert_close(parameter.detach(), theirs[name].detach(), rtol=0, atol=1e-10, msg=name)
    with torch.no_grad():
        ids, lengths = (torch.from_numpy(part) for part in data.dev.padded(range(24), data.pad_id))
        logits = torch.from_numpy(pack.predict(slot, data.dev))
        torch.testing.assert_close(logits, plain(ids, lengths), rtol=0, atol=1e-10)


def test_in_bf16_every_step_equals_a_plain_loop_under_autocast_on_float32_weights() -> None:
    config, data = TRIALS[0]
    pack = Pack(toy.opt_backbone(dtype=torch.float32), full=True, max_labels=4, precision="bf16")
    slot = pack.admit(config, data)
    head, bias = (
        view(pack.bank.theta)[0, :, : data.num_labels] for view in (pack.layout.head, pack.layout.head_bias)
    )
    plain = Plain(toy.opt_backbone(dtype=torch.float32), head, bias[0])
    optimizer, schedule = plain_loop(config, slot, plain)
    exact = []
    for _ in range(8):
        ids, lengths = (torch.from_numpy(part) for part in data.train.padded(slot.batch(), data.pad_id))
        labels = torch.from_numpy(data.train.labels[slot.batch()])
        with torch.autocast("cpu", torch.bfloat16):
            hidden = plain.model(input_ids=ids, attention_mask=(ids != 1).long()).last_hidden_state
        pooled = hidden[torch.arange(len(ids)), lengths - 1].float()
        loss = F.cross_entropy(pooled @ plain.head.t() + plain.bias, labels)
        exact.append(float(plain.loss(data, slot.batch()).detach()))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), config.max_grad_norm or torch.inf)
        optimizer.step()
        schedule.step()
        pack.step()
        found = pack.take_loss(slot)
        assert found == pytest.approx(float(loss.detach()), abs=1e-3), slot.step
        assert found != pytest.approx(exact[-1], abs=1e-6)  # of float32
    for parameter in pack.backbone.model.parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, parameter.bfloat16().float()) is False or parameter.numel() < 9


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("models"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CAUSAL, *ENCODERS])
def test_every_architecture_trains_in_bf16(name: str, backbones: Checkpoints) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        backbone = backbones(name)
        pack = Pack(backbone, full=True, precision=precision)  # type: ignore[arg-type]
        slot = pack.admit(toy.trial("fmft", 1, learning_rate=1e-3), task(backbone))
        for _ in range(3):
            pack.step()
        losses.append(pack.take_loss(slot))
        pack.close()
    assert losses[0] == pytest.approx(losses[1], rel=0.02) and losses[0] != losses[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_closing_restores_every_weight_to_the_bit(dtype: torch.dtype) -> None:
    backbone = toy.opt_backbone(dtype=dtype)
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    pack = Pack(backbone, full=True, dtype=dtype)
    pack.admit(TRIALS[0][0], toy.task())
    for _ in range(4):
        pack.step()
    moved = backbone.model.state_dict()
    assert sum(not torch.equal(moved[name], before[name]) for name in before) > 20
    pack.close()
    after = backbone.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(p.grad is None and not p.requires_grad for p in backbone.model.parameters())


def test_the_next_trial_starts_from_the_pretrained_weights() -> None:
    """A released trial leaves nothing behind: the second equals the same trial in a new pack."""
    config, data = TRIALS[0]
    used, fresh = (Pack(toy.opt_backbone(), full=True, max_labels=3, dtype=torch.float64) for _ in range(2))
    first = used.admit(toy.trial("fmft", 9, learning_rate=1e-2), toy.task("other", seed=4))
    for _ in range(5):
        used.step()
    used.release(first)
    for pack in (used, fresh):
        pack.admit(config, data)
        for _ in range(5):
            pack.step()
    for name, tensor in used.tensors().items():
        assert torch.equal(tensor, fresh.tensors()[name]), name


def test_full_fine_tuning_has_a_pack_for_itself() -> None:
    with pytest.raises(ValueError, match="one slot, but got capacity=2"):
        Pack(toy.opt_backbone(), full=True, capacity=2)
    with pytest.raises(ValueError, match="`method` lora does not go into a pack for full fine-tuning"):
        Pack(toy.opt_backbone(), full=True).admit(toy.trial("lora"), TASK)
    with pytest.raises(ValueError, match="`method` fmft does not go into a pack for adapters"):
        Pack(toy.opt_backbone()).admit(toy.trial("fmft"), toy.task())


def test_the_models_own_dropout_is_named() -> None:
    """Packs run without it: facts, and a mark, say what was left out."""
    assert model_dropout(toy.opt_backbone().model.config) == 0.1
    assert model_dropout(LlamaConfig(attention_dropout=0.0)) == 0.0
    assert model_dropout(GPT2Config(resid_pdrop=0.0, embd_pdrop=0.2, attn_pdrop=0.0)) == 0.2
    assert model_dropout(BertConfig(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.1)) == 0.3
