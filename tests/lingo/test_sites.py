"""Which matrices are adapted: by the paper's names, by ends of paths, or all."""

import pytest

from lingo.architectures import group_by_name
from lingo.backbones import load_backbone
from lingo.sites import counts_by_end, names_of, resolve, target_paths
from tests.support.architectures import save_checkpoint

PATHS = [
    f"layers.{layer}.{name}"
    for layer in range(2)
    for name in (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
        "x_proj",
    )
]
MATRICES = group_by_name(PATHS)


@pytest.mark.parametrize(
    ("targets", "ends"),
    [
        (("all-linear",), ("q_proj", "k_proj", "gate_proj", "up_proj", "down_proj", "x_proj")),
        (("W_q", "x_proj"), ("q_proj", "x_proj")),
        (("W_f1",), ("gate_proj", "up_proj")),
        (("gate_proj",), ("gate_proj",)),
        (("mlp.down_proj", "self_attn.q_proj"), ("down_proj", "q_proj")),
        (
            ("W_q", "q_proj", "all-linear"),
            ("q_proj", "k_proj", "gate_proj", "up_proj", "down_proj", "x_proj"),
        ),
    ],
)
def test_targets_by_name_and_by_end(targets, ends):
    found = resolve("m", MATRICES, targets)
    assert counts_by_end(found) == dict.fromkeys(ends, 2) and len(set(found)) == len(found)


def test_a_target_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(
        ValueError, match=r"`--targets` must be all-linear or among the W_q, W_k, W_f1, W_f2, x_proj of m"
    ):
        resolve("m", MATRICES, ["W_q", "proj"])


def test_the_names_of_paths_are_whole_or_none():
    assert names_of(MATRICES, resolve("m", MATRICES, ["all-linear"])) == tuple(MATRICES)
    assert names_of(MATRICES, resolve("m", MATRICES, ["W_f1", "x_proj"])) == ("W_f1", "x_proj")
    assert names_of(MATRICES, resolve("m", MATRICES, ["gate_proj"])) is None


def test_mamba_is_adapted_by_all_linear(tmp_path):
    backbone = load_backbone(save_checkpoint("mamba", tmp_path / "mamba"))
    assert counts_by_end(target_paths(backbone, ["all-linear"])) == {"in_proj": 2, "x_proj": 2}
