"""Models, data and configurations that the benchmarks of the core share with its peers."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import OPTConfig, OPTForSequenceClassification

from lingo.backbones import Backbone
from lingo.data import Split, TaskData
from lingo.trial import TrialConfig

PARTS = {
    "W_q": "self_attn.q_proj",
    "W_k": "self_attn.k_proj",
    "W_v": "self_attn.v_proj",
    "W_o": "self_attn.out_proj",
    "W_f1": "fc1",
    "W_f2": "fc2",
}
TARGETS = ("W_q", "W_k", "W_v", "W_f1", "W_f2")
"""The paper's five matrices: 60 modules in 12 layers."""

VOCABULARY = 64


@dataclass(frozen=True)
class Shape:
    """An OPT's shape, and that of a trial's batch on it."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    batch: int
    tokens: int
    b0: int = 12
    bT: int = 6
    """Both as in table S1."""

    def classifier(self, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> torch.nn.Module:
        """A random OPT with a classification head, as transformers has it."""
        torch.manual_seed(0)
        config = OPTConfig(
            vocab_size=VOCABULARY,
            hidden_size=self.hidden,
            word_embed_proj_dim=self.hidden,
            ffn_dim=self.ffn,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            max_position_embeddings=512,
            pad_token_id=1,
            num_labels=2,
            dropout=0.0,
            attention_dropout=0.0,
            use_cache=False,
        )
        return OPTForSequenceClassification(config).to(device=device, dtype=dtype)

    def backbone(self, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Backbone:
        """The same model without a head, frozen."""
        model = self.classifier(dtype=dtype, device=device).model  # type: ignore[union-attr]
        return Backbone(
            name="opt",
            model=model.eval().requires_grad_(False),  # type: ignore[operator, union-attr]
            tokenizer=None,
            hidden_size=self.hidden,
            max_length=512,
            causal=True,
            pad_id=1,
            pooling="last",
            matrices={
                name: [f"decoder.layers.{i}.{part}" for i in range(self.layers)]
                for name, part in PARTS.items()
            },
            trained=False,
            digest="",
            source="memory",
        )

    def task(self, steps: int) -> TaskData:
        """Random sequences of equal length, enough for `steps` batches."""
        rng = np.random.default_rng(0)
        rows = self.batch * steps
        ids = rng.integers(3, VOCABULARY, rows * self.tokens).astype(np.int16)
        split = Split(ids, np.arange(rows + 1, dtype=np.int64) * self.tokens, rng.integers(0, 2, rows))
        return TaskData(
            name="random", kind="classification", num_labels=2, metric="mcc", pad_id=1, train=split, dev=split
        )

    def trial(self, seed: int = 0, **settings: Any) -> TrialConfig:
        """AdaLoRA that is inside its budget phase from the second step on, for nearly all of its steps."""
        values: Mapping[str, Any] = {
            "method": "adalora",
            "seed": seed,
            "learning_rate": 1e-4,
            "batch_size": self.batch,
            "epochs": 1,
            "rank": self.b0,
            "b0": self.b0,
            "bT": self.bT,
            "delta_T": 1,
            "adapter_dropout": 0.0,
            "initial_warmup_ratio": 0.0,
            "final_finetune_ratio": 0.0,
            "targets": TARGETS,
        }
        return TrialConfig(**{**values, **settings})


def table_task(path: Path, backbone: Backbone) -> TaskData:
    """Two classes of a file with the columns sequence and label, tokenised for a backbone."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    ids = [np.array(backbone.tokenizer(row["sequence"])["input_ids"], np.int16) for row in rows]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in ids])])
    split = Split(np.concatenate(ids), offsets, np.array([int(row["label"]) for row in rows]))
    return TaskData(
        name=path.stem,
        kind="classification",
        num_labels=2,
        metric="mcc",
        pad_id=backbone.pad_id,
        train=split,
        dev=split,
    )


OPT_125M = Shape(layers=12, hidden=768, ffn=3072, heads=12, batch=8, tokens=70)
TOY = Shape(layers=12, hidden=32, ffn=64, heads=2, batch=4, tokens=12, b0=8, bT=4)
