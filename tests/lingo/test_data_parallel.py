"""Two workers with half of each batch give the masks, losses and logits of one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed as dist

from lingo.batch import Share
from lingo.data import TaskData
from lingo.pack import Pack
from lingo.parameters import rank_pattern
from lingo.reduce import Reduce, all_reduce, alone
from lingo.trial import TrialConfig
from tests.lingo import toy

ROOT = Path(__file__).resolve().parents[2]

# Batches of 4, 5 and 1 over splits that they do not divide: workers with uneven halves, and with none at all.
PACKS: dict[str, list[tuple[TrialConfig, TaskData]]] = {
    "adapters": [
        (toy.trial("ars", 1, p=0.3, epochs=3), toy.task("a", rows=30)),
        (toy.trial("lora", 2, adapter_dropout=0.4, batch_size=5, epochs=3), toy.task("b", rows=33, seed=5)),
        (toy.trial("adalora", 3, max_grad_norm=0.1, epochs=3), toy.task("c", rows=29, labels=5, seed=6)),
        (
            toy.trial("lingo", 4, rank_update="held", epochs=1, batch_size=1),
            toy.task("d", rows=24, longest=20),
        ),
        (
            toy.trial("ars", 5, rank_update="published_code", epochs=3),
            toy.task("e", rows=30, labels=3, kind="multilabel", seed=3),
        ),
    ],
    "full": [(toy.trial("fmft", 6, learning_rate=1e-3, epochs=2, batch_size=3), toy.task("f", rows=22))],
}
STEPS = 24


def results(
    entries: list[tuple[TrialConfig, TaskData]], share: Share, reduce: Reduce
) -> list[dict[str, Any]]:
    """What every slot gave: loss of each step as reduced, masks, logits, and its weights."""
    full = entries[0][0].method == "fmft"
    pack = Pack(toy.opt_backbone(), capacity=len(entries), max_rank=4, max_labels=5, full=full,
                dtype=torch.float64, share=share, reduce=reduce)  # fmt: skip
    slots = [pack.admit(*entry) for entry in entries]
    losses: list[list[float]] = [[] for _ in slots]
    reductions = []
    for _ in range(STEPS):
        before = CALLS[0]
        pack.step()
        reductions += [CALLS[0] - before] if pack.running else []
        for slot, found in zip(slots, losses, strict=True):
            found.append(pack.take_loss(slot))
    return [
        {
            "losses": found,
            "pattern": rank_pattern(pack, slot),
            "logits": pack.predict(slot, slot.data.dev).tolist(),
            "theta": pack.bank.theta[slot.row].tolist(),
            "reductions": reductions,
        }
        for slot, found in zip(slots, losses, strict=True)
    ]


CALLS = [0]
"""Collective operations of this process so far."""


def worker(index: int, folder: Path) -> None:
    """One of two processes; leaves its results as JSON."""
    torch.set_num_threads(1)
    store = (folder / "rendezvous").as_uri()
    dist.init_process_group("gloo", init_method=store, rank=index, world_size=2)
    for name in ("all_reduce", "all_gather", "broadcast", "reduce", "all_gather_into_tensor", "barrier"):
        setattr(dist, name, counted(getattr(dist, name)))
    try:
        found = {name: results(entries, Share(index, 2), all_reduce) for name, entries in PACKS.items()}
    finally:
        dist.destroy_process_group()
    (folder / f"{index}.json").write_text(json.dumps(found))


def counted(call: Any) -> Any:
    def counting(*args: Any, **options: Any) -> Any:
        CALLS[0] += 1
        return call(*args, **options)

    return counting


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[dict[str, Any]]]]:
    """Results of worker 0, of worker 1, and of one process alone."""
    folder = tmp_path_factory.mktemp("workers")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)  # for the workers, which import this module
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        torch.multiprocessing.spawn(worker, args=(folder,), nprocs=2)
    two = [json.loads((folder / f"{index}.json").read_text()) for index in range(2)]
    return [*two, {name: results(entries, Share(), alone) for name, entries in PACKS.items()}]


@pytest.mark.parametrize("name", PACKS)
def test_two_workers_equal_one(name: str, found: list) -> None:
    for index in range(2):
        for ours, single in zip(found[index][name], found[2][name], strict=True):
            assert ours["pattern"] == single["pattern"]
            for what in ("losses", "logits", "theta"):
                np.testing.assert_allclose(ours[what], single[what], rtol=0, atol=1e-9, err_msg=what)


def test_ranks_were_masked_and_batches_uneven(found: list) -> None:
    """The comparison above is of trials in which something happens."""
    masked = [not all(map(all, entry["pattern"].values())) for entry in found[2]["adapters"]]
    assert masked == [True, False, True, True, True]
    sizes = {len(data.train) % config.batch_size for entries in PACKS.values() for config, data in entries}
    assert sizes >= {0, 1, 2, 3}
    assert all(len(set(entry["losses"])) > 10 for entries in found[2].values() for entry in entries)


@pytest.mark.parametrize("name", PACKS)
def test_one_reduction_a_step(name: str, found: list) -> None:
    for index in range(2):
        reductions = found[index][name][0]["reductions"]
        assert len(reductions) > 10
        assert set(reductions) == {1}


def test_workers_hold_the_same_bits(found: list) -> None:
    """Nothing drifts: both apply the same reduced numbers."""
    for name in PACKS:
        for first, second in zip(found[0][name], found[1][name], strict=True):
            assert first["theta"] == second["theta"]
            assert first["logits"] == second["logits"]
