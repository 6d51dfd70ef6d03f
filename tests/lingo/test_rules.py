"""Rules without biology: planted shortcuts are found, clean data is not, and the twin rule's score on real data is that
of a few independent lines."""

import csv
import os
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from lingo.data import Split, TaskData
from lingo.methods import DEFAULT_METHODS, METHODS
from lingo.methods.rules import RULES
from lingo.metrics import score
from lingo.nucleotides import bare_bases
from lingo.rules import profiles, signatures
from lingo.single import simple_trial
from lingo.trial import TrialConfig

GUE = Path(os.environ.get("LINGO_SHARED", "../shared")) / "data" / "gue"
COMPLEMENT = str.maketrans("ACGT", "TGCA")


def split_of(sequences, labels):
    ids, offsets = bare_bases().tokenize(sequences, None, None)
    return Split(ids, offsets, np.asarray(labels))


def task(train, dev, kind="classification", num_labels=2):
    splits = [split_of(*part) for part in (train, dev)]
    return TaskData(
        name="t", kind=kind, num_labels=num_labels, metric="mcc", pad_id=0, train=splits[0], dev=splits[1]
    )


def dev_score(rule, data, metric="mcc"):
    trial = simple_trial(TrialConfig(method=rule, seed=0), data)
    assert trial.advance() and trial.done
    assert np.isfinite(trial.take_loss())
    logits = trial.predict(data.dev)
    assert logits.shape == (len(data.dev), data.num_labels) and np.isfinite(logits).all()
    return score(data.kind, logits, data.dev.labels)[metric]


def random_dna(rng, n, length=60, weights=(0.25, 0.25, 0.25, 0.25)):
    return ["".join(row) for row in rng.choice(list("ACGT"), (n, length), p=weights)]


def shuffled(rng, sequence):
    """A random sequence with the same dinucleotide counts and ends (Eulerian path by repeated swaps of segments)."""
    letters = list(sequence)
    for _ in range(400):
        a, b, c, d = sorted(rng.choice(len(letters), 4, replace=False))
        if letters[a] == letters[c] and letters[b] == letters[d]:
            letters = letters[:a] + letters[c:d] + letters[b:c] + letters[a:b] + letters[d:]
    return "".join(letters)


def twins(rng, n, length=60):
    """Sequences with label 1 and their shuffles with label 0, dealt to train and dev without regard of pairs."""
    real = random_dna(rng, n, length)
    rows = [(one, 1) for one in real] + [(shuffled(rng, one), 0) for one in real]
    order = rng.permutation(len(rows))
    rows = [rows[i] for i in order]
    cut = len(rows) * 3 // 4
    return tuple(tuple(zip(*part, strict=True)) for part in (rows[:cut], rows[cut:]))


def related(rng, n):
    """Families of mutated copies, each with one label."""
    rows = []
    for family in range(n):
        founder = random_dna(rng, 1, 80)[0]
        for _ in range(6):
            letters = np.array(list(founder))
            places = rng.choice(80, 6, replace=False)
            letters[places] = rng.choice(list("ACGT"), 6)
            copy = "".join(letters)
            copy = copy[::-1].translate(COMPLEMENT) if rng.random() < 0.5 else copy
            rows.append((copy, family % 2))
    rows = [rows[i] for i in rng.permutation(len(rows))]
    cut = len(rows) * 3 // 4
    return tuple(tuple(zip(*part, strict=True)) for part in (rows[:cut], rows[cut:]))


def test_each_rule_is_a_baseline_with_nothing_to_search():
    for name in RULES:
        assert not METHODS[name].needs_backbone and METHODS[name].settings == frozenset()
        assert name in DEFAULT_METHODS


def test_composition_and_markov_find_a_planted_bias():
    rng = np.random.default_rng(0)
    parts = []
    for n in (400, 200):
        rich, poor = (
            random_dna(rng, n, 60, (0.2, 0.3, 0.3, 0.2)),
            random_dna(rng, n, 60, (0.3, 0.2, 0.2, 0.3)),
        )
        parts.append(([*rich, *poor], [1] * n + [0] * n))
    data = task(*parts)
    assert dev_score("rule_composition", data) > 0.6
    assert dev_score("rule_markov", data) > 0.5
    assert abs(dev_score("rule_twin", data)) < 0.1


def test_length_is_composition():
    rng = np.random.default_rng(1)
    parts = [
        ([one[: 50 + 8 * (i % 2)] for i, one in enumerate(random_dna(rng, n))], [i % 2 for i in range(n)])
        for n in (200, 100)
    ]
    assert dev_score("rule_composition", task(*parts)) == 1.0


@pytest.mark.parametrize("from_end", [False, True])
def test_positions_find_a_base_at_a_fixed_place(from_end):
    rng = np.random.default_rng(2)
    parts = []
    for n in (600, 200):
        sequences, labels = random_dna(rng, n, 80), rng.integers(0, 2, n).tolist()
        sequences = [one[int(rng.integers(0, 20)) :] for one in sequences] if from_end else sequences
        at = -30 if from_end else 30
        planted = [
            one[:at] + ("A" if label else "C") + one[at + 1 :]
            for one, label in zip(sequences, labels, strict=True)
        ]
        parts.append((planted, labels))
    assert dev_score("rule_positions", task(*parts)) > 0.9


def test_twins_are_found_and_have_the_opposite_label():
    train, dev = twins(np.random.default_rng(3), 400)
    data = task(train, dev)
    assert dev_score("rule_twin", data) > 0.6
    assert abs(dev_score("rule_positions", data)) < 0.25
    codes = signatures(data.train)
    plain = [signature(one) for one in train[0]]
    same = {(codes[i] == codes[j], plain[i] == plain[j]) for i in range(200) for j in range(i)}
    assert same == {(True, True), (False, False)}


def test_neighbours_are_found_on_either_strand_as_by_a_plain_search():
    train, dev = related(np.random.default_rng(4), 60)
    data = task(train, dev)
    assert dev_score("rule_neighbour", data) > 0.9

    def profile(sequence):
        both = [sequence, sequence[::-1].translate(COMPLEMENT)]
        return Counter(one[i : i + 8] for one in both for i in range(len(one) - 7))

    def cosine(a, b):
        return sum(a[word] * b[word] for word in a) / np.sqrt(
            sum(x * x for x in a.values()) * sum(x * x for x in b.values())
        )

    rows = np.arange(12)
    found = (profiles(data.dev, rows) @ profiles(data.train, np.arange(40)).T).toarray()
    wanted = [[cosine(profile(dev[0][i]), profile(train[0][j])) for j in range(40)] for i in rows]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_clean_data_raises_no_alarm():
    """Fifty tasks with labels that nothing tells: at most two reach a score of 0.3 by any rule."""
    alarms = 0
    for seed in range(50):
        rng = np.random.default_rng(100 + seed)
        parts = [(random_dna(rng, n), rng.integers(0, 2, n).tolist()) for n in (240, 120)]
        alarms += max(dev_score(rule, task(*parts)) for rule in RULES) > 0.3
    assert alarms <= 2


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["multilabel", "regression", "targets", "classes"])
def test_every_kind_of_task_has_every_rule(rule, kind):
    rng = np.random.default_rng(5)
    parts = []
    for n in (120, 60):
        sequences = random_dna(rng, n)
        gc = np.array([one.count("G") + one.count("C") for one in sequences], dtype=np.float64)
        labels = {
            "multilabel": np.stack([gc > 30, rng.random(n) > 0.5], axis=1).astype(np.uint8),
            "regression": gc,
            "targets": np.stack([gc, -gc], axis=1),
            "classes": np.digitize(gc, [27, 33]),
        }[kind]
        parts.append((sequences, labels))
    kinds = {"classes": "classification", "targets": "regression"}
    labels = {"multilabel": 2, "regression": 1, "targets": 2, "classes": 3}[kind]
    metric = {"multilabel": "auroc", "classes": "mcc"}.get(kind, "pearson")
    found = dev_score(rule, task(*parts, kind=kinds.get(kind, kind), num_labels=labels), metric)
    if rule == "rule_composition" and kind != "multilabel":
        assert found > 0.6


def signature(sequence):
    pairs = Counter(sequence[i : i + 2] for i in range(len(sequence) - 1))
    return len(sequence), sequence[0], sequence[-1], tuple(sorted(pairs.items()))


@pytest.mark.skipif(not (GUE / "mouse" / "2").is_dir(), reason=f"no {GUE}/mouse/2")
def test_the_twin_rule_on_real_data():
    """0.82 on mouse/2: the opposite of the label of the shuffle twin in train, else the larger class."""
    rows = {
        name: [
            (row["sequence"], int(row["label"]))
            for row in csv.DictReader((GUE / f"mouse/2/{name}.csv").read_text().splitlines())
        ]
        for name in ("train", "dev", "test")
    }
    partners = defaultdict(list)
    for sequence, label in rows["train"]:
        partners[signature(sequence)].append(label)
    larger = Counter(label for _, label in rows["train"]).most_common(1)[0][0]
    said = [
        1 - round(np.mean(partners[signature(one)])) if partners[signature(one)] else larger
        for one, _ in rows["test"]
    ]
    truth = np.array([label for _, label in rows["test"]])
    plain = score("classification", np.eye(2)[said], truth)["mcc"]
    data = task(*(tuple(zip(*rows[name], strict=True)) for name in ("train", "dev")))
    trial = simple_trial(TrialConfig(method="rule_twin", seed=0), data)
    trial.advance()
    ours = score("classification", trial.predict(split_of(*zip(*rows["test"], strict=True))), truth)["mcc"]
    assert plain == pytest.approx(0.82, abs=0.02)
    assert ours == pytest.approx(plain, abs=0.02)
