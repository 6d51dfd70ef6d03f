"""Small random checkpoints of every architecture, in folders with a tokenizer, and slots trained on them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
import transformers as tr
from tokenizers import Tokenizer, models, pre_tokenizers

from lingo.backbones import Backbone, load_backbone
from lingo.caduceus import CaduceusConfig, CaduceusModel, CaduceusPSConfig, CaduceusPSModel
from lingo.data import TaskData
from lingo.dnabert2 import DnaBert2Config, DnaBert2Model
from lingo.hyenadna import HyenaDNAConfig, HyenaDNAModel
from lingo.ntv2 import NTv2Config, NTv2Model
from lingo.pack import Pack
from lingo.slot import Slot
from lingo.trial import TrialConfig
from tests.lingo import toy

SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "initializer_range": 0.3,
}
ENCODER = {"intermediate_size": 32}
MAMBA = {
    "vocab_size": 40,
    "d_model": 16,
    "n_layer": 2,
    "d_state": 4,
    "pad_token_id": 1,
    "initializer_range": 0.3,
}
HYENA = {"vocab_size": 40, "d_model": 16, "n_layer": 2, "d_inner": 32, "max_seq_len": 64, "filter_order": 8,
         "pad_token_id": 1, "initializer_range": 0.3}  # fmt: skip
CAUSAL: dict[str, Callable[[], tr.PreTrainedModel]] = {
    "opt": lambda: tr.OPTForCausalLM(tr.OPTConfig(**SMALL, ffn_dim=32, word_embed_proj_dim=16)),
    "opt with a projection": lambda: tr.OPTModel(
        tr.OPTConfig(**SMALL, ffn_dim=32, word_embed_proj_dim=8, do_layer_norm_before=False)
    ),
    "llama": lambda: tr.LlamaForCausalLM(
        tr.LlamaConfig(**SMALL, intermediate_size=24, num_key_value_heads=1, tie_word_embeddings=False)
    ),
    "hyenadna": lambda: _wavy(HyenaDNAModel(HyenaDNAConfig(**HYENA))),
    # Like the real GPT-2, without a padding token.
    "gpt2": lambda: tr.GPT2LMHeadModel(tr.GPT2Config(**SMALL | {"pad_token_id": None})),
}
ENCODERS: dict[str, Callable[[], tr.PreTrainedModel]] = {
    "bert": lambda: tr.BertForMaskedLM(tr.BertConfig(**SMALL, **ENCODER)),
    "roberta": lambda: tr.RobertaModel(tr.RobertaConfig(**SMALL, **ENCODER)),
    "esm": lambda: tr.EsmForMaskedLM(
        tr.EsmConfig(**SMALL, **ENCODER, mask_token_id=2, position_embedding_type="absolute")
    ),
    "ntv2": lambda: NTv2Model(NTv2Config(**SMALL, **ENCODER)),
    "caduceus_ph": lambda: CaduceusModel(CaduceusConfig(**MAMBA)),
    "caduceus_ps": lambda: CaduceusPSModel(CaduceusPSConfig(**MAMBA)),
    "dnabert2": lambda: DnaBert2Model(DnaBert2Config(**SMALL, **ENCODER)),
}


def _wavy(model: HyenaDNAModel) -> HyenaDNAModel:
    """The model with features of positions and decays of filters, which a checkpoint brings."""
    for layer in model.layers:
        layer.mixer.filter_fn.pos_emb.z.normal_()
        layer.mixer.filter_fn.modulation.deltas.uniform_(1, 10)
    return model


class Checkpoints:
    """Checkpoints by name, each written once, in a folder of its own below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, name: str, **options: object) -> Backbone:
        """The backbone, loaded with these options of `load_backbone`."""
        folder = self.root / name.replace(" ", "-")
        if not folder.exists():
            with torch.random.fork_rng():
                torch.manual_seed(0)
                (CAUSAL | ENCODERS)[name]().save_pretrained(folder)
            save_tokenizer(folder, pad=name != "gpt2")
        return load_backbone(folder, **options)  # type: ignore[arg-type]


def save_tokenizer(folder: Path, *, pad: bool) -> None:
    words = ["<unk>", "<pad>", "A", "C", "G", "T"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    names = {"unk_token": "<unk>"} | ({"pad_token": "<pad>"} if pad else {"eos_token": "<pad>"})
    tr.PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=64, **names).save_pretrained(folder)


def task(backbone: Backbone, **options: object) -> TaskData:
    """A toy task padded as the backbone needs it."""
    return dataclasses.replace(toy.task(**options), pad_id=backbone.pad_id)  # type: ignore[arg-type]


def train(pack: Pack, data: TaskData, trials: list[TrialConfig], steps: int) -> list[Slot]:
    """Slots of these trials after some steps together."""
    slots = [pack.admit(config, data) for config in trials]
    for _ in range(steps):
        pack.step()
    return slots
