"""Caduceus (arXiv:2403.03234): bidirectional Mamba over single bases, for transformers.

It is implemented here because the public checkpoint has custom code, which is never run, and needs kernels for one
type of device. Importing this module makes `model_type` `caduceus_ph` and `caduceus_ps` known to transformers' Auto
classes. The scan is `lingo.selective_scan`.

Caduceus-PS reads a sequence and its reverse complement with the same layers. Here both strands are stored side by
side, aligned by base pair: [B, L, strands, width]; the second strand's channels are kept in the order in which its
    layers read them. The public code then reads the second strand from the right, and so does this.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from lingo.public_code import PaddedVocabulary, names_only, own_fields, refuse_variants
from lingo.selective_scan import selective_scan

FIXED = {
    "rms_norm": True,
    "bidirectional": True,
    "bidirectional_strategy": "add",
    "bidirectional_weight_tie": True,
}
"""Fields of the public config.json that all public checkpoints share."""


@strict
class CaduceusConfig(PaddedVocabulary, PreTrainedConfig):
    """Sizes of Caduceus-PH, by the public names."""

    model_type = "caduceus_ph"
    attribute_map = {  # noqa: RUF012 (as transformers declares it)
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layer",
    }
    strands = 1
    rcps = False

    vocab_size: int = 12
    d_model: int = 256
    n_layer: int = 16
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    fused_add_norm: bool = True
    residual_in_fp32: bool = False
    norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    pad_vocab_size_multiple: int = 8
    pad_token_id: int | None = 4
    # The public files do not limit the length; the tokenizer's `model_max_length` does.
    max_position_embeddings: int = 131_072

    @classmethod
    def is_public(cls, fields: Mapping[str, Any]) -> bool:
        """Whether a config.json is that of a public checkpoint of this kind (`rcps` false: PH, true: PS)."""
        return (
            {"rcps", "ssm_cfg", "bidirectional"} <= fields.keys()
            and fields.get("model_type") in (None, "caduceus")
            and bool(fields["rcps"]) == cls.rcps
            and names_only(fields, "configuration_caduceus", "modeling_caduceus")
        )

    @classmethod
    def from_public(cls, fields: Mapping[str, Any]) -> "CaduceusConfig":
        """The configuration from the fields of a config.json. Raises `ValueError` where they are not this model's."""
        refuse_variants(fields, FIXED)
        ssm = fields["ssm_cfg"] or {}
        if not isinstance(ssm, Mapping):
            raise ValueError(f"`ssm_cfg` must be an object, but got {ssm!r}")
        refuse_variants(ssm, {"dt_rank": "auto", "conv_bias": True, "bias": False}, inside="ssm_cfg.")
        own = own_fields(fields, "ssm_cfg", "rcps", "complement_map", "initializer_cfg", *FIXED)
        own |= {name: ssm[name] for name in ("d_state", "d_conv", "expand") if name in ssm}
        config: CaduceusConfig = cls.from_dict(own)
        return config

    @property
    def d_inner(self) -> int:
        """Width inside the mixer."""
        return self.expand * self.d_model

    @property
    def dt_rank(self) -> int:
        """Width from which the step sizes are projected."""
        return math.ceil(self.d_model / 16)


@strict
class CaduceusPSConfig(CaduceusConfig):
    """Sizes of Caduceus-PS, by the public names."""

    model_type = "caduceus_ps"
    strands = 2
    rcps = True


class CaduceusNorm(nn.Module):
    """x / sqrt(mean(x²) + ε) · weight, at least in float32."""

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.d_model))
        self.eps = config.norm_epsilon

    def forward(self, x: Tensor) -> Tensor:
        exact = _exact(x)
        scaled = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + self.eps)
        return (scaled * self.weight).to(self.weight.dtype)


class CaduceusDirection(nn.Module):
    """What one reading direction of a layer has of its own: convolution, step sizes and states.

    `D` and `A_log` stay float32 in a model of fewer bits, as in the public code.
    """

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__()
        inner, self.parts = config.d_inner, [config.dt_rank, config.d_state, config.d_state]
        rates = torch.arange(1, config.d_state + 1, dtype=torch.float32)
        self.A_log = nn.Parameter(torch.log(rates).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.conv1d = nn.Conv1d(inner, inner, config.d_conv, groups=inner, bias=True)
        self.x_proj = nn.Linear(inner, sum(self.parts), bias=False)
        self.dt_proj = nn.Linear(config.dt_rank, inner)

    def convolved(self, u: Tensor, mask: Tensor | None, backwards: list[bool]) -> Tensor:
        """SiLU of the causal convolution of u [B, L, strands, E], each strand in its direction; 0 at padding."""
        taps = self.conv1d.kernel_size[0] - 1
        weight, bias = self.conv1d.weight, self.conv1d.bias
        found = []
        for strand, back in enumerate(backwards):
            row = F.pad(u[:, :, strand].transpose(1, 2), (0, taps) if back else (taps, 0))
            found.append(F.conv1d(row, weight.flip(-1) if back else weight, bias, groups=row.shape[1]))
        out = F.silu(torch.stack(found, -1)).permute(0, 2, 3, 1)
        return (out if mask is None else out * mask).contiguous()

    def inputs(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step sizes δ [B, L, strands, E], and B and C [B, L, strands, S], from u [B, L, strands, E]."""
        step, b, c = self.x_proj(u).split(self.parts, dim=-1)
        return F.softplus(_exact(self.dt_proj(step.contiguous()))), _exact(b), _exact(c)


class CaduceusForward(CaduceusDirection):
    """The forward direction, which also has the projections of both."""

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__(config)
        self.in_proj = nn.Linear(config.d_model, 2 * config.d_inner, bias=False)
        self.out_proj = nn.Linear(config.d_inner, config.d_model, bias=False)


class CaduceusMixer(nn.Module):
    """Mamba in both directions, summed, with projections in common.

    A projection acts on each position alone, so both directions share one call of `in_proj`; and as `out_proj` is
    linear, the sum of both may pass it in one call. Each adapted matrix is thus called once.
    """

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__()
        self.mamba_fwd = CaduceusForward(config)
        self.mamba_rev = CaduceusDirection(config)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        strands = x.shape[2]
        u, z = self.mamba_fwd.in_proj(x).chunk(2, dim=-1)
        u = u if mask is None else u * mask
        directions = (self.mamba_fwd, self.mamba_rev)
        # The second strand is read from the right: its forward direction runs backwards.
        backwards = [[(way + strand) % 2 == 1 for strand in range(strands)] for way in range(2)]
        read = [way.convolved(u, mask, back) for way, back in zip(directions, backwards, strict=True)]
        steps, inputs, outputs = zip(
            *(w.inputs(r) for w, r in zip(directions, read, strict=True)), strict=True
        )
        driven = [step * _exact(r) for step, r in zip(steps, read, strict=True)]

        def joined(tensors: Any) -> Tensor:
            """[2 · strands, B, L, …] in reading direction."""
            rows = [
                t[:, :, strand].flip(1) if back[strand] else t[:, :, strand]
                for t, back in zip(tensors, backwards, strict=True)
                for strand in range(strands)
            ]
            return torch.stack(rows)

        rates = [-torch.exp(_exact(way.A_log)) for way in directions for _ in range(strands)]
        y = selective_scan(joined(steps), joined(driven), torch.stack(rates), joined(inputs), joined(outputs))
        flips = [back for row in backwards for back in row]
        y = torch.stack([row.flip(1) if back else row for row, back in zip(y, flips, strict=True)])
        y = y.unflatten(0, (2, strands)).permute(0, 2, 3, 1, 4)
        total = sum(y[i] + _exact(read[i]) * way.D for i, way in enumerate(directions))
        out: Tensor = self.mamba_fwd.out_proj((total.to(z.dtype) * F.silu(z)).contiguous())
        return out


class CaduceusLayer(nn.Module):
    """Residual sum, norm, mixer. The public code of PS with `fused_add_norm` first exchanges the strands."""

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__()
        self.exchange = config.strands == 2 and config.fused_add_norm
        self.float32 = config.residual_in_fp32
        mixer = CaduceusMixer(config)
        self.mixer = mixer if config.strands == 1 else nn.ModuleDict({"submodule": mixer})
        self.norm = CaduceusNorm(config)

    def forward(self, hidden: Tensor, residual: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        total = hidden if residual is None else hidden + residual
        total = total.flip(2, 3) if self.exchange else total
        total = _exact(total) if self.float32 else total
        mixer = self.mixer["submodule"] if isinstance(self.mixer, nn.ModuleDict) else self.mixer
        return mixer(self.norm(total).contiguous(), mask), total


class CaduceusEmbeddings(nn.Module):
    """Tokens; no positions."""

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__()
        table = nn.Embedding(config.rows, config.d_model)
        if config.strands == 1:
            self.word_embeddings: nn.Module = table
        else:
            self.word_embeddings = nn.ModuleDict({"embedding": table})
            self.word_embeddings.register_buffer("complement_map", torch.arange(config.rows))


class CaduceusModel(PreTrainedModel):
    """Caduceus-PH: ids [B, S] to `last_hidden_state` [B, S, d_model]; of any length.

    The public code has no attention mask: there, padding is read like any token, and as the model reads both ways it
    changes every state. With a mask, padding here enters no convolution and no state, so that a padded row has the
    states of the row alone; without one the numbers are those of the public code.
    """

    config_class = CaduceusConfig
    base_model_prefix = "caduceus.backbone"
    _supports_sdpa = True  # the model has no attention
    own_float32 = (".A_log", "_fwd.D", "_rev.D")
    """Parts of the names of tensors that stay float32 where the others have fewer bits."""

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__(config)
        self.embeddings = CaduceusEmbeddings(config)
        self.layers = nn.ModuleList(CaduceusLayer(config) for _ in range(config.n_layer))
        self.norm_f = CaduceusNorm(config)
        self.post_init()

    @staticmethod
    def own_name(name: str) -> str:
        """A checkpoint's tensor name as this class spells it: tied tensors are listed once."""
        name = name.removeprefix("caduceus.").removeprefix("backbone.")
        name = re.sub(r"\.mamba_rev\.(in_proj|out_proj)\.", r".mamba_fwd.\1.", name)
        name = re.sub(r"(norm|norm_f)\.submodule\.", r"\1.", name)
        tied = {"lm_head.weight": "weight", "lm_head.lm_head.weight": "embedding.weight"}
        return f"embeddings.word_embeddings.{tied[name]}" if name in tied else name

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding by one of any number of rows."""
        self.embeddings.word_embeddings = value
        self.config.pad_vocab_size_multiple = 1

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool = False
    ) -> BaseModelOutput:
        """Compute the hidden states.

        Args:
            input_ids: int64 [B, S].
            attention_mask: [B, S], 1 or True at tokens and 0 at padding; `None` to read padding like any token.
            output_hidden_states: Whether to return those of the embeddings and of every layer, too.
        """
        hidden, residual, mask = self._embedded(input_ids), None, None
        if attention_mask is not None:
            mask = attention_mask[:, :, None, None].to(hidden.dtype)
        states = [hidden]
        for layer in self.layers:
            hidden, residual = layer(hidden, residual, mask)
            states.append(hidden)
        last = self._sides(self.norm_f(hidden if residual is None else hidden + residual))
        return BaseModelOutput(
            last_hidden_state=last,
            hidden_states=tuple(map(self._sides, states)) if output_hidden_states else None,
        )

    def _embedded(self, ids: Tensor) -> Tensor:
        """[B, S, strands, d_model]."""
        out: Tensor = self.get_input_embeddings()(ids)
        return out.unsqueeze(2)

    def _sides(self, hidden: Tensor) -> Tensor:
        """[B, S, strands · d_model] as the public code returns it."""
        return hidden.squeeze(2)


class CaduceusPSModel(CaduceusModel):
    """Caduceus-PS: `last_hidden_state` is [B, S, 2 · d_model], the second half that of the other strand with its
    channels in reverse, so that the states of the reverse complement are these, read from the end in both axes."""

    config_class = CaduceusPSConfig
    takes_new_tokens = False

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        table: nn.Module = self.embeddings.word_embeddings["embedding"]  # type: ignore[index]
        return table

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Refuse new tokens: their complements are unknown."""
        raise ValueError(
            "Caduceus-PS must keep its own tokens, since every token needs a complement; use Caduceus-PH for k-mers."
        )

    def _embedded(self, ids: Tensor) -> Tensor:
        table = self.get_input_embeddings()
        complement: Tensor = self.embeddings.word_embeddings.complement_map  # type: ignore[assignment]
        return torch.stack([table(ids), table(complement[ids])], 2)

    def _sides(self, hidden: Tensor) -> Tensor:
        return torch.cat([hidden[:, :, 0], hidden[:, :, 1].flip(-1)], -1)


def _exact(x: Tensor) -> Tensor:
    """At least float32."""
    return x if x.dtype == torch.float64 else x.float()


for _config, _model in ((CaduceusConfig, CaduceusModel), (CaduceusPSConfig, CaduceusPSModel)):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
