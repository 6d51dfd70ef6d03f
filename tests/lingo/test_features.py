"""Frozen features against plain transformers: layers, pooling, padding, both strands."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from lingo.backbones import load_backbone
from lingo.data import Split
from lingo.features import Embedder, features
from lingo.layer_states import layer_number
from lingo.sequences import reverse_complement
from lingo.tokenization import tokenize
from tests.lingo.tiny import Checkpoints

STORIES = Path(os.environ.get("LINGO_SHARED", "../shared")) / "models" / "stories260K"
POOLINGS = {
    "mean": lambda states: states.mean(0),
    "first": lambda states: states[0],
    "last": lambda states: states[-1],
    "max": lambda states: states.max(0).values,
}


def sequences(n=12):
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(list("ACGT"), int(rng.integers(5, 60)))) for _ in range(n)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if STORIES.is_dir():
        return STORIES
    return Checkpoints(tmp_path_factory.mktemp("models")).make("llama")


@pytest.fixture(scope="module")
def backbone(folder):
    return load_backbone(folder)


@pytest.fixture(scope="module")
def plain(folder):
    """Hidden states of each sequence alone, of every layer: a list of [layers + 1, S, H]."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found = []
    with torch.no_grad():
        for text in sequences():
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            out = model(input_ids=ids, output_hidden_states=True)
            found.append((torch.stack(out.hidden_states)[:, 0], out.last_hidden_state[0]))
    return found


def split_of(backbone):
    ids, offsets = tokenize(sequences(), backbone.tokenizer, None, None)
    return Split(ids, offsets, np.zeros(len(sequences()), dtype=np.int64))


@pytest.mark.parametrize("how", POOLINGS)
@pytest.mark.parametrize("depth", [1.0, 0.6, 0.01])
def test_features_are_those_of_plain_transformers(backbone, plain, how, depth):
    layers = len(plain[0][0]) - 1
    wanted = [
        POOLINGS[how](last if depth == 1 else states[layer_number(depth, layers)]).numpy()
        for states, last in plain
    ]
    found = features(backbone, split_of(backbone), depth=depth, pooling=how, batch_size=5)
    np.testing.assert_allclose(found, wanted, atol=2e-5, rtol=1e-4)


def test_rows_in_any_order(backbone):
    split = split_of(backbone)
    every, rows = features(backbone, split), np.array([7, 0, 7, 3])
    np.testing.assert_allclose(features(backbone, split, rows=rows), every[rows], atol=1e-5)
    assert features(backbone, split, rows=np.arange(0)).shape == (0, backbone.hidden_size)


def test_layer_numbers():
    assert [layer_number(depth, 12) for depth in (0.01, 0.25, 0.5, 0.99, 1.0)] == [1, 3, 6, 12, 12]


def test_an_embedder_reads_both_strands_and_cuts(backbone):
    one = Embedder(backbone, pooling="mean")
    both = Embedder(backbone, pooling="mean", both_strands=True)
    texts = sequences()
    mean = (one.compute(one.encode(texts)) + one.compute(one.encode(reverse_complement([*texts])))) / 2
    np.testing.assert_allclose(both.compute(both.encode(texts)), mean, atol=1e-5)
    short = Embedder(backbone, max_length=8)
    encoded = short.encode(texts)
    assert encoded.cut > 0 and encoded.split.lengths.max() == 8
    with pytest.raises(ValueError, match="nucleotide codes"):
        one.encode(["ACGT", "HELLO!"])
