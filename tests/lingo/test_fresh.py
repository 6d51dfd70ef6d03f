"""Fresh weights: those that the class itself draws, the same everywhere, and nothing else that differs."""

import pytest
import torch
import transformers
from torch import nn

from lingo.backbones import load_backbone
from lingo.checkpoint import BackboneError
from lingo.families import FAMILIES
from lingo.fresh import renew
from lingo.fresh_names import fresh_name, parts_of
from lingo.quantized import load_frozen
from tests.lingo.tiny import CAUSAL, ENCODERS, Checkpoints


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return Checkpoints(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("name", [*CAUSAL, *ENCODERS])
def test_only_weights_differ(name, saved):
    before = saved(name)
    one, two, again = (load_backbone(fresh_name(before.source, seed)) for seed in (11, 12, 11))
    assert len({before.digest, one.digest, two.digest}) == 3 and one.digest == again.digest
    for field in ("hidden_size", "max_length", "causal", "pad_id", "pooling", "matrices", "window"):
        assert getattr(one, field) == getattr(before, field)
    assert one.tokenizer.get_vocab() == before.tokenizer.get_vocab()
    assert not one.trained and type(one.model) is type(before.model)
    models = [dict(b.model.named_parameters()) for b in (before, one, two, again)]
    for key, pretrained in models[0].items():
        drawn = [model[key] for model in models[1:]]
        assert all((d.shape, d.dtype) == (pretrained.shape, pretrained.dtype) for d in drawn)
        assert torch.equal(drawn[0], drawn[2])
        if key.endswith(("proj.weight", "query.weight")):
            assert not torch.equal(drawn[0], pretrained) and not torch.equal(drawn[0], drawn[1])
    buffers = [dict(b.model.named_buffers()) for b in (before, one)]
    assert all(torch.equal(buffers[0][key], buffers[1][key]) for key in buffers[0])
    assert torch.isfinite(one.states(torch.tensor([[2, 3, 4, 5]]), torch.tensor([4]))).all()


def test_they_are_those_of_the_class(saved):
    source = saved("llama").source
    found = load_backbone(fresh_name(source, 7)).model
    with torch.random.fork_rng():
        torch.manual_seed(7)
        wanted = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(source))
    for key, tensor in wanted.state_dict().items():
        torch.testing.assert_close(found.state_dict()[key], tensor, rtol=0, atol=0)


def test_number_types_are_those_of_frozen_weights(saved):
    source = fresh_name(saved("opt").source, 0)
    exact, half = load_frozen(source, "fp32"), load_frozen(source, "bf16")
    assert exact.digest == half.digest
    for one, other in zip(exact.model.parameters(), half.model.parameters(), strict=True):
        assert other.dtype == torch.bfloat16 and torch.equal(one.bfloat16(), other)


def test_drawing_leaves_the_generators_and_settings_as_they_were(saved):
    source, before = saved("bert").source, torch.get_rng_state()
    load_backbone(fresh_name(source, 3))
    assert torch.equal(torch.get_rng_state(), before) and not torch.are_deterministic_algorithms_enabled()


def test_weights_that_a_class_leaves_unset_are_refused(monkeypatch):
    class Careless(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.empty(1000))

    monkeypatch.setattr(transformers.AutoModel, "from_config", lambda *args, **options: Careless())
    with pytest.raises(
        BackboneError, match=r"m: Careless must draw all weights of a new model, but not scale"
    ):
        renew(Careless(), transformers.LlamaConfig(), FAMILIES["llama"], name="m", seed=0)


def test_names():
    assert parts_of(fresh_name("/a:b/c", 12)) == (12, "/a:b/c")
    assert parts_of("owner/model") == (None, "owner/model")
