"""What the head of an adapted backbone reads: any pooling in any pack, trained, exported and predicted alike."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lingo.heads import pool, pooled_states, pooling_of
from lingo.pack import Pack
from lingo.predict import open_adapter
from lingo.trial import HEAD_POOLINGS, TrialConfig
from tests.lingo import toy
from tests.lingo.tiny import Checkpoints, task, train

STEPS = 12


def trained(backbone, configs, data):
    """Logits of dev after some steps, of each configuration in one pack."""
    full = configs[0].method == "fmft"
    pack = Pack(backbone, capacity=len(configs), max_rank=4, full=full)
    slots = [pack.admit(config, data) for config in configs]
    for _ in range(STEPS):
        pack.step()
    found = [pack.predict(slot, data.dev) for slot in slots]
    pack.close()
    return found


@pytest.mark.parametrize("method", ["lora", "ars"])
def test_poolings_side_by_side_are_those_of_backbones_that_pool_so(method):
    backbone, data = toy.opt_backbone(), toy.task()
    configs = [toy.trial(method, 3, pooling=how) for how in HEAD_POOLINGS]
    together = trained(backbone, configs, data)
    for how, mine in zip(HEAD_POOLINGS, together, strict=True):
        own = backbone if how == "auto" else replace(backbone, pooling=how)
        (wanted,) = trained(own, [toy.trial(method, 3)], data)
        np.testing.assert_allclose(mine, wanted, atol=1e-9, err_msg=how)
    np.testing.assert_allclose(together[0], together[3], atol=1e-9)  # its own is the last
    assert all(np.abs(together[0] - other).max() > 1e-3 for other in together[1:3])


def test_full_fine_tuning_reads_it_too():
    data, wanted = toy.task(), []
    for own, how in (("mean", "auto"), ("last", "mean")):
        backbone = replace(toy.opt_backbone(), pooling=own)
        wanted += trained(backbone, [toy.trial("fmft", 1, pooling=how)], data)
    np.testing.assert_array_equal(*wanted)


def test_chunks_of_rows_that_are_pooled_differently():
    backbone = replace(toy.opt_backbone(), window=5)
    ids, lengths = torch.randint(2, 20, (4, 12)), torch.tensor([12, 7, 3, 9])
    found = pooled_states(backbone, ids, lengths, ["mean", "first"])
    for row, how in enumerate(["mean", "mean", "first", "first"]):
        starts = range(0, int(lengths[row]), 5)
        parts = [ids[row, start : min(start + 5, int(lengths[row]))][None] for start in starts]
        pooled = [
            pool(backbone.model(input_ids=part).last_hidden_state, torch.tensor([part.shape[1]]), how)
            for part in parts
        ]
        torch.testing.assert_close(found[row], torch.cat(pooled).mean(0))


def test_an_export_predicts_with_the_pooling_of_its_record(tmp_path):
    backbone = Checkpoints(tmp_path)("opt")
    pack, data = Pack(backbone, max_rank=6), task(backbone)
    (slot,) = train(pack, data, [toy.trial("lora", 1, epochs=2, pooling="mean", learning_rate=5e-2)], 5)
    from lingo.export import export_adapter

    folder = export_adapter(pack, slot, tmp_path / "adapter", card={}, **{"max_length": None})
    mine = pack.predict(slot, data.dev)
    pack.close()
    opened = open_adapter(folder)
    assert opened.facts.pooling == "mean" and backbone.pooling == "last"
    np.testing.assert_allclose(opened._forward(data.dev, None), mine, atol=1e-5)
    assert "attention_mask.sum(1)[:, None]" in (folder / "README.md").read_text()


def test_methods_of_peft_read_it_too():
    pytest.importorskip("peft")
    from lingo.foreign import peft_trial

    data, wanted = toy.task(), []
    for own, how in (("mean", "auto"), ("last", "mean"), ("last", "auto")):
        backbone = replace(toy.opt_backbone(dtype=torch.float32), pooling=own)
        config = TrialConfig(method="lokr", seed=0, learning_rate=1e-2, pooling=how)
        trial = peft_trial(backbone, config, data)
        while not trial.advance():
            pass
        wanted.append(trial.predict(data.dev))
        trial.network.detach()
    np.testing.assert_array_equal(wanted[0], wanted[1])
    assert np.abs(wanted[1] - wanted[2]).max() > 1e-3


def test_configurations_of_before_stay_the_same():
    assert "pooling" not in TrialConfig(method="lora", seed=0).to_dict()
    assert TrialConfig(method="lora", seed=0, pooling="mean").to_dict()["pooling"] == "mean"
    assert TrialConfig(method="probe", seed=0).to_dict()["pooling"] == "auto"


def test_what_there_is_not_is_refused():
    (problem,) = TrialConfig(method="lora", seed=0, pooling="max").problems()
    assert "`pooling` must be one of auto, mean, first, last, but got 'max'" in problem
    assert pooling_of("mean", "strands") == "strands"
    pack = Pack(replace(toy.opt_backbone(), pooling="strands"), max_rank=4)
    with pytest.raises(ValueError, match="`pooling` must be auto or mean on a backbone of both strands"):
        pack.admit(toy.trial("lora", pooling="first"), toy.task())
    pack.close()
