"""A tiny random backbone and tasks for tests of the packed core."""

import numpy as np
import torch
from transformers import OPTConfig, OPTModel

from lingo.backbones import Backbone
from lingo.data import Split, TaskData
from lingo.trial import TrialConfig

MODULES = {
    "W_q": "self_attn.q_proj",
    "W_k": "self_attn.k_proj",
    "W_v": "self_attn.v_proj",
    "W_o": "self_attn.out_proj",
    "W_f1": "fc1",
    "W_f2": "fc2",
}


def opt_backbone(
    *, dtype: torch.dtype = torch.float64, hidden: int = 16, layers: int = 2, seed: int = 0, ffn: int = 32
) -> Backbone:
    """A random OPT in memory: vocabulary 20, 64 positions."""
    config = OPTConfig(
        vocab_size=20,
        hidden_size=hidden,
        word_embed_proj_dim=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        ffn_dim=ffn,
        max_position_embeddings=64,
        pad_token_id=1,
        use_cache=False,
    )
    generator = torch.Generator().manual_seed(seed)
    model = OPTModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.25 + (parameter.ndim == 1) * 0.5)
    return Backbone(
        name="toy",
        model=model.to(dtype).eval().requires_grad_(False),
        tokenizer=None,
        hidden_size=hidden,
        max_length=64,
        causal=True,
        pad_id=1,
        pooling="last",
        matrices={
            name: [f"decoder.layers.{i}.{module}" for i in range(layers)] for name, module in MODULES.items()
        },
        trained=False,
        digest="toy",
        source="memory",
    )


def split(rows: int, *, labels: int, longest: int, seed: int, kind: str = "classification") -> Split:
    """Random sequences of 3 to `longest` tokens, whose label is a function of their content."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, longest + 1, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = rng.integers(2, 20, offsets[-1]).astype(np.int16)
    sums = np.add.reduceat(ids.astype(np.int64), offsets[:-1])
    if kind == "multilabel":
        return Split(ids, offsets, (sums[:, None] >> np.arange(labels) & 1).astype(np.float32))
    if kind == "regression":
        return Split(ids, offsets, (sums / 100).astype(np.float32))
    return Split(ids, offsets, sums % labels)


def task(name: str = "toy", *, rows: int = 60, labels: int = 2, longest: int = 12, kind: str = "classification",
         seed: int = 0) -> TaskData:  # fmt: skip
    """A task of random sequences."""
    return TaskData(
        name=name,
        kind=kind,  # type: ignore[arg-type]
        num_labels=labels,
        metric="mcc",
        pad_id=1,
        train=split(rows, labels=labels, longest=longest, seed=seed, kind=kind),
        dev=split(24, labels=labels, longest=longest, seed=seed + 1000, kind=kind),
        digest=f"{name}-{seed}",
    )


def trial(method: str = "ars", seed: int = 0, **settings: object) -> TrialConfig:
    """A configuration whose budget phase fits a few dozen steps."""
    values: dict[str, object] = {
        "learning_rate": 1e-2,
        "batch_size": 4,
        "epochs": 4,
        "b0": 4,
        "bT": 2,
        "rank": 3,
        "delta_T": 3,
        "p": 0.2,
        "adapter_dropout": 0.1,
        "initial_warmup_ratio": 0.1,
        "final_finetune_ratio": 0.3,
    }
    return TrialConfig.from_dict({"method": method, "seed": seed} | values | settings)
