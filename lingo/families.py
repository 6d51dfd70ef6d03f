"""The architectures and public models that can be a backbone: one row each."""

from dataclasses import dataclass, field
from typing import Any, Literal

Pooling = Literal["last", "first", "mean", "strands"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """What this project knows of an architecture.

    Attributes:
        causal: Whether a token sees only what stands before it.
        pooling: Which hidden state the head reads: the last token's, the first's, the mean of all, or the mean of
            all on both strands (`lingo.heads.pool`).
        layer: Path of layer i, with `{}` for i.
        matrices: The paper's names (section 4.3.2) to module paths below a layer.
        init: Arguments of the model class, such as no pooler.
        padded_positions: Whether positions count from the padding id + 1, so that the id itself matters.
        settings: Fields of config.json that are set to these values.
        auto: Class of transformers that loads it.
        attention: Implementation of attention.
        derived: Whether nobody wrote this row (`lingo.architectures`): a probe then finds out what is missing.
    """

    causal: bool
    pooling: Pooling
    layer: str
    matrices: dict[str, tuple[str, ...]]
    init: dict[str, Any] = field(default_factory=dict)
    padded_positions: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    auto: str = "AutoModel"
    attention: str = "sdpa"
    derived: bool = False


BERT_MATRICES: dict[str, tuple[str, ...]] = {
    "W_q": ("attention.self.query",),
    "W_k": ("attention.self.key",),
    "W_v": ("attention.self.value",),
    "W_o": ("attention.output.dense",),
    "W_f1": ("intermediate.dense",),
    "W_f2": ("output.dense",),
}
ENCODER: dict[str, Any] = {
    "causal": False,
    "pooling": "first",
    "layer": "encoder.layer.{}",
    "matrices": BERT_MATRICES,
    "init": {"add_pooling_layer": False},
}
LIKE_LLAMA = Family(
    causal=True,
    pooling="last",
    layer="layers.{}",
    matrices={
        "W_q": ("self_attn.q_proj",),
        "W_k": ("self_attn.k_proj",),
        "W_v": ("self_attn.v_proj",),
        "W_o": ("self_attn.o_proj",),
        "W_f1": ("mlp.gate_proj", "mlp.up_proj"),
        "W_f2": ("mlp.down_proj",),
    },
)


def _mamba(mixer: str) -> dict[str, tuple[str, ...]]:
    """The paper's names in a bidirectional Mamba, which is linear attention and gated MLP in one (arXiv:2312.00752,
    section 3.4): the vectors C and B of a state are what queries and keys are (arXiv:2405.21060, section 4), and the
    outer projections those of the values and of the MLP at once. Step sizes have no like: `dt_proj` keeps its name."""
    x_proj = tuple(f"{mixer}.mamba_{way}.x_proj" for way in ("fwd", "rev"))
    dt_proj = tuple(f"{mixer}.mamba_{way}.dt_proj" for way in ("fwd", "rev"))
    into, out = f"{mixer}.mamba_fwd.in_proj", f"{mixer}.mamba_fwd.out_proj"
    return {
        "W_q": x_proj,
        "W_k": x_proj,
        "W_v": (into,),
        "W_o": (out,),
        "W_f1": (into,),
        "W_f2": (out,),
        "dt_proj": dt_proj,
    }


FAMILIES: dict[str, Family] = {
    "opt": Family(
        causal=True,
        pooling="last",
        layer="decoder.layers.{}",
        matrices={
            "W_q": ("self_attn.q_proj",),
            "W_k": ("self_attn.k_proj",),
            "W_v": ("self_attn.v_proj",),
            "W_o": ("self_attn.out_proj",),
            "W_f1": ("fc1",),
            "W_f2": ("fc2",),
        },
    ),
    "llama": LIKE_LLAMA,
    "mistral": LIKE_LLAMA,
    "qwen2": LIKE_LLAMA,
    "qwen3": LIKE_LLAMA,
    # One fused projection serves queries, keys and values: whoever adapts one adapts all three.
    "gpt2": Family(
        causal=True,
        pooling="last",
        layer="h.{}",
        matrices={
            "W_q": ("attn.c_attn",),
            "W_k": ("attn.c_attn",),
            "W_v": ("attn.c_attn",),
            "W_o": ("attn.c_proj",),
            "W_f1": ("mlp.c_fc",),
            "W_f2": ("mlp.c_proj",),
        },
    ),
    "bert": Family(**ENCODER),
    "dnabert2": Family(
        causal=False,
        # The checkpoint has no pooler, and its first token was trained for nothing but its own prediction.
        pooling="mean",
        layer="encoder.layer.{}",
        matrices={
            "W_q": ("attention.self.Wqkv",),
            "W_k": ("attention.self.Wqkv",),
            "W_v": ("attention.self.Wqkv",),
            "W_o": ("attention.output.dense",),
            "W_f1": ("mlp.gated_layers",),
            "W_f2": ("mlp.wo",),
        },
    ),
    # Rotary positions do not count from the padding id. One projection makes the gate and what it gates.
    "ntv2": Family(causal=False, pooling="first", layer="encoder.layer.{}", matrices=BERT_MATRICES),
    # x0, x1 and v of one projection stand where queries, keys and values do (arXiv:2302.10866, section 3). The model
    # reads padding like any token; on the right it changes nothing, as the model is causal.
    "hyenadna": Family(
        causal=True,
        pooling="last",
        layer="layers.{}",
        matrices={
            "W_q": ("mixer.in_proj",),
            "W_k": ("mixer.in_proj",),
            "W_v": ("mixer.in_proj",),
            "W_o": ("mixer.out_proj",),
            "W_f1": ("mlp.fc1",),
            "W_f2": ("mlp.fc2",),
        },
    ),
    # The public classifiers take means, too.
    "caduceus_ph": Family(causal=False, pooling="mean", layer="layers.{}", matrices=_mamba("mixer")),
    "caduceus_ps": Family(
        causal=False, pooling="strands", layer="layers.{}", matrices=_mamba("mixer.submodule")
    ),
    "roberta": Family(**ENCODER, padded_positions=True),
    "esm": Family(**ENCODER, padded_positions=True),
}
