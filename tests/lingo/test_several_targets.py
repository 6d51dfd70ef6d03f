"""Regressions of several targets, and multi-label tasks of which some cells are unknown: losses, scores, baselines."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from harness.workers.confidence import intervals
from harness.workers.evaluation import final_facts, write_predictions
from lingo.data import Scale, Split, TaskData
from lingo.kmers import KmerModel
from lingo.losses import binary_cross_entropy, squared_error
from lingo.metrics import constant_scores, score
from lingo.trial import TrialConfig

RNG = np.random.default_rng(0)


def split(labels: NDArray[np.generic]) -> Split:
    ids = np.random.default_rng(1).integers(0, 4, len(labels) * 20).astype(np.int16)
    return Split(ids, np.arange(len(labels) + 1) * 20, labels)


def task(kind: str, labels: NDArray[np.generic]) -> TaskData:
    metric = {"regression": "pearson", "multilabel": "auroc"}[kind]
    width = labels.shape[1]
    half = len(labels) // 2
    return TaskData(
        name="t",
        kind=kind,
        num_labels=width,
        metric=metric,
        pad_id=0,
        train=split(labels[:half]),
        dev=split(labels[half:]),  # type: ignore[arg-type]
    )


def test_each_target_has_its_own_unit_and_metrics_are_means() -> None:
    targets = RNG.normal(size=(50, 3)) * [1, 10, 1000] + [0, 5, -7000]
    scale = Scale.of(targets)
    standard = scale.standardised(targets)
    assert np.allclose(standard.mean(axis=0), 0) and np.allclose(standard.std(axis=0), 1)
    assert np.allclose(scale.restored(standard), targets)
    guess = targets + RNG.normal(size=targets.shape) * [0.5, 20, 3000]
    each = [score("regression", guess[:, i], targets[:, i]) for i in range(3)]
    for name, value in score("regression", guess, targets).items():
        assert value == pytest.approx(0.0 if name == "collapsed" else np.mean([one[name] for one in each]))
    single = intervals("regression", guess[:, :1], targets[:, 0], rng=np.random.default_rng(3))
    both = intervals("regression", guess[:, [0, 0]], targets[:, [0, 0]], rng=np.random.default_rng(3))
    assert both["pearson"] == pytest.approx(single["pearson"])
    facts = final_facts("regression", guess, targets, train_labels=targets, names=["a", "b", "c"])
    assert facts["test_targets"]["pearson"] == [one["pearson"] for one in each]
    assert facts["constant"]["mse"] == pytest.approx(targets.var(axis=0).mean())


def test_the_loss_of_several_targets_is_their_mean_and_closed_outputs_do_not_count() -> None:
    logits, labels = torch.randn(1, 4, 5), torch.randn(1, 4, 5)
    open_ = torch.tensor([[[True, True, False, False, False]]])
    expected = (logits - labels).square()[..., :2].mean(-1)
    assert torch.allclose(squared_error(logits, labels, open_), expected)
    alone = squared_error(logits, labels[..., 0], open_)
    assert torch.equal(alone, squared_error(logits, labels, open_ & (torch.arange(5) < 1)))


def test_unknown_cells_count_neither_in_loss_nor_in_metrics() -> None:
    logits, labels = torch.randn(1, 6, 3), torch.randint(0, 2, (1, 6, 3)).float()
    hidden = labels.clone()
    hidden[0, 2, 1] = hidden[0, 4, 0] = float("nan")
    open_ = torch.ones(1, 1, 3, dtype=torch.bool)
    logits.requires_grad_()
    loss = binary_cross_entropy(logits, hidden, open_)
    loss.sum().backward()
    assert logits.grad is not None and logits.grad[0, 2, 1] == logits.grad[0, 4, 0] == 0
    own = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    assert loss[0, 2].item() == pytest.approx(own[0, 2, [0, 2]].mean().item())
    truth = RNG.integers(0, 2, (40, 3)).astype(np.float32)
    truth[::3, 1] = np.nan
    outputs = RNG.normal(size=(40, 3))
    seen = ~np.isnan(truth[:, 1])
    alone = score("multilabel", outputs[seen][:, [1]], truth[seen][:, [1]])
    rest = score("multilabel", outputs[:, [0, 2]], truth[:, [0, 2]])
    assert score("multilabel", outputs, truth)["auroc"] == pytest.approx(
        (alone["auroc"] + 2 * rest["auroc"]) / 3
    )
    few = intervals("multilabel", outputs[:, [1]], truth[:, [1]], rng=np.random.default_rng(3))
    assert few["auroc"][0] < alone["auroc"] < few["auroc"][1]
    assert constant_scores("multilabel", truth[:, [1]], truth[:, [1]])["auprc"] == pytest.approx(
        truth[seen, 1].mean()
    )


def test_heads_start_from_the_known_cells() -> None:
    labels = np.array([[1, 0], [np.nan, 1], [1, 0], [0, np.nan]] * 2, np.float32)
    share = np.array([2 / 3, 1 / 3])
    assert task("multilabel", labels).first_bias == pytest.approx(np.log(share / (1 - share)))


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_the_baseline_takes_them(kind: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    labels = (
        RNG.normal(size=(80, 2)) if kind == "regression" else RNG.integers(0, 2, (80, 2)).astype(np.float32)
    )
    if kind == "multilabel":
        labels[::5, 0] = np.nan
    data = task(kind, labels)
    model = KmerModel(TrialConfig(method="kmer_logreg", seed=0), data).fit()
    outputs = model.predict(data.dev)
    assert outputs.shape == (40, 2) and np.isfinite(model.train_loss)
    assert np.isfinite(score(kind, outputs, data.dev.labels)["loss"])
    write_predictions(tmp_path / "p.parquet", kind, outputs, data.dev.labels)
