"""Class, matrix names and positions derived for an architecture without a row in `lingo.families`."""

import inspect
import re
from typing import Any

import transformers
from torch import nn
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
    MODEL_MAPPING,
    MODEL_MAPPING_NAMES,
)

from lingo.families import FAMILIES, Family

UNLIMITED = 1 << 30
"""Number of positions of a model without limit (state-space models, relative positions without a length)."""

POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")
"""Fields of configurations with the number of positions of a model or its training."""

# Blocks of tokens drawn at random, and only in rows of 704 tokens and more: a row would depend on its neighbours.
SETTINGS: dict[str, dict[str, Any]] = {"big_bird": {"attention_type": "original_full"}}

STRUCTURE = re.compile(
    r"norm|rotary|rope|alibi|glu|gate|bias|attn|attention|position|conv|expert|moe|activation"
)
"""Fields of a config.json that change what is computed, by their names."""

COUNT = len(MODEL_MAPPING_NAMES)
"""Architectures of the installed transformers."""

NAMES = {
    "W_q": "q_proj query_proj q_lin Wq query q",
    "W_k": "k_proj key_proj k_lin Wk key k",
    "W_v": "v_proj value_proj v_lin Wv value v",
    "W_qkv": "query_key_value Wqkv qkv_proj c_attn qkv in_proj att_proj",
    "W_o": "o_proj out_proj out_lin c_proj dense Wo o o_lin attn_out wo",
    "W_f1": "gate_proj up_proj gate_up_proj gated_layers fc1 fc_in c_fc dense_h_to_4h lin1 Wi wi wi_0 wi_1 w1 w3 "
    "linear1 linear_1 layer_1 intermediate.dense ffn ffn.0",
    "W_f2": "down_proj fc2 fc_out c_proj dense_4h_to_h lin2 Wo wo w2 linear2 linear_2 layer_2 output.dense ffn_output "
    "ffn.2",
}
"""The paper's names (section 4.3.2) to names in architectures; W_qkv is all three in one."""

PLAIN = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "query_key_value", "Wqkv")
"""Names that belong to attention in any position."""

GENERIC = ("dense", "linear", "proj", "weight")
"""Last parts of a path that are ambiguous without the part before."""


def is_native(kind: Any) -> bool:
    """Whether the installed transformers, or this project, has a class for a `model_type`."""
    return isinstance(kind, str) and (kind in FAMILIES or kind in MODEL_MAPPING_NAMES)


def family_of(config: Any) -> Family:
    """The row of a configuration's architecture, or one derived from its class.

    For derived rows the probe determines causality and matrices. Of an encoder-decoder only the encoder is loaded, if
    transformers has a class for that.

    Raises:
        ValueError: For an encoder-decoder without such a class, in one line.
    """
    kind = config.model_type
    if kind in FAMILIES:
        return FAMILIES[kind]
    alone = MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(kind, "")
    if "Encoder" in alone:
        auto, found = "AutoModelForTextEncoding", getattr(transformers, alone)
    elif getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"`model_type` {kind} is an encoder with a decoder, and transformers has no class of its encoder alone; "
            "take a model that is one of the two"
        )
    else:
        auto, found = "AutoModel", MODEL_MAPPING[type(config)]
    found = found[0] if isinstance(found, tuple) else found
    known = inspect.signature(found.__init__).parameters
    return Family(
        causal=False,
        pooling="mean",
        layer="",
        matrices={},
        init={"add_pooling_layer": False} if "add_pooling_layer" in known else {},
        settings=SETTINGS.get(kind, {}),
        auto=auto,
        attention="sdpa" if getattr(found, "_supports_sdpa", False) else "eager",
        derived=True,
    )


def foreign_fields(fields: dict[str, Any], config: Any) -> list[str]:
    """Fields of a config.json with custom code that indicate a computation other than the native class's: fields with
    a value that the class does not know."""
    known = type(config)().to_dict().keys() | getattr(config, "attribute_map", {}).keys()
    kept = config.to_dict()  # a class drops older names of fields that it knows
    return [
        name
        for name, value in fields.items()
        if value
        and name in kept
        and not isinstance(value, dict)
        and value != "absolute"
        and name not in known
        and STRUCTURE.search(name)
    ]


def group_by_name(paths: list[str]) -> dict[str, list[str]]:
    """The paper's names W_q … W_f2, in its order, to module paths; other matrices are listed under the last part of
    their path."""
    found: dict[str, list[str]] = {name: [] for name in NAMES if name != "W_qkv"}
    for path in paths:
        for name in _names_of(path):
            found.setdefault(name, []).append(path)
    return {name: matrices for name, matrices in found.items() if matrices}


def _names_of(path: str) -> tuple[str, ...]:
    *above, last = path.split(".")
    before = above[-1] if above else ""
    attention = any(re.search("attn|attention", part, re.IGNORECASE) for part in above)
    attention |= last in PLAIN
    attention &= not re.search("mlp|ffn|feed_forward|intermediate", before, re.IGNORECASE)
    for name in ("W_q", "W_k", "W_v", "W_qkv", "W_o") if attention else ("W_f1", "W_f2"):
        if {last, f"{before}.{last}"} & {*NAMES[name].split()}:
            return ("W_q", "W_k", "W_v") if name == "W_qkv" else (name,)
    return (f"{before}.{last}" if last in GENERIC or last.isdigit() else last,)


def positions_of(config: Any, model: nn.Module) -> int:
    """Maximum number of tokens of a row, by configuration and tables of learned positions."""
    limits = [getattr(config, name, None) for name in POSITIONS]
    found = [limit for limit in limits if isinstance(limit, int) and limit >= 1][:1]
    for table in position_tables(model):
        found.append(table.num_embeddings - getattr(table, "offset", 0) - (_first(table) or 0))
    return min(found, default=UNLIMITED)


def position_tables(model: nn.Module) -> list[nn.Embedding]:
    """Tables of learned absolute positions."""
    return [
        module
        for path, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        and re.search(r"(^|\.)(\w*position(s|_embeddings?|al_embeddings?)?|wpe)$", path)
        and "relative" not in path
    ]


def counts_from_padding(model: nn.Module) -> bool:
    """Whether positions count from the padding id + 1 (RoBERTa), so that the id itself matters."""
    return any(_first(table) is not None for table in position_tables(model))


def _first(table: nn.Embedding) -> int | None:
    return None if table.padding_idx is None or hasattr(table, "offset") else table.padding_idx + 1
