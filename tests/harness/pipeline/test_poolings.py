"""Heads of a benchmark that read another state: refused before any sequence is tokenised, or told in the plan."""

import pytest

from harness.config.build import build
from harness.config.plan import plan
from harness.core.errors import InputError
from harness.pipeline.prepare import prepare_studies, read_backbones


def prepared(shared, tmp_path, **options):
    given = {"tasks": ("prom/prom_core_tata",), "data_dir": shared / "data/gue", "methods": ("lora", "probe")}
    given |= {"models": (str(shared / "models/stories260K"),), "limit": 20, "audit": False, "out": tmp_path}
    checked = plan(build(given | options))
    return prepare_studies(checked, read_backbones(checked.benchmark.models), print)


def test_first_is_refused_on_a_causal_model(shared, tmp_path):
    with pytest.raises(InputError) as refused:
        prepared(shared, tmp_path, head_pooling="first")
    (line,) = refused.value.problems
    assert (
        line.startswith("stories260K lora: `pooling` must not be first") and not (tmp_path / "data").exists()
    )


def test_the_pooling_asked_for_is_that_of_every_trial_of_an_adapter(shared, tmp_path):
    lora, probe = prepared(shared, tmp_path, head_pooling="mean")
    assert lora.space.config({}, seed=0).pooling == "mean" and "--pooling" in lora.space.notes[-1]
    assert "pooling" in probe.space.leaves
    usual, _ = prepared(shared, tmp_path / "other")
    assert "pooling" not in {*usual.space.leaves, *usual.space.fixed}
