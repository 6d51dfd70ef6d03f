"""Probes: equal to scikit-learn on features of plain transformers, computed once, through search and final stage."""

import contextlib
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, AutoTokenizer

from harness.workers import probe_engine
from harness.workers.probe_engine import ProbeTrial
from lingo.backbones import load_backbone
from lingo.data import Split, TaskData
from lingo.features import features
from lingo.metrics import score
from lingo.predict import open_adapter
from lingo.single_export import export_probe
from lingo.tokenization import tokenize
from lingo.trial import TrialConfig
from tests.lingo.test_features import STORIES

pytestmark = pytest.mark.skipif(not STORIES.is_dir(), reason=f"no {STORIES}")


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(STORIES)


def texts_of(n, seed):
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("ACGT"), 40)) for _ in range(n)]


def split_of(backbone, n, seed):
    texts = texts_of(n, seed)
    ids, offsets = tokenize(texts, backbone.tokenizer, None, None)
    return Split(ids, offsets, np.array([int(text.count("G") > 10) for text in texts]))


def made_of(backbone, train, kind, outputs):
    return TaskData(
        name="t",
        kind=kind,
        num_labels=outputs,
        metric="mcc",
        pad_id=backbone.pad_id,
        train=train,
        dev=split_of(backbone, 80, 1) if outputs == 2 else train,
        digest="d",
    )


@pytest.fixture(scope="module")
def data(backbone):
    return made_of(backbone, split_of(backbone, 200, 0), "classification", 2)


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
    found = replace(CONFIG, depth=0.0, pooling="middle", feature_scaling="x").problems()
    assert len(found) == 3 and all(
        name in found[i] for i, name in enumerate(("`depth`", "`feature_sc", "`pooling`"))
    )
    assert "feature_scaling" not in CONFIG.to_dict()
    assert "depth" not in TrialConfig(method="lora", seed=0).to_dict()
    assert TrialConfig.from_dict(CONFIG.to_dict()) == CONFIG


def plain_features(texts, depth, how):
    """Vectors of single sequences by transformers alone."""
    model, tokenizer = (kind.from_pretrained(STORIES) for kind in (AutoModel, AutoTokenizer))
    rows = []
    for text in texts:
        with torch.no_grad():
            out = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        count = len(out.hidden_states) - 1
        states = out.last_hidden_state if depth == 1 else out.hidden_states[round(depth * count)]
        rows.append({"mean": states[0].mean(0), "last": states[0, -1], "max": states[0].amax(0)}[how].numpy())
    return np.stack(rows)


@pytest.mark.parametrize(
    ("depth", "how", "strength", "scaling"),
    [
        (1.0, "mean", 1e-2, "standard"),
        (0.6, "max", 1.0, "standard"),
        (0.4, "last", 0.1, "standard"),
        (1.0, "mean", 1.0, "none"),
    ],
)
def test_an_export_predicts_what_scikit_learn_does(backbone, tmp_path, depth, how, strength, scaling):
    """Layer, pooling and penalty, on one strand and on both, through `predict`."""
    train, new = texts_of(200, 0), texts_of(60, 5)
    labels = np.array([int(text.count("G") > 10) for text in train])
    vectors = plain_features(train, depth, how)
    as_they_are = {"with_mean": False, "with_std": False} if scaling == "none" else {}
    scaler = StandardScaler(**as_they_are).fit(vectors)
    model = LogisticRegression(C=strength, max_iter=1000, tol=1e-3).fit(scaler.transform(vectors), labels)
    flipped = ["".join({"A": "T", "C": "G", "G": "C", "T": "A"}[base] for base in text[::-1]) for text in new]
    one, other = (
        model.predict_proba(scaler.transform(plain_features(texts, depth, how))) for texts in (new, flipped)
    )
    data = made_of(backbone, split_of(backbone, 200, 0), "classification", 2)
    trial = ProbeTrial(
        replace(CONFIG, depth=depth, pooling=how, C=strength, feature_scaling=scaling), data, backbone, {}
    )
    trial.advance()
    for both_strands, wanted in ((False, one), (True, (one + other) / 2)):
        folder = export_probe(
            trial, backbone, tmp_path / str(both_strands), card={}, both_strands=both_strands
        )
        np.testing.assert_allclose(open_adapter(folder).predict(new), wanted, atol=2e-3)


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_exports_of_every_kind_of_task(backbone, tmp_path, kind):
    """Classes without a training row, labels that are always the same, and units of targets are those of the record."""
    train = split_of(backbone, 120, 0)
    sums = np.add.reduceat(train.ids.astype(np.int64), train.offsets[:-1])
    labels = {
        "classification": sums % 3 + (sums % 3 == 2),  # of 4 classes 2 never occurs
        "multilabel": np.stack([sums % 2, np.ones_like(sums), sums // 2 % 2], 1).astype(np.float32),
        "regression": 1000 + sums * 3.0,
    }[kind]
    outputs = {"classification": 4, "multilabel": 3, "regression": 1}[kind]
    data = made_of(backbone, Split(train.ids, train.offsets, labels), kind, outputs)
    trial = ProbeTrial(replace(CONFIG, pooling="auto"), data, backbone, {})
    trial.advance()
    folder = export_probe(trial, backbone, tmp_path / "probe", card={})
    new = texts_of(40, 3)
    wanted = trial.predict(split_of(backbone, 40, 3))
    np.testing.assert_allclose(open_adapter(folder).logits(new), wanted, rtol=1e-3, atol=1e-3)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    scope = {"inputs": backbone.tokenizer(new[:1], return_tensors="pt", return_token_type_ids=False)}
    with contextlib.chdir(folder), torch.no_grad():
        exec(code, scope)
    np.testing.assert_allclose(scope["logits"].numpy(), wanted[:1], rtol=1e-3, atol=1e-3)
