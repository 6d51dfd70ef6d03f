"""A person's own files: what is made of them, how missing splits are cut, and what is refused where."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.cli.options import settings
from harness.config.build import build
from harness.config.plan import plan
from harness.core.errors import InputError
from harness.data.find_tasks import find_task, find_tasks
from harness.data.own_data import read_own
from harness.data.prepared import open_prepared, open_test, prepare
from harness.data.sources import split_digests
from lingo.nucleotides import bare_bases
from lingo.sequences import reverse_complement
from tests.harness.data.test_prepared import letters_tokenizer


def dna(n, seed=0, length=12):
    return ["".join(row) for row in np.random.default_rng(seed).choice(list("ACGT"), (n, length))]


def table(columns):
    names, rows = list(columns), zip(*columns.values(), strict=True)
    return "\n".join([",".join(names), *(",".join(map(str, row)) for row in rows)]) + "\n"


def classes(n, seed=0):
    return {"sequence": dna(n, seed), "label": [(i * i) % 5 % 3 for i in range(n)]}


def several(n, seed=0):
    bits = np.random.default_rng(seed).integers(0, 2, (n, 11))
    return {"sequence": dna(n, seed)} | {f"label_{k}": bits[:, k].tolist() for k in range(11)}


def numbers(n, seed=0):
    return {"sequence": dna(n, seed), "target": [round(i / 7 - 3, 3) for i in range(n)]}


KINDS = {"classification": classes, "multilabel": several, "regression": numbers}


def write(path, columns):
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    else:
        path.write_text(table(columns))
    return path


def pairs(rows):
    return list(zip(rows.sequences, map(str, rows.labels.tolist()), strict=True))


# --- what is made of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_columns_say_what_is_predicted(tmp_path, kind, suffix):
    columns = KINDS[kind](60)
    row = find_task(str(write(tmp_path / f"my data{suffix}", columns)))
    expected = {"classification": (2, "mcc"), "multilabel": (11, "auroc"), "regression": (1, "pearson")}[kind]
    if kind == "classification":
        expected = (max(columns["label"]) + 1, "mcc")
    assert (row.name, row.kind, row.num_labels, row.metric) == ("own/my_data", kind, *expected)
    assert row.length == 12
    prepared = prepare(row, tmp_path, tmp_path / "p", tokenizer=letters_tokenizer(), pad_id=0)
    data = open_prepared(prepared.folder)
    assert data.kind == kind
    assert len(data.train) + len(data.dev) + len(open_test(prepared.folder)) == 60
    assert "dev and test cut from train" in prepared.marks["cut split"]
    found = data.train.labels
    if kind == "multilabel":
        assert found.shape[1] == 11
        whole = dict(zip(columns["sequence"], zip(*list(columns.values())[1:], strict=True), strict=True))
        train = read_own(row.source).splits["train"]
        assert [tuple(labels) for labels in found.tolist()] == [whole[text] for text in train.sequences]
        assert prepared.label_names == [f"label_{k}" for k in range(11)]


def test_columns_in_any_order(tmp_path):
    columns = dict(reversed(several(30).items()))
    one = read_own(write(tmp_path / "a.csv", columns))
    two = read_own(write(tmp_path / "b.csv", several(30)))
    assert sorted(
        pairs(one.splits["train"]) + pairs(one.splits["dev"]) + pairs(one.splits["test"])
    ) == sorted(pairs(two.splits["train"]) + pairs(two.splits["dev"]) + pairs(two.splits["test"]))


def test_a_folder_with_all_splits_is_left_as_it_is(tmp_path):
    for number, (name, suffix) in enumerate(
        (("train", ".csv"), ("validation", ".parquet"), ("test", ".csv"))
    ):
        write(tmp_path / f"{name}{suffix}", classes(20, seed=number))
    data = read_own(tmp_path)
    assert data.cut == ()
    assert data.splits["dev"].sequences == dna(20, 1)
    row = find_task(str(tmp_path))
    prepared = prepare(row, tmp_path, tmp_path / "p", tokenizer=letters_tokenizer(), pad_id=0)
    assert "cut split" not in prepared.marks


# --- cutting -----------------------------------------------------------------------------------------------


def test_only_what_is_missing_is_cut(tmp_path):
    write(tmp_path / "train.csv", classes(100))
    write(tmp_path / "test.csv", classes(20, seed=9))
    data = read_own(tmp_path)
    assert data.cut == ("dev",)
    assert data.splits["test"].sequences == dna(20, 9)
    assert len(data.splits["dev"].labels) == pytest.approx(10, abs=2)
    assert len(data.splits["train"].labels) + len(data.splits["dev"].labels) == 100


def test_the_cut_depends_on_the_content_alone(tmp_path):
    (tmp_path / "other").mkdir()
    first = read_own(write(tmp_path / "a.csv", classes(200)))
    again = read_own(write(tmp_path / "other/b.csv", classes(200)))
    other = read_own(write(tmp_path / "c.csv", classes(200, seed=1)))
    for split in ("train", "dev", "test"):
        assert pairs(first.splits[split]) == pairs(again.splits[split])
        assert first.digests[split] == again.digests[split] != other.digests[split]
    assert len(set(first.digests.values())) == 3
    row = find_task(str(tmp_path / "a.csv"))
    before = split_digests(row, tmp_path)
    write(tmp_path / "a.csv", classes(200, seed=1))
    assert split_digests(row, tmp_path) != before


def test_classes_are_cut_in_equal_shares(tmp_path):
    columns = {"sequence": dna(300), "label": [0] * 240 + [1] * 60}
    data = read_own(write(tmp_path / "a.csv", columns))
    counts = {split: np.bincount(rows.labels).tolist() for split, rows in data.splits.items()}
    assert counts == {"train": [192, 48], "dev": [24, 6], "test": [24, 6]}


def test_equal_sequences_and_other_strands_are_not_torn_apart(tmp_path):
    texts = dna(40, length=9)
    texts = texts * 3 + reverse_complement(texts)
    data = read_own(write(tmp_path / "a.csv", {"sequence": texts, "label": [i % 2 for i in range(160)]}))
    seen = {
        split: {min(text, reverse_complement([text])[0]) for text in rows.sequences}
        for split, rows in data.splits.items()
    }
    assert not seen["train"] & seen["dev"] | seen["train"] & seen["test"] | seen["dev"] & seen["test"]
    assert all(seen.values())


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", "a.csv: ", "is empty"),
        ("sequence,label\n", "a.csv: ", "at least one row"),
        ("bases,label\nACGT,0\n", "a.csv, line 1: ", "but are bases, label"),
        ("ACGTACGT,0\nACGTACGA,1\n", "a.csv, line 1: ", "looks like a row"),
        ("sequence,\rlabel\nACGT,1\n", "a.csv, line 1: ", "not readable as CSV"),
        ("seq,dna,label\nA,C,0\n", "a.csv, line 1: ", "one column of sequences, but has seq, dna"),
        ("sequence,label\nACGT,x\n", "a.csv: ", "two classes at least, but all rows have 'x'"),
        ("sequence\nACGT\n", "a.csv, line 1: ", "but are sequence"),
        ("sequence,label,target\nACGT,0,1\n", "a.csv, line 1: ", "but are sequence, label, target"),
        ("sequence,label_0,label_2\nACGT,0,1\n", "a.csv, line 1: ", "label_2"),
        ("sequence,label\nACGT,0\nACGT\n", "a.csv, line 3: ", "2 fields as the header, but got 1"),
        ("sequence,label\nACGT,0\nACG!,1\n", "a.csv, line 3: ", "'!' at position 4"),
        ("sequence,label\nACGT,0\nACGA,x\n", "a.csv, line 3: ", "a whole number from 0, but got 'x'"),
        ("sequence,label\nACGT,-1\n", "a.csv, line 2: ", "'-1'"),
        ("sequence,target\nACGT,0.5\nACGT,nan\n", "a.csv, line 3: ", "a finite number, but got 'nan'"),
        ("sequence,label_0,label_1\nACGT,0,2\n", "a.csv, line 2: ", "`label_1` must be 0 or 1, but got '2'"),
        ('sequence,label\n"ACGT,0\n', "a.csv, line ", "not readable as CSV"),
        (table({"sequence": dna(20), "label": [0] * 20}), "a.csv: ", "none of 1"),
        (table(classes(9)), "a.csv: ", "at least 10 rows for dev and test"),
        (table({"sequence": ["ACGT"] * 20, "label": [0, 1] * 10}), "a.csv: ", "too few different sequences"),
    ],
)
def test_each_fault_names_file_and_line(tmp_path, text, place, words):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError) as error:
        find_task(str(tmp_path / "a.csv"))
    (line,) = error.value.problems
    assert place in line
    assert words in line


def test_faults_of_other_files(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.xlsx").write_bytes(b"PK\x03\x04")
    wanted = {
        "a.parquet": "as Parquet",
        "a.csv": "UTF-8",
        "a.txt": "but are x",
        "a.xlsx": "save its table as CSV",
    }
    for name, words in wanted.items():
        with pytest.raises(InputError, match=words):
            find_task(str(tmp_path / name))
    pq.write_table(pa.table({"sequence": ["ACGT", None], "label": [0, 1]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b.parquet, row 2: `sequence` must not be empty"):
        find_task(str(tmp_path / "b.parquet"))
    with pytest.raises(InputError, match="there is no"):
        find_task("./nowhere.csv")


def test_all_faults_of_all_files_at_once_and_many_lines_are_counted(tmp_path):
    (tmp_path / "train.csv").write_text("sequence,label\n" + "AC?T,0\n" * 1200)
    (tmp_path / "dev.csv").write_text("sequence,label\nAC T,0\n")
    with pytest.raises(InputError) as error:
        find_task(str(tmp_path))
    assert "1,195 more invalid lines" in error.value.problems[-2]
    assert "dev.csv, line 2" in error.value.problems[-1]


def test_faults_of_folders(tmp_path):
    with pytest.raises(InputError, match=r"must hold train\.csv"):
        find_task(str(tmp_path))
    write(tmp_path / "train.csv", classes(20))
    write(tmp_path / "dev.csv", classes(20))
    with pytest.raises(InputError, match=r"dev.csv: must differ .* same file"):
        find_task(str(tmp_path))
    write(tmp_path / "dev.csv", numbers(20))
    with pytest.raises(InputError, match=r"same columns, but train.csv has sequence, label; dev.csv"):
        find_task(str(tmp_path))
    write(tmp_path / "valid.csv", classes(20, 3))
    with pytest.raises(InputError, match=r"one file for dev, but has dev\.csv, valid\.csv"):
        find_task(str(tmp_path))


def test_two_data_sets_of_one_name(tmp_path):
    (tmp_path / "x").mkdir()
    one, two = write(tmp_path / "a.csv", classes(20)), write(tmp_path / "x/a.csv", classes(20, 1))
    assert len(find_tasks([str(one), str(one), "EMP/H3"])) == 2
    with pytest.raises(InputError, match="would both be own/a"):
        find_tasks([str(one), str(two)])


# --- through the plan --------------------------------------------------------------------------------------


def test_own_data_beside_known_tasks_in_a_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.csv", numbers(50))
    model = "quickstart-opt"
    benchmark = build({"tasks": ("a.csv", "quickstart/promoter"), "models": (model,), "methods": ("lora",)})
    assert benchmark.tasks == (str(tmp_path / "a.csv"), "quickstart/promoter")
    own, _ = plan(benchmark).studies
    assert own.key == f"own/a|{model}|lora"
    assert own.train_rows == 40
    turned = plan(
        build({**benchmark.model_dump(exclude_none=True), "suite": None, "reverse_complement": "train"})
    )
    assert [study.train_rows for study in turned.studies] == [80, 1280]


def test_the_command_line_names_the_line(tmp_path):
    (tmp_path / "a.csv").write_text("sequence,label\nACGT,0\nAC?T,1\n")
    ended = CliRunner().invoke(app, ["--tasks", str(tmp_path / "a.csv"), "--models", "quickstart-opt"])
    assert ended.exit_code == 2
    assert "a.csv, line 3" in ended.stderr
    assert "Traceback" not in ended.output


# --- how a file is read, where its columns do not say it ----------------------------------------------------


def test_rules_for_rare_labels_need_labels(tmp_path):
    given = {"methods": "kmer_logreg", "threshold": "dev", "class_weights": "balanced"}
    write(tmp_path / "a.csv", numbers(60))
    with pytest.raises(InputError) as refused:
        plan(build(settings({**given, "tasks": str(tmp_path / "a.csv")})))
    assert len(refused.value.problems) == 2 and "`--threshold dev`" in refused.value.problems[0]
    write(tmp_path / "b.csv", classes(60))
    benchmark = build(settings({**given, "tasks": str(tmp_path / "b.csv"), "out": tmp_path / "out"}))
    assert benchmark.identity()["class_weights"] == "balanced"
    assert (
        "threshold"
        not in build(settings({"tasks": str(tmp_path / "b.csv"), "methods": "kmer_logreg"})).identity()
    )
    (study,) = plan(benchmark).studies
    assert study.space.config({}, **benchmark.of_trials).threshold == "dev"


def test_columns_by_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    columns = {"bases": dna(60), "fold": [f"chr{i % 6}" for i in range(60)], "y": [i / 7 for i in range(60)]}
    write(tmp_path / "a.csv", columns)
    given = {"tasks": "a.csv,quickstart/promoter", "methods": "kmer_logreg"}
    asked = "sequence=bases,target=y,split=fold,dev=chr1,test=chr2+chr3"
    benchmark = build(settings({**given, "columns": asked, "on_error": "skip"}))
    row, other = (find_task(name) for name in benchmark.tasks)
    assert (row.name, row.kind, other.name) == ("own/a", "regression", "quickstart/promoter")
    assert find_task(row.source) == row and row.path == tmp_path / "a.csv"
    sizes = {split: len(rows.labels) for split, rows in read_own(row.source).splits.items()}
    assert sizes == {"train": 30, "dev": 10, "test": 20}
    assert read_own(row.source).cut == ()
    for wrong, words in (
        ("y=label", "NAME=VALUE with one of sequence, sequence_a, sequence_b, label"),
        ("label=nothing", "'nothing' is not there; there are bases"),
        ("sequence=bases,target=y,split=fold,dev=chr9", "'chr9' is no value of it"),
    ):
        with pytest.raises(InputError, match=words):
            build(settings({**given, "columns": wrong}))
    with pytest.raises(InputError, match="but none is in `--tasks`"):
        settings({"tasks": "EMP/H3", "columns": asked})


def test_splits_in_a_column(tmp_path):
    columns = classes(60) | {"split": ["train"] * 40 + ["valid"] * 10 + ["Test"] * 10}
    data = read_own(write(tmp_path / "a.csv", columns))
    assert [len(data.splits[split].labels) for split in ("train", "dev", "test")] == [40, 10, 10]
    assert data.cut == () and data.splits["dev"].sequences == columns["sequence"][40:50]
    assert len(set(data.digests.values())) == 3
    columns["split"][7] = "fold 3"
    with pytest.raises(
        InputError, match="the column `split` must name train, dev and test, but 'fold 3' is none"
    ):
        read_own(write(tmp_path / "a.csv", columns))


def test_labels_in_a_file_of_their_own(tmp_path):
    (tmp_path / "a.fa").write_text("".join(f">s{i}\n{text}\n" for i, text in enumerate(dna(40))))
    (tmp_path / "y.tsv").write_text("id\tclass\n" + "".join(f"s{i}\t{'ab'[i % 2]}\n" for i in range(39)))
    with pytest.raises(InputError, match=r"a\.fa: the columns must be"):
        read_own(tmp_path / "a.fa")
    with pytest.raises(InputError, match=r"line 79: has no labels: `id` 's39' is not in the file of labels"):
        read_own(f"{tmp_path / 'a.fa'}?labels={tmp_path / 'y.tsv'}")
    data = read_own(f"{tmp_path / 'a.fa'}?labels={tmp_path / 'y.tsv'}&on_error=skip")
    assert data.label_names == ("a", "b") and sum(len(rows.labels) for rows in data.splits.values()) == 39


def test_one_of_several_tasks(tmp_path):
    path = write(tmp_path / "a.parquet", classes(60) | {"task": ["one"] * 30 + ["two"] * 30})
    with pytest.raises(
        InputError, match=r"has 2 tasks in its column `task` \(one, two\); `--columns task=one`"
    ):
        read_own(path)
    rows = find_tasks([f"{path}?only=one", f"{path}?task=two"])
    assert [row.name for row in rows] == ["own/a_one", "own/a_two"]
    found = read_own(rows[0].source).splits.values()
    assert sorted(text for split in found for text in split.sequences) == sorted(classes(60)["sequence"][:30])


@pytest.mark.parametrize(
    ("labels", "kind", "names", "first"),
    [
        ([1, 2] * 20, "classification", ("1", "2"), 0),
        ([0, 2] * 20, "classification", ("0", "2"), 0),
        (["yes", "no"] * 20, "classification", ("no", "yes"), 1),
        ([True, False] * 20, "classification", (), 1),
        (["1.0", "0.0"] * 20, "classification", (), 1),
        (["0101", "1100"] * 20, "multilabel", tuple(f"label_{i}" for i in range(4)), [0, 1, 0, 1]),
        (["[0.5; 2]", "[1; 3]"] * 20, "regression", ("target_0", "target_1"), [0.5, 2]),
    ],
)
def test_what_labels_mean(tmp_path, labels, kind, names, first):
    texts = dna(40)
    data = read_own(write(tmp_path / "a.csv", {"sequence": texts, "label": labels}))
    assert (data.kind, data.label_names) == (kind, names)
    found = {
        text: label
        for rows in data.splits.values()
        for text, label in zip(rows.sequences, rows.labels.tolist(), strict=True)
    }
    assert found[texts[0]] == first
    assert bool(data.notes) == bool(names)


def test_a_metric_of_ones_choice_stands_in_the_studies_and_must_fit_every_task(tmp_path):
    write(tmp_path / "a.csv", numbers(60))
    write(tmp_path / "b.csv", classes(60))
    given = {"methods": "kmer_logreg", "metric": "brier", "out": tmp_path / "out"}
    with pytest.raises(InputError) as refused:
        plan(build(settings({**given, "tasks": f"{tmp_path / 'a.csv'},{tmp_path / 'b.csv'}"})))
    (line,) = refused.value.problems
    assert "`--metric brier`" in line and "own/a (regression)" in line and "pearson, spearman, mse" in line
    with pytest.raises(InputError, match=r"`--metric` must be .*brier.*but got 'ece'"):
        build(settings({**given, "metric": "ece", "tasks": str(tmp_path / "b.csv")}))
    benchmark = build(settings({**given, "tasks": str(tmp_path / "b.csv")}))
    (study,) = plan(benchmark).studies
    assert study.task.metric == "brier" and benchmark.identity()["metric"] == "brier"
    usual = build(settings({**given, "metric": None, "tasks": str(tmp_path / "b.csv")}))
    (same,) = plan(usual).studies
    assert same.task.metric == "mcc" and "metric" not in usual.identity()
    made = [
        prepare(one.task, tmp_path, tmp_path / "prepared", tokenizer=bare_bases(), pad_id=0)
        for one in (study, same)
    ]
    assert made[0].digest == made[1].digest, "the data is the same"
