"""Sequences that are too long: their middle, or chunks whose pooled states are averaged, packed as alone."""

import dataclasses

import numpy as np
import pytest
import torch

from lingo.data import Split, TaskData
from lingo.dna_tokenizers import DNABert1Tokenizer
from lingo.export import export_adapter
from lingo.heads import pooled_states
from lingo.long_sequences import encode, seen
from lingo.nucleotides import units_for
from lingo.pack import Pack
from lingo.predict import open_adapter
from lingo.prompts import Prompt
from tests.lingo import toy
from tests.lingo.test_vocabulary import DNA, characters
from tests.lingo.tiny import Checkpoints

LETTERS = dict(zip("ACGTN", range(3, 8), strict=True))
TEXTS = [
    "".join("ACGT"[(i * i + 3 * j) % 4] for j in range(size))
    for i, size in enumerate([5, 9, 30, 17, 8, 40, 3, 12])
]


def rows(ids, offsets):
    return [row.tolist() for row in np.split(ids, offsets[1:-1])]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return Checkpoints(tmp_path_factory.mktemp("long"))


def test_the_middle_and_the_chunks_of_a_sequence():
    tokenizer = characters(DNA)
    spelled = [2, *[LETTERS[base] for base in "ACGTACGTTT"]]
    for long in ("truncate", "center", "chunk"):
        assert rows(*encode(["ACGTACGTTT"], tokenizer, None, 11, long)) == [spelled]
    assert rows(*encode(["ACGTACGTTT"], tokenizer, None, 7, "center")) == [[2, *spelled[3:9]]]
    (row,) = rows(*encode(["ACGTACGTTT"], tokenizer, None, 7, "chunk"))
    assert row == [2, *spelled[1:7], 2, *spelled[5:11]]


def test_prompt_and_special_tokens_stand_around_each_chunk():
    tokenizer, prompt = characters([*DNA, "x", "y"]), Prompt("x", "y")
    (row,) = rows(*encode(["ACGTACGT"], tokenizer, prompt, 7, "chunk"))
    chunks = [row[at : at + 7] for at in range(0, len(row), 7)]
    assert all(chunk[:2] == [2, 8] and chunk[-1] == 9 for chunk in chunks) and len(row) % 7 == 0
    assert [LETTERS[base] for base in "ACGT"] == chunks[0][2:6] == chunks[-1][2:6]
    with pytest.raises(ValueError, match="room for a base beside 3 tokens"):
        encode(["ACGTACGT"], tokenizer, prompt, 3, "chunk")


def test_every_base_is_in_a_chunk_and_neighbours_overlap():
    tokenizer = characters(DNA)
    units = units_for("one_hot", tokenizer, 40)
    for made in (tokenizer, units):
        for size in range(20, 90, 7):
            (row,) = rows(*encode(["A" * size], made, None, 17, "chunk"))
            count = len(row) // 17
            assert len(row) % 17 == 0 and size <= count * 16 and count >= (size - 2) / 14


def test_six_mers_of_dnabert_have_their_frame():
    units = units_for("kmer", DNABert1Tokenizer(6), 4101)
    ((first, *inner, last),) = rows(*units.tokenize(["ACGTAC" * 3], None, None))
    assert (first, last, len(inner)) == (2, 3, 3)
    (row,) = rows(*encode(["ACGTAC" * 9], units, None, 6, "chunk"))
    assert [row[at] for at in range(0, len(row), 6)] == [2] * (len(row) // 6) and len(row) % 6 == 0


def test_share_of_bases():
    assert seen(110, 60, 10, 1, "truncate") == 0.5 and seen(110, 200, 10, 1, "chunk") == 1.0


@pytest.mark.parametrize("name", ["opt", "bert", "caduceus_ps", "hyenadna"])
def test_pooled_states_of_chunks_are_the_mean_of_their_own(checkpoints, name):
    backbone = checkpoints(name, dtype=torch.float64)
    chunked = dataclasses.replace(backbone, window=6)
    ids = torch.randint(2, 6, (3, 18), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([18, 6, 4])
    ids = torch.where(torch.arange(18) < lengths[:, None], ids, backbone.pad_id)
    found = pooled_states(chunked, ids, lengths)
    alone = [pooled_states(backbone, ids[:1, at : at + 6], torch.tensor([6])) for at in (0, 6, 12)]
    torch.testing.assert_close(found[0], torch.stack(alone).mean(0)[0], atol=1e-9, rtol=0)
    for row, size in ((1, 6), (2, 4)):
        own = pooled_states(backbone, ids[row : row + 1, :size], torch.tensor([size]))
        torch.testing.assert_close(found[row], own[0], atol=1e-9, rtol=0)


def task(backbone, longest, seed=0):
    labels = np.arange(len(TEXTS)) % 2 if not seed else np.arange(len(TEXTS)) // 4
    split = Split(*encode(TEXTS, backbone.tokenizer, None, longest, "chunk"), labels)
    return TaskData(
        name="t", kind="classification", num_labels=2, metric="mcc", pad_id=backbone.pad_id, train=split, dev=split
    )  # fmt: skip


@pytest.mark.parametrize("name", ["opt", "bert"])
def test_trials_in_chunks_are_packed_as_alone_and_predicted_from_the_export(checkpoints, name, tmp_path):
    backbone = dataclasses.replace(checkpoints(name), window=8)
    trials = [
        (toy.trial("ars", 1, epochs=3), task(backbone, 8)),
        (toy.trial("lora", 2, epochs=3), task(backbone, 8, 1)),
    ]
    short = dataclasses.replace(trials[1][1], train=toy.split(8, labels=2, longest=6, seed=3))

    def trained(some):
        pack = Pack(backbone, capacity=len(some), max_rank=4, max_labels=2)
        slots = [pack.admit(trial, data) for trial, data in some]
        for _ in range(6):
            pack.step()
        return pack, slots

    pack, slots = trained([*trials, (toy.trial("lora", 3, epochs=3), short)])
    together = [pack.predict(slot, slot.data.dev) for slot in slots]
    export = export_adapter(pack, slots[0], tmp_path / "x", card={}, max_length=8, long="chunk")
    pack.close()
    for number, one in enumerate([*trials, (toy.trial("lora", 3, epochs=3), short)]):
        pack, (slot,) = trained([one])
        np.testing.assert_allclose(pack.predict(slot, slot.data.dev), together[number], atol=1e-5)
        pack.close()
    predictor = open_adapter(export)
    np.testing.assert_allclose(predictor.logits(TEXTS), together[0], atol=1e-5)
    assert (
        predictor.encode(TEXTS).cut == 0
        and "overlapping chunks of 8 tokens" in (export / "README.md").read_text()
    )
    assert np.ptp(together[0], axis=0).min() > 1e-4
