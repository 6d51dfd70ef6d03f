"""The leakage audit: against counts made by hand, against a slow oracle, and on the real files."""

import random

import numpy as np
import pytest

from harness.data.labelled_files import Rows, read_rows
from harness.data.leakage import audit, crossing, kept_for_training, summary
from harness.data.tasks import TASKS


def other_strand(text):
    return "".join({"A": "T", "C": "G", "G": "C", "T": "A"}.get(base, base) for base in reversed(text))


def rows(*pairs):
    return Rows([text for text, _ in pairs], np.array([label for _, label in pairs], dtype=np.int64))


TOY = {
    "train": rows(("AAAC", 0), ("AAAC", 1), ("CCCC", 0), ("GGGG", 1), ("ACGT", 0), ("TTGA", 1)),
    "dev": rows(("AAAC", 1), ("CCCC", 1), ("GTTT", 0), ("ACGT", 0), ("TATA", 1)),
    "test": rows(("TCAA", 1), ("TATA", 0), ("GATC", 0)),
}


def test_counts_by_hand():
    found = audit(TOY).to_dict()
    assert found["within"] == {
        "train": {"repeated": 1, "conflicting": 1, "reverse_complement": 2},
        "dev": {"repeated": 0, "conflicting": 0, "reverse_complement": 2},
        "test": {"repeated": 0, "conflicting": 0, "reverse_complement": 0},
    }
    assert found["across"] == {
        "dev in train": {"rows": 5, "exact": 3, "other_label": 1, "reverse_complement": 2, "shared": 4},
        "test in train": {"rows": 3, "exact": 0, "other_label": 0, "reverse_complement": 1, "shared": 1},
        "test in dev": {"rows": 3, "exact": 1, "other_label": 1, "reverse_complement": 0, "shared": 1},
    }


def test_rows_kept_for_training():
    assert kept_for_training(TOY).tolist() == []
    only_test = {"train": TOY["train"], "dev": rows(("TATA", 1)), "test": TOY["test"]}
    assert kept_for_training(only_test).tolist() == [0, 1, 2, 3, 4]


def test_the_summary_says_each_count_and_nothing_for_clean_data():
    line = summary(audit(TOY).to_dict())
    assert "train repeats 1 row (1 with two labels)" in line
    assert "4 of 5 rows of dev also in train (1 with another label) (2 as reverse complement)" in line
    clean = {"train": rows(("AAAC", 0)), "dev": rows(("CCAC", 0)), "test": rows(("TCAC", 0))}
    assert summary(audit(clean).to_dict()) == ""
    dropped = audit(TOY).to_dict() | {"dropped": 6}
    assert crossing(dropped) == "1 of 3 rows of test also in dev (1 with another label)"


def test_labels_of_every_kind():
    labels = np.array([[0, 1], [0, 1], [1, 1]], dtype=np.float32)
    assert audit({"train": Rows(["AC", "AC", "CC"], labels)}).within["train"].conflicting == 0
    assert audit({"train": Rows(["AC", "CC", "AC"], labels)}).within["train"].conflicting == 1


@pytest.mark.parametrize("seed", range(3))
def test_against_every_pair_of_rows(seed):
    draw = random.Random(seed)
    splits = {
        split: rows(*[("".join(draw.choices("ACGTN", k=3)), draw.randrange(2)) for _ in range(count)])
        for split, count in (("train", 40), ("dev", 25), ("test", 25))
    }
    found = audit(splits)
    pairs = {split: list(zip(held.sequences, held.labels, strict=True)) for split, held in splits.items()}
    for (earlier, later), counts in found.across.items():
        exact = [(text, label) for text, label in pairs[later] if any(text == o for o, _ in pairs[earlier])]
        opposite = [
            text for text, _ in pairs[later] if any(text == other_strand(o) != o for o, _ in pairs[earlier])
        ]
        assert counts.exact == len(exact)
        assert counts.other_label == sum(pair not in pairs[earlier] for pair in exact)
        assert counts.reverse_complement == len(opposite)
    kept = kept_for_training(splits)
    others = splits["dev"].sequences + splits["test"].sequences
    for row, text in enumerate(splits["train"].sequences):
        leaks = any(text in (other, other_strand(other)) for other in others)
        assert (row in kept) is not leaks


REAL = {
    "prom/prom_300_tata": ((56, 10), (1, 0), (2, 0), (14, 5), (6, 0), (0, 0)),
    "prom/prom_core_tata": ((57, 12), (0, 0), (2, 1), (8, 1), (16, 1), (2, 0)),
    "mouse/2": ((0, 0),) * 6,
    "EMP/H3": ((0, 0),) * 6,
}
"""(repeated, conflicting) of train, dev, test; (exact, other label) of dev in train, test in train and in dev:
the counts of the developers' data, made by another program."""


@pytest.mark.parametrize("task", REAL)
def test_real_files(shared, task):
    folder = shared / "data/gue" / task
    if not (folder / "train.csv").exists():
        pytest.skip(f"no {task} in {shared}")
    splits = {split: read_rows(folder / f"{split}.csv", 2)[0] for split in ("train", "dev", "test")}
    found = audit(splits)
    within = [(counts.repeated, counts.conflicting) for counts in found.within.values()]
    across = [(counts.exact, counts.other_label) for counts in found.across.values()]
    assert (*within, *across) == REAL[task]
    every = [*found.within.values(), *found.across.values()]
    assert not any(counts.reverse_complement for counts in every)
    assert TASKS[task].num_labels == 2
