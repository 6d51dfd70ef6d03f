"""The start and the unit of heads: the log-odds of train, and targets of any mean and spread."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.special import softmax

from lingo.card import card_text
from lingo.data import Scale, TaskData
from lingo.export import export_adapter
from lingo.foreign import PeftNetwork, peft_trial
from lingo.merge import write_merged
from lingo.metrics import score
from lingo.nucleotides import bare_bases
from lingo.pack import Pack
from lingo.predict import open_adapter
from lingo.single import GradientTrial, KmerTrial, simple_trial
from lingo.single_export import export_peft
from tests.lingo import toy
from tests.lingo.test_predict import TEXTS, task, trained
from tests.lingo.tiny import Checkpoints, train
from tests.support.merged import merge

UNITS = [(1.0, 0.0), (1.0, 8.0), (10.0, 100.0), (1e-3, -1e3)]
"""y in other units: factor and offset."""

STEPS = 20


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("models"))


# --- the start of a head ------------------------------------------------------------------------------------


def with_labels(labels: list, kind: str, outputs: int) -> TaskData:
    """A toy task with these labels in turn; dev has the same."""
    data = toy.task(rows=4 * len(labels), labels=outputs, kind=kind)
    dtype = np.int64 if kind == "classification" else np.float64
    splits = {
        name: dataclasses.replace(split, labels=np.resize(np.array(labels, dtype=dtype), split.labels.shape))
        for name, split in (("train", data.train), ("dev", data.dev))
    }
    return dataclasses.replace(data, **splits)


def test_a_head_starts_with_the_log_odds_of_train() -> None:
    three = with_labels([0, 1, 1, 2, 1, 2], "classification", 3)
    several = with_labels([[1, 0, 0], [1, 0, 1], [1, 0, 0], [1, 0, 0], [1, 0, 1]], "multilabel", 3)
    value = with_labels([3.0, 4.0, 9.0], "regression", 1)
    lacking = with_labels([0, 2], "classification", 4)
    pack = Pack(toy.opt_backbone(), capacity=4, max_rank=4, max_labels=5, dtype=torch.float64)
    found = []
    for data in (three, several, value, lacking):
        slot = pack.admit(toy.trial("lora"), data)
        bias = pack.layout.head_bias(pack.bank.theta)[slot.row, 0]
        assert not bias[data.num_labels :].any()
        found.append(bias[: data.num_labels].numpy())
    assert found[0][1] - found[0][0] == pytest.approx(np.log(3 / 1))  # log-odds of two classes
    np.testing.assert_allclose(softmax(found[0]), [1 / 6, 3 / 6, 2 / 6])
    rows = len(several.train)
    edge = np.log((rows - 0.5) / 0.5)  # half a row stands for none
    np.testing.assert_allclose(found[1], [edge, -edge, np.log(2 / 3)])
    assert found[2].tolist() == [0.0]
    assert np.isfinite(found[3]).all() and found[3][0] == pytest.approx(np.log(1 / 2))
    assert found[3][1] == found[3][3] == pytest.approx(np.log(0.5 / len(lacking.train)))


def test_every_trainer_starts_there() -> None:
    data = with_labels([0, 1, 1, 2, 1, 2], "classification", 3)
    full = Pack(toy.opt_backbone(), full=True, max_labels=3, dtype=torch.float64)
    full.admit(toy.trial("fmft"), data)
    biases = [full.layout.head_bias(full.bank.theta)[0, 0].numpy()]
    networks = [simple_trial(toy.trial("onehot_cnn"), data).network.net]
    pytest.importorskip("peft")
    networks.append(peft_trial(toy.opt_backbone(dtype=torch.float32), toy.trial("lokr"), data).network)
    biases += [network.head.bias.detach().numpy() for network in networks]
    for bias in biases:
        np.testing.assert_allclose(softmax(bias), [1 / 6, 3 / 6, 2 / 6], rtol=1e-6)


# --- the unit of targets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [[7.0, 7.0], [1e200, -1e200, 0.0], [1e-200, 3e-200], [1e9 + 1, 1e9 + 3]])
def test_a_scale_is_mean_and_deviation_of_any_numbers(targets: list[float]) -> None:
    scale = Scale.of(np.array(targets))
    assert scale.mean == pytest.approx(np.mean(targets))
    largest = max(map(abs, targets))
    assert scale.sd == pytest.approx(largest * np.std(np.array(targets) / largest), rel=1e-6)
    if scale.sd:
        np.testing.assert_allclose(scale.restored(scale.standardised(np.array(targets))), targets)


def test_equal_training_targets_are_refused_with_a_line() -> None:
    with pytest.raises(ValueError, match=r"^toy, train: targets must differ, but all 8 are 5\.5\.$"):
        with_labels([5.5, 5.5], "regression", 1)


def in_unit(data: TaskData, factor: float, offset: float) -> TaskData:
    """The same task, its targets in another unit."""
    splits = {
        name: dataclasses.replace(split, labels=split.labels.astype(np.float64) * factor + offset)
        for name, split in (("train", data.train), ("dev", data.dev))
    }
    return dataclasses.replace(data, **splits)


def check_units(outcomes: list[tuple[np.ndarray, np.ndarray, float]], tolerance: float) -> None:
    """(outputs, dev targets, training loss) in each of `UNITS`: equal scores, outputs and errors in the unit."""
    (outputs, targets, loss), *others = outcomes
    first = score("regression", outputs, targets)
    assert not first["collapsed"] and abs(first["pearson"]) > 0.01
    for (factor, offset), (theirs, labels, their_loss) in zip(UNITS[1:], others, strict=True):
        found = score("regression", theirs, labels)
        assert found["pearson"] == pytest.approx(first["pearson"], abs=tolerance)
        assert found["mse"] / factor**2 == pytest.approx(first["mse"], rel=10 * tolerance)
        assert their_loss / factor**2 == pytest.approx(loss, rel=10 * tolerance)
        np.testing.assert_allclose((theirs - offset) / factor, outputs, atol=10 * tolerance * np.ptp(targets))


@pytest.mark.parametrize("method", ["lora", "ars", "fmft"])
def test_shift_and_scale_of_targets_change_the_unit_alone(method: str) -> None:
    data, outcomes = toy.task(kind="regression", labels=1), []
    for unit in UNITS:
        pack = Pack(toy.opt_backbone(), full=method == "fmft", max_rank=4, dtype=torch.float64)
        slot = pack.admit(toy.trial(method, 1, learning_rate=3e-3), in_unit(data, *unit))
        for _ in range(STEPS):
            pack.step()
        outcomes.append(
            (pack.predict(slot, slot.data.dev), slot.data.dev.labels, pack.take_loss(slot) / STEPS)
        )
        assert pack.evaluate(slot, slot.data.dev)["mse"] == pytest.approx(
            np.mean((outcomes[-1][0][:, 0] - slot.data.dev.labels) ** 2)
        )
    check_units(outcomes, 1e-6)


@pytest.mark.parametrize("method", ["kmer_logreg", "onehot_cnn", "lokr"])
def test_the_others_do_the_same(method: str, backbones: Checkpoints) -> None:
    if method == "lokr":
        pytest.importorskip("peft")
    backbone, outcomes = backbones("opt"), []
    units = bare_bases() if method in ("kmer_logreg", "onehot_cnn") else None
    data = task(backbone, "regression", 1, prompt=None, most=None, units=units)
    for unit in UNITS:
        config = toy.trial(method, 1, k=3, C=1.0, filters=8, kernel_width=5, epochs=1, learning_rate=3e-3)
        mine = in_unit(data, *unit)
        one: GradientTrial | KmerTrial = (
            simple_trial(config, mine) if units else peft_trial(backbone, config, mine)  # type: ignore[assignment]
        )
        while not one.done:
            one.advance()
        outcomes.append((one.predict(mine.dev), mine.dev.labels, one.take_loss()))
        if isinstance(one, GradientTrial) and isinstance(one.network, PeftNetwork):
            one.network.detach()
    check_units(outcomes, 1e-4)


@pytest.mark.parametrize("method", ["lora", "ars", "lokr"])
def test_exports_predict_in_the_unit(method: str, backbones: Checkpoints, tmp_path: Path) -> None:
    backbone = backbones("llama")
    data = in_unit(task(backbone, "regression", 1, prompt=None, most=None), 1000.0, 5000.0)
    if method == "lokr":
        pytest.importorskip("peft")
        one = peft_trial(backbone, toy.trial(method, 1, learning_rate=1e-2, epochs=1), data)
        while not one.done:
            one.advance()
        values = one.predict(data.dev)
        assert isinstance(one.network, PeftNetwork)
        folders = [export_peft(one.network, one, tmp_path / "x", card={})]
    else:
        pack = Pack(backbone, max_rank=4)
        (slot,) = train(pack, data, [toy.trial(method, 3, learning_rate=3e-3, epochs=2)], 25)
        values = pack.predict(slot, data.dev)
        folders = [export_adapter(pack, slot, tmp_path / "x", card={})]
    again = tmp_path / "again"
    again.mkdir()
    about = json.loads((folders[0] / "lingo.json").read_text())
    about = write_merged(again, open_adapter(folders[0], frozen="fp32"), about)
    (again / "lingo.json").write_text(json.dumps(about))
    assert 4000 < values.mean() < 7000 and np.ptp(values) > 5
    for folder in (*folders, again):
        predictor = open_adapter(folder)
        assert predictor.facts.scale == data.scale
        np.testing.assert_allclose(predictor.predict(TEXTS), values, atol=0.02)


# --- exports of version 0.1.0 -------------------------------------------------------------------------------


def as_version_0_1_0(folder: Path, *, inside: bool) -> None:
    """Rewrite an export as version 0.1.0 wrote it: a head without bias, `inside` the model's own class or apart."""
    about = json.loads((folder / "lingo.json").read_text())
    head = load_file(folder / "head.safetensors")["weight"]
    del about["target"], about["files"]
    about["format"] = 2
    if inside:
        about["head"] = "score"
        about["load"] = {
            "auto": "AutoModelForSequenceClassification",
            "options": {"num_labels": len(head), "problem_type": about["problem_type"], "pad_token_id": 1},
            "own": False,
        }
        (folder / "head.safetensors").unlink()
        merged = about["layout"] == "merged"
        file = folder / ("model.safetensors" if merged else "adapter_model.safetensors")
        before = "" if merged else "base_model.model."
        held = {
            f"{before}model.{name.removeprefix(before)}": tensor for name, tensor in load_file(file).items()
        }
        save_file(held | {f"{before}score.weight": head}, file, metadata={"format": "pt"})
    else:
        save_file({"weight": head}, folder / "head.safetensors")
    (folder / "lingo.json").write_text(json.dumps(about))


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_exports_of_version_0_1_0_predict_as_before(
    kind: str, inside: bool, backbones: Checkpoints, tmp_path: Path
) -> None:
    backbone = backbones("llama")
    pack, slot = trained(backbone, task(backbone, kind, 1 + (kind != "regression"), prompt=None, most=None))
    pack.layout.head_bias(pack.bank.theta).zero_()
    logits = slot.data.scale.standardised(pack.predict(slot, slot.data.dev))
    adapter = export_adapter(pack, slot, tmp_path / "x", card={})
    merged = merge(pack, slot, tmp_path / "m", card={})
    for folder in (adapter, merged):
        as_version_0_1_0(folder, inside=inside)
        np.testing.assert_allclose(open_adapter(folder).logits(TEXTS), logits, atol=1e-5)
        about = json.loads((folder / "lingo.json").read_text())
        text = card_text(about, {})
        assert ("logits = model(**inputs).logits" in text) == inside and "['bias']" not in text
    again = tmp_path / "again"
    again.mkdir()
    about = write_merged(
        again, open_adapter(adapter, frozen="fp32"), json.loads((adapter / "lingo.json").read_text())
    )
    (again / "lingo.json").write_text(json.dumps(about))
    np.testing.assert_allclose(open_adapter(again).logits(TEXTS), logits, atol=1e-5)
