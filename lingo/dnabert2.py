"""DNABERT-2 (arXiv:2306.15006): MosaicBERT (arXiv:2312.17482) over byte pairs of DNA, for transformers.

It is implemented here because the public checkpoint has custom code, which is never run: that code fails with current
    libraries, or gives a plain BERT without ALiBi or with random weights. Importing this module makes
`model_type` `dnabert2` known to transformers' Auto classes.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from lingo.public_code import names_only, own_fields

MASKED = -10000.0
"""Added to the score of a padded key: e^-10000 is 0 in every type, and a row without keys is not NaN."""


def is_public_config(fields: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of the public checkpoint or of a re-save, which says `model_type` bert.

    Only MosaicBERT has `alibi_starting_size`. Code that `auto_map` names must be its `bert_layers`, so that
    no other model with the field is taken for it.
    """
    if "alibi_starting_size" not in fields or fields.get("model_type") not in (None, "bert"):
        return False
    return names_only(fields, "bert_layers", "configuration_bert")


@strict
class DnaBert2Config(PreTrainedConfig):
    """Sizes of the model. Fields of the public config.json that are not here change nothing in it: GELU is
    fixed, biases are computed for any length, and there are no position embeddings."""

    model_type = "dnabert2"
    is_public = staticmethod(is_public_config)

    vocab_size: int = 4096
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pad_token_id: int | None = None

    @classmethod
    def from_public(cls, fields: Mapping[str, Any]) -> "DnaBert2Config":
        """The configuration from the fields of a config.json. Raises `ValueError` where they are no sizes."""
        config: DnaBert2Config = cls.from_dict(own_fields(fields))
        if config.hidden_size % config.num_attention_heads:
            raise ValueError(
                "`hidden_size` must be a multiple of `num_attention_heads`, "
                f"but got {config.hidden_size} and {config.num_attention_heads}"
            )
        return config


def alibi_slopes(heads: int) -> list[float]:
    """Slope of each head's bias (arXiv:2108.12409, section 3). For other numbers than powers of two, as its
    code has it: the slopes for the power below, then every second one for the power above."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    return slopes + [2.0 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)]


class DnaBert2Embeddings(nn.Module):
    """Token and token type; no positions."""

    def __init__(self, config: DnaBert2Config) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, ids: Tensor, types: Tensor | None) -> Tensor:
        kind = self.token_type_embeddings.weight[0] if types is None else self.token_type_embeddings(types)
        out: Tensor = self.LayerNorm(self.word_embeddings(ids) + kind)
        return out


class DnaBert2SelfAttention(nn.Module):
    """Attention with one projection for queries, keys and values, laid out (3, heads, head width)."""

    def __init__(self, config: DnaBert2Config) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.Wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        batch, length, width = hidden.shape
        parts = self.Wqkv(hidden).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return mixed.transpose(1, 2).reshape(batch, length, width)


class DnaBert2SelfOutput(nn.Module):
    """Projection of the mixed values, residual sum, norm."""

    def __init__(self, config: DnaBert2Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, mixed: Tensor, hidden: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dense(mixed) + hidden)
        return out


class DnaBert2Attention(nn.Module):
    """Self-attention and its output, under the public names."""

    def __init__(self, config: DnaBert2Config) -> None:
        super().__init__()
        self.self = DnaBert2SelfAttention(config)
        self.output = DnaBert2SelfOutput(config)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        out: Tensor = self.output(self.self(hidden, bias), hidden)
        return out


class DnaBert2MLP(nn.Module):
    """GELU of the first half of `gated_layers` times the second half, `wo`, residual sum, norm."""

    def __init__(self, config: DnaBert2Config) -> None:
        super().__init__()
        self.gated_layers = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.wo = nn.Linear(config.intermediate_size, config.hidden_size)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        gate, value = self.gated_layers(hidden).chunk(2, dim=-1)
        out: Tensor = self.layernorm(self.wo(F.gelu(gate) * value) + hidden)
        return out


class DnaBert2Layer(nn.Module):
    """Attention, then MLP; the norm comes after each residual sum."""

    def __init__(self, config: DnaBert2Config) -> None:
        super().__init__()
        self.attention = DnaBert2Attention(config)
        self.mlp = DnaBert2MLP(config)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        out: Tensor = self.mlp(self.attention(hidden, bias))
        return out


class DnaBert2Encoder(nn.Module):
    """The layers and the bias that all of them add to their scores."""

    def __init__(self, config: DnaBert2Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList(DnaBert2Layer(config) for _ in range(config.num_hidden_layers))
        self.heads = config.num_attention_heads
        # No buffer: it would follow the model's type, or stay empty where the model is built without storage.
        self._slopes: Tensor | None = None

    def bias(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """-slope · |i - j|, [1, heads, S, S]; with a mask [B, heads, S, S], `MASKED` added at padded keys."""
        if self._slopes is None or self._slopes.device != hidden.device:
            self._slopes = torch.tensor(alibi_slopes(self.heads), device=hidden.device)
        places = torch.arange(hidden.shape[1], device=hidden.device)
        # float32 and then the model's type, as the public code: a float64 model sees the same rounded bias.
        far = (places[:, None] - places).abs().to(torch.float32)
        alibi = (far * -self._slopes[:, None, None]).to(hidden.dtype)[None]
        if mask is None:
            return alibi
        return alibi + (1 - mask.to(hidden.dtype))[:, None, None] * MASKED


class DnaBert2Model(PreTrainedModel):
    """Ids [B, S] to `last_hidden_state` [B, S, hidden], exactly 0 at padded positions; of any length.

    Without dropout, which a frozen backbone in evaluation mode does not have.
    """

    config_class = DnaBert2Config
    base_model_prefix = "bert"
    _input_embed_layer = "word_embeddings"
    _supports_sdpa = True

    def __init__(self, config: DnaBert2Config) -> None:
        super().__init__(config)
        self.embeddings = DnaBert2Embeddings(config)
        self.encoder = DnaBert2Encoder(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> BaseModelOutput:
        """Compute the hidden states.

        Args:
            input_ids: int64 [B, S].
            attention_mask: [B, S], 1 or True at tokens and 0 at padding; `None` without padding.
            token_type_ids: int64 [B, S]; type 0 if not given.
            output_hidden_states: Whether to return those of the embeddings and of every layer, too.
        """
        hidden = self.embeddings(input_ids, token_type_ids)
        bias, states = self.encoder.bias(hidden, attention_mask), [hidden]
        for layer in self.encoder.layer:
            hidden = layer(hidden, bias)
            if output_hidden_states:
                states.append(_without_padding(hidden, attention_mask))
        return BaseModelOutput(
            last_hidden_state=_without_padding(hidden, attention_mask),
            hidden_states=tuple(states) if output_hidden_states else None,
        )


def _without_padding(hidden: Tensor, mask: Tensor | None) -> Tensor:
    return hidden if mask is None else hidden.masked_fill(mask[..., None] == 0, 0)


AutoConfig.register(DnaBert2Config.model_type, DnaBert2Config, exist_ok=True)
AutoModel.register(DnaBert2Config, DnaBert2Model, exist_ok=True)
