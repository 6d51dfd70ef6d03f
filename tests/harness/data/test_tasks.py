"""The table of tasks: complete, consistent with the real files, and found by every name people use."""

import csv
from collections import Counter

import pytest

from harness.core.errors import InputError
from harness.data.find_tasks import find_task, find_tasks
from harness.data.tasks import SPLITS, SUITES, TASKS


def test_all_28_gue_datasets_are_there():
    families = Counter(row.family for row in TASKS.values() if not row.generated)
    assert families == {
        "EMP": 10,
        "prom_300": 3,
        "prom_core": 3,
        "tf": 5,
        "mouse": 5,
        "splice": 1,
        "virus": 1,
        "deepsea": 1,
    }
    assert len(SUITES["gue"]) == 28
    assert set(SUITES["gue-deepsea"]) - set(SUITES["gue"]) == {"deepsea/histone"}
    assert len(SUITES["paper"]) == 14
    assert all(TASKS[name].generated for name in SUITES["quickstart"])


def test_classes():
    many = {row.name: row.num_labels for row in TASKS.values() if row.num_labels != 2}
    assert many == {"splice/reconstructed": 3, "virus/covid": 9, "deepsea/histone": 104}


@pytest.mark.parametrize(
    ("name", "official"),
    [
        ("EMP/H3", "EMP/H3"),
        ("emp_H3", "EMP/H3"),
        ("h3k4me1", "EMP/H3K4me1"),
        ("EMP/H3/", "EMP/H3"),
        ("GUE/prom/prom_core_tata", "prom/prom_core_tata"),
        ("prom_300_all", "prom/prom_300_all"),
        ("human_tf_0", "tf/0"),
        ("tf_4", "tf/4"),
        ("mouse_2", "mouse/2"),
        ("splice_reconstructed", "splice/reconstructed"),
        ("virus_covid", "virus/covid"),
        ("covid", "virus/covid"),
    ],
)
def test_aliases(name, official):
    assert find_task(name).name == official


def test_every_mirror_name_leads_back():
    for row in TASKS.values():
        assert find_task(row.name) is row
        if row.mirror:
            assert find_task(row.mirror) is row


def test_unknown_names_come_with_the_nearest_all_at_once():
    with pytest.raises(InputError) as error:
        find_tasks(["EMP/H3", "EMP/H3K4me9", "prom_core_tatta"])
    assert len(error.value.problems) == 2
    assert "EMP/H3K4me" in error.value.problems[0]
    assert "prom/prom_core_tata" in error.value.problems[1]


def test_a_bare_number_is_no_task():
    with pytest.raises(InputError):
        find_task("2")


def test_a_task_named_twice_is_run_once():
    assert [row.name for row in find_tasks(["emp_H3", "EMP/H3", "mouse/2"])] == ["EMP/H3", "mouse/2"]


def test_published_counts_and_classes_agree_with_the_published_files(shared):
    derived = {("EMP/H3", "train"), ("EMP/H3K4me3", "train")}
    compared = 0
    for row in TASKS.values():
        for split in SPLITS:
            path = shared / "data/gue" / row.name / f"{split}.csv"
            if not path.exists() or (row.name, split) in derived:
                continue
            with path.open(newline="") as file:
                labels = [int(line["label"]) for line in csv.DictReader(file)]
            assert row.published[split] == len(labels), (row.name, split)
            assert set(labels) == set(range(row.num_labels)), (row.name, split)
            compared += 1
    if not compared:
        pytest.skip("no GUE files in the shared folder")
