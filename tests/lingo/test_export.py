"""Exported slots give the logits of `Pack.predict` when peft and transformers load them.

The programs that load them are those of the exported model cards themselves.
"""

import dataclasses
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tr
from safetensors.torch import load_file

from lingo.backbones import load_backbone
from lingo.data import Split
from lingo.export import export_adapter, factors_of
from lingo.pack import Pack
from lingo.slot import Slot
from lingo.target import ExportError
from tests.lingo import toy
from tests.lingo.tiny import CAUSAL, ENCODERS, Checkpoints, task, train
from tests.support.merged import merge

# peft 0.21 itself writes AdaLoRA's ranks and their pattern so, and warns of both.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Adapter 'default'.*invalid shape"),
    pytest.mark.filterwarnings("error:fan_in_fan_out is set"),  # peft would correct it in silence
]

SHORT = {"epochs": 2, "bT": 1, "learning_rate": 5e-2}  # 30 steps, budget phase 3 to 21
TRIALS = [
    toy.trial("lora", 1, **SHORT),
    toy.trial("adalora", 2, **SHORT, alpha=6.5),
    toy.trial("ars", 3, **SHORT, targets=("W_q", "W_o", "W_f2")),
    toy.trial("ars", 4, **SHORT, rank_update="held", b0=6),
]
DURING, AFTER = 12, 25
CARD = {"dev": {"mcc": 0.4375, "auroc": 0.75}, "seconds": 12.5}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("models"))


def padded(split: Split, pad_id: int) -> tr.BatchEncoding:
    ids, lengths = split.padded(range(len(split)), pad_id)
    mask = np.arange(ids.shape[1]) < lengths[:, None]
    assert not mask.all(), "the test must see padding"
    return tr.BatchEncoding(
        {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}
    )


def loaded(folder: Path, slot: Slot, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, dict]:
    """Logits of the dev split, and the variables, of the program in the folder's model card."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    scope: dict = {"inputs": padded(slot.data.dev, slot.data.pad_id)}
    monkeypatch.chdir(folder)
    with torch.no_grad():
        exec(code, scope)
    return scope["logits"].double().numpy(), scope


def assert_equal(
    pack: Pack, slot: Slot, folder: Path, monkeypatch: pytest.MonkeyPatch, atol: float = 1e-5
) -> dict:
    logits, scope = loaded(folder, slot, monkeypatch)
    np.testing.assert_allclose(logits, pack.predict(slot, slot.data.dev), rtol=0, atol=atol)
    return scope


def assert_adapters_matter(pack: Pack, slot: Slot) -> None:
    """Nothing above would be shown by adapters that change nothing."""
    before, lam = pack.predict(slot, slot.data.dev), pack.bank.unit + pack.layout.lam(pack.bank.theta)
    head = pack.layout.head_start
    theta = pack.bank.theta[slot.row].clone()
    pack.bank.theta[slot.row, :head] = 0
    without = pack.predict(slot, slot.data.dev)
    pack.bank.theta[slot.row] = theta
    assert lam[slot.row].abs().max() > 0 and np.abs(before - without).max() > 0.01


def test_exports_of_the_real_small_model(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shared / "models/stories260K"
    if not source.exists():
        pytest.skip(f"no {source}")
    backbone = load_backbone(source)
    pack = Pack(backbone, capacity=2, max_rank=4)
    for i, slot in enumerate(train(pack, task(backbone), [TRIALS[0], TRIALS[2]], AFTER)):
        assert_adapters_matter(pack, slot)
        assert_equal(pack, slot, export_adapter(pack, slot, tmp_path / f"a{i}", card=CARD), monkeypatch)
        assert_equal(pack, slot, merge(pack, slot, tmp_path / f"m{i}", card=CARD), monkeypatch)
    assert load_backbone(tmp_path / "m1").digest != backbone.digest


@pytest.mark.parametrize(("name", "steps"), [("opt", 0), *itertools.product(CAUSAL, (DURING, AFTER))])
def test_peft_and_transformers_give_the_same_logits(
    name: str, steps: int, backbones: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = backbones(name)
    pack = Pack(backbone, capacity=4, max_rank=7, max_labels=6)
    slots = train(pack, task(backbone, labels=5), TRIALS, steps)
    theta = pack.bank.theta.clone()
    for i, slot in enumerate(slots):
        if steps:
            assert_adapters_matter(pack, slot)
        for layout in ("native", "lora"):
            folder = export_adapter(pack, slot, tmp_path / f"{i}-{layout}", card=CARD, layout=layout)  # type: ignore[arg-type]
            scope = assert_equal(pack, slot, folder, monkeypatch)
            assert_is_pefts_own(folder, scope["model"])
        folder = merge(pack, slot, tmp_path / f"{i}-merged", card=CARD)
        assert assert_equal(pack, slot, folder, monkeypatch)["model"].config.num_labels == 5
        assert tr.AutoTokenizer.from_pretrained(folder).pad_token_id == slot.data.pad_id
    assert torch.equal(pack.bank.theta, theta)


def assert_is_pefts_own(folder: Path, model: object) -> None:
    """What peft itself would save of the loaded model is what the file holds, name by name."""
    from peft import get_peft_model_state_dict

    ours, theirs = load_file(folder / "adapter_model.safetensors"), get_peft_model_state_dict(model)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_masked_ranks_are_left_out_once_they_are_final(
    backbones: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = backbones("opt")
    pack = Pack(backbone, capacity=2, max_rank=6)
    slots = train(pack, task(backbone), [TRIALS[1], TRIALS[3]], DURING)
    for slot in slots:
        during = export_adapter(pack, slot, tmp_path / "during", card={})
        tensors = load_file(during / "adapter_model.safetensors")
        values = torch.cat([tensor for name, tensor in tensors.items() if name.endswith("lora_E")])
        assert len(values) == slot.rank * len(slot.paths) and not values.all(), "step 12 allocates"
        assert json.loads((during / "adapter_config.json").read_text())["rank_pattern"] is None
    for _ in range(AFTER - DURING):
        pack.step()
    for slot in slots:
        ranks = [site.rank for site in factors_of(pack, slot).values()]
        assert sum(ranks) == len(slot.paths) and 0 in ranks, "a matrix without any rank must be among them"
        after = export_adapter(pack, slot, tmp_path / "after", card={})
        tensors = load_file(after / "adapter_model.safetensors")
        assert [len(t) for n, t in tensors.items() if n.endswith("lora_E")] == [
            rank for _, rank in sorted(zip(slot.paths, ranks, strict=True))
        ]
        pattern = json.loads((after / "adapter_config.json").read_text())["rank_pattern"]
        assert [sum(kept) for kept in pattern.values()] == ranks
        folded = export_adapter(pack, slot, tmp_path / "folded", card={}, layout="lora")
        config = json.loads((folded / "adapter_config.json").read_text())
        assert len(config["target_modules"]) == np.count_nonzero(ranks)
        assert config["alpha_pattern"] == config["rank_pattern"] != {}


def test_what_was_trained_beside_bfloat16_is_merged_into_the_checkpoint_itself(
    backbones: Checkpoints, tmp_path: Path
) -> None:
    backbone = backbones("opt", dtype=torch.bfloat16)
    pack, checkpoint = Pack(backbone, max_rank=6), backbones("opt").model
    (slot,) = train(pack, task(backbone), TRIALS[2:3], AFTER)
    merged = load_file(merge(pack, slot, tmp_path / "merged", card=CARD) / "model.safetensors")
    for path, site in factors_of(pack, slot).items():
        delta = (site.p * (slot.scale * site.lam)) @ site.q  # s · P Λ Q
        base = merged[f"{path}.weight"] - delta.t()
        torch.testing.assert_close(base, checkpoint.get_submodule(path).weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_other_kinds_of_task(
    kind: str, backbones: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, labels = backbones("opt"), 3 if kind == "multilabel" else 1
    pack = Pack(backbone, max_rank=6, max_labels=4)
    (slot,) = train(pack, task(backbone, labels=labels, kind=kind), TRIALS[2:3], 5)
    for write in (export_adapter, merge):
        folder = write(pack, slot, tmp_path / write.__name__, card=CARD)
        scope = assert_equal(pack, slot, folder, monkeypatch)
        assert scope["model"].config.num_labels == labels or write is export_adapter
        scale = json.loads((folder / "lingo.json").read_text())["target"]
        assert scale == (dataclasses.asdict(slot.data.scale) if kind == "regression" else None)


def test_full_fine_tuning_has_no_adapter(backbones: Checkpoints, tmp_path: Path) -> None:
    backbone = backbones("opt")
    pack = Pack(backbone, full=True)
    (slot,) = train(pack, task(backbone), [toy.trial("fmft", 1, learning_rate=1e-3)], 1)
    with pytest.raises(ExportError, match="fmft trains the whole model and has no adapter"):
        export_adapter(pack, slot, tmp_path / "adapter", card=CARD)
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name: str, backbones: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = backbones(name)
    pack = Pack(backbone, capacity=3, max_rank=6)
    slots = train(pack, task(backbone), TRIALS[:3], AFTER)
    for write in (export_adapter, merge):
        for i, slot in enumerate(slots):
            folder = write(pack, slot, tmp_path / f"{write.__name__}{i}", card=CARD)
            assert_equal(pack, slot, folder, monkeypatch)


def test_other_pooling(backbones: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, pooling in (("opt", "last"), ("llama", "mean"), ("bert", "mean")):
        backbone = dataclasses.replace(backbones(name), pooling=pooling)
        pack = Pack(backbone, max_rank=6)
        (slot,) = train(pack, task(backbone), TRIALS[2:3], 5)
        folder = export_adapter(pack, slot, tmp_path / name, card=CARD)
        assert_equal(pack, slot, folder, monkeypatch)


def test_sequences_that_end_with_the_padding_id(
    backbones: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = backbones("opt")
    data = task(backbone)
    ids = data.dev.ids.copy()
    ids[-1] = backbone.pad_id
    data = dataclasses.replace(data, dev=dataclasses.replace(data.dev, ids=ids))
    pack = Pack(backbone, max_rank=6)
    (slot,) = train(pack, data, TRIALS[:1], 5)
    assert_equal(pack, slot, export_adapter(pack, slot, tmp_path / "x", card=CARD), monkeypatch)
