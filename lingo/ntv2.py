"""Nucleotide Transformer v2 (doi:10.1038/s41592-024-02523-z): ESM with rotary positions and a gated MLP.

It is implemented here because the public checkpoint has custom code, which is never run, and transformers' ESM has no
gated MLP. Importing this module makes `model_type` `ntv2` known to transformers' Auto classes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from lingo.public_code import names_only, own_fields, refuse_variants

ROTARY_BASE = 10000.0


@strict
class NTv2Config(PreTrainedConfig):
    """Sizes of the model. Of the fields of the public config.json that are not here, `from_public` refuses the
    values that would change it."""

    model_type = "ntv2"

    vocab_size: int = 4107
    hidden_size: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 16
    intermediate_size: int = 2048
    max_position_embeddings: int = 2050
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pad_token_id: int | None = 1

    @staticmethod
    def is_public(fields: Mapping[str, Any]) -> bool:
        """Whether a config.json is that of the public checkpoint: only version 2 has `add_bias_fnn`, and the
        published file of 50m has no `model_type`."""
        return (
            "add_bias_fnn" in fields
            and fields.get("model_type") in (None, "esm")
            and names_only(fields, "esm_config", "modeling_esm")
        )

    @classmethod
    def from_public(cls, fields: Mapping[str, Any]) -> "NTv2Config":
        """The configuration from the fields of a config.json. Raises `ValueError` where they are not this model's."""
        fixed = {
            "position_embedding_type": "rotary",
            "add_bias_fnn": False,
            "token_dropout": False,
            "emb_layer_norm_before": False,
        }
        refuse_variants(fields, fixed)
        config: NTv2Config = cls.from_dict(own_fields(fields, *fixed))
        if config.hidden_size % (2 * config.num_attention_heads):
            raise ValueError(
                "`hidden_size` must be a multiple of twice `num_attention_heads`, "
                f"but got {config.hidden_size} and {config.num_attention_heads}"
            )
        return config


class NTv2Embeddings(nn.Module):
    """Tokens. The table of positions is in the checkpoints and unused: positions are rotary."""

    def __init__(self, config: NTv2Config) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        hidden: Tensor = self.word_embeddings(ids)
        return hidden if mask is None else hidden * mask[..., None].to(hidden.dtype)


class NTv2SelfAttention(nn.Module):
    """Attention of rotated queries and keys."""

    def __init__(self, config: NTv2Config) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, rotation: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
        batch, length, width = hidden.shape
        q, k, v = (
            layer(hidden).view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(
            _rotated(q, rotation), _rotated(k, rotation), v, attn_mask=bias
        )
        return mixed.transpose(1, 2).reshape(batch, length, width)


class NTv2SelfOutput(nn.Module):
    """Projection of the mixed values."""

    def __init__(self, config: NTv2Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, mixed: Tensor) -> Tensor:
        out: Tensor = self.dense(mixed)
        return out


class NTv2Attention(nn.Module):
    """Norm, self-attention and its output, under the public names."""

    def __init__(self, config: NTv2Config) -> None:
        super().__init__()
        self.self = NTv2SelfAttention(config)
        self.output = NTv2SelfOutput(config)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor, rotation: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
        out: Tensor = self.output(self.self(self.LayerNorm(hidden), rotation, bias))
        return out


class NTv2Intermediate(nn.Module):
    """SiLU of the first half of one projection times the second half; no biases."""

    def __init__(self, config: NTv2Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        gate, value = self.dense(hidden).chunk(2, dim=-1)
        return F.silu(gate) * value


class NTv2Output(nn.Module):
    """Projection of the gated values."""

    def __init__(self, config: NTv2Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, gated: Tensor) -> Tensor:
        out: Tensor = self.dense(gated)
        return out


class NTv2Layer(nn.Module):
    """Attention, then MLP; the norm comes before each."""

    def __init__(self, config: NTv2Config) -> None:
        super().__init__()
        self.attention = NTv2Attention(config)
        self.intermediate = NTv2Intermediate(config)
        self.output = NTv2Output(config)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor, rotation: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
        hidden = hidden + self.attention(hidden, rotation, bias)
        out: Tensor = hidden + self.output(self.intermediate(self.LayerNorm(hidden)))
        return out


class NTv2Encoder(nn.Module):
    """The layers and the last norm."""

    def __init__(self, config: NTv2Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList(NTv2Layer(config) for _ in range(config.num_hidden_layers))
        self.emb_layer_norm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class NTv2Model(PreTrainedModel):
    """Ids [B, S] to `last_hidden_state` [B, S, hidden]; of any length. Without dropout, as published."""

    config_class = NTv2Config
    base_model_prefix = "esm"
    _input_embed_layer = "word_embeddings"
    _supports_sdpa = True

    def __init__(self, config: NTv2Config) -> None:
        super().__init__(config)
        self.embeddings = NTv2Embeddings(config)
        self.encoder = NTv2Encoder(config)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool = False
    ) -> BaseModelOutput:
        """Compute the hidden states.

        Args:
            input_ids: int64 [B, S].
            attention_mask: [B, S], 1 or True at tokens and 0 at padding; `None` without padding.
            output_hidden_states: Whether to return those of the embeddings and of every layer, too.
        """
        hidden = self.embeddings(input_ids, attention_mask)
        width = self.config.hidden_size // self.config.num_attention_heads
        rotation, bias = _rotation(hidden, width), None
        if attention_mask is not None:
            absent = attention_mask[:, None, None] == 0
            bias = torch.zeros_like(absent, dtype=hidden.dtype).masked_fill(
                absent, torch.finfo(hidden.dtype).min
            )
        states = [hidden]
        for layer in self.encoder.layer:
            hidden = layer(hidden, rotation, bias)
            states.append(hidden)
        states[-1] = hidden = self.encoder.emb_layer_norm_after(hidden)
        return BaseModelOutput(
            last_hidden_state=hidden, hidden_states=tuple(states) if output_hidden_states else None
        )


def _rotation(hidden: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """(cos, sin) [S, width] of every position's angles; frequencies are float32 whatever the model's type."""
    even = torch.arange(0, width, 2, device=hidden.device, dtype=torch.float32)
    frequencies = 1.0 / (ROTARY_BASE ** (even / width))
    exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    places = torch.arange(hidden.shape[1], device=hidden.device, dtype=exact)
    angles = torch.outer(places, frequencies.to(exact)).repeat(1, 2)
    return angles.cos().to(hidden.dtype), angles.sin().to(hidden.dtype)


def _rotated(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """x [B, heads, S, width] with component j turned against component j + width / 2."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


AutoConfig.register(NTv2Config.model_type, NTv2Config, exist_ok=True)
AutoModel.register(NTv2Config, NTv2Model, exist_ok=True)
