"""Trials outside a pack: the network on one-hot bases, and the common training loop."""

import numpy as np
import pytest
import torch

from lingo.cnn import OneHotCnn
from lingo.methods import METHODS
from lingo.metrics import score
from lingo.nucleotides import bare_bases
from lingo.single import simple_trial
from lingo.trial import TrialConfig
from tests.lingo.test_kmers import dna, task

SETTINGS = {
    "method": "onehot_cnn",
    "seed": 3,
    "learning_rate": 5e-3,
    "epochs": 12,
    "batch_size": 16,
    "filters": 16,
    "kernel_width": 5,
}


def config(**settings):
    return TrialConfig.from_dict(SETTINGS | settings)


def train(trial):
    losses = []
    while not trial.done:
        if trial.advance():
            losses.append(trial.take_loss())
    return losses


def test_a_rows_logits_do_not_depend_on_its_neighbours_padding():
    net = OneHotCnn(3, filters=8, width=7, dropout=0.5)
    net.initialise(torch.Generator().manual_seed(0), torch.zeros(3)).eval()
    texts = [text[: 13 + 7 * i] for i, text in enumerate(dna(5, 0, 60))]
    ids = [torch.from_numpy(bare_bases().tokenize([text], None, None)[0].astype(np.int64)) for text in texts]
    lengths = torch.tensor([len(row) for row in ids])
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    together = net(padded, lengths)
    for row, alone, logits in zip(ids, lengths, together, strict=True):
        torch.testing.assert_close(net(row[None], alone[None])[0], logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width", [4, 7])
def test_n_and_padding_are_zeros(width):
    net = OneHotCnn(2, filters=4, width=width, dropout=0.0)
    net.initialise(torch.Generator().manual_seed(0), torch.zeros(2))
    lengths = torch.tensor([9])
    assert torch.equal(net(torch.full((1, 9), 5), lengths), net(torch.full((1, 9), 0), lengths))


def test_it_learns_a_planted_motif_and_repeats_exactly():
    data = task("classification", lambda t: int("GAT" in t), 2)
    first, second = (simple_trial(config(), data) for _ in range(2))
    losses = train(first)
    assert train(second) == losses and losses[-1] < 0.5 * losses[0]
    logits = first.predict(data.dev)
    assert np.array_equal(logits, second.predict(data.dev))
    assert score("classification", logits, data.dev.labels)["mcc"] > 0.6
    assert train(simple_trial(config(seed=4), data)) != losses
    assert (first.epoch, first.step, first.samples) == (12, first.total_steps, 12 * 400)


@pytest.mark.parametrize(
    ("kind", "labels", "number"),
    [
        ("multilabel", lambda t: ["GAT" in t, "CCA" in t], 2),
        ("regression", lambda t: t.count("GA") / 4, 1),
        ("classification", lambda t: t.count("GAT") % 3, 3),
    ],
)
def test_each_kind_of_task(kind, labels, number):
    data = task(kind, labels, number)
    trial = simple_trial(config(epochs=2), data)
    losses = train(trial)
    assert losses[1] < losses[0]
    assert trial.predict(data.dev).shape == (200, number)


def test_weights_are_put_back():
    trial = simple_trial(config(epochs=2), task("classification", lambda t: int("GAT" in t), 2))
    kept = trial.state()
    before = trial.predict(trial.data.dev)
    train(trial)
    assert not np.allclose(trial.predict(trial.data.dev), before)
    trial.load(kept)
    assert np.array_equal(trial.predict(trial.data.dev), before)


@pytest.mark.parametrize(
    ("method", "wrong", "says"),
    [
        ("onehot_cnn", {"filters": 0}, "`filters` must be a whole number, at least 1, but got 0."),
        ("onehot_cnn", {"dropout": 1.0}, "`dropout` must be at least 0 and below 1"),
        ("kmer_logreg", {"k": 9}, "`k` must be a whole number, at least 1 and at most 8, but got 9."),
        ("kmer_logreg", {"C": 0.0}, "`C` must be above 0"),
    ],
)
def test_settings_are_checked(method, wrong, says):
    assert says in TrialConfig.from_dict({"method": method, "seed": 0} | wrong).problems()[0]
    assert set(wrong) <= METHODS[method].settings
    assert not set(wrong) & METHODS["lora"].settings
