"""The table of public models, and the page made from it."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, GPT2Config, OPTConfig

from lingo.backbone_folder import inspect_backbone
from lingo.flops import PUBLISHED
from lingo.hyenadna import HyenaDNAConfig, HyenaDNAModel
from lingo.known_models import BASES, KNOWN, UNVERIFIED, known_model, model_rows, page_table, training_gib

PAGE = Path(__file__).resolve().parents[2] / "docs" / "backbones.md"


def test_the_page_has_the_table():
    inside = re.search(
        r"<!-- table: lingo.known_models.page_table -->\n(.*?)\n<!-- end of table -->",
        PAGE.read_text(),
        re.DOTALL,
    )
    assert inside is not None and inside[1] == page_table()


def test_each_row_is_whole_and_its_name_may_be_given():
    for name, row in KNOWN.items():
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", row.hub_id) and inspect_backbone(name) == []
        assert (
            row.licence
            and row.architecture
            and row.millions > 0
            and row.context >= 512
            and row.tokens in BASES
        )
        assert bool(row.layers) is bool(row.width) and 0 < row.memory < 60, name
        assert known_model(row.hub_id).hub_id == row.hub_id
    rows = model_rows()
    assert {row["verified"] for row in rows} > {UNVERIFIED}
    assert len({row["hub_id"] for row in rows}) == len(rows) >= 55


def test_sizes_are_those_of_the_shapes_with_which_plan_counts():
    for name, shape in PUBLISHED.items():
        assert (KNOWN[name].layers, KNOWN[name].width) == (shape.layers, shape.hidden), name


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("opt-125m", lambda: AutoModel.from_config(OPTConfig())),
        ("gpt2", lambda: AutoModel.from_config(GPT2Config())),
        ("hyenadna-tiny-1k", lambda: HyenaDNAModel(HyenaDNAConfig(d_model=128, n_layer=2, d_inner=512))),
    ],
)
def test_parameters_are_those_of_the_public_configuration(name, make):
    with torch.device("meta"):
        count = sum(one.numel() for one in make().parameters())
    assert KNOWN[name].millions == pytest.approx(count / 1e6, rel=0.01)


def test_memory_is_the_arithmetic_that_is_told():
    opt = KNOWN["opt-125m"]
    weights, kept = 2 * 125.2e6, 34 * 12 * 768 * 8 * 512
    adapters = 8 * 18 * 12 * 768 * 20
    assert opt.memory == pytest.approx((weights + kept + adapters) / 2**30)
    assert training_gib(125.2e6, 12, 768, full=True) > 2 * opt.memory
    assert 8e9 < training_gib(4e9, 0, 0) * 2**30 < 32e9
