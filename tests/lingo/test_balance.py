"""Class weights in every way of training, and thresholds chosen on dev."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, matthews_corrcoef
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from harness.inference.tables import OutputColumns
from harness.workers.evaluation import at_thresholds
from lingo.balance import decided, first_bias, target_weights, thresholds_of
from lingo.data import Split, TaskData
from lingo.export import export_adapter
from lingo.metrics import score
from lingo.pack import Pack
from lingo.predict import open_adapter
from lingo.single import simple_trial
from lingo.trial import TrialConfig
from tests.lingo import toy
from tests.lingo.tiny import Checkpoints, task, train

RANDOM = np.random.default_rng(7)


def rare(kind: str, split: Split) -> Split:
    """The split with one class, or label, in a tenth of its rows, and an unknown cell."""
    n = len(split)
    if kind == "classification":
        labels = (np.arange(n) % 10 == 0).astype(np.int64)
    else:
        labels = np.stack([np.arange(n) % 10 == 0, np.arange(n) % 2, np.zeros(n)], axis=1).astype(np.float32)
        labels[3, 0] = np.nan
    return Split(split.ids, split.offsets, labels)


def rare_task(backbone: object, kind: str) -> TaskData:
    made = task(backbone, kind=kind, labels=2 if kind == "classification" else 3)  # type: ignore[arg-type]
    return replace(made, train=rare(kind, made.train), dev=rare(kind, made.dev))


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_weights_are_those_of_scikit_learn(kind: str, backbones: Checkpoints) -> None:
    data = rare_task(backbones("opt"), kind)
    config = toy.trial("lora", 1, class_weights="balanced")
    rows = np.arange(len(data.train))
    found = target_weights(config, data, rows)
    assert found is not None and target_weights(toy.trial("lora", 1), data, rows) is None
    labels = np.asarray(data.train.labels)
    if kind == "classification":
        assert ((found > 0) == np.eye(2, dtype=bool)[labels]).all()
        columns = [(labels, found.sum(1))]
    else:
        columns = list(zip(labels.T, found.T, strict=True))[:2]
    for truth, weights in columns:
        known = ~np.isnan(truth.astype(float))
        each = compute_class_weight("balanced", classes=np.array([0, 1]), y=truth[known].astype(int))
        np.testing.assert_allclose(weights[known], each[truth[known].astype(int)])
    if kind == "multilabel":
        assert (found[:, 2] == 1).all(), "a label that no row has"
    assert not first_bias(config, data).any() and first_bias(toy.trial("lora", 1), data).any()


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_a_balanced_trial_trains_on_the_weighted_loss_and_leaves_its_neighbours_alone(
    kind: str, backbones: Checkpoints
) -> None:
    backbone = backbones("opt")
    data = rare_task(backbone, kind)
    balanced, plain = toy.trial("lora", 1, class_weights="balanced"), toy.trial("lora", 2)

    def losses(configs: list[TrialConfig]) -> list[float]:
        pack = Pack(backbone, max_rank=6, max_labels=3, capacity=len(configs))
        slots = [pack.admit(config, data) for config in configs]
        rows, at_start = slots[0].batch(), pack.predict(slots[0], data.train)
        pack.step()
        found = [pack.take_loss(slot) for slot in slots]
        pack.close()
        truth = np.asarray(data.train.labels)[rows]
        weights = torch.from_numpy(target_weights(balanced, data, rows))
        outputs = torch.from_numpy(at_start[rows])
        if kind == "classification":
            wanted = (
                F.cross_entropy(outputs, torch.from_numpy(truth), reduction="none") * weights.sum(1)
            ).mean()
        else:
            known = torch.from_numpy(~np.isnan(truth))
            target = torch.from_numpy(np.nan_to_num(truth)).double()
            each = F.binary_cross_entropy_with_logits(outputs, target, reduction="none") * weights * known
            wanted = (each.sum(1) / known.sum(1)).mean()
        if configs[0] is balanced:
            assert found[0] == pytest.approx(float(wanted), rel=1e-4)
        return found

    alone, neighbour = losses([balanced]), losses([plain])
    np.testing.assert_allclose(losses([balanced, plain]), [*alone, *neighbour], rtol=1e-5)


def test_baselines_find_the_rare_class_when_it_counts() -> None:
    ids = [RANDOM.integers(1, 5, 30) for _ in range(300)]
    labels = np.array([int(i % 15 == 0) for i in range(300)])
    for i, row in enumerate(ids):
        if labels[i] and i % 2:
            row[:3] = 1
    offsets = np.arange(301, dtype=np.int64) * 30
    split = Split(np.concatenate(ids).astype(np.int16), offsets, labels)
    data = TaskData(
        name="x", kind="classification", num_labels=2, metric="mcc", pad_id=0, train=split, dev=split
    )
    predicted = {}
    for rule in ("none", "balanced"):
        config = TrialConfig(method="kmer_logreg", seed=1, k=1, class_weights=rule)  # type: ignore[arg-type]
        trial = simple_trial(config, data)
        while not trial.done:
            trial.advance()
        predicted[rule] = int((trial.predict(split).argmax(axis=1) == 1).sum())
    assert predicted["none"] < 20 < predicted["balanced"]


def test_thresholds_are_the_best_on_dev() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        truth = (rng.random(80) < 0.15).astype(np.int64)
        logits = np.stack([np.zeros(80), (truth + rng.normal(-2, 1, 80)).round(1)], axis=1)
        (threshold,) = thresholds_of("classification", logits, truth)
        odds = logits[:, 1]
        best = max((matthews_corrcoef(truth, odds >= cut) for cut in np.unique(odds)), default=0)
        moved = decided("classification", logits, [threshold])
        assert score("classification", moved, truth)["mcc"] == pytest.approx(best, abs=1e-12)
        labels = np.stack([truth, 1 - truth, np.zeros(80)], axis=1).astype(np.float32)
        labels[5, 0] = np.nan
        outputs = np.stack([odds, -odds, odds], axis=1)
        found = thresholds_of("multilabel", outputs, labels)
        assert found[2] == 0.5
        seen = np.arange(80) != 5
        most = max(f1_score(truth[seen], odds[seen] >= cut) for cut in np.unique(odds))
        above = decided("multilabel", outputs, found)[:, 0] > 0
        assert f1_score(truth[seen], above[seen]) == pytest.approx(most)
    assert thresholds_of("classification", np.zeros((3, 3)), np.arange(3)) == ()
    assert thresholds_of("classification", np.zeros((3, 2)), np.array([0, 1, 0])) == (0.5,)


def test_test_scores_are_those_at_the_threshold_of_dev() -> None:
    rng = np.random.default_rng(1)
    truth = (rng.random(200) < 0.1).astype(np.int64)
    logits = np.stack([np.zeros(200), 2 * truth + rng.normal(-3, 1, 200)], axis=1)
    usual, tuned = TrialConfig(method="lora", seed=1), TrialConfig(method="lora", seed=1, threshold="dev")
    assert at_thresholds(usual, "classification", logits, truth, lambda: (logits, truth))[2] == {}
    _, scores, facts = at_thresholds(tuned, "classification", logits, truth, lambda: (logits, truth))
    half = score("classification", logits, truth)
    assert 0 < facts["threshold"][0] < 0.5 and scores["mcc"] > half["mcc"]
    assert facts["at_half"]["mcc"] == half["mcc"] and "auroc" not in facts["at_half"]
    assert scores["loss"] == half["loss"]
    assert "threshold" not in usual.to_dict() and TrialConfig.from_dict(tuned.to_dict()) == tuned
    assert TrialConfig(method="lora", seed=1, class_weights="x").problems()  # type: ignore[arg-type]


def test_an_export_decides_by_its_thresholds(backbones: Checkpoints, tmp_path: Path) -> None:
    backbone = backbones("opt")
    for kind, count in (("classification", 2), ("multilabel", 3)):
        pack = Pack(backbone, max_rank=6, max_labels=count)
        (slot,) = train(pack, rare_task(backbone, kind), [toy.trial("lora", 1)], 3)
        names, some = ("no", "yes", "so")[:count], (0.2, 0.7, 0.5)[: 1 if count == 2 else 3]
        folder = export_adapter(pack, slot, tmp_path / kind, card={}, labels=names, thresholds=some)
        assert json.loads((folder / "lingo.json").read_text())["thresholds"] == list(some)
        first = "yes from 0.2" if count == 2 else "no from 0.2, yes from 0.7"
        assert f"decided on dev: {first}" in (folder / "README.md").read_text()
        layout = OutputColumns.of(open_adapter(folder), named=False)
        values = np.array([[0.7, 0.3, 0.9], [0.9, 0.1, 0.4], [0.1, 0.9, 0.1]])[:, :count]
        if count == 2:
            wanted = ["yes", "no", "yes"]
        else:
            wanted = ["no;so", "no", "yes"]
        assert layout.batch([1, 2, 3], ["", "", ""], values).column("prediction").to_pylist() == wanted
        pack.close()
