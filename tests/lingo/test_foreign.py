"""Methods of the library peft: what they leave alone, that they learn, and how they are written."""

import sys

import pytest
import torch

from lingo.foreign import PeftNetwork, peft_trial
from lingo.methods import METHODS
from lingo.single_export import export_peft
from lingo.trial import TrialConfig
from tests.lingo import toy

PEFT = [name for name, row in METHODS.items() if row.engine == "peft"]
SETTINGS = {"seed": 1, "learning_rate": 1e-2, "batch_size": 4, "epochs": 3, "rank": 3, "adapter_dropout": 0.1}
pytest.importorskip("peft")


def backbone():
    return toy.opt_backbone(dtype=torch.float32)


def trial(method, model=None, **settings):
    config = TrialConfig.from_dict({"method": method, **SETTINGS, **settings})
    return peft_trial(model or backbone(), config, toy.task())


def train(one):
    losses = []
    while not one.done:
        if one.advance():
            losses.append(one.take_loss())
    return losses


@pytest.mark.parametrize("method", PEFT)
def test_it_learns_repeats_exactly_and_gives_the_backbone_back(method):
    model = backbone()
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    state = torch.random.get_rng_state()
    first = trial(method, model)
    losses = train(first)
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator is left as it was
    assert losses[-1] < losses[0]
    facts = first.facts()
    assert 0 < facts["trained_parameters"] < facts["total_parameters"]
    first.network.detach()
    after = model.model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in model.model.parameters())
    assert train(trial(method, model)) == losses


@pytest.mark.parametrize("method", PEFT)
def test_before_training_it_is_the_backbone_with_a_head(method):
    model = backbone()
    one = trial(method, model)
    logits = one.predict(one.data.dev)
    head = one.network.head.state_dict()
    one.network.detach()
    plain = trial("lokr", model, targets=("W_q",))
    with torch.no_grad():
        plain.network.head.load_state_dict(head)
    assert logits == pytest.approx(plain.predict(one.data.dev), abs=1e-5)


@pytest.mark.parametrize("method", PEFT)
def test_what_is_written_peft_reads(method, tmp_path):
    from peft import PeftModel
    from safetensors.torch import load_file

    one = trial(method, epochs=1)
    train(one)
    logits = one.predict(one.data.dev)
    folder = export_peft(one.network, one, tmp_path / "a", card={})
    assert not [path for path in tmp_path.iterdir() if path != folder]
    fresh = backbone()
    fresh.model.load_state_dict(backbone().model.state_dict())
    read = PeftModel.from_pretrained(fresh.model, str(folder)).eval()
    ids, lengths = one.data.dev.padded(range(len(one.data.dev)), 1)
    with torch.no_grad():
        hidden = read.base_model(input_ids=torch.from_numpy(ids)).last_hidden_state
    pooled = hidden[torch.arange(len(ids)), torch.from_numpy(lengths) - 1]
    head = load_file(folder / "head.safetensors")
    assert logits == pytest.approx((pooled @ head["weight"].T + head["bias"]).numpy(), abs=1e-4)


def test_without_the_library_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"`lokr` needs the library peft.*pip install 'lingo-bench\[peft\]'"):
        trial("lokr")


def test_layers_that_peft_does_not_know_are_refused_with_a_line():
    from transformers import GPT2Config, GPT2Model

    model = backbone()
    gpt2 = GPT2Model(GPT2Config(vocab_size=20, n_embd=16, n_layer=1, n_head=2, n_positions=64))
    object.__setattr__(model, "model", gpt2)
    object.__setattr__(model, "matrices", {"W_q": ["h.0.attn.c_attn"]})
    with pytest.raises(ValueError, match="`lokr` of peft cannot adapt toy: ") as caught:
        PeftNetwork(
            model, TrialConfig.from_dict({"method": "lokr", **SETTINGS, "targets": ["W_q"]}), toy.task()
        )
    assert "\n" not in str(caught.value)
