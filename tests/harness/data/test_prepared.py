"""Preparation: what is refused and how, what lands on disk, and who can reach the test split."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from harness.core.errors import InputError
from harness.data.labelled_files import SHOWN
from harness.data.prepared import open_prepared, open_test, prepare, read_prepared
from harness.data.sources import check_task, find_task_files, training_rows
from harness.data.tasks import TASKS, TaskRow
from lingo.prompts import Prompt

ROW = TaskRow(name="toy/one", family="toy", num_labels=2, length=8, domain="DNA", mirror="toy_one")
GOOD = "sequence,label\nACGTACGT,0\nTTTTACGA,1\nCCCCGGGG,0\n"


def letters_tokenizer(**extra_words):
    """One token a character; begins with <s>."""
    words = {"<pad>": 0, "<s>": 1, "<unk>": 2} | {c: i for i, c in enumerate("ACGTN:\n dms", 3)} | extra_words
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")


@pytest.fixture(scope="module")
def tokenizer():
    return letters_tokenizer()


@pytest.fixture
def data_dir(tmp_path):
    return write_task(tmp_path / "data")


def write_task(data_dir, name="toy/one", **splits):
    folder = data_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, split in enumerate(("train", "dev", "test")):
        default = GOOD
        for text, others in (("ACGTACGT", "TAC"), ("TTTTACGA", "ACG"), ("CCCCGGGG", "ACT")):
            default = default.replace(text, text[:-1] + others[number])
        (folder / f"{split}.csv").write_bytes(splits.get(split, default).encode())
    return data_dir


def make(data_dir, tmp_path, tokenizer, row=ROW, **options):
    return prepare(row, data_dir, tmp_path / "prepared", tokenizer=tokenizer, pad_id=0, **options)


# --- what is refused ---------------------------------------------------------------------------------------


def problems(data_dir, train):
    return check_task(ROW, write_task(data_dir, train=train))


@pytest.mark.parametrize(
    ("train", "line", "words"),
    [
        ("", "train.csv: ", "is empty"),
        ("sequence,label\n", "train.csv: ", "at least one row"),
        ("bases,label\nACGT,0\n", "train.csv, line 1:", "but are bases, label"),
        ("ACGT,0\nACGT,1\n", "train.csv, line 1:", "a header"),
        ("sequence,label\nACGT,0\nACXT,1\n", "train.csv, line 3:", "'X' at position 3"),
        ("sequence,label\nACGT,0\nACGT,2\n", "train.csv, line 3:", "from 0 to 1, but got '2'"),
        ("sequence,label\nACGT,-1\n", "train.csv, line 2:", "'-1'"),
        ("sequence,label\nACGT,0.5\n", "train.csv, line 2:", "'0.5'"),
        ("sequence,label\nACGT,\n", "train.csv, line 2:", "''"),
        ("sequence,label\n,1\n", "train.csv, line 2:", "must not be empty"),
        ("sequence,label\nACGT\n", "train.csv, line 2:", "but got 1"),
        ("sequence,label\nACGT,0,1\n", "train.csv, line 2:", "but got 3"),
        ('sequence,label\n"ACGT,0\n', "train.csv, line ", "not readable as CSV"),
    ],
)
def test_each_fault_names_file_and_line(tmp_path, train, line, words):
    found = problems(tmp_path, train)
    assert len(found) == 1
    assert line in found[0]
    assert words in found[0]


def test_a_file_that_is_not_text(tmp_path):
    write_task(tmp_path)
    (tmp_path / "toy/one/dev.csv").write_bytes(b"\x89PNG\xff\xfe\x00")
    assert "UTF-8" in check_task(ROW, tmp_path)[0]


def test_all_faults_of_all_splits_at_once_and_many_lines_are_counted(tmp_path):
    bad = "sequence,label\n" + "AC?T,0\n" * 1200
    write_task(tmp_path, train=bad, test="sequence,label\nACGT,7\n")
    found = check_task(ROW, tmp_path)
    assert len(found) == SHOWN + 2
    assert f"{1200 - SHOWN:,} more invalid lines" in found[SHOWN]
    assert "test.csv, line 2" in found[-1]


def test_every_missing_split_is_named(data_dir):
    (data_dir / "toy/one/dev.csv").unlink()
    (data_dir / "toy/one/test.csv").unlink()
    found = check_task(ROW, data_dir)
    assert ["dev.csv" in line for line in found] == [True, False]


def test_a_missing_task_or_data_folder_says_what_was_expected(data_dir, tmp_path):
    assert str(data_dir / "EMP/H4") in check_task(TASKS["EMP/H4"], data_dir)[0]
    assert "`--data-dir` must be a folder" in check_task(ROW, tmp_path / "nowhere")[0]


def test_bad_input_leaves_nothing_behind(tmp_path, tokenizer):
    write_task(tmp_path / "data", test="sequence,label\nACGT,7\n")
    with pytest.raises(InputError):
        make(tmp_path / "data", tmp_path, tokenizer)
    assert not (tmp_path / "prepared").exists()
    write_task(tmp_path / "data")
    with pytest.raises(InputError, match="no room"):
        make(tmp_path / "data", tmp_path, tokenizer, prompt=Prompt("dd: ", "ss"), max_length=4)
    assert list((tmp_path / "prepared").iterdir()) == []


def test_two_splits_of_the_same_content_are_refused(tmp_path):
    write_task(tmp_path, dev=GOOD, test=GOOD)
    (found,) = check_task(ROW, tmp_path)
    assert "test.csv: must differ from dev.csv" in found


def test_limit_must_be_positive(data_dir, tmp_path, tokenizer):
    with pytest.raises(InputError, match="--limit"):
        make(data_dir, tmp_path, tokenizer, limit=0)


# --- what is accepted --------------------------------------------------------------------------------------


def test_lower_case_n_other_codes_and_foreign_line_ends(tmp_path, tokenizer):
    write_task(tmp_path / "data", train="\ufeffsequence,label\r\nacgtn,0\r\nRYUAC,1\r\n\r\n")
    assert check_task(ROW, tmp_path / "data") == []
    train = open_prepared(make(tmp_path / "data", tmp_path, tokenizer).folder).train
    assert [text(tokenizer, row) for row in train.batch([0, 1])] == ["ACGTN", "NNTAC"]


@pytest.mark.parametrize("name", ["toy/one", "GUE/toy/one", "toy_one"])
def test_folder_layouts(tmp_path, name):
    write_task(tmp_path, name=name)
    assert find_task_files(ROW, tmp_path)["dev"] == tmp_path / name / "dev.csv"


# --- what lands on disk ------------------------------------------------------------------------------------


def text(tokenizer, ids):
    return "".join(tokenizer.convert_ids_to_tokens(ids.tolist()))


def test_round_trip(data_dir, tmp_path, tokenizer):
    prompt = Prompt("d: ", "\n s")
    prepared = make(data_dir, tmp_path, tokenizer, prompt=prompt)
    data = open_prepared(prepared.folder)
    assert [text(tokenizer, row) for row in data.train.batch([1, 0])] == [
        "d: TTTTACGA\n s",
        "d: ACGTACGT\n s",
    ]
    assert data.train.labels.tolist() == [0, 1, 0]
    assert (data.name, data.kind, data.num_labels, data.metric, data.pad_id) == (
        "toy/one",
        "classification",
        2,
        "mcc",
        0,
    )
    assert data.digest == prepared.digest
    assert prepared.rows == {"train": 3, "dev": 3, "test": 3}
    assert prepared.longest["train"] == 14


def test_ids_are_small_and_not_copied(data_dir, tmp_path, tokenizer):
    small = open_prepared(make(data_dir, tmp_path, tokenizer).folder).train.ids
    large = open_prepared(make(data_dir, tmp_path, letters_tokenizer(far=40_000)).folder).train.ids
    assert (small.dtype, large.dtype) == (np.int16, np.int32)
    assert not small.flags.owndata
    assert not small.flags.writeable


def test_prepared_once_and_found_again(data_dir, tmp_path, tokenizer):
    seen = []
    first = make(data_dir, tmp_path, tokenizer, progress=lambda *step: seen.append(step))
    stamp = (first.folder / "train.arrow").stat().st_mtime_ns
    again = make(data_dir, tmp_path, letters_tokenizer(), progress=lambda *step: seen.append(step))
    assert again == first
    assert (again.folder / "train.arrow").stat().st_mtime_ns == stamp
    assert seen == [(f"tokenising toy/one {split}", 3, 3) for split in ("train", "dev", "test")]


def test_whatever_changes_the_tokens_changes_the_folder(data_dir, tmp_path, tokenizer):
    def folder(tokenizer=tokenizer, **options):
        return make(data_dir, tmp_path, tokenizer, **options).folder

    folders = [
        folder(),
        folder(prompt=Prompt("d: ", "")),
        folder(max_length=6),
        folder(limit=3),
        folder(tokenizer=letters_tokenizer(far=99)),
    ]
    write_task(data_dir, dev=GOOD + "ACGT,1\n")
    folders.append(folder())
    assert len(set(folders)) == len(folders)


def test_the_tokenizers_padding_state_does_not_matter(data_dir, tmp_path):
    used = letters_tokenizer()
    used(["ACGT", "A"], padding=True, truncation=True, max_length=2)
    assert make(data_dir, tmp_path, used).folder == make(data_dir, tmp_path, letters_tokenizer()).folder


def test_a_folder_that_lost_bytes_is_made_again(data_dir, tmp_path, tokenizer):
    prepared = make(data_dir, tmp_path, tokenizer)
    whole = (prepared.folder / "dev.arrow").read_bytes()
    (prepared.folder / "dev.arrow").write_bytes(whole[:-8])
    assert read_prepared(prepared.folder) is None
    again = make(data_dir, tmp_path, tokenizer)
    assert (again.folder / "dev.arrow").read_bytes() == whole
    assert [path.name for path in (tmp_path / "prepared").iterdir()] == [again.folder.name]


def test_an_error_leaves_nothing(data_dir, tmp_path, tokenizer):
    def fail(name, done, total):
        raise InputError("no")

    with pytest.raises(InputError):
        make(data_dir, tmp_path, tokenizer, progress=fail)
    assert list((tmp_path / "prepared").iterdir()) == []


# --- marks -------------------------------------------------------------------------------------------------


def test_limit_is_a_marked_deterministic_nested_sample(tmp_path, tokenizer):
    many = "sequence,label\n" + "".join(f"{'ACGT'[i % 4] * (i + 1)},{i % 2}\n" for i in range(40))
    write_task(tmp_path / "data", train=many)
    few, more = (make(tmp_path / "data", tmp_path, tokenizer, limit=limit) for limit in (5, 12))
    assert "--limit" in few.marks["smoke"]
    assert few.rows == {"train": 5, "dev": 3, "test": 3}
    short, long = (open_prepared(prepared.folder).train.lengths.tolist() for prepared in (few, more))
    assert short == long[:5]
    assert long != sorted(long)
    assert len(set(long)) == 12


def test_truncation_is_counted_said_and_never_silent(tmp_path, tokenizer):
    write_task(tmp_path / "data", train="sequence,label\nACGTACGTAC,0\nACG,1\n")
    prepared = make(tmp_path / "data", tmp_path, tokenizer, prompt=Prompt("d:", "s"), max_length=8)
    assert prepared.truncated == {"train": 1, "dev": 3, "test": 3}
    assert "1 of 2 in train" in prepared.marks["truncated"]
    assert "the longest has 13" in prepared.marks["truncated"]
    train = open_prepared(prepared.folder).train
    assert [text(tokenizer, row) for row in train.batch([0, 1])] == ["d:ACGTAs", "d:ACGs"]
    whole = make(tmp_path / "data", tmp_path, tokenizer, prompt=Prompt("d:", "s"), max_length=13)
    assert "truncated" not in whole.marks


def test_changed_splits_are_said(tmp_path, tokenizer):
    row = replace(ROW, rows=(3, 7, None))
    prepared = make(write_task(tmp_path / "data"), tmp_path, tokenizer, row=row)
    assert "dev has 3 rows (published 7)" in prepared.marks["changed split"]
    assert "train" not in prepared.marks["changed split"]


def test_an_ordinary_task_has_no_marks(data_dir, tmp_path, tokenizer):
    assert make(data_dir, tmp_path, tokenizer).marks == {}


def test_overlapping_splits_are_counted_said_and_dropped_on_request(tmp_path, tokenizer):
    dev = "sequence,label\nTCGTAAAA,0\nGATTACAC,1\n"
    data_dir = write_task(tmp_path / "data", dev=dev, test=GOOD.replace("GGGG", "GGGA") + "GATTACAA,1\n")
    with pytest.raises(InputError, match="removes all training rows"):
        make(data_dir, tmp_path, tokenizer, drop_leaks=True)
    write_task(tmp_path / "data", dev=dev, train="sequence,label\nACGTACGT,0\nTTTTACGA,1\nCCCCGGGA,1\n")
    plain, dropped = (make(data_dir, tmp_path, tokenizer, drop_leaks=drop) for drop in (False, True))
    assert plain.marks == {
        "overlapping splits": "toy/one: 1 of 2 rows of dev also in train (1 as reverse complement)."
    }
    assert dropped.marks == {"changed split": "toy/one: --drop-leaks took 1 row out of train."}
    assert (plain.rows["train"], dropped.rows["train"]) == (3, 2)
    assert training_rows(ROW, data_dir) == 3
    assert training_rows(ROW, data_dir, drop_leaks=True) == 2
    assert (plain.leaks["dropped"], dropped.leaks["dropped"]) == (0, 1)
    assert plain.leaks["across"] == dropped.leaks["across"]
    rows = open_prepared(dropped.folder).train
    assert [text(tokenizer, row) for row in rows.batch([0, 1])] == ["ACGTACGT", "CCCCGGGA"]
    assert json.loads((plain.folder / "meta.json").read_text())["leaks"] == plain.leaks


def test_splits_of_the_same_sequences_in_another_order_are_refused(tmp_path):
    head, *lines = GOOD.splitlines()
    write_task(
        tmp_path, dev="\n".join([head, *reversed(lines)]) + "\n", test=GOOD, train="sequence,label\nAC,0\n"
    )
    (found,) = check_task(ROW, tmp_path)
    assert "test.csv: must differ from dev.csv, but holds the same sequences" in found


# --- the test split ----------------------------------------------------------------------------------------


def test_the_search_path_never_touches_the_test_file(data_dir, tmp_path, tokenizer):
    folder = make(data_dir, tmp_path, tokenizer).folder
    (folder / "test.arrow").unlink()
    (data_dir / "toy/one/test.csv").unlink()
    data = open_prepared(folder)
    assert len(data.train) == len(data.dev) == 3
    assert not hasattr(data, "test")
    with pytest.raises(InputError, match="test split"):
        open_test(folder)


def test_the_search_path_opens_no_file_named_test(data_dir, tmp_path, tokenizer, monkeypatch):
    from harness.data import prepared as module

    opened = []
    real = module.open_split
    monkeypatch.setattr(module, "open_split", lambda path: opened.append(path.name) or real(path))
    folder = make(data_dir, tmp_path, tokenizer).folder
    open_prepared(folder)
    assert opened == ["train.arrow", "dev.arrow"]
    open_test(folder)
    assert opened[2:] == ["test.arrow"]


def test_the_final_stage_reads_the_test_split(tmp_path, tokenizer):
    write_task(tmp_path / "data", test="sequence,label\nGATTACA,1\n")
    split = open_test(make(tmp_path / "data", tmp_path, tokenizer).folder)
    assert text(tokenizer, split.batch([0])[0]) == "GATTACA"
    assert split.labels.tolist() == [1]


def test_a_folder_without_a_prepared_task(tmp_path):
    with pytest.raises(InputError, match="incomplete prepared task"):
        open_prepared(tmp_path)


# --- real files --------------------------------------------------------------------------------------------


def test_real_task_with_the_real_backbones_tokenizer(shared, tmp_path):
    from transformers import AutoTokenizer

    gue, model = shared / "data/gue", shared / "models/stories260K"
    if not (gue / "mouse/2").exists() or not model.exists():
        pytest.skip(f"no mouse/2 and stories260K in {shared}")
    tokenizer = AutoTokenizer.from_pretrained(model)
    prepared = prepare(TASKS["mouse/2"], gue, tmp_path, tokenizer=tokenizer, pad_id=0, max_length=512)
    assert prepared.rows == {"train": 2620, "dev": 328, "test": 328}
    assert prepared.marks == {}
    assert prepared.longest["dev"] == 103
    train = open_prepared(prepared.folder).train
    first = (gue / "mouse/2/train.csv").read_text().splitlines()[1].split(",")
    assert train.batch([0])[0].tolist() == tokenizer(first[0])["input_ids"]
    assert train.labels[0] == int(first[1])


def test_real_files_that_differ_from_the_published_ones_are_marked(shared, tmp_path, tokenizer):
    gue = shared / "data/gue"
    if not (gue / "EMP/H3/train.csv").exists():
        pytest.skip(f"no EMP/H3 in {shared}")
    prepared = prepare(TASKS["EMP/H3"], gue, tmp_path, tokenizer=tokenizer, pad_id=0, limit=50)
    assert "train has 1,191 rows (published 11,971)" in prepared.marks["changed split"]
    assert set(prepared.marks) == {"changed split", "smoke"}
    assert json.loads((prepared.folder / "meta.json").read_text())["marks"] == prepared.marks
