"""Counts against `torch.utils.flop_counter.FlopCounterMode`.

That mode counts matrix products, not element-wise work. Of attention it counts what it sees: the CPU's fused
kernel of `sdpa` is not in its table and counts nothing; the GPU's backward counts the scores computed again.
The models here therefore use `eager` attention, or `sdpa` as plain products, which are all in sight.
"""

import json

import pytest
import torch
import transformers as tr
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from lingo.caduceus import CaduceusConfig, CaduceusModel, CaduceusPSConfig, CaduceusPSModel
from lingo.dnabert2 import DnaBert2Config, DnaBert2Model
from lingo.families import FAMILIES
from lingo.flops import OPT_125M, PUBLISHED, Shape, flops_adjusted_step, shape_of, step_flops
from lingo.hyenadna import HyenaDNAConfig, HyenaDNAModel
from lingo.known_models import KNOWN
from lingo.ntv2 import NTv2Config, NTv2Model

SMALL = {
    "vocab_size": 40,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 70,
    "pad_token_id": 1,
}
BATCH, LENGTH, RANK, LABELS = 2, 40, 4, 3
REL = 1e-3
ALL = ("W_q", "W_k", "W_v", "W_o", "W_f1", "W_f2")
PAPER = ("W_q", "W_k", "W_v", "W_f1", "W_f2")
ENCODER = {"intermediate_size": 100}
MAMBA = {"vocab_size": 40, "d_model": 48, "n_layer": 3, "d_state": 8}
MODELS = {
    "opt": lambda: tr.OPTModel(tr.OPTConfig(**SMALL, ffn_dim=100, word_embed_proj_dim=48)),
    "opt with projections": lambda: tr.OPTModel(
        tr.OPTConfig(**SMALL, ffn_dim=100, word_embed_proj_dim=24, do_layer_norm_before=False)
    ),
    "llama": lambda: tr.LlamaModel(tr.LlamaConfig(**SMALL, intermediate_size=100)),
    "llama with grouped queries": lambda: tr.LlamaModel(
        tr.LlamaConfig(**SMALL, intermediate_size=100, num_key_value_heads=2, head_dim=16)
    ),
    "mistral": lambda: tr.MistralModel(
        tr.MistralConfig(**SMALL, intermediate_size=100, num_key_value_heads=2)
    ),
    "qwen2": lambda: tr.Qwen2Model(tr.Qwen2Config(**SMALL, intermediate_size=100, num_key_value_heads=2)),
    "qwen3": lambda: tr.Qwen3Model(
        tr.Qwen3Config(**SMALL, intermediate_size=100, num_key_value_heads=2, head_dim=16)
    ),
    "gpt2": lambda: tr.GPT2Model(tr.GPT2Config(**SMALL)),
    "bert": lambda: tr.BertModel(tr.BertConfig(**SMALL, **ENCODER), add_pooling_layer=False),
    "dnabert2": lambda: DnaBert2Model(DnaBert2Config(**SMALL, **ENCODER)),
    "ntv2": lambda: NTv2Model(NTv2Config(**SMALL, **ENCODER)),
    "hyenadna": lambda: HyenaDNAModel(
        HyenaDNAConfig(d_model=48, n_layer=3, d_inner=100, max_seq_len=70, filter_order=16, vocab_size=40)
    ),
    "caduceus_ph": lambda: CaduceusModel(CaduceusConfig(**MAMBA)),
    "caduceus_ps": lambda: CaduceusPSModel(CaduceusPSConfig(**MAMBA)),
    "roberta": lambda: tr.RobertaModel(tr.RobertaConfig(**SMALL, **ENCODER), add_pooling_layer=False),
    "esm": lambda: tr.EsmModel(
        tr.EsmConfig(**SMALL, **ENCODER, mask_token_id=2, position_embedding_type="absolute"),
        add_pooling_layer=False,
    ),
}


class LowRank(nn.Module):
    """W0 + P Q on a frozen layer."""

    def __init__(self, base, d_in, d_out, rank):
        super().__init__()
        self.base, self.p, self.q = (
            base,
            nn.Parameter(torch.randn(d_in, rank)),
            nn.Parameter(torch.randn(rank, d_out)),
        )

    def forward(self, x):
        return self.base(x) + x @ self.p @ self.q


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The models are far too small for several threads, which cost much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def only_products(monkeypatch):
    """What the counter has no numbers for, or partly: `Shape.element_wise` is compared to nothing."""
    monkeypatch.setattr("lingo.hyenadna.causal_convolution", lambda v, k: v * k)
    monkeypatch.setattr(
        "lingo.caduceus.selective_scan",
        lambda delta, x, a, b, c: delta * x * a.sum(-1)[:, None, None] * (b * c).sum(-1, keepdim=True),
    )


def element_wise(model, *, backward=True):
    """Of a model that is trained whole."""
    shape = shape_of(model.config)
    parts = shape.element_wise(BATCH, LENGTH, True)
    return shape.layers * (parts[0] + (parts[1] if backward else 0))


def build(name, targets=None):
    """(model, head): frozen with adapters on `targets`, or all trained where that is None."""
    torch.manual_seed(0)
    model = MODELS[name]()
    model.set_attn_implementation("eager")
    model.config.use_cache = False
    model.eval()
    if targets is not None:
        model.requires_grad_(False)
        family = FAMILIES[model.config.model_type]
        paths = {
            f"{family.layer.format(layer)}.{path}"
            for layer in range(model.config.num_hidden_layers)
            for target in targets
            for path in family.matrices[target]
        }
        for path in paths:
            base = model.get_submodule(path)
            sizes = tuple(base.weight.shape) if isinstance(base, Conv1D) else tuple(base.weight.shape)[::-1]
            model.set_submodule(path, LowRank(base, *sizes, RANK))
    return model, nn.Linear(shape_of(model.config).output, LABELS)


# Of a depthwise filter's backward pass the counter takes every channel with every other.
NO_FILTERS = {
    op: lambda *_, **__: 0 for op in (torch.ops.aten.convolution, torch.ops.aten.convolution_backward)
}


def counted(model, head, *, backward):
    ids = torch.randint(4, 40, (BATCH, LENGTH))
    mask = torch.ones_like(ids)
    plain = sdpa_kernel(SDPBackend.MATH)
    counting = FlopCounterMode(display=False, custom_mapping=NO_FILTERS)
    with plain, counting as counter, torch.set_grad_enabled(backward):
        pooled = model(ids, attention_mask=mask).last_hidden_state[:, -1]
        loss = head(pooled[:, : head.in_features]).square().sum()  # of one strand
        if backward:
            loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", MODELS)
def test_forward(name):
    model, head = build(name)
    found = step_flops(shape_of(model.config), length=LENGTH, batch=BATCH, num_labels=LABELS, full=True)
    products = found.forward + found.head / 3 - element_wise(model, backward=False)
    assert products == pytest.approx(counted(model, head, backward=False), rel=REL)


@pytest.mark.parametrize("name", MODELS)
def test_full_fine_tuning(name):
    model, head = build(name)
    found = step_flops(shape_of(model.config), length=LENGTH, batch=BATCH, num_labels=LABELS, full=True)
    products = found.total - element_wise(model)
    assert products == pytest.approx(counted(model, head, backward=True), rel=REL)


ADAPTED = [
    (name, targets)
    for name in MODELS
    for targets in (ALL, PAPER, ("W_f1",), ("W_f2",), ("dt_proj",), ())
    if name.startswith("caduceus") or targets != ("dt_proj",)
]


@pytest.mark.parametrize(("name", "targets"), ADAPTED, ids=lambda v: v if isinstance(v, str) else "+".join(v))
def test_frozen_base_with_adapters(name, targets):
    model, head = build(name, targets)
    found = step_flops(
        shape_of(model.config), length=LENGTH, batch=BATCH, num_labels=LABELS, targets=targets, rank=RANK
    )
    plain = found.forward + found.adapters_forward + found.head / (3 if targets else 2)
    plain -= element_wise(model, backward=False)
    assert plain == pytest.approx(counted(model, head, backward=False), rel=REL)
    layers = shape_of(model.config).layers
    if targets == ("W_f2",) or (name, targets) == ("hyenadna", ("W_f1",)):
        layers -= 1  # the adapters of the first layer stand behind what mixes positions
    back = layers * shape_of(model.config).element_wise(BATCH, LENGTH, False)[1] if targets else 0
    products = found.total - element_wise(model, backward=False) - back
    assert products == pytest.approx(counted(model, head, backward=True), rel=REL)


def test_orthogonality_term():
    torch.manual_seed(0)
    p, q = torch.randn(48, RANK), torch.randn(RANK, 100)
    eye = torch.eye(RANK)
    with FlopCounterMode(display=False) as counter:
        # The gradient of ‖PᵀP − I‖² is 4 P (PᵀP − I): two products for each factor.
        p @ (p.T @ p - eye)
        (q @ q.T - eye) @ q
    shape = Shape(layers=1, hidden=48, intermediate=100, heads=4, kv_heads=4, head_dim=12)
    found = step_flops(shape, length=LENGTH, targets=("W_f1",), rank=RANK, svd=True)
    assert found.orthogonality == counter.get_total_flops()


def test_allocation_counts_every_adapter_weight():
    def allocation(**options):
        return step_flops(OPT_125M, length=100, targets=PAPER, rank=12, **options).allocation

    weights = 12 * 12 * (3 * (768 + 768) + 2 * (768 + 3072))
    assert allocation(svd=True) == 12 * weights
    assert allocation(svd=True, delta_T=100) == pytest.approx(10.02 * weights)
    assert allocation(svd=False) == 0


def test_opt_125m_is_the_public_configuration():
    config = tr.OPTConfig(
        hidden_size=768, num_hidden_layers=12, ffn_dim=3072, num_attention_heads=12, word_embed_proj_dim=768
    )
    assert shape_of(config) == OPT_125M
    # Kaplan et al.: 2 N a token without attention, N = 12 · layers · hidden².
    attention = 4 * 10 * 768 * 12
    assert step_flops(OPT_125M, length=10).forward == 10 * (2 * 12 * 12 * 768**2 + attention)


def test_frozen_base_saves_its_weight_gradients():
    frozen = step_flops(OPT_125M, length=100, targets=PAPER, rank=8)
    full = step_flops(OPT_125M, length=100, full=True)
    assert frozen.forward == full.forward
    assert 1.9 < full.backward / frozen.backward < 2.1
    assert step_flops(OPT_125M, length=100).backward == 0


def test_cost_grows_with_batch_and_faster_than_length():
    one = step_flops(OPT_125M, length=100, full=True).total
    assert step_flops(OPT_125M, length=100, batch=8, full=True).total == 8 * one
    assert step_flops(OPT_125M, length=200, full=True).total > 2 * one


def test_flops_adjusted_step():
    assert flops_adjusted_step(1000, 4e9, 1e9) == 250
    assert flops_adjusted_step(1000, 1e9, 1e9) == 1000
    with pytest.raises(ValueError, match=r"costs above 0, but got step=1, flops=0"):
        flops_adjusted_step(1, 0, 1)


def test_unknown_architecture():
    with pytest.raises(ValueError, match=r"`model_type` must be one of bert, .* but got 'bloom'"):
        shape_of(tr.BloomConfig())


def test_published_shapes_are_those_of_the_public_configurations(shared):
    configs = json.loads((shared / "oracles" / "nt" / "configs.json").read_text())["models"]
    second = json.loads((shared / "oracles" / "ntv2" / "configs.json").read_text())
    assert set(PUBLISHED) <= set(KNOWN)
    for name in (name for name in PUBLISHED if name.startswith("nt-")):
        row = KNOWN[name].hub_id.split("/")[1]
        if name.startswith("nt-v2"):
            config = NTv2Config.from_public(second[row]["config"])
        else:
            config = tr.EsmConfig(**{key: field["value"] for key, field in configs[row]["fields"].items()})
        assert shape_of(config) == PUBLISHED[name], name
    for name in ("tiny-1k", "small-32k"):
        file = shared / "oracles" / "hyenadna" / f"param_names_{name}.json"
        config = HyenaDNAConfig.from_public(json.loads(file.read_text())["config"])
        assert shape_of(config) == PUBLISHED[f"hyenadna-{name}"]
    assert shape_of(CaduceusConfig()) == PUBLISHED["caduceus-ph-131k"]
    assert shape_of(CaduceusPSConfig()) == PUBLISHED["caduceus-ps-131k"]
    tensors = json.loads((shared / "oracles" / "dnabert2" / "param_names_117M.json").read_text())
    sizes = {row["name"]: row["shape"] for row in tensors["checkpoint_tensors"]}
    layer, shape = "bert.encoder.layer.11.", PUBLISHED["dnabert-2"]
    assert sizes[f"{layer}attention.self.Wqkv.weight"] == [3 * shape.hidden, shape.hidden]
    assert sizes[f"{layer}mlp.gated_layers.weight"] == [2 * shape.intermediate, shape.hidden]
    assert not any(name.startswith("bert.encoder.layer.12.") for name in sizes)
