"""The shortcut audit: planted faults of each kind are found, clean data is not flagged, and no test label is used."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.config.build import build
from harness.config.plan import plan
from harness.data import shortcuts
from harness.data.find_tasks import find_task
from harness.data.labelled_files import Rows
from harness.data.shortcuts import CONSTRUCTED, NEAR_DUPLICATES, audit_of, audit_shortcuts, marks_of, told
from harness.pipeline.audit import audits
from harness.pipeline.prepare import prepare_studies
from tests.lingo.test_rules import random_dna, related, twins

SIZES = {"train": 400, "dev": 150, "test": 150}


def rows(sequences, labels):
    return Rows(list(sequences), np.asarray(labels))


def clean(seed):
    rng = np.random.default_rng(seed)
    return {split: rows(random_dna(rng, n, 100), rng.integers(0, 2, n)) for split, n in SIZES.items()}


def found(splits, kind="classification"):
    audit = audit_shortcuts("t", kind, splits)
    return {(c["check"], c["split"]): c["status"] for c in audit["checks"]}, marks_of("t", audit), audit


def test_clean_data_is_not_flagged():
    """Of ten clean tasks none has a caveat, and at most one a warning."""
    warned = 0
    for seed in range(10):
        _, marks, audit = found(clean(seed))
        assert marks == {}
        warned += bool(told(audit))
    assert warned <= 1


def test_shuffle_twins_are_constructed_negatives():
    train, dev = twins(np.random.default_rng(0), 300, 100)
    splits = {"train": rows(*train), "dev": rows(*dev), "test": clean(0)["test"]}
    status, marks, _ = found(splits)
    assert status["construction.shuffle", "dev"] == "fail" and list(marks) == [CONSTRUCTED]
    assert "shuffle twin" in marks[CONSTRUCTED]


@pytest.mark.parametrize("split", ["dev", "test"])
def test_near_copies_and_shifted_windows_are_found_in_dev_and_test(split):
    splits = clean(1)
    train = list(splits["train"].sequences)
    copies = [one[7:] + "ACGTACG" for one in train[:60]] + list(splits[split].sequences)[60:]
    splits[split] = rows(copies, splits[split].labels)
    status, marks, _ = found(splits)
    assert status["overlap.near", split] == "fail" and status["overlap.windows", split] == "fail"
    assert list(marks) == [NEAR_DUPLICATES] and f"of the {split} rows" in marks[NEAR_DUPLICATES]
    other = {"dev": "test", "test": "dev"}[split]
    assert status["overlap.near", other] == "pass" or split == "dev"


@pytest.mark.parametrize(
    ("check", "planted"),
    [
        ("shortcut.length", lambda one, label: one[: 90 + 10 * label]),
        ("shortcut.ambiguous", lambda one, label: "N" * (8 * label) + one[8 * label :]),
        ("shortcut.position_motif", lambda one, label: one[:40] + "AC"[label] + one[41:]),
    ],
)
def test_a_planted_rule_is_found(check, planted):
    splits = {
        split: rows([planted(*pair) for pair in zip(part.sequences, part.labels, strict=True)], part.labels)
        for split, part in clean(2).items()
    }
    status, _, audit = found(splits)
    assert status[check, "dev"] == "fail", told(audit)


def test_test_labels_are_not_used():
    splits = clean(3)
    one = audit_shortcuts("t", "classification", splits)
    other = audit_shortcuts(
        "t", "classification", {**splits, "test": rows(splits["test"].sequences, 1 - splits["test"].labels)}
    )
    assert one["checks"] == other["checks"]


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_other_kinds_are_checked_for_overlaps_alone(kind):
    splits = {
        split: rows(part.sequences, np.stack([part.labels, part.labels], axis=1).astype(np.float32))
        for split, part in clean(4).items()
    }
    status, _, _ = found(splits, kind)
    assert {check for check, _ in status} == set(shortcuts.OVERLAP)


@pytest.mark.parametrize("sequences", [["A"] * 6, ["N" * 30] * 6, ["ACGT", "A", "C", "GG", "T", "N"]])
def test_odd_sequences_do_not_stop_an_audit(sequences):
    splits = {split: rows(sequences, [0, 1, 0, 1, 0, 1]) for split in SIZES}
    assert audit_shortcuts("t", "classification", splits)["checks"]


def test_large_splits_are_sampled(monkeypatch):
    monkeypatch.setattr(shortcuts, "MOST_ROWS", 100)
    assert audit_shortcuts("t", "classification", clean(5))["rows"] == dict.fromkeys(SIZES, 100)


def test_constant_segments_are_found_in_a_sample_and_scored_on_all_rows(monkeypatch):
    """The rule is the same whether all rows are searched for segments or few of them."""
    rng = np.random.default_rng(8)
    (segment,) = random_dna(rng, 1, 40)
    splits = {}
    for split, part in clean(8).items():
        has = rng.random(len(part.labels)) < np.where(part.labels == 1, 0.8, 0.2)
        texts = [
            one[:30] + segment + one[70:] if held else one
            for one, held in zip(part.sequences, has, strict=True)
        ]
        splits[split] = rows(texts, part.labels)
    one = audit_shortcuts("t", "classification", splits)
    monkeypatch.setattr(shortcuts, "SEGMENT_BASES", 0)
    assert audit_shortcuts("t", "classification", splits)["checks"] == one["checks"]
    (library,) = (check for check in one["checks"] if check["check"] == "construction.library")
    assert library["status"] == "fail" and library["value"] > 0.4


@pytest.fixture
def gue(tmp_path):
    train, dev = twins(np.random.default_rng(6), 100, 60)
    folder = tmp_path / "gue/mouse/2"
    folder.mkdir(parents=True)
    dev_rows = list(zip(*dev, strict=True))
    for split, part in {
        "train": zip(*train, strict=True),
        "dev": dev_rows[:20],
        "test": dev_rows[20:],
    }.items():
        lines = [f"{sequence},{label}" for sequence, label in part]
        (folder / f"{split}.csv").write_text("\n".join(["sequence,label", *lines]) + "\n")
    return tmp_path / "gue"


def test_a_benchmark_carries_what_was_found(gue, tmp_path, monkeypatch):
    options = {"tasks": ("mouse/2",), "data_dir": gue, "out": tmp_path / "out", "methods": ("rules",)}
    said = []
    (one, *_) = prepare_studies(plan(build(options)), {}, said.append)
    assert CONSTRUCTED in one.marks and any("shuffle twin" in line for line in said)
    assert {check["status"] for check in one.facts["audit"]["checks"]} <= {"warn", "fail"}
    monkeypatch.setattr(shortcuts, "audit_shortcuts", lambda *_: pytest.fail("was kept in the folder"))
    assert audit_of(find_task("mouse/2"), gue, tmp_path / "out" / "data")["checks"]
    (off, *_) = prepare_studies(plan(build({**options, "audit": False})), {}, said.append)
    assert CONSTRUCTED not in off.marks and "audit" not in off.facts


def test_the_command_scores_the_rules_on_dev(gue):
    (one,) = audits(build({"tasks": ("mouse/2",), "data_dir": gue, "methods": ("rules",)}))
    assert one["task"] == "mouse/2" and one["metric"] == "mcc"
    assert max(one["rules"], key=one["rules"].get) == "rule: shuffle twin" and len(one["rules"]) == 5


@pytest.fixture
def planned(gue):
    """`plan` of the task, as JSON and as text."""

    def plans(*more, code=0):
        options = [
            "plan",
            "--no-measure",
            "--tasks",
            "mouse/2",
            "--methods",
            "rules",
            "--data-dir",
            str(gue),
            *more,
        ]
        whole, text = (CliRunner().invoke(app, [*options, *form]) for form in (["--json"], []))
        assert whole.exit_code == text.exit_code == code, text.output
        return json.loads(whole.output), text.output

    return plans


def test_plan_shows_the_audit_of_train_and_dev(planned, gue):
    found, text = planned()
    (one,) = found["audit"]
    assert one["best_rule"] == "rule: shuffle twin" and one["score"] > 0.5 and one["twins"] > 0.5
    assert one["caveats"] == [CONSTRUCTED] and found["not_audited"] == []
    assert f"mcc {one['score']:.3f}" in text and CONSTRUCTED in text
    folder = gue / "mouse/2"
    train = (folder / "train.csv").read_text().splitlines()
    (folder / "test.csv").write_text("\n".join(train[:40]) + "\n")
    assert planned()[0]["audit"] == found["audit"], "of test nothing is read"
    assert planned("--no-audit")[0]["audit"] == []


def test_plan_shows_of_much_data_what_was_kept(planned, gue, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.pipeline.audit.MOST_PLANNED", 100)
    found, text = planned()
    assert found["audit"] == [] and "audit --tasks mouse/2 --data-dir" in text
    (tmp_path / "out" / "data").mkdir(parents=True)
    audit_of(find_task("mouse/2"), gue, tmp_path / "out" / "data")
    monkeypatch.setattr("harness.pipeline.audit.audit_shortcuts", lambda *_: pytest.fail("was kept"))
    found, _ = planned("--out", str(tmp_path / "out"))
    (one,) = found["audit"]
    assert one["twins"] > 0.5 and found["not_audited"] == []


def test_plan_names_a_table_of_ones_own_as_it_was_given(gue, monkeypatch):
    monkeypatch.setattr("harness.pipeline.audit.MOST_PLANNED", 0)
    table = gue / "mouse/2/train.csv"
    options = ["plan", "--no-measure", "--tasks", str(table), "--methods", "rules", "--json"]
    (line,) = json.loads(CliRunner().invoke(app, options).output)["not_audited"]
    assert line.endswith(f"audit --tasks {table}")


def test_what_the_library_does_not_bear_is_a_line_of_plan(planned, monkeypatch):
    def fails(*_):
        raise ValueError("odd data")

    monkeypatch.setattr("harness.pipeline.audit.audit_shortcuts", fails)
    found, text = planned()
    assert found["audit"] == [] and "No shortcut audit of mouse/2: odd data" in text


def test_relatives_are_the_neighbour_rules(tmp_path):
    train, dev = related(np.random.default_rng(7), 40)
    status, _, _ = found({"train": rows(*train), "dev": rows(*dev), "test": rows(*dev)})
    assert status["overlap.windows", "dev"] in ("warn", "fail")
