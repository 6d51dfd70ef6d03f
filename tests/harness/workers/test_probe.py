"""Probes: equal to scikit-learn on features of plain transformers, computed once, through search and final stage."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from harness.workers import probe_engine
from harness.workers.probe_engine import ProbeTrial
from lingo.backbones import load_backbone
from lingo.data import Split, TaskData
from lingo.features import features
from lingo.metrics import score
from lingo.tokenization import tokenize
from lingo.trial import TrialConfig
from tests.lingo.test_features import STORIES

pytestmark = pytest.mark.skipif(not STORIES.is_dir(), reason=f"no {STORIES}")


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(STORIES)


def split_of(backbone, n, seed):
    rng = np.random.default_rng(seed)
    texts = ["".join(rng.choice(list("ACGT"), 40)) for _ in range(n)]
    ids, offsets = tokenize(texts, backbone.tokenizer, None, None)
    return Split(ids, offsets, np.array([int(text.count("G") > 10) for text in texts]))


@pytest.fixture(scope="module")
def data(backbone):
    return TaskData(
        name="t",
        kind="classification",
        num_labels=2,
        metric="mcc",
        pad_id=backbone.pad_id,
        train=split_of(backbone, 200, 0),
        dev=split_of(backbone, 80, 1),
        digest="d",
    )


CONFIG = TrialConfig(method="probe", seed=0, C=0.1, pooling="mean", depth=0.6)


def test_a_probe_is_scikit_learns(backbone, data):
    trial = ProbeTrial(CONFIG, data, backbone, {})
    assert trial.advance() and trial.done
    train, dev = (features(backbone, split, depth=0.6, pooling="mean") for split in (data.train, data.dev))
    scaler = StandardScaler().fit(train)
    model = LogisticRegression(C=0.1, max_iter=1000, tol=1e-3).fit(scaler.transform(train), data.train.labels)
    wanted = model.decision_function(scaler.transform(dev))
    found = trial.predict(data.dev)
    np.testing.assert_allclose(found[:, 1] - found[:, 0], wanted, atol=1e-3)
    assert score("classification", found, data.dev.labels)["mcc"] > 0.2
    facts = trial.facts()
    assert facts["trained_parameters"] == backbone.hidden_size + 1
    assert facts["total_parameters"] > 200_000 and facts["backbone_digest"] == backbone.digest


def test_features_are_computed_once(backbone, data, monkeypatch):
    kept, calls = {}, []
    monkeypatch.setattr(
        probe_engine, "features", lambda *args, **how: calls.append(how) or features(*args, **how)
    )
    for strength in (0.1, 1.0, 10.0):
        trial = ProbeTrial(replace(CONFIG, C=strength), data, backbone, kept)
        trial.advance()
        trial.predict(data.dev)
    assert len(calls) == 2
    ProbeTrial(replace(CONFIG, pooling="max"), data, backbone, kept).advance()
    assert len(calls) == 4
    before = {key: value.copy() for key, value in kept.items()}
    ProbeTrial(CONFIG, data, backbone, kept).advance()
    assert all(np.array_equal(kept[key], value) for key, value in before.items())  # not scaled in place


def test_memory_of_features_is_bounded(backbone, data, monkeypatch):
    monkeypatch.setattr(probe_engine, "MOST_KEPT", 200 * backbone.hidden_size * 4)
    kept = {}
    for pooling in ("mean", "max", "last"):
        ProbeTrial(replace(CONFIG, pooling=pooling), data, backbone, kept).advance()
        assert sum(one.nbytes for one in kept.values()) <= probe_engine.MOST_KEPT


def test_wrong_settings_are_refused():
    found = replace(CONFIG, depth=0.0, pooling="middle").problems()
    assert len(found) == 2 and "`depth`" in found[0] and "`pooling`" in found[1]
    assert "depth" not in TrialConfig(method="lora", seed=0).to_dict()
    assert TrialConfig.from_dict(CONFIG.to_dict()) == CONFIG
