"""Data that is readable and yet of no use: nothing could be chosen on it, or it becomes the same tokens."""

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from harness.config.benchmark import Benchmark
from harness.config.build import build
from harness.config.plan import plan
from harness.core.errors import InputError
from harness.data.find_tasks import find_task
from harness.data.labelled_files import Rows
from harness.data.own_data import read_own
from harness.data.prepared import prepare
from harness.data.sources import label_notes, training_rows
from harness.data.split_checks import look_at_labels, refuse_same_tokens
from harness.pipeline.backbone_checks import Tokens
from harness.pipeline.forecast_inputs import inspect_data
from harness.pipeline.prepare import prepare_studies
from harness.pipeline.run import _say_what, _trials
from tests.harness.data.test_own_data import classes, dna, numbers, several, write
from tests.harness.data.test_prepared import ROW, letters_tokenizer, make, write_task


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
            r"since mcc chooses the trials by them, but all 9 rows of \S*dev.csv have the same label 1;",
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
    with pytest.raises(InputError, match=r"dev.csv has one row; give it rows of other labels\."):
        make(write_task(tmp_path / "a", dev="sequence,label\nACGTTTTT,1\n"), tmp_path, letters_tokenizer())
    with pytest.raises(InputError, match=r"dev.csv has one row; use a larger `--limit` than 1\."):
        make(write_task(tmp_path / "b"), tmp_path, letters_tokenizer(), limit=1)


def test_one_label_of_several_may_be_the_same_in_all_rows(tmp_path):
    dev = several(9, 1) | {"label_3": [0] * 9}
    assert (
        "label_3"
        in prepared(tmp_path, train=several(30), dev=dev, test=several(9, 2)).undefined_labels["dev"]
    )


@pytest.mark.parametrize(
    ("rows", "test", "words"),
    [
        (
            classes,
            {"label": [1] * 9},
            "mcc will be undefined on test, since all 9 rows of {test} have the same label 1;",
        ),
        (
            numbers,
            {"target": [2.5] * 9},
            "pearson will be undefined on test, since all 9 rows of {test} have the same",
        ),
        (several, {f"label_{k}": [k % 2] * 9 for k in range(11)}, "auroc will be undefined on test"),
    ],
)
def test_a_test_split_of_one_label_is_told_and_marked_before_anything_is_trained(tmp_path, rows, test, words):
    made = prepared(tmp_path, train=rows(30), dev=rows(9, 1), test={"sequence": dna(9, 2), **test})
    line = made.marks["undefined test score"]
    assert words.format(test=tmp_path / "test.csv") in line and "leave its file out" in line
    assert line in label_notes(find_task(str(tmp_path)), tmp_path)


def test_a_class_that_dev_or_test_lacks_is_told_and_marked(tmp_path):
    three = {"sequence": dna(30), "label": [0, 1, 2] * 10}
    made = prepared(tmp_path, train=three, dev=classes(9, 1), test=classes(9, 2))
    line = made.marks["absent classes"]
    assert "dev has no row of 2 and test has no row of 2" in line
    assert line in label_notes(find_task(str(tmp_path)), tmp_path)


def test_a_test_split_that_the_limit_made_so(tmp_path):
    rows = "".join(f"{text},{int(i == 0)}\n" for i, text in enumerate(dna(40, 3)))
    folder = write_task(tmp_path / "a", test=f"sequence,label\n{rows}")
    found = make(folder, tmp_path, letters_tokenizer(), limit=3)
    assert "use a larger `--limit` than 3." in found.marks["undefined test score"]
    assert "undefined test score" not in make(folder, tmp_path, letters_tokenizer()).marks


@pytest.mark.parametrize(
    ("rows", "train", "words"),
    [
        (
            numbers,
            {"target": [2.5] * 30},
            "train split must have rows of different targets, since nothing can be learnt",
        ),
        (
            several,
            {f"label_{k}": [k % 2] * 30 for k in range(11)},
            "train split must have rows of different labels",
        ),
    ],
)
def test_a_train_split_from_which_nothing_can_be_learnt(tmp_path, rows, train, words):
    with pytest.raises(InputError, match=words):
        prepared(tmp_path, train={"sequence": dna(30), **train}, dev=rows(9, 1), test=rows(9, 2))
    assert not list(tmp_path.glob("p/*"))


def test_classes_that_train_never_saw(tmp_path):
    alone = "".join(f"{text},0\n" for text in dna(12, 3))
    with pytest.raises(InputError) as found:
        make(write_task(tmp_path / "a", train=f"sequence,label\n{alone}"), tmp_path, letters_tokenizer())
    assert "train split must have rows of different labels" in found.value.problems[0]
    assert "has no row of class 1 (dev and test have it); add some" in found.value.problems[1]
    covid = find_task("virus/covid")
    splits = {
        name: Rows(dna(6), np.array(labels)) for name, labels in (("train", [0, 1] * 3), ("dev", [0, 1] * 3))
    }
    splits["test"] = Rows(dna(6, 1), np.array([0, 1, 2, 3, 4, 2]))
    places = {name: f"{name}.csv" for name in splits}
    with pytest.raises(
        InputError, match=r"train \(train.csv\) has no row of class 2 \(test has it\), class 3"
    ):
        look_at_labels(covid, splits, places)
    line = look_at_labels(covid, splits, places, limit=6)["unseen labels"]
    assert line.endswith("no model can predict what it has never seen; use a larger `--limit` than 6.")


def test_a_label_of_several_that_train_never_has(tmp_path):
    train = several(30) | {"label_3": [0] * 30}
    line = prepared(tmp_path, train=train, dev=several(9, 1), test=several(9, 2)).marks["unseen labels"]
    assert "has no row of label label_3 (dev and test have it)" in line


def word_tokenizer():
    """Knows whole words alone, as a tokenizer of English or of k-mers between blanks: any DNA is one unknown word."""
    inner = Tokenizer(models.WordLevel({"<unk>": 0, "<pad>": 1, "the": 2}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", pad_token="<pad>")


def test_a_tokenizer_to_which_all_sequences_are_one_unknown_word(tmp_path):
    with pytest.raises(InputError, match="must read A, C, G and T, but A, C, G, T are unknown"):
        prepare(ROW, write_task(tmp_path), tmp_path / "p", tokenizer=word_tokenizer(), pad_id=1)
    assert not list(tmp_path.glob("p/*"))


def test_tokens_that_do_not_tell_sequences_apart():
    rows = Rows(["ACGT", "ACGA", "ACGC"], np.array([0, 1, 0]))
    with pytest.raises(
        InputError, match="3 different ones become 1 different rows of tokens; use `--tokenization"
    ):
        refuse_same_tokens(ROW, rows, np.array([5, 5, 5]), np.array([0, 1, 2, 3]))


def test_the_backbone_with_such_a_tokenizer_is_named(tmp_path):
    benchmark = build(
        {
            "tasks": ("quickstart/promoter",),
            "models": ("quickstart-opt",),
            "methods": ("lora",),
            "out": tmp_path / "o",
        }
    )
    tokens = Tokens(
        tokenizer=word_tokenizer(),
        rows=3,
        pad_id=1,
        max_length=None,
        digest="d",
        trained=False,
        source="s",
        language=False,
    )
    with pytest.raises(InputError, match="quickstart-opt: its tokenizer must read A, C, G and T"):
        prepare_studies(plan(benchmark), {"quickstart-opt": tokens}, lambda line: None)


@pytest.mark.parametrize(
    "generated, models, said",
    [
        (
            True,
            ("quickstart-opt",),
            "DNA with planted motifs, and a tiny OPT with random weights generated on this",
        ),
        (True, ("/my/model",), "DNA with planted motifs. It shows"),
        (
            False,
            ("quickstart-opt",),
            "Quickstart: a tiny OPT with random weights generated on this machine. It shows",
        ),
        (False, ("/my/model",), None),
    ],
)
def test_only_what_was_made_here_is_said_to_be(generated, models, said):
    benchmark = SimpleNamespace(
        tasks=("t",),
        models=models,
        methods=("lora",),
        num_samples=1,
        epochs=1,
        seeds=(0,),
        limit=None,
        has_front=False,
    )
    task = SimpleNamespace(name="t", generated=generated)
    studies = [SimpleNamespace(task=task, source=models[0], is_control=False, trials=lambda _: 1)]
    text = io.StringIO()
    _say_what(
        SimpleNamespace(benchmark=benchmark, studies=studies, notes=[], out=Path("run")),
        Console(file=text, soft_wrap=True, width=500),
    )
    assert (said in text.getvalue()) if said else ("Quickstart" not in text.getvalue())


def test_the_first_line_counts_the_trials_that_there_can_be():
    studies = [SimpleNamespace(trials=lambda _, count=count: count) for count in (16, 1)]
    assert [_trials(some, None) for some in (studies, studies[:1], studies[1:])] == [
        "up to 16 trials",
        "16 trials",
        "1 trial",
    ]


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


def test_the_plan_tells_of_a_test_split_of_one_class(tmp_path):
    for split, seed in (("train", 0), ("dev", 1)):
        write(tmp_path / f"{split}.csv", classes(30, seed))
    write(tmp_path / "test.csv", {"sequence": dna(9, 2), "label": [1] * 9})
    asked = Benchmark(
        suite="custom",
        tasks=(str(tmp_path),),
        models=("opt-125m",),
        methods=("kmer_logreg",),
        out=tmp_path / "run",
    )
    checked = plan(asked)
    assert len(checked.notes) == 3 and "mcc will be undefined on test" in checked.notes[-1]
    assert inspect_data(find_task(str(tmp_path)), asked).notes == checked.warnings
