"""On a device of its own nothing mixes with the host, and a training step reads nothing back.

Run by `test_pretend_device.py` in a process of its own: PyTorch must know a device before its first backward pass, and
cannot forget it.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lingo.state
from lingo.backbones import Backbone
from lingo.data import TaskData
from lingo.pack import Pack
from lingo.state import fork_slot, load_slot, put_weights, save_slot, weights
from lingo.trial import TrialConfig
from tests.lingo import toy
from tests.lingo.tiny import CAUSAL, ENCODERS, Checkpoints
from tests.support.pretend import DEVICE, NoReading, move, pretending

SETTINGS: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 4,
    "delta_T": 1,
    "initial_warmup_ratio": 0.3,
    "final_finetune_ratio": 0.25,
}
"""Four steps, of which the second and the third allocate."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))


def trial(method: str, seed: int, **settings: Any) -> TrialConfig:
    return toy.trial(method, seed, **SETTINGS | settings)


def task(backbone: Backbone, kind: str, labels: int) -> TaskData:
    data = toy.task(kind, rows=8, kind=kind, labels=labels)
    return dataclasses.replace(data, pad_id=backbone.pad_id)


def steps(pack: Pack, count: int) -> None:
    with NoReading():
        for _ in range(count):
            pack.step()


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without numbers cannot be files: they are kept here, and must be the host's."""
    files: dict[bytes, dict[str, Tensor]] = {}

    def save(tensors: dict[str, Tensor]) -> bytes:
        assert {tensor.device.type for tensor in tensors.values()} == {"cpu"}
        key = str(len(files)).encode()
        files[key] = tensors
        return key

    monkeypatch.setattr(lingo.state, "save", save)
    monkeypatch.setattr(lingo.state, "load", lambda blob: files[blob])


def life(pack: Pack, data: TaskData, others: list[tuple[TrialConfig, TaskData]], folder: Path) -> None:
    """What happens to trials: admission, steps past allocations, evaluation, saving, release, resuming, forking."""
    first = pack.admit(trial("ars", 1), data) if not pack.full else pack.admit(trial("fmft", 1), data)
    for config, own in others:
        pack.admit(config, own)
    steps(pack, 1)
    if not pack.full:
        twin = fork_slot(pack, first, trial("ars", 1, p=0.4))
        steps(pack, 1)
        pack.release(twin)
    steps(pack, 1)
    assert pack.predict(first, data.dev).shape == (len(data.dev), data.num_labels)
    put_weights(pack, first, weights(pack, first))
    save_slot(pack, first, folder)
    pack.release(first)
    load_slot(pack, folder, data)
    while pack.running:
        steps(pack, 1)
    assert pack.bank.theta.device == DEVICE


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name.startswith("caduceus") else [])
        for name in (*CAUSAL, *ENCODERS)
    ],
)
def test_every_architecture_stays_on_its_device(
    name: str, checkpoints: Checkpoints, kept: None, tmp_path: Path
) -> None:
    backbone = checkpoints(name)
    targets = tuple(backbone.matrices)[:3]
    with pretending():
        move(backbone)
        pack = Pack(backbone, capacity=4, max_rank=16, max_labels=3)
        data = task(backbone, "classification", 2)
        others = [
            (trial("lora", 2, targets=targets), task(backbone, "multilabel", 3)),
            (trial("adalora", 3), task(backbone, "regression", 1)),
        ]
        life(pack, data, others, tmp_path / "slot")
        pack.close()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("llama", "bert") else pytest.mark.slow)
        for name in (*CAUSAL, *ENCODERS)
    ],
)
def test_full_fine_tuning_stays_on_its_device(
    name: str, checkpoints: Checkpoints, kept: None, tmp_path: Path
) -> None:
    backbone = checkpoints(name)
    with pretending():
        move(backbone)
        pack = Pack(backbone, full=True)
        life(pack, task(backbone, "classification", 2), [], tmp_path / "slot")
        pack.close()


@pytest.mark.parametrize(
    "fault",
    [
        lambda x: x + torch.ones(3),
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x.nonzero(),
        lambda x: x.cpu(),
    ],
    ids=["two devices", "item", "bool", "nonzero", "copy"],
)
def test_the_device_refuses(fault: Any) -> None:
    with pretending(), NoReading(), pytest.raises(Exception):  # noqa: B017 - each in its own way
        fault(torch.empty(3, device=DEVICE))
