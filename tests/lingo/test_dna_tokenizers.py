"""Tokenizers of DNA models against ids of the public ones, and recognised from a backbone's folder."""

import json

import numpy as np
import pytest
import transformers as tr
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lingo.backbones import load_backbone
from lingo.dna_tokenizers import (
    CarbonTokenizer,
    DNABert1Tokenizer,
    generator,
    is_built,
    kmers,
    letters,
    own_tokenizer,
)
from lingo.nucleotides import units_for
from lingo.prompts import Prompt
from lingo.tokenization import tokenize
from lingo.vocabulary import reads_language


@pytest.fixture(scope="module")
def examples(shared):
    def read(path):
        file = shared / "oracles" / path
        if not file.exists():
            pytest.skip(f"no {file}")
        return json.loads(file.read_text())

    return read


def ids(tokenizer, text, **options):
    return tokenizer(text, **options)["input_ids"]


def test_hyenadna(examples):
    found, tokenizer = examples("hyenadna/tokenizer_examples.json"), letters(upper=False)
    for row in found["examples"]:
        expected = row.get("hf_port_transformers_5.23.0", row["hf_port"])
        assert ids(tokenizer, row["sequence"]) == expected
        assert ids(tokenizer, row["sequence"], add_special_tokens=False) == expected[:-1]
    assert tokenizer.get_vocab() == found["vocabulary"]
    cut = ids(tokenizer, "GATTACA", truncation=True, max_length=5)
    assert cut == found["truncated_to_5"]


def test_caduceus(examples):
    found, tokenizer = examples("caduceus/tokenizer_examples.json"), letters(upper=True)
    for row in found["examples"]:
        expected = row.get("ids_transformers_5.23.0", row["ids"])
        assert ids(tokenizer, row["sequence"]) == expected
        assert ids(tokenizer, row["sequence"], add_special_tokens=False) == expected[:-1]


@pytest.mark.parametrize("release", ["special_tokens_v1", "special_tokens_generanno"])
def test_generator(examples, release):
    found = examples("tokenizers/generator.json")
    special = found[release]
    tokenizer = generator(special)
    for row in found["examples"]:
        # The examples are those of the first release, and name its tokens.
        if release == "special_tokens_v1" or "<mam>" not in row["sequence"]:
            assert ids(tokenizer, row["sequence"], add_special_tokens=False) == row["ids"]
            assert ids(tokenizer, row["sequence"]) == row["ids_with_special_tokens"]
    assert [tokenizer.convert_ids_to_tokens(i) for i in range(32)] == special
    batch = found["right_padded_batch_with_special"]
    padded = tokenizer(batch["sequences"], padding=True)
    assert padded["input_ids"] == batch["input_ids"]
    assert padded["attention_mask"] == batch["attention_mask"]
    assert len(tokenizer) == found["vocab_size"]


def test_dnabert_1(examples):
    found, tokenizer = examples("tokenizers/dnabert1.json"), DNABert1Tokenizer(6)
    for row in found["examples"]:
        assert ids(tokenizer, row["sequence"]) == row["ids"]
    long = found["long"]
    assert len(ids(tokenizer, "ACGTTGCA" * 70)) == long["n_ids_without_truncation"]
    cut = ids(tokenizer, "ACGTTGCA" * 70, truncation=True, max_length=512)
    assert (len(cut), cut[:5], cut[-3:]) == (512, long["truncated_512_first5"], long["truncated_512_last3"])
    assert [DNABert1Tokenizer(k).vocab_size for k in (3, 4, 5, 6)] == [69, 261, 1029, found["vocab_size"]]


def test_too_long_a_sequence_of_overlapping_kmers_keeps_as_many_bases_as_fit():
    tokenizer = DNABert1Tokenizer(6)
    found, _ = tokenize(["ACGTTGCA" * 5, "ACGTTGC"], tokenizer, None, 12)
    assert found.tolist() == [*ids(tokenizer, ("ACGTTGCA" * 5)[:15]), *ids(tokenizer, "ACGTTGC")]


FOLDERS = {
    "hyenadna": ({"tokenizer_class": "HyenaDNATokenizer"}, {}, letters(upper=False)),
    "hyenadna by its configuration": (None, {"model_type": "hyenadna"}, letters(upper=False)),
    "caduceus": (
        {"auto_map": {"AutoTokenizer": ["tokenization_caduceus.CaduceusTokenizer", None]}},
        {},
        letters(upper=True),
    ),
    "caduceus by its configuration": (None, {"rcps": True}, letters(upper=True)),
    "generator": (
        {"auto_map": {"AutoTokenizer": ["owner/model--tokenizer.DNAKmerTokenizer", None]}},
        {"model_type": "llama"},
        generator(),
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_without_a_vocabulary_are_recognised(tmp_path, name):
    settings, config, expected = FOLDERS[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    if settings is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 99}))
    assert is_built(tmp_path)
    found = own_tokenizer(tmp_path)
    assert found.get_vocab() == expected.get_vocab()
    assert ids(found, "ACGTnACGTAC") == ids(expected, "ACGTnACGTAC")
    assert found.model_max_length == (99 if settings else 10**30)
    assert not reads_language(found)
    found.save_pretrained(tmp_path)
    assert own_tokenizer(tmp_path) is None, "its own file says it all"


def test_generator_of_a_later_release_is_recognised_by_its_names(tmp_path):
    added = {"11": {"content": "<cds>"}, "17": {"content": "<mam>"}, "40": {"content": "AAAATT"}}
    settings = {"tokenizer_class": "DNAKmerTokenizer", "added_tokens_decoder": added}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    found = own_tokenizer(tmp_path)
    assert found.convert_tokens_to_ids(["<cds>", "<mam>", "AAAAAA"]) == [11, 17, 32]


@pytest.mark.parametrize("k", [3, 6])
def test_dnabert_1_is_recognised_by_its_vocabulary(tmp_path, k):
    tokenizer = DNABert1Tokenizer(k)
    tokenizer.save_pretrained(tmp_path)
    again = own_tokenizer(tmp_path)
    assert ids(again, "ACGTACGTTGCAN") == ids(tokenizer, "ACGTACGTTGCAN") and again.model_max_length == 512
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')  # as the public folder says
    assert ids(own_tokenizer(tmp_path), "ACGTACGT") == ids(tokenizer, "ACGTACGT")
    words = (tmp_path / "vocab.txt").read_text().split()
    (tmp_path / "vocab.txt").write_text("\n".join(reversed(words)))
    assert own_tokenizer(tmp_path) is None


@pytest.fixture
def language():
    """Stands for the language of Carbon's tokenizer, whose files are not here: single letters."""
    words = ["<|endoftext|>", *"ACGTN hiexlo!aocs", "Sequence"]
    inner = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(words))}, unk_token="!")
    )
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("Sequence|."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<|endoftext|>", model_max_length=99)


def test_carbon(examples, language):
    found = examples("tokenizers/carbon.json")
    tokenizer = CarbonTokenizer(language)
    for row in found["examples"]:
        expected = []
        for one in row["ids"]:
            expected += [one] if isinstance(one, int) else ids(language, one["bpe_text"])
        text = f"<dna>{row['text']}</dna>" if row["auto_dna_tags"] else row["text"]
        assert ids(tokenizer, text) == expected, row
    assert tokenizer.vocab_size == found["vocab_size"]
    assert tokenizer.convert_ids_to_tokens([151669, 151671, 151672]) == ["<dna>", "<oov>", "dna:AAAAAA"]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 0)


def test_carbon_is_saved_and_recognised_and_marks_dna_in_a_prompt(language, tmp_path):
    tokenizer = CarbonTokenizer(language, first=40, model_max_length=99)
    tokenizer.save_pretrained(tmp_path)
    again = own_tokenizer(tmp_path)
    text = "hi <dna>ACGTACGTNA</dna>!"
    assert ids(again, text) == ids(tokenizer, text) == [*ids(language, "hi "), 40, *ids(again, "ACGTACGTNA</dna>"),
                                                        *ids(language, "!")]  # fmt: skip
    assert again.model_max_length == 99 and again.pad_token_id == tokenizer.pad_token_id == 0
    prompt = Prompt("Sequence ", "!")
    found, offsets = tokenize(["ACGTAC", "ACGTACGTACGTACGT"], again, prompt, 7)
    rows = np.split(found, offsets[1:-1])
    assert rows[0].tolist() == ids(again, "Sequence <dna>ACGTAC</dna>!")
    assert rows[1].tolist() == ids(again, "Sequence <dna>ACGTACGTACGT</dna>!") and len(rows[1]) == 7
    (tmp_path / "tokenizer_config.json").write_text(
        '{"auto_map": {"AutoTokenizer": ["tokenizer.Any", null]}}'
    )
    (tmp_path / "config.json").write_text('{"model_type": "llama", "vocab_size": 155776}')
    assert ids(own_tokenizer(tmp_path), "<dna>AAAAAA") == [151669, 151672]


def test_llama_of_generator_is_a_backbone(tmp_path):
    config = tr.LlamaConfig(vocab_size=4128, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                            intermediate_size=8, max_position_embeddings=64)  # fmt: skip
    tr.LlamaForCausalLM(config).save_pretrained(tmp_path)
    settings = {"auto_map": {"AutoTokenizer": ["tokenizer.DNAKmerTokenizer", None]}, "model_max_length": 50}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "tokenizer.py").write_text("raise SystemExit")
    backbone = load_backbone(tmp_path)
    assert ids(backbone.tokenizer, "AAAAAA") == [1, 32, 2]
    assert (backbone.max_length, backbone.pad_id) == (50, 3)


def test_units_use_the_vocabulary():
    assert units_for("one_hot", letters(upper=False), 16).new == 0
    assert units_for("one_hot", generator(), 4128).new == 5
    assert kmers(2)[:5] == ["AA", "AT", "AC", "AG", "TA"]
