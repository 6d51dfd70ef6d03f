"""Nucleotide Transformer v2, HyenaDNA and Caduceus: against the numbers of the public implementations, and through the
loader and the pack."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lingo.backbone_folder import inspect_backbone
from lingo.backbones import load_backbone
from lingo.caduceus import CaduceusConfig, CaduceusModel, CaduceusPSConfig, CaduceusPSModel
from lingo.families import FAMILIES
from lingo.heads import pool
from lingo.hyenadna import HyenaDNAConfig, HyenaDNAModel
from lingo.known_models import KNOWN
from lingo.ntv2 import NTv2Config, NTv2Model
from lingo.own_models import plain_name
from lingo.pack import Pack
from lingo.selective_scan import selective_scan
from tests.lingo import toy
from tests.lingo.test_backbones import edit_config, edit_weights, refusal, small_tokenizer
from tests.lingo.test_pack import assert_same, run
from tests.lingo.tiny import Checkpoints

# What is in the oracle's folder: (folder, config, weights, cases, allowed difference in float32 and in float64).
ORACLES = {
    "ntv2": ("ntv2", "config.json", "model.safetensors", "cases.npz", 1e-4, 1e-10),
    "hyenadna": ("hyenadna", "config.json", "model.safetensors", "cases.npz", 1e-3, 1e-9),
    "caduceus_ph": ("caduceus", "config_ph.json", "model_ph.safetensors", "cases_ph.npz", 5e-4, 1e-9),
    "caduceus_ps": ("caduceus", "config_ps.json", "model_ps.safetensors", "cases_ps.npz", 5e-4, 1e-9),
    "unfused": ("caduceus", "config_ps_unfused.json", "model_ps.safetensors", "cases_ps_unfused.npz", 5e-4, 1e-9),
}  # fmt: skip
NAMES = ("ntv2", "hyenadna", "caduceus_ph", "caduceus_ps")


@pytest.fixture(scope="session")
def oracles(shared):
    folder = shared / "oracles"
    if not (folder / "caduceus").is_dir():
        pytest.skip(f"no {folder / 'caduceus'}")
    return folder


@pytest.fixture(scope="session")
def public(oracles, tmp_path_factory):
    """Makes a folder like the public one of a name in `ORACLES`."""

    def make(name):
        folder = tmp_path_factory.mktemp(name)
        where, config, weights, *_ = ORACLES[name]
        shutil.copyfile(oracles / where / config, folder / "config.json")
        shutil.copyfile(oracles / where / weights, folder / "model.safetensors")
        if name == "ntv2":  # the public vocabulary is larger than this model
            small_tokenizer(folder)
        else:
            (folder / "tokenizer_config.json").write_text('{"model_max_length": 60}')
        return folder

    return make


@pytest.fixture(scope="module")
def loaded(public):
    """Backbones by name and type, each loaded once; not for changes."""
    folders, found = {}, {}

    def load(name, dtype=torch.float64):
        if name not in folders:
            folders[name] = public(name)
        if (name, dtype) not in found:
            found[name, dtype] = load_backbone(folders[name], dtype=dtype)
        return found[name, dtype]

    return load


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ORACLES)
def test_hidden_states_are_those_of_the_public_code(oracles, loaded, name, dtype):
    where, _, _, cases, *tolerance = ORACLES[name]
    numbers, model = np.load(oracles / where / cases), loaded(name, dtype).model
    kind, close = ("f64", tolerance[1]) if dtype == torch.float64 else ("f32", tolerance[0])
    names = sorted({key.split("/")[0] for key in numbers.files if "/input/" in key})
    assert len(names) >= 5
    for case in names:
        start = f"{case}/input/"
        inputs = {
            key.removeprefix(start): torch.from_numpy(numbers[key])
            for key in numbers.files
            if key.startswith(start)
        }
        with torch.no_grad():
            found = model(**inputs, output_hidden_states=True)
        np.testing.assert_allclose(
            found.last_hidden_state.numpy(), numbers[f"{case}/{kind}/last_hidden_state"], rtol=0, atol=close
        )
        if kind == "f32":
            continue
        states = {f"hidden_states.{i}": state for i, state in enumerate(found.hidden_states)}
        states |= {f"layer{i}.output": state for i, state in enumerate(found.hidden_states[1:])}
        if where == "caduceus":
            states["embeddings"] = found.hidden_states[0]
        checked = [key for key in states if f"{case}/f64/{key}" in numbers.files]
        assert checked
        for key in checked:
            np.testing.assert_allclose(
                states[key].numpy(), numbers[f"{case}/f64/{key}"], rtol=0, atol=close, err_msg=key
            )


@pytest.mark.parametrize("name", ["caduceus_ph", "caduceus_ps"])
def test_the_head_reads_what_the_public_classifier_reads(oracles, loaded, name):
    where, _, weights, cases, *_ = ORACLES[name]
    numbers, backbone = np.load(oracles / where / cases), loaded(name)
    ids = torch.from_numpy(numbers["A_20/input/input_ids"])
    pooled = pool(backbone.model(ids).last_hidden_state, torch.full((3,), 20), backbone.pooling)
    score = load_file(oracles / where / weights)["score.weight"].double()
    np.testing.assert_allclose((pooled @ score.T).detach(), numbers["A_20/f64/classifier_logits"], atol=1e-9)
    assert pooled.shape[1] == backbone.hidden_size


PUBLIC_NAMES = {
    "ntv2/param_names_v2-50m.json": lambda: NTv2Model(NTv2Config()),
    "ntv2/param_names_v2-500m.json": lambda: NTv2Model(
        NTv2Config(hidden_size=1024, num_hidden_layers=29, intermediate_size=4096)
    ),
    "hyenadna/param_names_tiny-1k.json": lambda: HyenaDNAModel(HyenaDNAConfig()),
    "hyenadna/param_names_small-32k.json": lambda: HyenaDNAModel(
        HyenaDNAConfig(d_model=256, n_layer=4, d_inner=1024, max_seq_len=32770)
    ),
    "caduceus/param_names_ph_131k_d256_l16.json": lambda: CaduceusModel(CaduceusConfig()),
    "caduceus/param_names_ps_131k_d256_l16.json": lambda: CaduceusPSModel(CaduceusPSConfig()),
}


@pytest.mark.parametrize("file", PUBLIC_NAMES)
def test_names_and_shapes_of_the_public_checkpoints(oracles, file):
    public = json.loads((oracles / file).read_text())["tensors_list"]
    with torch.device("meta"):
        model = PUBLIC_NAMES[file]()
    heads = ("lm_head.", "esm.contact_head.") if file.startswith("ntv2") else ("lm_head.",)
    body = {
        plain_name(model, name) or name.removeprefix("esm."): shape
        for name, shape in public.items()
        if not name.endswith(".inv_freq") and (not name.startswith(heads) or plain_name(model, name))
    }
    body = {name: shape for name, shape in body.items() if not name.startswith("lm_head.")}
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == body


def test_tied_tensors_may_stand_under_any_of_their_names(public, loaded):
    renamed = {
        "hyenadna": {"implicit_filter.1.freq": None, "implicit_filter.3.freq": None},
        "caduceus_ph": {
            "mamba_fwd.in_proj": "mamba_rev.in_proj",
            "mamba_fwd.out_proj": "mamba_rev.out_proj",
            "caduceus.backbone.embeddings.word_embeddings.weight": None,
        },
    }
    for name, changes in renamed.items():
        folder, tensors = public(name), {}
        for key, tensor in load_file(folder / "model.safetensors").items():
            old = next((part for part in changes if part in key), "")
            if not old or changes[old]:
                tensors[key.replace(old, changes[old]) if old else key] = tensor
        save_file({key: tensor.clone() for key, tensor in tensors.items()}, folder / "model.safetensors")
        found, expected = load_backbone(folder).model, loaded(name, torch.float32).model
        for key, tensor in expected.state_dict().items():
            assert torch.equal(found.state_dict()[key], tensor), key


def test_tied_tensors_of_two_values_are_refused(public):
    folder = public("hyenadna")
    edit_weights(
        folder,
        lambda tensors: tensors["hyena.backbone.layers.0.mixer.filter_fn.implicit_filter.5.freq"].add_(1),
    )
    assert "was not loaded into: layers.0.mixer.filter_fn.implicit_filter.1.freq" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("ntv2", {"position_embedding_type": "absolute"}, "`position_embedding_type` must be 'rotary'"),
        ("ntv2", {"token_dropout": True}, "`token_dropout` must be False"),
        ("ntv2", {"auto_map": {"AutoModel": "owner/model--other.Model"}}, "lacks tensors"),
        ("hyenadna", {"hyena_order": 3}, "`hyena_order` must be 2"),
        ("caduceus_ph", {"auto_map": {"AutoModel": "other.Model"}}, "got None"),
        ("caduceus_ph", {"bidirectional_weight_tie": False}, "`bidirectional_weight_tie` must be True"),
        ("caduceus_ph", {"ssm_cfg": {"dt_rank": 3}}, "`ssm_cfg.dt_rank` must be 'auto'"),
        ("caduceus_ph", {"rcps": True}, "lacks tensors: embeddings.word_embeddings.complement_map"),
        ("caduceus_ps", {"d_model": 32}, "has tensors of another shape"),
    ],
)
def test_configs_of_other_models_are_refused_in_one_line(public, name, changes, message):
    folder = public(name)
    edit_config(folder, **changes)
    assert message in refusal(folder)


def test_facts(loaded):
    facts = {
        name: (b.causal, b.pooling, b.hidden_size, b.max_length, b.pad_id)
        for name in NAMES
        for b in [loaded(name)]
    }
    assert facts == {
        "ntv2": (False, "first", 32, 64, 1),
        "hyenadna": (True, "last", 32, 60, 4),
        "caduceus_ph": (False, "mean", 24, 60, 4),
        "caduceus_ps": (False, "strands", 16, 60, 4),
    }
    new = [row for name, row in KNOWN.items() if name.startswith(("nt-v2", "hyenadna", "caduceus"))]
    assert {row.licence for row in new} == {"CC BY-NC-SA 4.0", "BSD-3-Clause", "Apache-2.0"}
    assert len(new) == 15 and all("names and shapes" in row.verified for row in new)


@pytest.mark.parametrize("name", NAMES)
def test_each_adapted_matrix_is_called_once(loaded, name):
    backbone, calls = loaded(name), {}
    paths = {path for paths in backbone.matrices.values() for path in paths}
    assert set(FAMILIES["bert"].matrices) == set(backbone.matrices) - {"dt_proj"}
    hooks = [
        backbone.model.get_submodule(path).register_forward_hook(
            lambda *_, path=path: calls.__setitem__(path, calls.get(path, 0) + 1)
        )
        for path in paths
    ]
    backbone.model(torch.tensor([[7, 8, 9]]), torch.ones(1, 3))
    for hook in hooks:
        hook.remove()
    assert calls == dict.fromkeys(paths, 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_padded_row_has_the_states_of_the_row_alone(loaded, name):
    backbone, ids = loaded(name), torch.tensor([[7, 8, 9, 10, 7, 1], [10, 8, 7, 4, 4, 4]])
    mask = torch.arange(6) < torch.tensor([6, 3])[:, None]
    with torch.no_grad():
        both = backbone.model(ids, None if backbone.causal else mask).last_hidden_state
        alone = backbone.model(ids[1:, :3]).last_hidden_state
        other = backbone.model(torch.where(mask, ids, 9), None if backbone.causal else mask).last_hidden_state
    torch.testing.assert_close(both[1:, :3], alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(both[mask], other[mask], rtol=0, atol=1e-12)


def test_both_sides_of_padding_leave_caduceus_as_it_is(loaded):
    for name in ("caduceus_ph", "caduceus_ps"):
        model, ids = loaded(name).model, torch.tensor([[4, 4, 7, 8, 9, 4]])
        with torch.no_grad():
            found = model(ids, ids != 4).last_hidden_state[:, 2:5]
            torch.testing.assert_close(found, model(ids[:, 2:5]).last_hidden_state, rtol=0, atol=1e-12)
            assert (model(ids).last_hidden_state[:, 2:5] - found).abs().max() > 1e-3


def test_caduceus_ps_sees_no_strand(loaded):
    backbone, ids = loaded("caduceus_ps"), torch.tensor([[7, 7, 10, 9, 8, 11, 7, 4, 4]])
    complement = backbone.model.embeddings.word_embeddings.complement_map
    other = torch.cat([complement[ids[:, :7].flip(1)], ids[:, 7:]], 1)
    lengths = torch.tensor([7])
    with torch.no_grad():
        one, two = (backbone.model(x, x != 4).last_hidden_state for x in (ids, other))
    torch.testing.assert_close(two[:, :7], one[:, :7].flip(1, 2), rtol=0, atol=1e-12)
    pooled = [pool(x, lengths, "strands") for x in (one, two)]
    torch.testing.assert_close(*pooled, rtol=0, atol=1e-12)


def test_hyenadna_refuses_more_than_its_filters_have(loaded):
    with pytest.raises(ValueError, match="at most 66 tokens"):
        loaded("hyenadna").model(torch.full((1, 67), 7))


def test_bfloat16_keeps_filters_and_rates(public):
    ids = torch.tensor([[7, 8, 9, 10, 7, 1]])
    for name, part in (("hyenadna", "filter_fn"), ("caduceus_ps", "A_log"), ("caduceus_ph", ".D")):
        folder = public(name)
        short, exact = (load_backbone(folder, dtype=t) for t in (torch.bfloat16, torch.float32))
        found = {str(t.dtype) for key, t in short.model.state_dict().items() if part in key}
        assert found == {"torch.float32"}
        one, two = (b.model(ids).last_hidden_state.float() for b in (short, exact))
        assert 1e-4 < (one - two).abs().max() < 0.5, name


# --- the scan -----------------------------------------------------------------------------------------------


def plain_scan(delta, x, a, b, c):
    """Step by step, as its equation says."""
    state, found = 0, []
    for t in range(x.shape[2]):
        decay = torch.exp(delta[:, :, t, :, None] * a[:, None])
        state = decay * state + x[:, :, t, :, None] * b[:, :, t, None]
        found.append((state * c[:, :, t, None]).sum(-1))
    return torch.stack(found, 2)


@pytest.mark.parametrize("length", [1, 2, 7, 30])
@pytest.mark.parametrize("step", [1, 1 << 18], ids=["one chunk", "chunks"])
@pytest.mark.parametrize("states", [1, 1 << 27], ids=["row by row", "all rows"])
def test_scan_and_its_gradients(monkeypatch, length, step, states):
    monkeypatch.setattr("lingo.selective_scan.STEP", step)
    monkeypatch.setattr("lingo.selective_scan.STATES", states)
    generator = torch.Generator().manual_seed(length)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = [draw(2, 3, length, 5).exp(), draw(2, 3, length, 5), -draw(2, 5, 4).exp()]
    inputs += [draw(2, 3, length, 4), draw(2, 3, length, 4)]
    for tensor in inputs:
        tensor.requires_grad_(True)
    weight = draw(2, 3, length, 5)
    found, expected = selective_scan(*inputs), plain_scan(*inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    ours = torch.autograd.grad((found * weight).sum(), inputs)
    theirs = torch.autograd.grad((expected * weight).sum(), inputs)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


# --- training -----------------------------------------------------------------------------------------------

ENTRIES = [
    (toy.trial("lora", 1, learning_rate=3e-3), toy.task("a"), 0),
    (toy.trial("ars", 2, learning_rate=3e-3), toy.task("b", longest=20, seed=5), 0),
    (toy.trial("ars", 3, learning_rate=3e-3, targets=("W_q", "W_o", "W_f2")), toy.task("c", seed=6), 4),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return Checkpoints(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("name", NAMES)
def test_packed_equals_alone(tiny, name):
    def pack(capacity, rank):
        return Pack(tiny(name, dtype=torch.float64), capacity=capacity, max_rank=rank, dtype=torch.float64)

    packed = run(pack(3, 6), ENTRIES, 20)
    for entry, together in zip(ENTRIES, packed, strict=True):
        assert_same(together, run(pack(1, 4), [(*entry[:2], 0)], 20)[0], 1e-9)


class LowRank(nn.Module):
    """W0 + 2 P Q on a frozen layer, by autograd."""

    def __init__(self, base, p, q):
        super().__init__()
        self.base, self.p, self.q = base, nn.Parameter(p), nn.Parameter(q)

    def forward(self, x):
        return self.base(x) + 2 * x @ self.p @ self.q


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_adapters_are_those_of_autograd(tiny, name):
    """One step of LoRA without weight decay: the pack's gradients against adapters that autograd knows."""
    backbone, other = (tiny(name, dtype=torch.float64) for _ in range(2))
    pack = Pack(backbone, max_rank=3, dtype=torch.float64)
    config = toy.trial("lora", 1, targets=tuple(backbone.matrices), adapter_dropout=0.0, alpha=6.0, rank=3)
    slot = pack.admit(config, toy.task("a"))
    with torch.no_grad():
        pack.bank.theta.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
        pack.bank.theta[:, pack.layout.lam_start : pack.layout.factors] = 0
    sites = {}
    for site in pack.layout.sites:
        p, _, q = pack.layout.parts(pack.bank.theta, site)
        sites[site.path] = LowRank(other.model.get_submodule(site.path), p.clone(), q.clone())
    for path, module in sites.items():
        other.model.set_submodule(path, module)
    pack._arrange(slice(0, 1), keep=True)
    batch = pack._gather([slot])
    ids, lengths = batch.ids[0], batch.lengths[0]
    head = pack.layout.head(pack.bank.theta)[0].clone()
    bias = pack.layout.head_bias(pack.bank.theta)[0].clone()
    mask = None if backbone.causal else torch.arange(ids.shape[1]) < lengths[:, None]
    pooled = pool(other.model(input_ids=ids, attention_mask=mask).last_hidden_state, lengths, other.pooling)
    nn.functional.cross_entropy(pooled @ head + bias, batch.labels["classification"][1][0]).backward()
    captured = {}
    original = pack.bank.finish
    pack.bank.finish = lambda grad, *rest, **more: (
        original(grad, *rest, **more),
        captured.setdefault("grad", grad.clone()),
    )
    pack._gather = lambda _: batch
    pack.step()
    for site in pack.layout.sites:
        p, _, q = pack.layout.parts(captured["grad"], site)
        torch.testing.assert_close(p, sites[site.path].p.grad, rtol=0, atol=1e-10)
        torch.testing.assert_close(q, sites[site.path].q.grad, rtol=0, atol=1e-10)
    pack.close()


@pytest.mark.parametrize("name", NAMES)
def test_loss_falls_when_everything_is_trained(tiny, name):
    pack = Pack(tiny(name), max_rank=4, full=True)
    slot = pack.admit(toy.trial("fmft", epochs=10, learning_rate=1e-2), toy.task(rows=24))
    losses = []
    while not slot.done:
        for _ in range(slot.steps_per_epoch):
            pack.step()
        losses.append(pack.take_loss(slot) / slot.steps_per_epoch)
    assert losses[-1] < 0.8 * losses[0], losses
    pack.close()


def test_inspection_finds_nothing_wrong(public):
    for name in ORACLES:
        assert inspect_backbone(public(name)) == []
