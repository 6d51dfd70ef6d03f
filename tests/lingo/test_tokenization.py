import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, EsmTokenizer, PreTrainedTokenizerFast

from lingo.prompts import Prompt, prompt_for
from lingo.sequences import PAIR
from lingo.tokenization import id_dtype, tokenize

PROMPT = prompt_for("DNA Promoter")
PROMPT_PARTS = (PROMPT.prefix, PROMPT.suffix)
FOLDERS = {
    "opt": "data/tokenizers/opt",
    "gpt2": "data/tokenizers/gpt2",
    "dnabert2": "data/tokenizers/dnabert2",
    "stories260K": "models/stories260K",
}
LOADED = {}


@pytest.fixture(params=FOLDERS)
def tokenizer(request, shared):
    name = request.param
    if name not in LOADED:
        LOADED[name] = AutoTokenizer.from_pretrained(shared / FOLDERS[name], local_files_only=True)
    return LOADED[name]


def random_dna(n, length, seed=0):
    letters = np.random.default_rng(seed).choice(list("ACGT"), size=(n, length))
    return ["".join(row) for row in letters]


def split_rows(ids, offsets):
    return [row.tolist() for row in np.split(ids, offsets[1:-1])]


def special_ids(tokenizer):
    """(ids before, ids after) that the tokenizer adds to any text."""
    with_, without = (tokenizer("ACGT", add_special_tokens=add)["input_ids"] for add in (True, False))
    at = next(i for i in range(len(with_) + 1) if with_[i : i + len(without)] == without)
    return with_[:at], with_[at + len(without) :]


@pytest.mark.parametrize("prompt", [None, PROMPT, Prompt("ACG", "TTACG")], ids=["bare", "prompt", "merging"])
def test_text_that_fits_is_the_tokenizers_own_encoding(tokenizer, prompt):
    sequences = [*random_dna(20, 70), "A", "ACGTN", "A" * 70]
    ids, offsets = tokenize(sequences, tokenizer, prompt, 512)
    texts = [f"{prompt.prefix}{s}{prompt.suffix}" if prompt else s for s in sequences]
    assert split_rows(ids, offsets) == [tokenizer(text)["input_ids"] for text in texts]
    assert offsets.dtype == np.int64 and offsets[0] == 0


def test_neither_the_last_call_nor_special_words_change_the_encoding(tokenizer):
    words = [word for word in tokenizer.all_special_tokens if PAIR not in word]
    texts = ["ACGTACGTAC", "ACGT", *words, *(f"AC{word}GT" for word in words)]
    plainly = [tokenizer(text)["input_ids"] for text in texts]
    tokenizer(texts, padding=tokenizer.pad_token is not None, truncation=True, max_length=2)
    assert split_rows(*tokenize(texts, tokenizer, None, None)) == plainly


def test_a_class_that_encodes_in_its_own_way_is_asked(shared):
    class Turning(PreTrainedTokenizerFast):
        def __call__(self, text, **options):
            return super().__call__([one[::-1] for one in text], **options)

    turning = Turning.from_pretrained(shared / FOLDERS["stories260K"], local_files_only=True)
    plain = PreTrainedTokenizerFast.from_pretrained(shared / FOLDERS["stories260K"], local_files_only=True)
    ids, _ = tokenize(["AACGT"], turning, None, None)
    assert ids.tolist() == plain("TGCAA")["input_ids"]


@pytest.mark.parametrize("prompt", [None, PROMPT, Prompt("ACG", "TTACG")], ids=["bare", "prompt", "merging"])
@pytest.mark.parametrize("max_length", [60, 75])
def test_long_text_loses_bases_only(tokenizer, prompt, max_length):
    around = prompt or Prompt("", "")
    sequences = [*random_dna(5, 300), "A" * 500, "AC" * 20 + "T" * 300, "ACGT"]
    rows = split_rows(*tokenize(sequences, tokenizer, prompt, max_length))
    for sequence, row in zip(sequences, rows, strict=True):
        lengths = [len(tokenizer(around.around(sequence[:n]))["input_ids"]) for n in range(len(sequence) + 1)]
        if lengths[-1] <= max_length:
            assert row == tokenizer(around.around(sequence))["input_ids"]
            continue
        # The row is the tokenizer's own encoding of prefix + n bases + suffix, and n + 1 bases do not fit.
        borders = [n for n in range(1, len(sequence)) if lengths[n] <= max_length < lengths[n + 1]]
        assert row in [tokenizer(around.around(sequence[:n]))["input_ids"] for n in borders]
        before, after = special_ids(tokenizer)
        assert row[: len(before)] == before and row[len(row) - len(after) :] == after


def test_prompt_is_whole_after_truncation(tokenizer):
    ids, _ = tokenize(random_dna(1, 2000), tokenizer, PROMPT, 128)
    # DNABERT-2 spells most of the prompt as unknown pieces: its tokens are compared, not its letters.
    prefix, suffix = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in PROMPT_PARTS)
    before, after = special_ids(tokenizer)
    body = ids.tolist()[len(before) : len(ids) - len(after)]
    assert body[: len(prefix) - 1] == prefix[:-1]
    assert tokenizer.decode(body[-len(suffix) :]).endswith(tokenizer.decode(suffix[1:]))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequence=st.text(alphabet="ACGTN", min_size=1, max_size=120), max_length=st.integers(30, 70))
def test_never_longer_than_asked_and_always_of_the_right_text(tokenizer, sequence, max_length):
    prompt = Prompt("Seq: ", "\nEnd:")
    ids, _ = tokenize([sequence], tokenizer, prompt, max_length)
    assert len(ids) <= max_length
    assert ids.tolist() in [
        tokenizer(prompt.around(sequence[:n]))["input_ids"] for n in range(len(sequence), 0, -1)
    ]


def test_no_room_for_a_base_is_refused(tokenizer):
    least = len(tokenizer(PROMPT.around(""))["input_ids"])
    for max_length in (1, least - 1):
        with pytest.raises(ValueError, match=rf"beside {least} tokens of prompt .* but got {max_length}"):
            tokenize(random_dna(2, 70), tokenizer, PROMPT, max_length)


def test_smallest_integer_type(tokenizer):
    ids, _ = tokenize(["ACGT"], tokenizer, None, None)
    assert ids.dtype == id_dtype(tokenizer) == (np.int32 if len(tokenizer) > 2**15 else np.int16)


def test_no_sequences(tokenizer):
    ids, offsets = tokenize([], tokenizer, PROMPT, 64)
    assert ids.shape == (0,) and offsets.tolist() == [0]


def test_result_does_not_depend_on_how_sequences_are_batched(tokenizer, monkeypatch):
    sequences = random_dna(30, 200, seed=1)
    expected = tokenize(sequences, tokenizer, PROMPT, 90)
    monkeypatch.setattr("lingo.tokenization.CHUNK", 7)
    for whole, chunked in zip(expected, tokenize(sequences, tokenizer, PROMPT, 90), strict=True):
        assert whole.tolist() == chunked.tolist()


def test_tokenizer_without_a_fast_form(shared):
    vocabulary = shared / "oracles/nt/vocab_v1.txt"
    if not vocabulary.exists():
        pytest.skip(f"no {vocabulary}")
    tokenizer = EsmTokenizer(str(vocabulary), eos_token=None)
    sequence = random_dna(1, 100)[0]
    rows = split_rows(*tokenize([sequence, sequence[:13]], tokenizer, None, 10))
    assert rows[0] == tokenizer(sequence[:54])["input_ids"] and len(rows[0]) == 10
    assert rows[1] == tokenizer(sequence[:13])["input_ids"] and len(rows[1]) == 4
