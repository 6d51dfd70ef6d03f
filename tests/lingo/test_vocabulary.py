"""Vocabularies of DNA and RNA as people bring them: what is read, how it is spelled, which tokens are bases."""

import json

import numpy as np
import pytest
import transformers as tr
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from lingo.backbones import load_backbone
from lingo.checkpoint import BackboneError
from lingo.dna_tokenizers import DNABert1Tokenizer
from lingo.nucleotides import units_for
from lingo.tokenization import tokenize
from lingo.vocabulary import reads_language, spelling, unknown_bases
from tests.support.architectures import ARCHITECTURES

DNA = ["[UNK]", "[PAD]", "[CLS]", "A", "C", "G", "T", "N"]


def characters(words, *, declared=("[UNK]", "[PAD]", "[CLS]")):
    """A tokenizer with a token a letter; only some of its special tokens are declared."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
    return tr.PreTrainedTokenizerFast(
        tokenizer_object=inner, **{k: v for k, v in names.items() if v in declared}
    )


@pytest.mark.parametrize(
    "more",
    [
        [*"acgtn"],
        ["[RESERVED]", "<mask_1>"],
        [*"RYSWKMBDHV"],
        ["-", "."],
        ["U"],
        ["<human>", "mouse", "Homo_sapiens", "Arabidopsis"],
        ["<eos>"],
        [*"acgtnuRYSWKMBDHVU-*", "[RESERVED]", "<eos>", "[SEP]", "human"],
    ],
    ids=" ".join,
)
def test_a_vocabulary_of_dna_is_no_language_and_its_bases_are_used(more):
    tokenizer = characters([*DNA, *more])
    assert not reads_language(tokenizer) and spelling(tokenizer) == {} and unknown_bases(tokenizer) == []
    units = units_for("one_hot", tokenizer, 64)
    assert units.new == 0 and units.ids == {"A": 3, "C": 4, "G": 5, "T": 6, "N": 7}


def test_rna_reads_t_as_u():
    tokenizer = characters(["[UNK]", "[PAD]", "[CLS]", "A", "C", "G", "U"])
    assert "ACGTNt".translate(spelling(tokenizer)) == "ACGUNu" and not reads_language(tokenizer)
    ids, _ = tokenize(["ACGT", "TTTT"], tokenizer, None, None)
    assert ids.tolist() == [2, 3, 4, 5, 6, 2, 6, 6, 6, 6]
    units = units_for("one_hot", tokenizer, 64)
    assert units.new == 0 and units.spell("ACGTN") == [3, 4, 5, 6, 0]


def test_lower_case_alone_is_spelled_so():
    tokenizer = characters(["[UNK]", "[PAD]", "[CLS]", *"acgtn"])
    assert tokenize(["ACGTN"], tokenizer, None, None)[0].tolist() == [2, 3, 4, 5, 6, 7]
    assert units_for("one_hot", tokenizer, 64).spell("ACGTN") == [3, 4, 5, 6, 7]


def test_languages_stay_languages(shared):
    for name in ("data/tokenizers/opt", "data/tokenizers/gpt2", "models/stories260K"):
        tokenizer = tr.AutoTokenizer.from_pretrained(shared / name)
        assert reads_language(tokenizer) and spelling(tokenizer) == {} and unknown_bases(tokenizer) == []
        assert units_for("one_hot", tokenizer, 60_000).new == 5
    dnabert2 = tr.AutoTokenizer.from_pretrained(shared / "data/tokenizers/dnabert2")
    assert not reads_language(dnabert2) and units_for("one_hot", dnabert2, 60_000).new == 0


def test_a_base_that_is_unknown_is_found():
    assert unknown_bases(characters(["[UNK]", "[PAD]", "[CLS]", "A", "C", "G"])) == ["T"]
    assert unknown_bases(characters(["[UNK]", "[PAD]", "[CLS]", "x", "y"])) == ["A", "C", "G", "T"]


@pytest.mark.parametrize(("k", "new"), [(6, 0), (5, 4101), (3, 4101)])
def test_dnabert_has_its_6_mers(k, new):
    tokenizer = DNABert1Tokenizer(k)
    units = units_for("kmer", tokenizer, 4101)
    assert units.new == new and not reads_language(tokenizer) and unknown_bases(tokenizer) == []
    if not new:
        vocabulary = tokenizer.get_vocab()
        assert units.spell("ACGTACGGGTTTN") == [vocabulary["ACGTAC"], vocabulary["GGGTTT"], 1]
        assert units.spell("ACGTACGG") == [vocabulary["ACGTAC"], 1, 1]


def saved(folder, words, rows):
    """A GPT-NeoX of so many embedding rows, with a tokenizer."""
    model = ARCHITECTURES["gpt_neox"]()
    model.resize_token_embeddings(rows)
    model.save_pretrained(folder)
    characters(words).save_pretrained(folder)
    return folder


def test_a_padding_token_beyond_the_embedding_is_never_used(tmp_path):
    words = ["[UNK]", "[BOS]", "[CLS]", "A", "C", "G", "T", "N", "[PAD]"]
    backbone = load_backbone(saved(tmp_path / "m", words, rows=8))
    assert backbone.tokenizer.pad_token_id == 8 and backbone.pad_id == 1


def test_a_letter_beyond_the_embedding_is_refused_with_a_cure(tmp_path):
    with pytest.raises(
        BackboneError, match=r"must be below 7 .* has 7 \('N'\); give the model an embedding row"
    ):
        load_backbone(saved(tmp_path / "m", DNA, rows=7))


def test_the_tokens_of_a_saved_tokenizer_are_those_of_the_model(tmp_path):
    """The card's own words for the spelling are in lingo.json, too: tests/lingo/test_export.py."""
    backbone = load_backbone(saved(tmp_path / "m", ["[UNK]", "[PAD]", "[CLS]", *"ACGU"], rows=40))
    ids, offsets = tokenize(["ATTA"], backbone.tokenizer, None, None)
    assert np.diff(offsets).tolist() == [5] and 0 not in ids
    assert json.loads((tmp_path / "m" / "config.json").read_text())["vocab_size"] == 40
