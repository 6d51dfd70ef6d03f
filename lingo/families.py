"""The architectures and public models that can be a backbone: one row each."""

from dataclasses import dataclass, field
from typing import Any, Literal

Pooling = Literal["last", "first", "mean"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """What this project knows of an architecture.

    Attributes:
        causal: Whether a token sees only what stands before it.
        pooling: Which hidden state the head reads: the last token's, the first's, or the mean of all.
        layer: Path of layer i, with `{}` for i.
        matrices: The paper's names (section 4.3.2) to module paths below a layer.
        init: Arguments of the model class, such as no pooler.
        padded_positions: Whether positions count from the padding id + 1, so that the id itself matters.
    """

    causal: bool
    pooling: Pooling
    layer: str
    matrices: dict[str, tuple[str, ...]]
    init: dict[str, Any] = field(default_factory=dict)
    padded_positions: bool = False


BERT_MATRICES = {
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
    "roberta": Family(**ENCODER, padded_positions=True),
    "esm": Family(**ENCODER, padded_positions=True),
}


@dataclass(frozen=True)
class Known:
    """A public model: where it is, under which terms, and what its tokenizer reads.

    Attributes:
        bases: Bases of one token (measured on GUE; Nucleotide Transformer reads 6-mers).
        dna: Whether its vocabulary is DNA alone.
    """

    hub_id: str
    licence: str
    revision: str | None = None
    bases: float = 1.9
    dna: bool = False


KNOWN: dict[str, Known] = {
    "opt-125m": Known("facebook/opt-125m", "OPT-175B licence, non-commercial"),
    "opt-350m": Known("facebook/opt-350m", "OPT-175B licence, non-commercial"),
    "dnabert-2": Known("zhihan1996/DNABERT-2-117M", "Apache-2.0", bases=5.0, dna=True),
    "nt-500m-human-ref": Known(
        "InstaDeepAI/nucleotide-transformer-500m-human-ref", "CC BY-NC-SA 4.0", bases=6.0, dna=True
    ),
    "nt-500m-1000g": Known(
        "InstaDeepAI/nucleotide-transformer-500m-1000g", "CC BY-NC-SA 4.0", bases=6.0, dna=True
    ),
    "nt-2.5b-1000g": Known(
        "InstaDeepAI/nucleotide-transformer-2.5b-1000g", "CC BY-NC-SA 4.0", bases=6.0, dna=True
    ),
    "nt-2.5b-multi-species": Known(
        "InstaDeepAI/nucleotide-transformer-2.5b-multi-species", "CC BY-NC-SA 4.0", bases=6.0, dna=True
    ),
}


def known_model(name: str) -> Known | None:
    """The public model of a known name or of its hub id; `None` for folders and others."""
    return KNOWN.get(name) or next((row for row in KNOWN.values() if row.hub_id == name), None)


NT_V2 = (
    "Nucleotide Transformer v2 has a gated MLP that only code of its own computes, which is never run; "
    "take v1 instead (nt-500m-human-ref, nt-500m-1000g, nt-2.5b-1000g, nt-2.5b-multi-species)."
)
