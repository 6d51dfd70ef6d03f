"""Whatever a config.json says, a backbone is loaded or refused in lines of its own: never with a traceback."""

import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from lingo.backbone_folder import inspect_backbone
from lingo.backbones import Backbone, load_backbone
from lingo.checkpoint import BackboneError
from lingo.own_models import MODEL_TYPES
from tests.support.architectures import save_checkpoint

BASES = ("gpt_neox", "electra", "gemma2", "mamba", "t5", "distilbert")
FIELDS = (
    *(
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "auto_map",
    ),
    *("max_position_embeddings", "pad_token_id", "hidden_act", "is_decoder", "is_encoder_decoder", "dtype"),
    *("quantization_config", "architectures", "rope_scaling", "rope_parameters", "layer_types", "head_dim"),
    *("tie_word_embeddings", "initializer_range", "layer_norm_eps", "sliding_window", "num_key_value_heads"),
    *(
        "position_embedding_type",
        "add_bias_fnn",
        "alibi_starting_size",
        "id2label",
        "num_labels",
        "text_config",
    ),
    *("state_size", "d_model", "d_kv", "dim", "n_heads", "bidirectional", "rcps", "ssm_cfg", "hyena_order"),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 64) | st.floats() | st.text(max_size=8)
    | st.sampled_from(["gelu", "silu", "absolute", "relative_key", "bfloat16", "model.Model", "full_attention"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=4,
)  # fmt: skip
KINDS = st.sampled_from(sorted({*MODEL_MAPPING_NAMES, *MODEL_TYPES})) | VALUES
CHANGES = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4)
SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: save_checkpoint(name, root / name) for name in BASES}


def loads_or_refuses(folder):
    lines = inspect_backbone(folder)
    assert all(isinstance(line, str) and "\n" not in line for line in lines)
    try:
        assert isinstance(load_backbone(folder), Backbone) and not lines
    except BackboneError as error:
        assert error.problems and all(line.strip() and "\n" not in line for line in error.problems)
        assert not lines or error.problems == lines


@pytest.mark.slow
@pytest.mark.timeout(3000)
@settings(
    max_examples=1600, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
@given(st.sampled_from(BASES), CHANGES)
def test_fields_of_any_kind(folders, tmp_path_factory, base, changes):
    folder = tmp_path_factory.mktemp("fuzz") / "m"
    shutil.copytree(folders[base], folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    loads_or_refuses(folder)
    shutil.rmtree(folder.parent)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
@given(KINDS, CHANGES)
def test_every_model_type_on_weights_of_another(folders, tmp_path_factory, kind, changes):
    folder = tmp_path_factory.mktemp("fuzz") / "m"
    shutil.copytree(folders["gpt_neox"], folder)
    (folder / "config.json").write_text(json.dumps(SIZES | changes | {"model_type": kind}))
    loads_or_refuses(folder)
    shutil.rmtree(folder.parent)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": ["bert"]},
        {"model_type": {"a": 1}},
        {"num_hidden_layers": 10**9},
        {"auto_map": [1]},
        {"architectures": 3},
        {"text_config": {"vocab_size": []}},
        {"pad_token_id": "x"},
        {"max_position_embeddings": "many"},
    ],
)
def test_values_that_are_wrong(folders, tmp_path, changes):
    shutil.copytree(folders["electra"], tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    loads_or_refuses(tmp_path / "m")
