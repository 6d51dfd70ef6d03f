"""Nucleotides and 6-mers as tokens: the Nucleotide Transformer's examples, new ids and their embeddings."""

import json
import random

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, EsmTokenizer

from lingo.embeddings import add_rows, rows_of
from lingo.nucleotides import SCHEMES, units_for, words_of
from lingo.prompts import prompt_for
from tests.lingo.tiny import CAUSAL, ENCODERS, Checkpoints

PROMPT = prompt_for("DNA Promoter")
FOLDERS = {
    "opt": "data/tokenizers/opt",
    "gpt2": "data/tokenizers/gpt2",
    "dnabert2": "data/tokenizers/dnabert2",
    "stories260K": "models/stories260K",
}
ROWS = 60_000
"""Rows of the embedding in these tests: more than any vocabulary here."""


@pytest.fixture(scope="session")
def tokenizers(shared):
    return {name: AutoTokenizer.from_pretrained(shared / folder) for name, folder in FOLDERS.items()}


@pytest.fixture(scope="session")
def nucleotide_transformer(shared):
    folder = shared / "oracles/nt"
    return EsmTokenizer(str(folder / "vocab_v1.txt"), eos_token=None), json.loads(
        (folder / "examples.json").read_text()
    )


def rows_of_ids(ids, offsets):
    return [row.tolist() for row in np.split(ids, offsets[1:-1])]


def random_dna(count, seed=0, letters="ACGTN"):
    draw = random.Random(seed)
    return [
        "".join(draw.choices(letters, weights=[9, 9, 9, 9, 1], k=draw.randrange(1, 80))) for _ in range(count)
    ]


# --- which ids ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["opt", "gpt2", "stories260K"])
def test_a_languages_units_stand_behind_its_vocabulary(tokenizers, name, scheme):
    units = units_for(scheme, tokenizers[name], ROWS)
    assert sorted(units.ids.values()) == list(range(ROWS, ROWS + len(words_of(scheme))))
    assert units.new == len(words_of(scheme)) == (5 if scheme == "one_hot" else 4101)


def test_a_dna_vocabulary_keeps_its_own_units(tokenizers, nucleotide_transformer):
    theirs = tokenizers["dnabert2"].get_vocab()
    one_hot = units_for("one_hot", tokenizers["dnabert2"], ROWS)
    assert (one_hot.new, one_hot.ids["N"]) == (0, tokenizers["dnabert2"].unk_token_id)
    assert all(one_hot.ids[base] == theirs[base] for base in "ACGT")
    # Its merges hold only some of the 6-mers.
    assert units_for("kmer", tokenizers["dnabert2"], ROWS).new == 4101
    for scheme in SCHEMES:
        units = units_for(scheme, nucleotide_transformer[0], 4105)
        vocabulary = nucleotide_transformer[0].get_vocab()
        assert units.new == 0
        assert units.ids == {word: vocabulary[word] for word in words_of(scheme)}


def test_kmers_are_the_nucleotide_transformers_own_tokens(nucleotide_transformer):
    tokenizer, examples = nucleotide_transformer
    units = units_for("kmer", tokenizer, 4105)
    sequences = [example["sequence"] for example in examples["examples"]]
    expected = [example["ids_v1"] for example in examples["examples"]]
    assert rows_of_ids(*units.tokenize(sequences, None, None)) == expected
    sequences = random_dna(300)
    assert rows_of_ids(*units.tokenize(sequences, None, None)) == tokenizer(sequences)["input_ids"]


def test_an_unknown_scheme(tokenizers):
    with pytest.raises(ValueError, match="one_hot, kmer, but got 'bytes'"):
        units_for("bytes", tokenizers["opt"], ROWS)


# --- rows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("prompt", [None, PROMPT], ids=["bare", "prompt"])
@pytest.mark.parametrize("name", FOLDERS)
def test_the_sequence_stands_between_prompt_and_special_tokens(tokenizers, name, prompt, scheme):
    tokenizer = tokenizers[name]
    units = units_for(scheme, tokenizer, ROWS)
    sequences = [*random_dna(20), "A"]
    bare = rows_of_ids(*units.tokenize(sequences, None, None))
    rows = rows_of_ids(*units.tokenize(sequences, prompt, None))
    words = {number: word for word, number in units.ids.items()}
    unknown = units.ids["N"]
    specials = sum(token in tokenizer.all_special_ids for token in tokenizer("ACGT")["input_ids"])
    around = sum(
        len(tokenizer(text, add_special_tokens=False)["input_ids"])
        for text in ((prompt.prefix, prompt.suffix) if prompt else ())
    )
    for sequence, row, alone in zip(sequences, rows, bare, strict=True):
        spelled = units.spell(sequence)
        assert len(row) == len(spelled) + specials + around
        assert len(alone) == len(spelled) + specials
        assert any(row[start : start + len(spelled)] == spelled for start in range(len(row)))
        assert "".join(words[token] for token in spelled) == sequence or unknown == tokenizer.unk_token_id
    if prompt is not None and units.new:
        text = tokenizer.decode([token for token in rows[0] if token < ROWS])
        assert "Promoter" in text or name == "dnabert2"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", FOLDERS)
def test_truncation_takes_units_from_the_end_alone(tokenizers, name, scheme):
    units = units_for(scheme, tokenizers[name], ROWS)
    sequences = ["ACGTTGCA" * 40, "ACG"]
    whole, short = rows_of_ids(*units.tokenize(sequences, PROMPT, None))
    fixed = len(whole) - len(units.spell(sequences[0]))
    cut, same = rows_of_ids(*units.tokenize(sequences, PROMPT, fixed + 7))
    start = next(i for i in range(len(whole)) if whole[i : i + 7] == units.spell(sequences[0])[:7])
    assert cut == whole[:start] + units.spell(sequences[0])[:7] + whole[len(whole) - (fixed - start) :]
    assert same == short
    with pytest.raises(ValueError, match=f"beside {fixed} tokens"):
        units.tokenize(sequences, PROMPT, fixed)


def test_ids_are_small_where_they_can_be(tokenizers):
    assert (
        units_for("one_hot", tokenizers["dnabert2"], ROWS).tokenize(["AC"], None, None)[0].dtype == np.int16
    )
    assert units_for("one_hot", tokenizers["opt"], ROWS).tokenize(["AC"], None, None)[0].dtype == np.int32


# --- their embeddings --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.mark.parametrize("name", sorted((CAUSAL | ENCODERS).keys() - {"caduceus_ps"}))
def test_new_rows_leave_the_old_alone_and_are_the_same_every_time(checkpoints, name):
    plain, one, two = (checkpoints(name) for _ in range(3))
    rows = rows_of(plain)
    for backbone in (one, two):
        add_rows(backbone, 5)
    assert rows_of(one) == rows + 5 == one.model.config.vocab_size
    old, first, second = (b.model.get_input_embeddings().weight for b in (plain, one, two))
    assert torch.equal(first, second)
    assert torch.equal(first[:rows], old)
    assert not first.requires_grad
    news = first[rows:]
    assert len(torch.unique(news, dim=0)) == 5
    assert float(torch.cdist(news, old).min()) > 0
    ids = torch.tensor([[2, 3, 4, 5]])
    mask = torch.ones_like(ids)
    hidden = [b.model(input_ids=ids, attention_mask=mask).last_hidden_state for b in (plain, one)]
    assert torch.equal(*hidden)
    out = one.model(input_ids=torch.tensor([[rows, rows + 4]]), attention_mask=mask[:, :2]).last_hidden_state
    assert torch.isfinite(out).all()


def test_a_model_of_both_strands_refuses_new_rows(checkpoints):
    with pytest.raises(ValueError, match="every token needs a complement"):
        add_rows(checkpoints("caduceus_ps"), 5)


def test_new_rows_are_as_long_as_old_ones(checkpoints):
    backbone = checkpoints("llama")
    rows = rows_of(backbone)
    add_rows(backbone, 4000)
    weight = backbone.model.get_input_embeddings().weight
    old, new = weight[:rows], weight[rows:]
    torch.testing.assert_close(new.mean(0), old.mean(0), atol=0.03, rtol=0)
    torch.testing.assert_close(new.std(0), old.std(0), atol=0.03, rtol=0)


def test_no_new_rows_change_nothing(checkpoints):
    backbone = checkpoints("opt")
    before = backbone.model.get_input_embeddings()
    add_rows(backbone, 0)
    assert backbone.model.get_input_embeddings() is before
