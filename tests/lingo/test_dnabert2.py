"""DNABERT-2 against the numbers of the public implementation, and through the loader and the pack."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lingo.backbone_folder import inspect_backbone
from lingo.backbones import load_backbone
from lingo.dnabert2 import DnaBert2Config, DnaBert2Model, alibi_slopes, is_public_config
from lingo.known_models import KNOWN
from lingo.pack import Pack
from tests.lingo import toy
from tests.lingo.test_backbones import edit_config, edit_weights, refusal, small_tokenizer
from tests.lingo.test_pack import assert_same, run

CASES = [
    ("", "A_nopad"),
    ("", "B_rightpad"),
    ("", "C_grow"),
    ("", "D_tokentype"),
    ("_h12", "A_nopad"),
    ("_h12", "B_grow"),
]
# In float64 1e-10 holds for 12 heads too, since the bias is rounded to float32 as in the public code.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}
HEAD = ("bert.pooler.", "classifier.")


@pytest.fixture(scope="session")
def oracle(shared):
    folder = shared / "oracles/dnabert2"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


@pytest.fixture
def public(oracle, shared, tmp_path):
    """Makes a folder like the public one: no `model_type`, names with a prefix, the BPE tokenizer."""

    def make(variant=""):
        folder = tmp_path / f"dnabert2{variant}"
        folder.mkdir()
        shutil.copyfile(oracle / f"config{variant}.json", folder / "config.json")
        shutil.copyfile(oracle / f"model{variant}.safetensors", folder / "model.safetensors")
        if variant:  # its vocabulary is smaller than the public tokenizer's
            small_tokenizer(folder)
        else:
            for file in (shared / "data/tokenizers/dnabert2").iterdir():
                shutil.copyfile(file, folder / file.name)
        return folder

    return make


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("variant", "case"), CASES)
def test_hidden_states_are_those_of_the_public_code(oracle, public, variant, case, dtype):
    numbers = np.load(oracle / f"cases{variant}.npz")
    inputs = {
        name.rpartition("/")[2]: torch.from_numpy(numbers[name])
        for name in numbers.files
        if name.startswith(f"{case}/input/")
    }
    model = load_backbone(public(variant), dtype=dtype).model
    with torch.no_grad():
        outputs = model(**inputs, output_hidden_states=True)
    assert len(outputs.hidden_states) == model.config.num_hidden_layers + 1
    close = {"rtol": 0, "atol": TOLERANCE[dtype]}
    kind = "f32" if dtype == torch.float32 else "f64"
    last = outputs.last_hidden_state.numpy()
    np.testing.assert_allclose(last, numbers[f"{case}/{kind}/last_hidden_state"], **close)
    for i, state in enumerate(outputs.hidden_states):
        np.testing.assert_allclose(state.numpy(), numbers[f"{case}/f64/hidden_states.{i}"], **close)
    if "attention_mask" in inputs:
        assert not last[inputs["attention_mask"].numpy() == 0].any()


def test_numbers_tell_wrong_models_apart(oracle, public, monkeypatch):
    numbers, model = np.load(oracle / "cases.npz"), load_backbone(public()).model
    ids = torch.from_numpy(numbers["C_grow/input/input_ids"])
    mask = torch.from_numpy(numbers["C_grow/input/attention_mask"])

    def error():
        with torch.no_grad():
            found = model(ids, mask).last_hidden_state.numpy()
        return np.abs(found - numbers["C_grow/f32/last_hidden_state"]).max()

    assert error() < 1e-4
    monkeypatch.setattr(model.encoder, "_slopes", torch.tensor(alibi_slopes(4)[::-1]))
    assert error() > 1
    monkeypatch.undo()
    monkeypatch.setattr(torch.nn.functional, "gelu", lambda x: torch.nn.functional.silu(x))
    assert error() > 1e-3


def test_a_mask_of_any_type_and_no_mask_are_the_same_to_whole_rows(public):
    model = load_backbone(public(), dtype=torch.float64).model
    ids = torch.randint(5, 4096, (2, 20), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([20, 7])
    mask = torch.arange(20) < lengths[:, None]
    with torch.no_grad():
        found = [model(ids, m).last_hidden_state for m in (mask, mask.long(), mask.double())]
        whole, short = model(ids).last_hidden_state[0], model(ids[1:, :7]).last_hidden_state[0]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    torch.testing.assert_close(found[0][0], whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(found[0][1, :7], short, rtol=0, atol=1e-12)


def test_a_long_input_leaves_later_ones_alone(public):
    model = load_backbone(public()).model
    ids = torch.randint(5, 4096, (1, 1500), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(ids[:, :30]).last_hidden_state
        assert model(ids).last_hidden_state.isfinite().all()
        assert torch.equal(model(ids[:, :30]).last_hidden_state, before)


def test_bfloat16_keeps_exact_slopes(public):
    backbone, exact = (load_backbone(public(v), dtype=torch.bfloat16) for v in ("", "_h12"))
    ids = torch.randint(5, 8, (2, 40), generator=torch.Generator().manual_seed(0))
    for model in (backbone.model, exact.model):
        state = model(ids).last_hidden_state
        assert state.dtype == torch.bfloat16 and state.isfinite().all()
    assert exact.model.encoder._slopes.tolist() == torch.tensor(alibi_slopes(12)).tolist()


def test_slopes_are_those_of_the_public_code(oracle):
    table = json.loads((oracle / "alibi_slopes.json").read_text())["slopes"]
    for heads, slopes in table.items():
        assert torch.tensor(alibi_slopes(int(heads))).tolist() == slopes, heads


def test_names_and_shapes_of_the_public_checkpoint(oracle):
    public = json.loads((oracle / "param_names_117M.json").read_text())["checkpoint_tensors"]
    body = {row["name"]: row["shape"] for row in public if not row["name"].startswith("cls.")}
    with torch.device("meta"):
        model = DnaBert2Model(DnaBert2Config())
    assert len(public) == len(body) + 6
    assert {f"bert.{name}": list(tensor.shape) for name, tensor in model.state_dict().items()} == body
    assert sum(parameter.numel() for parameter in model.parameters()) == 116_477_952


def test_tokens_are_those_of_the_public_tokenizer(oracle, public):
    tokenizer = load_backbone(public()).tokenizer
    for example in json.loads((oracle / "tokenizer_examples.json").read_text())["examples"]:
        assert tokenizer(example["sequence"])["input_ids"] == example["ids"]


def test_facts(public):
    backbone = load_backbone(public())
    facts = (backbone.causal, backbone.pooling, backbone.hidden_size, backbone.max_length, backbone.pad_id)
    assert facts == (False, "mean", 64, 512, 3) and backbone.trained
    first = {name: paths[0] for name, paths in backbone.matrices.items()}
    layer = "encoder.layer.0"
    assert first == {
        **dict.fromkeys(("W_q", "W_k", "W_v"), f"{layer}.attention.self.Wqkv"),
        "W_o": f"{layer}.attention.output.dense",
        "W_f1": f"{layer}.mlp.gated_layers",
        "W_f2": f"{layer}.mlp.wo",
    }
    assert KNOWN["dnabert-2"].licence == "Apache-2.0"


def test_public_file_has_no_pooler_and_is_pickled(public):
    folder = public()
    expected = load_backbone(folder).model.state_dict()
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(HEAD)}
    assert sum(name.startswith("cls.") for name in kept) == 6
    torch.save(kept, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert inspect_backbone(folder) == []
    found = load_backbone(folder).model.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_saved_again_by_either_library(public, tmp_path):
    folder = public()
    expected = load_backbone(folder).model
    edit_config(folder, model_type="bert", auto_map={"AutoModel": "owner/model--bert_layers.BertModel"})
    again = load_backbone(folder).model.state_dict()
    expected.save_pretrained(tmp_path / "ours")
    for file in folder.glob("tokenizer*"):
        shutil.copyfile(file, tmp_path / "ours" / file.name)
    ours = load_backbone(tmp_path / "ours").model.state_dict()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(again[name], tensor) and torch.equal(ours[name], tensor)


def test_code_in_the_folder_never_runs(public, tmp_path):
    folder = public()
    trap = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
    for name in ("bert_layers", "configuration_bert", "bert_padding"):
        (folder / f"{name}.py").write_text(trap)
    load_backbone(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "public_one"),
    [
        ({}, True),
        ({"model_type": "bert"}, True),
        ({"model_type": "opt"}, False),
        ({"auto_map": {"AutoModel": "modeling_other.BertModel"}}, False),
        ({"auto_map": {"AutoModel": "owner/bert_layers.x--other.BertModel"}}, False),
        ({"auto_map": ["bert_layers.BertModel"]}, False),
        ({"auto_map": None}, True),
    ],
)
def test_which_configurations_are_taken_for_it(changes, public_one):
    fields = {"alibi_starting_size": 512, "auto_map": {"AutoModel": "bert_layers.BertModel"}}
    assert is_public_config(fields | changes) is public_one
    assert not is_public_config({"auto_map": fields["auto_map"]})


def test_other_code_is_refused(public):
    folder = public()
    edit_config(folder, auto_map={"AutoModel": "modeling_other.Model"})
    assert "code of its own" in refusal(folder)


def test_every_missing_tensor_is_named(public):
    folder = public()
    whole = load_file(folder / "model.safetensors")
    for name in whole:
        if not name.startswith(("cls.", *HEAD)):
            edit_weights(folder, lambda tensors, name=name: (tensors.update(whole), tensors.pop(name)))
            assert f"lacks tensors: {name.removeprefix('bert.')}." in refusal(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors.update({"bert.encoder.layer.1.mlp.wo.bias": torch.ones(63)}),
            "another shape: encoder.layer.1.mlp.wo.bias (config.json says [64], the checkpoint has [63]).",
        ),
        (
            lambda tensors: tensors.update({"bert.encoder.layer.3.mlp.wo.bias": torch.ones(64)}),
            "has unknown tensors: encoder.layer.3.mlp.wo.bias.",
        ),
        (
            lambda tensors: tensors["bert.encoder.layer.0.attention.self.Wqkv.weight"].fill_(torch.inf),
            "not finite in: encoder.layer.0.attention.self.Wqkv.weight.",
        ),
    ],
    ids=["shape", "unknown", "not finite"],
)
def test_broken_checkpoint(public, change, message):
    folder = public()
    edit_weights(folder, change)
    assert message in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 5}, "must be a multiple of `num_attention_heads`, but got 64 and 5"),
        ({"hidden_size": "wide"}, "does not describe a model"),
        ({"hidden_size": 32}, "has tensors of another shape"),
        ({"num_hidden_layers": 4}, "lacks tensors: encoder.layer.3."),
        ({"alibi_starting_size": None, "model_type": "opt", "auto_map": {}}, "lacks tensors: decoder."),
    ],
)
def test_config_that_does_not_fit(public, changes, message):
    folder = public()
    edit_config(folder, **changes)
    assert message in refusal(folder)


def test_zero_bytes_are_one_line(public):
    folder = public()
    (folder / "model.safetensors").write_bytes(b"")
    assert refusal(folder).count("\n") == 0 and "holds no bytes" in refusal(folder)
    assert len(inspect_backbone(folder)) == 1


# --- training -----------------------------------------------------------------------------------------------

ENTRIES = [
    (toy.trial("lora", 1, learning_rate=3e-3), toy.task("a"), 0),
    (toy.trial("ars", 2, learning_rate=3e-3), toy.task("b", longest=20, seed=5), 0),
    (toy.trial("ars", 3, learning_rate=3e-3, targets=("W_q", "W_o", "W_f2")), toy.task("c", seed=6), 4),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Loads a small random DNABERT-2 in float64; padding is id 1, as in the toy tasks."""
    folder = tmp_path_factory.mktemp("models") / "dnabert2"
    config = DnaBert2Config(
        vocab_size=20, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=32
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DnaBert2Model(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folder)
    small_tokenizer(folder)
    return lambda: load_backbone(folder, dtype=torch.float64)


def test_packed_equals_alone(tiny):
    packed = run(Pack(tiny(), capacity=3, max_rank=6, dtype=torch.float64), ENTRIES)
    for entry, together in zip(ENTRIES, packed, strict=True):
        single = run(Pack(tiny(), capacity=1, max_rank=4, dtype=torch.float64), [(*entry[:2], 0)])
        assert_same(together, single[0], 1e-9)


def by_mean(split):
    """The split with labels that the mean of a sequence's ids decides."""
    means = np.add.reduceat(split.ids.astype(np.int64), split.offsets[:-1]) / split.lengths
    return replace(split, labels=(means > 10.5).astype(np.int64))


@pytest.mark.parametrize(("method", "rate"), [("lora", 1e-2), ("ars", 3e-2), ("fmft", 1e-3)])
def test_loss_falls(tiny, method, rate):
    pack = Pack(tiny(), max_rank=4, full=method == "fmft", dtype=torch.float64)
    config = toy.trial(method, epochs=10, adapter_dropout=0.0, learning_rate=rate)
    data = toy.task(rows=40)
    data = replace(data, train=by_mean(data.train), dev=by_mean(data.dev))
    slot = pack.admit(config, data)
    losses = []
    while not slot.done:
        for _ in range(slot.steps_per_epoch):
            pack.step()
        losses.append(pack.take_loss(slot) / slot.steps_per_epoch)
    assert losses[-1] < 0.7 * losses[0]
    pack.close()
