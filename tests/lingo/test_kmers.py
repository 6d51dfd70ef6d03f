"""Counts of k-mers against a plain count, and the linear model on each kind of task."""

from collections import Counter
from itertools import product

import numpy as np
import pytest

from lingo.data import Split, TaskData
from lingo.kmers import KmerModel, kmer_counts
from lingo.metrics import score
from lingo.nucleotides import BASES, bare_bases
from lingo.trial import TrialConfig

CONFIG = TrialConfig(method="kmer_logreg", seed=0, k=3, C=1.0)


def split_of(sequences, labels):
    ids, offsets = bare_bases().tokenize(sequences, None, None)
    return Split(ids, offsets, np.asarray(labels))


def dna(n, seed, length=40):
    return ["".join(row) for row in np.random.default_rng(seed).choice(list("ACGT"), (n, length))]


def task(kind, labels_of, num_labels):
    splits = [split_of(texts, [labels_of(t) for t in texts]) for texts in (dna(400, 1), dna(200, 2))]
    dtype = {"classification": np.int64, "multilabel": np.float32, "regression": np.float32}[kind]
    train, dev = (Split(s.ids, s.offsets, s.labels.astype(dtype)) for s in splits)
    return TaskData(name="t", kind=kind, num_labels=num_labels, metric="mcc", pad_id=0, train=train, dev=dev)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_counts_are_those_of_a_plain_count(k):
    texts = [*dna(20, 0, 30), "ACGTNACGTTNNA", "N", "AC"]
    found = kmer_counts(split_of(texts, [0] * len(texts)), k).toarray()
    words = ["".join(letters) for letters in product(BASES[:4], repeat=k)]
    for text, row in zip(texts, found, strict=True):
        plain = Counter(text[i : i + k] for i in range(len(text) - k + 1))
        assert row.tolist() == [plain[word] for word in words]


def test_two_classes():
    data = task("classification", lambda t: int("GAT" in t), 2)
    model = KmerModel(CONFIG, data).fit()
    found = score("classification", model.predict(data.dev), data.dev.labels)
    assert found["mcc"] > 0.9
    assert 0 < model.train_loss < 0.3 and model.parameters == 65 and model.iterations > 1


def test_three_classes_of_which_one_has_no_row():
    data = task("classification", lambda t: 2 * int("GAT" in t), 3)
    logits = KmerModel(CONFIG, data).fit().predict(data.dev)
    assert logits.shape == (200, 3)
    assert set(logits.argmax(1)) == {0, 2}
    assert score("classification", logits, data.dev.labels)["accuracy"] > 0.9


def test_labels_one_against_the_rest_and_those_that_never_change():
    data = task("multilabel", lambda t: ["GAT" in t, 0, "CCA" in t, 1], 4)
    model = KmerModel(CONFIG, data).fit()
    logits = model.predict(data.dev)
    found = score("multilabel", logits, data.dev.labels)
    assert found["auroc"] > 0.95 and found["undefined_labels"] == 2
    assert (logits[:, 1] < -20).all() and (logits[:, 3] > 20).all()
    assert model.parameters == 2 * 65


def test_numbers():
    data = task("regression", lambda t: t.count("GA") - t.count("TC"), 1)
    found = score("regression", KmerModel(CONFIG, data).fit().predict(data.dev), data.dev.labels)
    assert found["pearson"] > 0.95


def test_a_split_that_does_not_fit_in_memory_is_sampled(monkeypatch):
    data = task("classification", lambda t: int("GAT" in t), 2)
    monkeypatch.setattr("lingo.kmers.MOST_COUNTS", 40 * 100)
    model = KmerModel(CONFIG, data)
    assert model.rows == 100
    assert np.isfinite(model.fit().predict(data.dev)).all()


def test_one_class_alone_is_refused():
    with pytest.raises(ValueError, match="at least two classes"):
        KmerModel(CONFIG, task("classification", lambda t: 0, 2)).fit()
