"""Nucleotide Transformer: v1 against the numbers of the public implementation, and the tokens of v2."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers as tr

from lingo.backbones import load_backbone
from lingo.families import FAMILIES
from lingo.flops import shape_of
from lingo.known_models import KNOWN
from lingo.ntv2 import NTv2Config, NTv2Model
from lingo.pack import Pack
from lingo.tokenization import tokenize
from tests.lingo import toy
from tests.lingo.test_backbones import small_tokenizer
from tests.lingo.test_pack import assert_same, run

CASES = ["A_nopad", "B_rightpad", "C_masktokens", "D_maxlen"]
# The share of masked tokens is float32 in the public code whatever the model's type.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}


@pytest.fixture(scope="session")
def oracle(shared):
    folder = shared / "oracles/nt"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


@pytest.fixture
def tiny(oracle, tmp_path):
    """The public layout: weights of a masked language model with a head, and a tokenizer."""
    folder = tmp_path / "nt"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(oracle / "esm_tiny_v1" / name, folder / name)
    small_tokenizer(folder)  # its 8 tokens fit the 128 rows, which the public 4105 do not
    return folder


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES)
def test_hidden_states_are_those_of_the_public_code(oracle, tiny, case, dtype):
    numbers, model = np.load(oracle / "esm_tiny_v1/cases.npz"), load_backbone(tiny, dtype=dtype).model
    ids, mask = (
        torch.from_numpy(numbers[f"{case}/input/{name}"]) for name in ("input_ids", "attention_mask")
    )
    with torch.no_grad():
        outputs = model(ids, attention_mask=mask, output_hidden_states=True)
        # As a pack passes it.
        boolean = model(input_ids=ids, attention_mask=mask.bool()).last_hidden_state
    kind = "f32" if dtype == torch.float32 else "f64"
    close, inside = {"rtol": 0, "atol": TOLERANCE[dtype]}, mask.bool()
    for found in (outputs.last_hidden_state, boolean):
        expected = torch.from_numpy(numbers[f"{case}/{kind}/last_hidden_state"])
        torch.testing.assert_close(found[inside], expected[inside], **close)
    for i, state in enumerate(outputs.hidden_states):
        expected = torch.from_numpy(numbers[f"{case}/f64/hidden_states.{i}"]).to(dtype)
        torch.testing.assert_close(state[inside], expected[inside], **close)


def test_facts(tiny):
    backbone = load_backbone(tiny)
    facts = (backbone.causal, backbone.pooling, backbone.hidden_size, backbone.max_length, backbone.pad_id)
    assert facts == (False, "first", 64, 64, 1)
    assert backbone.matrices["W_o"][0] == "encoder.layer.0.attention.output.dense"
    assert [len(paths) for paths in backbone.matrices.values()] == [3] * 6
    assert shape_of(backbone.model.config).layers == 3


@pytest.fixture(scope="module")
def real_vocabulary(shared, tmp_path_factory):
    """Loads a small model with the public vocabulary of 4105 tokens; options go to its tokenizer."""
    vocabulary = shared / "oracles/nt/vocab_v1.txt"
    if not vocabulary.exists():
        pytest.skip(f"no {vocabulary}")
    folder = tmp_path_factory.mktemp("models") / "nt"
    config = tr.EsmConfig(
        vocab_size=4105,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=1002,
        pad_token_id=1,
        mask_token_id=2,
        token_dropout=True,
        emb_layer_norm_before=False,
    )
    with torch.random.fork_rng():
        tr.EsmForMaskedLM(config).save_pretrained(folder)
    shutil.copyfile(vocabulary, folder / "vocab.txt")

    def load(**options):
        names = {"tokenizer_class": "EsmTokenizer", "model_max_length": 1000} | options
        (folder / "tokenizer_config.json").write_text(json.dumps(names))
        return load_backbone(folder)

    return load


# With and without `eos_token`, and as transformers writes it: the vocabulary has none.
@pytest.mark.parametrize("options", [{}, {"eos_token": None}, {"eos_token": "<eos>"}], ids=str)
def test_ids_are_those_of_the_public_tokenizer(oracle, real_vocabulary, options):
    backbone = real_vocabulary(**options)
    examples = json.loads((oracle / "examples.json").read_text())
    for example in examples["examples"]:
        found = backbone.tokenizer(example["sequence"])["input_ids"]
        assert found == example["ids_v1"]
        assert backbone.tokenizer.convert_ids_to_tokens(found) == example["tokens"]
    padding = examples["padding"]
    padded = backbone.tokenizer(
        padding["sequences"], padding="max_length", max_length=padding["fixed_length"]
    )
    assert padded["input_ids"] == padding["ids_v1"]
    assert backbone.max_length == 1000 and backbone.pad_id == 1


def test_prepared_ids(oracle, real_vocabulary):
    examples = json.loads((oracle / "examples.json").read_text())["examples"]
    ids, offsets = tokenize([e["sequence"] for e in examples], real_vocabulary().tokenizer, None, None)
    assert [row.tolist() for row in np.split(ids, offsets[1:-1])] == [e["ids_v1"] for e in examples]
    assert ids.dtype == np.int16


def test_packed_equals_alone(tiny):
    entries = [
        (toy.trial("lora", 1, learning_rate=3e-3), toy.task("a"), 0),
        (toy.trial("ars", 2, learning_rate=3e-3), toy.task("b", longest=20, seed=5), 2),
    ]

    def pack(capacity):
        return Pack(load_backbone(tiny, dtype=torch.float64), capacity=capacity, dtype=torch.float64)

    for entry, together in zip(entries, run(pack(2), entries), strict=True):
        assert_same(together, run(pack(1), [(*entry[:2], 0)])[0], 1e-9)


# --- version 2 (its model: `test_own_models`) ---------------------------------------------------------------


def test_ids_of_version_2(shared, tmp_path):
    folder = shared / "oracles/ntv2"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    NTv2Model(
        NTv2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    ).save_pretrained(tmp_path)
    shutil.copyfile(shared / "oracles/nt/vocab.txt", tmp_path / "vocab.txt")
    names = {"tokenizer_class": "EsmTokenizer", "model_max_length": 2048, "eos_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    backbone = load_backbone(tmp_path)
    for example in json.loads((folder / "tokenizer_examples.json").read_text())["examples"]:
        found = backbone.tokenizer(example["sequence"])["input_ids"]
        assert found == example["ids"]
    assert (backbone.max_length, backbone.pad_id) == (2048, 1)


def test_rows():
    rows = {name: row for name, row in KNOWN.items() if name.startswith("nt-")}
    first, second = (
        {n: r for n, r in rows.items() if n.startswith("nt-v2") == later} for later in (False, True)
    )
    assert sorted(first) == ["nt-2.5b-1000g", "nt-2.5b-multi-species", "nt-500m-1000g", "nt-500m-human-ref"]
    assert sorted(second) == ["nt-v2-100m", "nt-v2-250m", "nt-v2-500m", "nt-v2-50m"]
    assert {row.licence for row in rows.values()} == {"CC BY-NC-SA 4.0"}
    assert all(name.removeprefix("nt-") in row.hub_id for name, row in rows.items())
    assert FAMILIES["esm"].padded_positions and not FAMILIES["ntv2"].padded_positions
