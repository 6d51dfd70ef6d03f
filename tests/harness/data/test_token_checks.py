"""Unknown tokens are counted, told and refused, of each task, backbone and split."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from harness.core.errors import InputError
from harness.data.find_tasks import find_task
from harness.data.prepared import prepare
from harness.data.token_checks import caveats, read, refuse_unknown_bases, sample_reading
from lingo.nucleotides import units_for
from lingo.prompts import Prompt
from lingo.tokenization import tokenize
from tests.lingo.test_vocabulary import DNA, characters


def word_piece():
    """One that takes no word of more than 100 letters, as BERT's."""
    words = ["[UNK]", "[PAD]", *"ACGT", *(f"##{base}" for base in "ACGT")]
    inner = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.Strip()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]")


def own(folder, lengths, letters="ACGT", split="train"):
    rng = np.random.default_rng(len(split))
    rows = ["sequence,label"]
    rows += [f"{''.join(rng.choice(list(letters), size))},{i % 2}" for i, size in enumerate(lengths)]
    folder.mkdir(exist_ok=True)
    (folder / f"{split}.csv").write_text("\n".join(rows) + "\n")


def test_counts_of_unknown_alike_and_blank():
    tokenizer = characters(DNA[:7])  # without N
    sequences = ["ACNT", "ANCT", "NNN", "ACGT", "NN", "AANT", "AANT"]
    found = read(sequences, *tokenize(sequences, tokenizer, None, None), tokenizer)
    assert (found.rows, found.tokens, found.unknown, found.alike, found.blank) == (7, 25, 9, 0, 2)
    longer = read(["ACRT", "ACYT"], *tokenize(["ACRT", "ACYT"], tokenizer, None, None), tokenizer)
    assert longer.alike == 1 and longer.share("unknown") == 0.25


def test_prompt_and_units_count_the_sequence_alone():
    tokenizer = characters([*DNA[:7], *"xyz"])
    found = read(
        ["ACNT"], *tokenize(["ACNT"], tokenizer, Prompt("xy", "z"), None), tokenizer, Prompt("xy", "z")
    )
    assert (found.tokens, found.unknown, found.blank) == (4, 1, 0)
    units = units_for("one_hot", tokenizer, 40)
    found = read(["ACNT", "NN"], *units.tokenize(["ACNT", "NN"], None, None), units)
    assert (found.tokens, found.unknown, found.blank) == (6, 3, 1)


def test_a_word_piece_tokenizer_reads_no_long_row(tmp_path):
    """Every sequence over 100 letters is one unknown token: more than 5 % are refused, from 1 % it is a caveat."""
    for split, size in (("train", 400), ("dev", 100), ("test", 100)):
        own(tmp_path / "many", [60] * (size * 9 // 10) + [140] * (size // 10), split=split)
        own(tmp_path / "few", [60] * (size - size // 50) + [140] * (size // 50), split=split)
    options = {"tokenizer": word_piece(), "pad_id": 1, "backbone": "bert"}
    many = find_task(str(tmp_path / "many"))
    with pytest.raises(
        InputError, match=r"40 of 400 in train, 10 of 100 in dev, 10 of 100 in test .* one_hot"
    ):
        prepare(many, many.path.parent, tmp_path / "out", **options)
    few = find_task(str(tmp_path / "few"))
    prepared = prepare(few, few.path.parent, tmp_path / "out", **options)
    assert "train: 8 of 23,528 tokens are unknown" in prepared.marks["unknown tokens"]
    assert (
        "8 of 400 rows are unknown tokens alone, 7 rows have the tokens of another"
        in prepared.marks["unknown tokens"]
    )
    assert prepared.unread["test"]["blank"] == 2
    assert prepare(few, few.path.parent, tmp_path / "out", **options).folder == prepared.folder


def test_an_unknown_base_is_refused_before_anything_is_written(tmp_path):
    for split in ("train", "dev", "test"):
        own(tmp_path / "task", [20] * 40, split=split)
    row = find_task(str(tmp_path / "task"))
    with pytest.raises(
        InputError, match=r"must read A, C, G and T, but T is unknown .* `--tokenization one_hot`"
    ):
        prepare(row, row.path.parent, tmp_path / "out", tokenizer=characters(DNA[:6]), pad_id=1, backbone="m")
    assert not list((tmp_path / "out").glob("*"))
    refuse_unknown_bases(characters(["[UNK]", "[PAD]", "[CLS]", *"acgu"]), "m")


def test_what_is_below_one_percent_is_counted_and_no_caveat():
    tokenizer = characters(DNA[:7])
    sequences = ["ACGT" * 50] * 9 + ["ACGT" * 49 + "ACGN"]
    found = read(sequences, *tokenize(sequences, tokenizer, None, None), tokenizer)
    marks, counts = caveats("t", "m", {"train": found})
    assert marks == {} and counts["train"]["unknown"] == 1


def test_lengths_before_cutting():
    reading, lengths = sample_reading(["ACGT", "ACGTACGT", "AC"], characters(DNA), None, 5)
    assert (lengths.median, lengths.longest) == (5, 9) and lengths.cut == pytest.approx(1 / 3)
    assert lengths.seen == pytest.approx(13 / 17) and reading.unknown == 0
