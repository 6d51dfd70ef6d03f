"""HyenaDNA (arXiv:2306.15794): long implicit convolutions (Hyena, arXiv:2302.10866) over single bases.

It is implemented here because the public checkpoint has custom code, which is never run. Importing this module makes
`model_type` `hyenadna` known to transformers' Auto classes.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from scipy.fft import next_fast_len
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from lingo.public_code import PaddedVocabulary, names_only, own_fields, refuse_variants

SHIFT = 0.05
"""Limit of the decay of a filter (`modulation` of the public code)."""

SINES = (1, 3, 5)
"""Places of the sine layers in `implicit_filter`: they share one parameter, which a checkpoint may hold up to three
times."""


@strict
class HyenaDNAConfig(PaddedVocabulary, PreTrainedConfig):
    """Sizes of the model, by the public names. `check` refuses the values that would make another model."""

    model_type = "hyenadna"
    attribute_map = {  # noqa: RUF012 (as transformers declares it)
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layer",
        "intermediate_size": "d_inner",
        "max_position_embeddings": "max_seq_len",
    }

    vocab_size: int = 12
    d_model: int = 128
    n_layer: int = 2
    d_inner: int = 512
    max_seq_len: int = 1026
    emb_dim: int = 5
    filter_order: int = 64
    hyena_order: int = 2
    short_filter_order: int = 3
    num_inner_mlps: int = 2
    use_bias: bool = True
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    pad_vocab_size_multiple: int = 8
    pad_token_id: int | None = 4

    @staticmethod
    def is_public(fields: Mapping[str, Any]) -> bool:
        """Whether a config.json is that of a public checkpoint in the layout of transformers."""
        return fields.get("model_type") == "hyenadna" and names_only(
            fields, "configuration_hyena", "modeling_hyena"
        )

    @classmethod
    def from_public(cls, fields: Mapping[str, Any]) -> "HyenaDNAConfig":
        """The configuration from the fields of a config.json. Raises `ValueError` where they are not this model's."""
        config: HyenaDNAConfig = cls.from_dict(own_fields(fields))
        config.check()
        return config

    def check(self) -> None:
        """Raise `ValueError` for a variant that no public checkpoint has."""
        refuse_variants(vars(self), {"hyena_order": 2, "num_inner_mlps": 2, "use_bias": True})


class _Holder(nn.Module):
    """Parameters and buffers under a public name."""


class HyenaDNAFilter(nn.Module):
    """The filter of one layer: a small MLP of the position with sine activations, times a decay.

    It is defined for positions relative to `max_seq_len` and does not depend on the input. Its tensors stay float32
    in a model of fewer bits, as positions of a long sequence do not differ in bfloat16.
    """

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__()
        order, width, longest = config.filter_order, config.d_model, config.max_seq_len
        self.bias = nn.Parameter(torch.zeros(width))
        sine = _Holder()
        sine.freq = nn.Parameter(torch.full((1, order), 10.0))
        self.implicit_filter = nn.ModuleDict(
            {
                "0": nn.Linear(config.emb_dim, order),
                "1": sine,
                "2": nn.Linear(order, order),
                "4": nn.Linear(order, order),
                "6": nn.Linear(order, width, bias=False),
            }
        )
        self.pos_emb: Any = _Holder()
        self.modulation: Any = _Holder()
        self.pos_emb.register_buffer("z", torch.zeros(1, longest, config.emb_dim))
        self.pos_emb.register_buffer("t", torch.linspace(0, 1, longest)[None, :, None])
        self.modulation.register_buffer("deltas", torch.zeros(1, 1, width))

    def forward(self, length: int) -> Tensor:
        """The filter's first `length` values, [width, length]."""
        layers: Any = self.implicit_filter
        a = self.pos_emb.z[0, :length]
        for place in ("0", "2", "4"):
            a = torch.sin(layers["1"].freq * layers[place](a))
        decay = torch.exp(-self.pos_emb.t[0, :length] * self.modulation.deltas[0].abs()) + SHIFT
        out: Tensor = (layers["6"](a) * decay).t()
        return out


def causal_convolution(v: Tensor, k: Tensor) -> Tensor:
    """y_t = Σ_{j ≤ t} k_j · v_{t-j} of v [B, D, L] and k [D, L], by a real FFT that is long enough not to wrap."""
    length = v.shape[-1]
    size = next_fast_len(2 * length - 1, real=True)
    spectrum = torch.fft.rfft(v, n=size) * torch.fft.rfft(k, n=size)
    return torch.fft.irfft(spectrum, n=size)[..., :length]


class HyenaDNAMixer(nn.Module):
    """Hyena of order 2: a projection to x0, x1 and v, a short filter on each, and x0 · (filter * (x1 · v))."""

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__()
        width, taps = config.d_model, config.short_filter_order
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.short_filter = nn.Conv1d(3 * width, 3 * width, taps, groups=3 * width, padding=taps - 1)
        self.filter_fn = HyenaDNAFilter(config)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        short = self.short_filter(self.in_proj(x).transpose(1, 2))[..., :length]
        x0, x1, v = short.chunk(3, dim=1)
        v = v * x1
        filter_ = self.filter_fn(length)
        wide = v.to(filter_.dtype)  # there is no FFT in bfloat16
        mixed = causal_convolution(wide, filter_) + wide * self.filter_fn.bias[:, None]
        out: Tensor = self.out_proj((mixed.to(v.dtype) * x0).transpose(1, 2).contiguous())
        return out


class HyenaDNAMLP(nn.Module):
    """Two layers with the tanh approximation of GELU between them."""

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.d_model, config.d_inner)
        self.fc2 = nn.Linear(config.d_inner, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return out


class HyenaDNALayer(nn.Module):
    """Mixer, then MLP; the norm comes before each. The residual sum is float32 in a model of fewer bits."""

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__()
        self.mixer = HyenaDNAMixer(config)
        self.norm1 = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.mlp = HyenaDNAMLP(config)
        self.norm2 = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.mixer(self.norm1(hidden.to(self.norm1.weight.dtype)))
        out: Tensor = hidden + self.mlp(self.norm2(hidden.to(self.norm2.weight.dtype)))
        return out


class HyenaDNAEmbeddings(nn.Module):
    """Tokens; no positions."""

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.rows, config.d_model)


class HyenaDNAModel(PreTrainedModel):
    """Ids [B, S] to `last_hidden_state` [B, S, d_model], S at most `max_seq_len`.

    There is no attention mask: padding is read like any token. As the model is causal, padding on the right changes
    nothing before it, and padding on the left, the public tokenizer's default, changes everything; here it is always
    on the right. Without dropout, as the public code for transformers.
    """

    config_class = HyenaDNAConfig
    base_model_prefix = "hyena.backbone"
    _supports_sdpa = True  # the model has no attention
    _input_embed_layer = "word_embeddings"
    own_float32 = ("filter_fn.",)
    """Parts of the names of tensors that stay float32 where the others have fewer bits."""

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__(config)
        config.check()
        self.embeddings = HyenaDNAEmbeddings(config)
        self.layers = nn.ModuleList(HyenaDNALayer(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.post_init()

    @staticmethod
    def own_name(name: str) -> str:
        """A checkpoint's tensor name as this class spells it: the frequency of the sines stands once."""
        name = name.removeprefix("hyena.").removeprefix("backbone.")
        return re.sub(rf"\.({'|'.join(map(str, SINES))})\.freq$", ".1.freq", name)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding by one of any number of rows."""
        self.embeddings.word_embeddings = value  # type: ignore[assignment]
        self.config.pad_vocab_size_multiple = 1

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool = False
    ) -> BaseModelOutput:
        """Compute the hidden states.

        Args:
            input_ids: int64 [B, S]; padding must be on the right.
            attention_mask: Ignored, see above.
            output_hidden_states: Whether to return those of the embeddings, of every layer and after the last norm.

        Raises:
            ValueError: If S is above `max_seq_len`, for which the filters have no values.
        """
        if input_ids.shape[1] > self.config.max_seq_len:
            raise ValueError(
                f"a sequence must have at most {self.config.max_seq_len} tokens (max_seq_len), "
                f"but got {input_ids.shape[1]}."
            )
        hidden = self.embeddings.word_embeddings(input_ids)
        hidden = hidden if hidden.dtype == torch.float64 else hidden.float()
        states = [hidden]
        for layer in self.layers:
            hidden = layer(hidden)
            states.append(hidden)
        hidden = self.ln_f(hidden.to(self.ln_f.weight.dtype))
        return BaseModelOutput(
            last_hidden_state=hidden, hidden_states=(*states, hidden) if output_hidden_states else None
        )


AutoConfig.register(HyenaDNAConfig.model_type, HyenaDNAConfig, exist_ok=True)
AutoModel.register(HyenaDNAConfig, HyenaDNAModel, exist_ok=True)
