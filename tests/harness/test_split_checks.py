"""Data that is readable and yet of no use: nothing could be chosen on it, or it becomes the same tokens."""

import pytest
from test_data import ROW, letters_tokenizer, make, write_task
from test_own_data import classes, dna, numbers, several, write
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from harness.data import prepare
from harness.errors import InputError
from harness.own_data import read_own
from harness.sources import training_rows
from harness.tasks import find_task


def prepared(tmp_path, **columns):
    for split, values in columns.items():
        write(tmp_path / f"{split}.csv", values)
    return prepare(
        find_task(str(tmp_path)), tmp_path, tmp_path / "p", tokenizer=letters_tokenizer(), pad_id=0
    )


@pytest.mark.parametrize(
    ("rows", "dev", "words"),
    [
        (
            classes,
            {"label": [1] * 9},
            "different labels, since mcc chooses the trials by them, but it has 9 rows",
        ),
        (numbers, {"target": [2.5] * 9}, "different targets, since pearson"),
        (several, {f"label_{k}": [k % 2] * 9 for k in range(11)}, "since auroc"),
    ],
)
def test_a_dev_split_on_which_no_trial_can_be_chosen(tmp_path, rows, dev, words):
    with pytest.raises(InputError, match=words):
        prepared(tmp_path, train=rows(30), dev={"sequence": dna(9, 1), **dev}, test=rows(9, 2))
    assert not list(tmp_path.glob("p/*"))


def test_a_dev_split_of_one_row_and_one_that_the_limit_made_so(tmp_path):
    with pytest.raises(InputError, match=r"it has one row\."):
        make(write_task(tmp_path / "a", dev="sequence,label\nACGTTTTT,1\n"), tmp_path, letters_tokenizer())
    with pytest.raises(InputError, match=r"it has one row; use a larger `--limit` than 1\."):
        make(write_task(tmp_path / "b"), tmp_path, letters_tokenizer(), limit=1)


def test_one_label_of_several_may_be_the_same_in_all_rows(tmp_path):
    dev = several(9, 1) | {"label_3": [0] * 9}
    assert (
        "label_3"
        in prepared(tmp_path, train=several(30), dev=dev, test=several(9, 2)).undefined_labels["dev"]
    )


def word_tokenizer():
    """Knows whole words alone, as a tokenizer of English or of k-mers between blanks: any DNA is one unknown word."""
    inner = Tokenizer(models.WordLevel({"<unk>": 0, "<pad>": 1, "the": 2}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", pad_token="<pad>")


def test_a_tokenizer_to_which_all_sequences_are_one_unknown_word(tmp_path):
    with pytest.raises(
        InputError, match="3 different ones become 1 different rows of tokens; use `--tokenization"
    ):
        prepare(ROW, write_task(tmp_path), tmp_path / "p", tokenizer=word_tokenizer(), pad_id=1)
    assert not list(tmp_path.glob("p/*"))


def test_labels_as_other_programs_write_them(tmp_path):
    wanted = read_own(write(tmp_path / "plain.csv", classes(40)))
    floats = {"sequence": dna(40), "label": [float(label) for label in classes(40)["label"]]}
    for name in ("floats.csv", "floats.parquet"):
        found = read_own(write(tmp_path / name, floats))
        assert found.num_labels == wanted.num_labels
        assert sum(len(rows.labels) for rows in found.splits.values()) == 40
    truth = {"sequence": dna(40), "label": [bool(i % 2) for i in range(40)]}
    assert read_own(write(tmp_path / "bool.parquet", truth)).num_labels == 2
    with pytest.raises(InputError, match=r"line 2: `label` must be a whole number from 0, but got '0.5'"):
        read_own(write(tmp_path / "half.csv", {"sequence": ["ACGT"], "label": [0.5]}))
    raw = {"sequence": [text.encode() for text in dna(40)], "label": truth["label"]}
    assert read_own(write(tmp_path / "raw.parquet", raw)).splits["train"].sequences[0][0] in "ACGT"


def test_a_sequence_longer_than_csv_takes_of_its_own_accord(tmp_path):
    long = {"sequence": [*dna(40), "ACGT" * 50_000], "label": [0, 1] * 20 + [1]}
    splits = read_own(write(tmp_path / "a.csv", long)).splits
    assert max(len(text) for rows in splits.values() for text in rows.sequences) == 200_000


def test_splits_of_the_same_sequences_in_another_order(tmp_path):
    write(tmp_path / "train.csv", classes(30))
    write(tmp_path / "dev.csv", classes(20, 1))
    write(tmp_path / "test.csv", {name: values[::-1] for name, values in classes(20, 1).items()})
    with pytest.raises(InputError, match=r"test.csv: must differ from dev.csv, but holds the same sequences"):
        read_own(tmp_path)


def test_the_plan_tells_it_before_any_backbone_is_read(tmp_path):
    for split, seed in (("train", 0), ("test", 2)):
        write(tmp_path / f"{split}.csv", classes(30, seed))
    write(tmp_path / "dev.csv", {"sequence": dna(9, 1), "label": [1] * 9})
    with pytest.raises(InputError, match="must have rows of different labels"):
        training_rows(find_task(str(tmp_path)), tmp_path)
