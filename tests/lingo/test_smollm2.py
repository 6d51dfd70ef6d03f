"""A real language model of 135 million parameters, SmolLM2: its weights are read, and its adapters learn.

`tests/reference/make_smollm2.py` makes its folder; `LINGO_SMOLLM2` names it.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lingo.backbones import Backbone, load_backbone
from lingo.data import Split, TaskData
from lingo.pack import Pack
from lingo.prompts import prompt_for
from lingo.tokenization import tokenize
from lingo.trial import TrialConfig

pytestmark = pytest.mark.slow

STEPS, ROWS, BASES = 10, 8, 40


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    folder = os.environ.get("LINGO_SMOLLM2", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no folder of SmolLM2: tests/reference/make_smollm2.py makes one, LINGO_SMOLLM2 names it")
    return load_backbone(folder, dtype=torch.bfloat16)


def promoters(backbone: Backbone) -> TaskData:
    """Random sequences, rich in A and T (class 1) or in G and C (class 0), in the prompt."""
    rng = np.random.default_rng(0)
    labels = np.arange(ROWS) % 2
    shares = np.where(labels[:, None] == 1, [0.4, 0.1, 0.1, 0.4], [0.1, 0.4, 0.4, 0.1])
    rows = ["".join(rng.choice(list("ACGT"), BASES, p=share)) for share in shares]
    ids, offsets = tokenize(rows, backbone.tokenizer, prompt_for("promoter"), None)
    split = Split(ids=ids, offsets=offsets, labels=labels)
    return TaskData(
        name="toy/rich",
        kind="classification",
        num_labels=2,
        metric="mcc",
        pad_id=backbone.pad_id,
        train=split,
        dev=split,
        digest="",
    )


def test_its_weights_and_its_tokens(backbone: Backbone) -> None:
    assert sum(weight.numel() for weight in backbone.model.parameters()) == 134_515_008
    assert backbone.trained and backbone.causal and backbone.pooling == "last"
    text = "".join(np.random.default_rng(1).choice(list("ACGT"), 3000))
    assert 1.7 < 3000 / len(backbone.tokenizer(text)["input_ids"]) < 2.3  # bases a token
    words = backbone.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    states = backbone.states(words, torch.tensor([words.shape[1]]))
    scores = states[0, -1] @ backbone.model.get_input_embeddings().weight.T
    assert backbone.tokenizer.decode(scores.argmax()) == " Paris"


def test_ten_steps_of_a_pack_learn_and_leave_the_backbone_as_it_is(backbone: Backbone) -> None:
    before = [(weight, weight.clone()) for weight in backbone.model.parameters()]
    data, losses = promoters(backbone), dict[str, list[float]]()
    pack = Pack(backbone, capacity=2, max_rank=12)
    slots = {
        method: pack.admit(
            TrialConfig(method=method, seed=0, learning_rate=1e-3, batch_size=ROWS, epochs=STEPS, delta_T=3),
            data,
        )
        for method in ("lora", "lingo")
    }
    for _ in range(STEPS):
        pack.step()
        for method, slot in slots.items():
            losses.setdefault(method, []).append(pack.take_loss(slot))
    for found in losses.values():
        assert np.mean(found[-3:]) < 0.7 * np.mean(found[:3]), [round(x, 3) for x in found]
    assert all(torch.equal(weight, copy) for weight, copy in before)
