"""Counting without values against the closed forms, for the architectures that have one."""

import pytest

from lingo import flop_count
from lingo.backbones import load_backbone
from lingo.flop_count import counted_step
from lingo.flops import shape_of, step_flops
from lingo.sites import target_paths
from tests.lingo.tiny import Checkpoints
from tests.support.architectures import save_checkpoint

PAPER = ("W_q", "W_k", "W_v", "W_f1", "W_f2")
SETTINGS = {"batch": 4, "num_labels": 3, "rank": 4, "svd": True, "delta_T": 5}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    return Checkpoints(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("targets", [PAPER, ("W_f1",), ("W_f2", "W_o"), (), None], ids=str)
@pytest.mark.parametrize("name", ["opt with a projection", "llama", "gpt2", "bert"])
def test_as_the_closed_form(name, targets, backbones):
    length = 40
    backbone, full = backbones(name), targets is None
    found = counted_step(
        backbone,
        target_paths(backbone, targets or ()),
        length=length,
        full=full,
        **SETTINGS | {"svd": not full},
    )
    expected = step_flops(
        shape_of(backbone.model.config), length=length, full=full, targets=targets or (),
        **SETTINGS | {"svd": not full, "rank": 0 if full else 4},
    )  # fmt: skip
    if full or not targets:
        found, expected = ((x.forward, x.backward, x.head) for x in (found, expected))
        assert found == pytest.approx(expected, rel=1e-3)
    else:
        assert found.__dict__ == pytest.approx(expected.__dict__, rel=1e-3)


def test_long_rows_are_a_parabola(tmp_path):
    backbone = load_backbone(save_checkpoint("bloom", tmp_path / "m"))
    paths = target_paths(backbone, ("W_q", "W_f2"))
    exact = flop_count._count(flop_count._without_weights(backbone, False), paths, 700, causal=True)
    found = counted_step(backbone, paths, length=700, rank=2)
    assert (found.forward, found.backward) == pytest.approx(exact[:2], rel=1e-9)


@pytest.mark.parametrize("name", ["gpt_neox", "modernbert", "mamba", "t5"])
def test_others_are_counted(name, tmp_path):
    backbone = load_backbone(save_checkpoint(name, tmp_path / "m"))
    paths = [path for matrices in backbone.matrices.values() for path in matrices]
    found = counted_step(backbone, list(dict.fromkeys(paths)), length=20, rank=2)
    linear = 2.0 * 20 * sum(p.numel() for p in backbone.model.parameters() if p.ndim == 2)
    assert 0.3 * linear < found.forward < 2 * linear and found.backward > 0.5 * found.forward


def test_what_needs_values_is_refused_in_one_line(tmp_path):
    backbone = load_backbone(save_checkpoint("mixtral", tmp_path / "m"))
    try:
        assert counted_step(backbone, (), length=20).forward > 0
    except ValueError as error:
        assert "MixtralModel cannot be counted" in str(error) and "\n" not in str(error)


def test_a_shape_of_others_is_refused_in_one_line(tmp_path):
    for name in ("mamba", "t5", "mpt"):
        config = load_backbone(save_checkpoint(name, tmp_path / name)).model.config
        with pytest.raises(ValueError, match=f"must be one of bert, .* but got '{name}'"):
            shape_of(config)
