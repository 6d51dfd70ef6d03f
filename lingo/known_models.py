"""Public models by name: where they are, under which terms, how large, what their tokenizers read, what training takes.

The names of this table may be given to `--models`; `list models` and docs/backbones.md show it. It was written down
from model cards and papers, and is not looked up again for a release: read a model's card before you rely on its
licence. What does not hold its checkpoint exactly is refused when it is loaded.
"""

from dataclasses import dataclass
from typing import Any

BASES = {"text": 1.9, "BPE of DNA": 5.0, "6-mers": 6.0, "overlapping k-mers": 1.0, "bases": 1.0}
"""What tokenizers read, and the bases of one of their tokens (text and BPE measured on GUE)."""

ROWS, TOKENS, RANK = 8, 512, 8
"""Of the step whose memory is told: sequences, tokens of each (fewer where the model takes fewer), rank."""

ACTIVATION_BYTES = 34
"""Of each layer, token and number of its width, kept for the backward pass in 16-bit numbers (Korthikanti et al.,
arXiv:2205.05198, equation 1 without the attention matrix, which fused attention does not keep)."""

STATE_BYTES = 4 * 5
"""Of each trained number in float32: value, gradient, two moments of Adam, and a copy that packs make."""

ADAPTED_WIDTHS = 18
"""Sum of inputs and outputs of a layer's six matrices, in widths of the layer: 4 x (1 + 1) + 2 x (1 + 4)."""

UNVERIFIED = "unverified offline"


@dataclass(frozen=True)
class Known:
    """A public model.

    Attributes:
        hub_id: `owner/model` at the hub.
        licence: As its card says.
        architecture: Class of models.
        millions: Parameters, in millions.
        context: Tokens of an input.
        tokens: What its tokenizer reads, a key of `BASES`.
        layers, width: Of its configuration; 0 where it is not known here.
        verified: What this project compared offline; empty where nothing was.
        revision: Commit at the hub; `None` for the newest.
    """

    hub_id: str
    licence: str
    architecture: str = ""
    millions: float = 0.0
    context: int = 0
    tokens: str = "text"
    layers: int = 0
    width: int = 0
    verified: str = ""
    revision: str | None = None

    @property
    def bases(self) -> float:
        """Bases of one token."""
        return BASES[self.tokens]

    @property
    def dna(self) -> bool:
        """Whether its vocabulary is DNA alone."""
        return self.tokens != "text"

    @property
    def memory(self) -> float:
        """GiB of training LoRA at batch 8, see `training_gib`."""
        return training_gib(self.millions * 1e6, self.layers, self.width, tokens=min(TOKENS, self.context))


def training_gib(
    parameters: float,
    layers: int,
    width: int,
    *,
    tokens: int = TOKENS,
    batch: int = ROWS,
    weight_bytes: float = 2,
    full: bool = False,
) -> float:
    """GiB of one training step at its peak, by arithmetic: frozen weights, kept activations, adapters of rank 8.

    Weights: `weight_bytes` a parameter (2 in bfloat16), in full fine-tuning `STATE_BYTES`. Activations:
    `ACTIVATION_BYTES` x layers x width x batch x tokens, twice that in float32. Adapters on all six matrices of a
    layer: rank x 18 widths x `STATE_BYTES`. Where the width is not known, that of a transformer of this size with 64
    numbers of width a layer is taken (12 x layers x width² parameters). CUDA's own half GiB, and the products of long
    convolutions and scans, are not in it.

    Args:
        parameters: Of the backbone.
        layers, width: Its layers, and numbers of a token's state; 0 for unknown.
        tokens, batch: Of one step.
        weight_bytes: 2 for bfloat16, 4 for float32, 0.5 for 4 bits.
        full: Whether every weight is trained, in float32.
    """
    if not layers or not width:
        width = round((64 * parameters / 12) ** (1 / 3))
        layers = max(1, round(width / 64))
    kept = ACTIVATION_BYTES * (2 if full or weight_bytes == 4 else 1) * layers * width * batch * tokens
    trained = parameters if full else RANK * ADAPTED_WIDTHS * layers * width
    held = 0.0 if full else weight_bytes * parameters
    return float(held + kept + STATE_BYTES * trained) / 2**30


_CC, _APACHE, _CARD = "CC BY-NC-SA 4.0", "Apache-2.0", "see its card"
_NT, _OURS = "InstaDeepAI/nucleotide-transformer-", "computed here; names and shapes of its tensors"
_OPT = "OPT-175B licence, non-commercial"
_TEXT, _BPE, _SIX, _OVERLAP, _LETTER = BASES

KNOWN: dict[str, Known] = {
    "opt-125m": Known("facebook/opt-125m", _OPT, "OPT", 125.2, 2048, _TEXT, 12, 768),
    "opt-350m": Known("facebook/opt-350m", _OPT, "OPT", 331.2, 2048, _TEXT, 24, 1024),
    "dnabert-2": Known("zhihan1996/DNABERT-2-117M", _APACHE, "DNABERT-2", 117, 512, _BPE, 12, 768, _OURS),
    **{
        f"nt-{size}-{data}": Known(f"{_NT}{size}-{data}", _CC, "ESM", millions, 1000, _SIX, layers, width)
        for size, data, millions, layers, width in (
            ("500m", "human-ref", 480, 24, 1280),
            ("500m", "1000g", 480, 24, 1280),
            ("2.5b", "1000g", 2537, 32, 2560),
            ("2.5b", "multi-species", 2537, 32, 2560),
        )
    },
    **{
        f"nt-v2-{size}": Known(
            f"{_NT}v2-{size}-multi-species", _CC, "NT v2", millions, 2048, _SIX, layers, width, _OURS
        )
        for size, millions, layers, width in (
            ("50m", 55.9, 12, 512),
            ("100m", 97.9, 22, 512),
            ("250m", 234, 24, 768),
            ("500m", 498, 29, 1024),
        )
    },
    **{
        f"hyenadna-{size}": Known(
            f"LongSafari/hyenadna-{size}-seqlen-hf", "BSD-3-Clause", "HyenaDNA", millions, context, _LETTER,
            layers, width, _OURS,
        )
        for size, millions, context, layers, width in (
            ("tiny-1k", 0.44, 1024, 2, 128),
            ("small-32k", 3.28, 32_768, 4, 256),
            ("medium-160k", 6.55, 160_000, 8, 256),
            ("medium-450k", 6.55, 450_000, 8, 256),
            ("large-1m", 6.55, 1_000_000, 8, 256),
        )
    },
    **{
        f"caduceus-{kind}-{name}": Known(
            f"kuleshov-group/caduceus-{kind}_seqlen-{hub}", _APACHE, f"Caduceus-{kind.upper()}", millions, context,
            _LETTER, layers, width, _OURS,
        )
        for name, hub, millions, context, layers, width in (
            ("131k", "131k_d_model-256_n_layer-16", 7.73, 131_072, 16, 256),
            ("1k-118", "1k_d_model-118_n_layer-4_lr-8e-3", 0.47, 1024, 4, 118),
            ("1k-256", "1k_d_model-256_n_layer-4_lr-8e-3", 1.93, 1024, 4, 256),
        )
        for kind in ("ph", "ps")
    },
    **{
        f"dnabert-{k}": Known(
            f"zhihan1996/DNA_bert_{k}", _APACHE, "BERT", millions, 512, _OVERLAP, 12, 768, "ids of its tokenizer"
        )
        for k, millions in ((3, 86.1), (4, 86.3), (5, 86.8), (6, 89.2))
    },
    "dnabert-s": Known("zhihan1996/DNABERT-S", _APACHE, "DNABERT-2", 117, 512, _BPE, 12, 768),
    "agront-1b": Known(
        "InstaDeepAI/agro-nucleotide-transformer-1b", _CC, "ESM", 985, 1024, _SIX, 40, 1500
    ),
    "grover": Known("PoetschLab/GROVER", _CARD, "BERT", 86.5, 512, _BPE, 12, 768),
    "gena-lm-bert-base": Known("AIRI-Institute/gena-lm-bert-base-t2t", _CARD, "BERT", 110, 512, _BPE, 12, 768),
    "gena-lm-bert-large": Known("AIRI-Institute/gena-lm-bert-large-t2t", _CARD, "BERT", 336, 512, _BPE, 24, 1024),
    "gena-lm-bigbird-base": Known(
        "AIRI-Institute/gena-lm-bigbird-base-t2t", _CARD, "BigBird", 110, 4096, _BPE, 12, 768
    ),
    "moderngena-base": Known("AIRI-Institute/moderngena-base", _CARD, "ModernBERT", 135, 1024, _BPE, 22, 768),
    "moderngena-large": Known("AIRI-Institute/moderngena-large", _CARD, "ModernBERT", 377, 1024, _BPE, 28, 1024),
    "genomeocean-100m": Known("DOEJGI/GenomeOcean-100M", "BSD of LBNL", "Mistral", 100, 1024, _BPE),
    "genomeocean-500m": Known("DOEJGI/GenomeOcean-500M", "BSD of LBNL", "Mistral", 500, 1024, _BPE),
    "genomeocean-4b": Known("DOEJGI/GenomeOcean-4B", "BSD of LBNL", "Mistral", 4000, 10_240, _BPE),
    "generator-1.2b": Known(
        "GenerTeam/GENERator-eukaryote-1.2b-base", "MIT", "LLaMA", 1200, 16_384, _SIX, 26, 2048, "ids of its tokenizer"
    ),
    "generator-3b": Known(
        "GenerTeam/GENERator-eukaryote-3b-base", "MIT", "LLaMA", 3000, 16_384, _SIX, verified="ids of its tokenizer"
    ),
    **{
        f"carbon-{size}": Known(
            f"HuggingFaceBio/Carbon-{size.upper()}", _APACHE, "LLaMA", millions, 8192, _SIX,
            verified="ids of its tokenizer",
        )
        for size, millions in (("500m", 500), ("3b", 3000), ("8b", 8000))
    },
    "metagene-1": Known("metagene-ai/METAGENE-1", _APACHE, "LLaMA", 6500, 512, _BPE, 32, 4096),
    **{
        f"plant-{name}": Known(f"zhangtaolab/plant-{name}-BPE", _CC, kind, millions, context, _BPE, layers, 768)
        for name, kind, millions, context, layers in (
            ("dnabert", "BERT", 92, 512, 12),
            ("dnagpt", "GPT-2", 92, 1024, 12),
            ("dnamamba", "Mamba", 97, 512, 24),
        )
    },
    **{
        f"pythia-{size}": Known(
            f"EleutherAI/pythia-{size}", _APACHE, "GPT-NeoX", millions, 2048, _TEXT, layers, width
        )
        for size, millions, layers, width in (
            ("70m", 70.4, 6, 512),
            ("160m", 162, 12, 768),
            ("410m", 405, 24, 1024),
            ("1b", 1012, 16, 2048),
        )
    },
    "gpt2": Known("openai-community/gpt2", "MIT", "GPT-2", 124.4, 1024, _TEXT, 12, 768),
    **{
        f"smollm2-{size}": Known(
            f"HuggingFaceTB/SmolLM2-{size.upper()}", _APACHE, "LLaMA", millions, 8192, _TEXT, layers, width, verified
        )
        for size, millions, layers, width, verified in (
            ("135m", 134.5, 30, 576, "weights of its Instruct version"),
            ("360m", 361.8, 32, 960, ""),
            ("1.7b", 1711, 24, 2048, ""),
        )
    },
    "qwen3-0.6b": Known("Qwen/Qwen3-0.6B-Base", _APACHE, "Qwen 3", 596, 32_768, _TEXT, 28, 1024),
    "qwen3-1.7b": Known("Qwen/Qwen3-1.7B-Base", _APACHE, "Qwen 3", 1720, 32_768, _TEXT, 28, 2048),
    "llama-3.2-1b": Known(
        "meta-llama/Llama-3.2-1B", "Llama 3.2 community", "LLaMA", 1236, 131_072, _TEXT, 16, 2048
    ),
    "llama-3.2-3b": Known(
        "meta-llama/Llama-3.2-3B", "Llama 3.2 community", "LLaMA", 3213, 131_072, _TEXT, 28, 3072
    ),
    "gemma-3-270m": Known("google/gemma-3-270m", "Gemma terms", "Gemma 3", 268, 32_768, _TEXT, 18, 640),
    "gemma-3-1b": Known("google/gemma-3-1b-pt", "Gemma terms", "Gemma 3", 1000, 32_768, _TEXT, 26, 1152),
    "modernbert-base": Known("answerdotai/ModernBERT-base", _APACHE, "ModernBERT", 149, 8192, _TEXT, 22, 768),
    "modernbert-large": Known("answerdotai/ModernBERT-large", _APACHE, "ModernBERT", 395, 8192, _TEXT, 28, 1024),
}  # fmt: skip


def known_model(name: str) -> Known | None:
    """The public model of a known name or of its hub id; `None` for folders and others."""
    return KNOWN.get(name) or next((row for row in KNOWN.values() if row.hub_id == name), None)


def model_rows() -> list[dict[str, Any]]:
    """The table as plain data, a row a model; `training_gib` as in `Known.memory`."""
    return [
        {
            "name": name,
            "hub_id": row.hub_id,
            "architecture": row.architecture,
            "parameters_millions": row.millions,
            "context_tokens": row.context,
            "tokens": row.tokens,
            "training_gib": round(row.memory, 2),
            "licence": row.licence,
            "verified": row.verified or UNVERIFIED,
        }
        for name, row in KNOWN.items()
    ]


COLUMNS = {
    "name": "name",
    "hub id": "hub_id",
    "architecture": "architecture",
    "parameters": "parameters_millions",
    "context": "context_tokens",
    "tokens": "tokens",
    "GiB": "training_gib",
    "licence": "licence",
    "verified": "verified",
}
"""Columns of the printed table and of the page, and the keys of `model_rows`."""


def shown_rows() -> list[dict[str, str]]:
    """The table as it is shown to people."""
    return [{title: _shown(key, row[key]) for title, key in COLUMNS.items()} for row in model_rows()]


def _shown(key: str, value: Any) -> str:
    if key == "parameters_millions":
        return f"{value / 1000:.3g} B" if value >= 1000 else f"{value:.3g} M"
    return (
        f"{value:,}" if key == "context_tokens" else f"{value:.1f}" if key == "training_gib" else str(value)
    )


def page_table() -> str:
    """The table in Markdown, as docs/backbones.md has it."""
    head = [f"| {' | '.join(COLUMNS)} |", "| " + " | ".join("---" for _ in COLUMNS) + " |"]
    code = ("name", "hub id")
    rows = [
        "| " + " | ".join(f"`{value}`" if title in code else value for title, value in row.items()) + " |"
        for row in shown_rows()
    ]
    return "\n".join([*head, *rows])
