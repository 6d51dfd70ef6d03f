"""Variants of tasks: rows divided anew by homology or chromosome, and few rows of each class."""

import random
from itertools import pairwise

import numpy as np
import pytest

from harness.config.build import build, read_settings
from harness.config.plan import plan
from harness.core.errors import InputError
from harness.data.find_tasks import find_task
from harness.data.prepared import prepare, read_prepared
from harness.data.shortcuts import audit_shortcuts
from harness.data.sources import read_splits, split_digests, training_rows
from harness.data.variants import Variant, parted_variant, without_variants
from harness.data.varied_splits import HOLDERS, homology_groups
from lingo.nucleotides import bare_bases
from lingo.sequences import reverse_complement
from tests.support.task_files import write_task

BASES = "ACGT"


def dna(rng, length):
    return "".join(rng.choice(BASES) for _ in range(length))


def mutated(rng, text, share):
    return "".join(rng.choice(BASES.replace(base, "")) if rng.random() < share else base for base in text)


def families(rng, count, members, length=200, share=0.02):
    """Sequences in families: mutated copies on either strand, and windows shifted by up to 20 bases."""
    rows = []
    for number in range(count):
        long = dna(rng, length + 20)
        for _ in range(members):
            start = rng.randrange(20)
            text = mutated(rng, long[start : start + length], share)
            rows.append((reverse_complement([text])[0] if rng.random() < 0.5 else text, number % 2, number))
    rng.shuffle(rows)
    return rows


def written(folder, rows):
    """Rows as a task of GUE's layout: eight tenths of train, a tenth each of dev and test, families mixed."""
    cuts = [0, len(rows) * 8 // 10, len(rows) * 9 // 10, len(rows)]
    text = ["sequence,label\n" + "".join(f"{s},{y}\n" for s, y, *_ in rows[a:b]) for a, b in pairwise(cuts)]
    write_task(folder, train=text[0], dev=text[1], test=text[2])
    return folder


def values(found, part):
    return {check["check"]: check["value"] for check in found["checks"] if check["split"] == part}


def test_names_say_the_variant():
    for text in ("@homology-0.9", "@homology-1@10-shot", "@chromosome@seed-7", "@100-shot@seed-13"):
        base, variant = parted_variant(f"EMP/H3{text}")
        assert (base, variant.text) == ("EMP/H3", text)
    assert parted_variant("EMP/H3@0-shot") == ("EMP/H3@0-shot", Variant())
    assert parted_variant("a@b.csv@5-shot")[0] == "a@b.csv"
    assert without_variants(["a@1-shot", "a", "b@chromosome"]) == ("a", "b")
    assert find_task("emp_H3@5-shot").name == "EMP/H3@5-shot"
    assert find_task("EMP/H3@5-shot").base == "EMP/H3"


@pytest.mark.parametrize(
    "name",
    [
        "@",
        "a@",
        "@5-shot",
        "x" * 5000,
        f"{'x' * 5000}@5-shot",
        "\0@5-shot",
    ],
)
def test_names_that_are_none_are_told(name):
    with pytest.raises(InputError, match="`--tasks` must name known tasks"):
        build({"tasks": (name,), "methods": ("kmer_logreg",)})


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("mouse/2@seed-3", "; write mouse/2."),
        ("mouse/2@5-shot@seed-0", "; write mouse/2@5-shot."),
        ("mouse/2@5-shot@chromosome", "; write mouse/2@chromosome@5-shot."),
        ("mouse/2@homology-0.90", "; write mouse/2@homology-0.9."),
        ("mouse/2@5-shot@5-shot", "but got @5-shot@5-shot."),
        ("mouse/2@5shot", "but got @5shot."),
    ],
)
def test_a_variant_that_is_none_is_told_with_what_it_may_be(name, cure):
    with pytest.raises(InputError) as refused:
        build({"tasks": (name,), "methods": ("kmer_logreg",)})
    (line,) = refused.value.problems
    assert "the variant of mouse/2 must be @homology-0.9 or @chromosome" in line and line.endswith(cure)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"similarity": 0.8}, "`--similarity` is for `--split homology`"),
        ({"similarity": 0.8, "split": "chromosome"}, "`--similarity` is for `--split homology`"),
        ({"data_seed": 3}, "`--data-seed` is for `--split` and `--shots`"),
        ({"controls": "random-init"}, "`--controls random-init` is for methods with a backbone"),
    ],
)
def test_options_without_effect_are_refused(given, said):
    with pytest.raises(InputError, match=said):
        build({"tasks": ("mouse/2",), "methods": ("kmer_logreg",), **given})


def test_similar_sequences_stay_in_one_split_and_the_audit_finds_nothing(tmp_path):
    rng = random.Random(0)
    folder = written(tmp_path, families(rng, 60, 5))
    published, row = find_task("mouse/2"), find_task("mouse/2@homology-0.9")
    before = audit_shortcuts(published.name, published.kind, read_splits(published, folder))
    assert values(before, "test")["overlap.near"] > 0.5 and values(before, "test")["overlap.windows"] > 0.5
    splits = read_splits(row, folder)
    after = audit_shortcuts(row.name, row.kind, splits)
    for part in ("dev", "test"):
        assert values(after, part)["overlap.near"] == values(after, part)["overlap.windows"] == 0
    texts = {split: set(map(str, rows.sequences)) for split, rows in splits.items()}
    every = {str(s) for rows in read_splits(published, folder).values() for s in rows.sequences}
    assert set.union(*texts.values()) == every and sum(map(len, texts.values())) == len(every)
    assert [len(rows.labels) for rows in splits.values()] == [240, 30, 30]
    assert all(abs(rows.labels.mean() - 0.5) < 0.2 for rows in splits.values())


def test_groups_are_the_families_also_where_they_are_large():
    rng = random.Random(1)
    rows = families(rng, 4, HOLDERS * 2) + families(rng, 30, 1)
    found = homology_groups([text for text, *_ in rows], 0.9)
    pairs = {
        (group, family if i < 8 * HOLDERS else ("single", i))
        for i, (group, (*_, family)) in enumerate(zip(found, rows, strict=True))
    }
    assert len(pairs) == len(np.unique(found)) == 34


def test_a_division_is_repeatable_by_its_seed_and_part_of_the_datas_identity(tmp_path):
    folder = written(tmp_path, families(random.Random(2), 60, 5))
    rows = [
        find_task(f"mouse/2{text}") for text in ("", "@homology-0.9", "@homology-0.8", "@homology-0.9@seed-1")
    ]
    digests = [tuple(split_digests(row, folder).values()) for row in rows]
    assert len({one for each in digests for one in each}) == 12
    first, again = (list(map(str, read_splits(rows[1], folder)["test"].sequences)) for _ in range(2))
    assert first == again != list(map(str, read_splits(rows[3], folder)["test"].sequences))


def test_a_division_is_told_and_recorded(tmp_path):
    folder = written(tmp_path / "gue", families(random.Random(3), 60, 5))
    found = plan(
        build({"tasks": ("mouse/2",), "methods": ("kmer_logreg",), "data_dir": folder, "split": "homology"})
    )
    (line,) = [note for note in found.notes if "divided anew by homology" in note]
    assert "train 240 rows (0 " in line and "test 30 rows" in line and "scores do not compare" in line
    row = found.studies[0].task
    made = prepare(row, folder, tmp_path / "p", tokenizer=bare_bases(), pad_id=0)
    assert "changed split" in made.marks and made.variant["rows"] == {"train": 240, "dev": 30, "test": 30}
    assert sum(made.variant["labels"]["test"].values()) == 30
    kept = read_prepared(made.folder)
    assert kept is not None and kept.variant == made.variant


def test_what_is_all_similar_cannot_be_divided(tmp_path):
    folder = written(tmp_path, families(random.Random(4), 1, 60))
    with pytest.raises(
        InputError, match=r"must leave rows for every split.*a higher `--similarity` than 0.9"
    ):
        read_splits(find_task("mouse/2@homology-0.9"), folder)


def bed(path, genome, rng, chromosomes):
    """A table of places on some chromosomes, and their genome."""
    texts = {name: dna(rng, 2000) for name in chromosomes}
    genome.write_text("".join(f">{name}\n{text}\n" for name, text in texts.items()))
    rows = [
        f"{name}\t{start}\t{start + 40}\t{i % 2}\n"
        for name in texts
        for i, start in enumerate(range(0, 1600, 40))
    ]
    path.write_text("chrom\tstart\tend\tlabel\n" + "".join(rows))
    return texts


def test_chromosomes_stay_whole(tmp_path):
    rng = random.Random(5)
    texts = bed(tmp_path / "a.tsv", tmp_path / "g.fa", rng, [f"chr{n}" for n in range(1, 11)])
    name = f"{tmp_path}/a.tsv?genome={tmp_path}/g.fa@chromosome"
    row = find_task(name)
    splits = read_splits(row, tmp_path)
    assert {split: len(rows.labels) for split, rows in splits.items()} == {
        "train": 320,
        "dev": 40,
        "test": 40,
    }
    on = [
        {c for c, text in texts.items() for s in rows.sequences if str(s) in text} for rows in splits.values()
    ]
    assert sum(map(len, on)) == len(set.union(*on)) == 10
    other = read_splits(find_task(f"{name}@seed-3"), tmp_path)
    assert [*map(str, other["test"].sequences)] != [*map(str, splits["test"].sequences)]
    found = plan(
        build(
            {"tasks": (name.removesuffix("@chromosome"),), "methods": ("kmer_logreg",), "split": "chromosome"}
        )
    )
    assert found.studies[0].task.name == "own/a@chromosome"
    assert any(
        "divided anew by chromosome: train 320 rows" in note and "+" not in note for note in found.notes
    )
    assert not any("cut from train" in note for note in found.notes if "divided anew" in note)


def test_chromosomes_that_are_not_there(tmp_path):
    write_task(tmp_path)
    with pytest.raises(InputError, match="needs a column chrom"):
        read_splits(find_task("mouse/2@chromosome"), tmp_path)
    bed(tmp_path / "a.tsv", tmp_path / "g.fa", random.Random(6), ["chr1", "chr2"])
    with pytest.raises(InputError, match="needs at least 3 chromosomes, but got chr1, chr2"):
        read_splits(find_task(f"{tmp_path}/a.tsv?genome={tmp_path}/g.fa@chromosome"), tmp_path)


def test_few_rows_are_balanced_and_nested(tmp_path):
    rng = random.Random(7)
    folder = written(tmp_path, [(dna(rng, 40), int(rng.random() < 0.2)) for _ in range(200)])
    whole = read_splits(find_task("mouse/2"), folder)
    drawn = {k: read_splits(find_task(f"mouse/2@{k}-shot"), folder) for k in (1, 5, 20)}
    for k, splits in drawn.items():
        assert np.bincount(splits["train"].labels).tolist() == [k, k]
        assert training_rows(find_task(f"mouse/2@{k}-shot"), folder) == 2 * k
        assert [*splits["dev"].sequences] == [*whole["dev"].sequences]
        assert [*splits["test"].sequences] == [*whole["test"].sequences]
    held = {k: set(map(str, splits["train"].sequences)) for k, splits in drawn.items()}
    assert held[1] < held[5] < held[20] < set(map(str, whole["train"].sequences))
    assert held[5] != {*map(str, read_splits(find_task("mouse/2@5-shot@seed-1"), folder)["train"].sequences)}
    published = split_digests(find_task("mouse/2"), folder)
    few = split_digests(find_task("mouse/2@5-shot"), folder)
    assert few["train"] != published["train"] and few["test"] == published["test"]


def test_a_class_with_fewer_rows_is_told(tmp_path):
    rng = random.Random(8)
    folder = written(tmp_path, [(dna(rng, 40), int(i % 20 == 0)) for i in range(200)])
    made = prepare(find_task("mouse/2@50-shot"), folder, tmp_path / "p", tokenizer=bare_bases(), pad_id=0)
    assert "58 training rows; class 1 has 8." in made.marks["k-shot"]


def test_shots_are_tasks_of_their_own_and_settings_bring_them_back(tmp_path):
    folder = written(tmp_path / "gue", [(dna(random.Random(i), 40), i % 2) for i in range(100)])
    options = {
        "tasks": ("mouse/2",),
        "methods": ("kmer_logreg",),
        "data_dir": folder,
        "shots": ("1", "10", "all"),
    }
    benchmark = build({**options, "data_seed": 13})
    assert benchmark.tasks == ("mouse/2@1-shot@seed-13", "mouse/2@10-shot@seed-13", "mouse/2")
    assert build(read_settings(benchmark.repeat(), "s")).identity() == benchmark.identity()
    suite = build({"suite": "gue", "methods": ("kmer_logreg",), "shots": ("1",), "split": "homology"})
    assert suite.tasks[0] == "EMP/H3@homology-0.9@1-shot" and len(suite.tasks) == 28
    again = build(read_settings(suite.repeat(), "s"))
    assert (again.suite, again.identity()) == ("gue", suite.identity())
    assert [study.train_rows for study in plan(benchmark).studies] == [2, 20, 80]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tasks": ("deepsea/histone",), "shots": ("1",)}, "has several labels"),
        ({"tasks": ("quickstart/promoter",), "split": "homology"}, "is generated"),
        (
            {"tasks": ("mouse/2",), "shots": ("0",)},
            "`--shots` must be whole numbers from 1 to 9999999, or all, but got '0'",
        ),
        (
            {"tasks": ("mouse/2",), "shots": ("5",), "drop_leaks": True},
            "`--drop-leaks` would take drawn rows",
        ),
        ({"tasks": ("mouse/2@10-shot",), "shots": ("1",)}, "a task whose name says something else"),
    ],
)
def test_what_cannot_be_is_refused(options, says):
    with pytest.raises(InputError) as caught:
        build({**options, "methods": ("kmer_logreg",)})
    assert len(caught.value.problems) == 1 and says in caught.value.problems[0]


def test_a_regression_has_no_classes_to_draw_from(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        "sequence,target\n" + "".join(f"{dna(random.Random(i), 30)},{i / 7}\n" for i in range(60))
    )
    with pytest.raises(InputError, match="draws rows of each class, but own/a has numbers"):
        build({"tasks": (str(path),), "methods": ("kmer_logreg",), "shots": ("5",)})
