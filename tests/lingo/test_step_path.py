"""A training step never waits for the device, and its operators do not multiply with the slots."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lingo.backbones import load_backbone
from lingo.pack import Pack
from lingo.trial import TrialConfig
from tests.lingo import toy
from tests.lingo.test_architectures import LOADED
from tests.lingo.tiny import CAUSAL, ENCODERS, Checkpoints, task
from tests.support.architectures import save_checkpoint

WAITING = {"_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2"}
"""Operators whose result, or the size of it, the host must know before it can go on."""

MIXED = [
    toy.trial("ars", 1, delta_T=1, epochs=2),
    toy.trial("adalora", 2, delta_T=2, epochs=2, max_grad_norm=None),
    toy.trial("lingo", 3, rank_update="held", epochs=2, targets=("W_q", "W_o")),
    toy.trial("lora", 4, epochs=2),
]
TASK = toy.task(rows=40)


class Operators(TorchDispatchMode):
    """Counts the operators that really compute something; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and func.overloadpacket.__name__ != "_unsafe_view":
            self.found[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    @property
    def waits(self) -> set[str]:
        return self.found.keys() & WAITING


def packed(*configs: TrialConfig, **options: Any) -> Pack:
    full = configs[0].method == "fmft"
    pack = Pack(
        toy.opt_backbone(), capacity=len(configs), full=full, max_rank=4, dtype=torch.float64, **options
    )
    for config in configs:
        pack.admit(config, TASK)
    return pack


# --- waiting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("configs", [MIXED, [toy.trial("fmft", 5, epochs=2)]], ids=["adapters", "full"])
def test_a_step_never_waits_for_the_device(configs: list[TrialConfig]) -> None:
    """All steps of a training: with and without allocation, over the end of an epoch, past T."""
    pack = packed(*configs)
    events = 0
    while not pack.slots[0].done:
        events += any(slot.allocates() for slot in pack.slots)
        with Operators() as operators:
            pack.step()
        assert not operators.waits, (pack.slots[0].step, operators.waits)
        assert operators.found.total() > 100
    assert events > 5 or configs[0].method == "fmft"


LOOK = {"xlm", "deberta"}
"""Architectures of transformers that read a tensor of their own in every forward; deberta one on the host."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("name", [*CAUSAL, *ENCODERS])
def test_no_architecture_waits_for_the_device(name: str, folders: Path) -> None:
    """A step with padding and one without, and an evaluation's forward pass."""
    backbone = Checkpoints(folders)(name)
    for data in (task(backbone), task(backbone, longest=3)):
        pack = Pack(backbone, capacity=2, max_rank=4)
        for seed in range(2):
            pack.admit(toy.trial("adalora", seed), data)
        with Operators() as operators:
            pack.step()
        assert not operators.waits
        pack.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADED)
def test_no_other_architecture_waits_for_the_device(name: str, folders: Path) -> None:
    """And its states are those that transformers computes with its looks at the mask, to the bit."""
    backbone = load_backbone(save_checkpoint(name, folders / name))
    ids = torch.randint(4, 9, (2, 8), generator=torch.Generator().manual_seed(0))
    for lengths in (torch.tensor([8, 8]), torch.tensor([8, 5])):
        padded = bool((lengths < 8).any())
        with Operators() as operators:
            states = backbone.states(ids, lengths, padded=padded)
        assert bool(operators.waits) is (name in LOOK)
        inside = torch.arange(8) < lengths[:, None]
        mask = None if backbone.causal else inside.long()
        expected = backbone.model(input_ids=ids, attention_mask=mask).last_hidden_state
        assert torch.equal(states[inside], expected[inside])


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.item(),
        lambda x: float(x),
        lambda x: bool(x > 0),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: torch.equal(x, x),
    ],
    ids=["item", "float", "bool", "nonzero", "boolean index", "equal"],
)
def test_the_detector_sees_a_wait(wait: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Pack._losses

    def waiting(self: Pack, *args: Any) -> Tensor:
        losses = real(self, *args)
        wait(losses.detach()[0])
        return losses

    monkeypatch.setattr(Pack, "_losses", waiting)
    pack = packed(*MIXED)
    with Operators() as operators:
        pack.step()
    assert operators.waits


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_step_never_waits_for_a_real_device() -> None:
    """CUDA's own detector, which also sees waits that no operator shows."""
    backbone = toy.opt_backbone()
    backbone.model.cuda()
    pack = Pack(backbone, capacity=len(MIXED), max_rank=4, dtype=torch.float64)
    for config in MIXED:
        pack.admit(config, TASK)
    pack.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        while not pack.slots[0].done:
            pack.step()
        with pytest.raises(RuntimeError, match="synchroniz"):
            pack.take_loss(pack.slots[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")


# --- the number of operators ----------------------------------------------------------------------------------


def operators_a_step(configs: list[TrialConfig], steps: int = 8) -> list[int]:
    pack = packed(*configs)
    pack.step()  # the first step arranges the modules
    counts = []
    for _ in range(steps):
        with Operators() as operators:
            pack.step()
        counts.append(operators.found.total())
    return counts


@pytest.mark.parametrize("method", ["lora", "adalora", "ars"])
def test_operators_do_not_grow_with_the_slots(method: str) -> None:
    """One slot against two and eight; only the draws of equation 4 are per slot."""

    def trials(count: int, dropout: float) -> list[TrialConfig]:
        settings = {"delta_T": 2, "epochs": 3, "adapter_dropout": dropout}
        return [toy.trial(method, seed, **settings) for seed in range(count)]

    one, two, eight = (operators_a_step(trials(count, 0.0)) for count in (1, 2, 8))
    wet_two, wet_eight = (operators_a_step(trials(count, 0.1)) for count in (2, 8))
    draws = 6 * 2 if method == "ars" else 0
    groups = 3  # shapes of the matrices
    for step in range(len(one)):
        # A single row is used in place; several are copied to dense buffers, once for each shape.
        assert two[step] - one[step] <= 16 * groups
        assert eight[step] - two[step] <= draws
        assert wet_eight[step] - wet_two[step] <= draws
