"""A benchmark without downloads: small generated DNA with planted motifs, and a tiny OPT with random weights.

Both have the layouts of real ones (GUE's CSV files, the hub's model folder), so that everything else is the code path
of real data and models. They test that training works, nothing more, and every result says so: the data is marked as
generated, the backbone as untrained.
"""

import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from harness.core.atomic_files import write_whole

if TYPE_CHECKING:  # not needed by callers that read the row counts only
    import torch
    from transformers import OPTForCausalLM, PreTrainedTokenizerFast

ROWS = {"train": 640, "dev": 256, "test": 256}
"""Rows of each split of each generated task."""

LENGTH = 60
"""Base pairs of a generated sequence."""

TATA_BOX, GC_BOX, E_BOX = "TATAAAAG", "GGGCGG", "CACGTG"

VOCABULARY = 400
HIDDEN, LAYERS, HEADS, POSITIONS = 64, 2, 4, 256
WORDS = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>"}

Bases = NDArray[np.str_]


def make_data(folder: Path | str, *, seed: int = 0) -> Path:
    """Write the generated tasks as `quickstart/<task>/{train,dev,test}.csv` below `folder`.

    The same seed gives the same bytes; existing files are kept. Returns `folder`.
    """
    folder = Path(folder)
    for number, (task, sequence) in enumerate(GENERATORS.items()):
        (folder / task).mkdir(parents=True, exist_ok=True)
        for part, (split, rows) in enumerate(ROWS.items()):
            text = _csv(sequence, rows, np.random.default_rng([seed, number, part]))
            path = folder / task / f"{split}.csv"
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                write_whole(path, text)
    return folder


def make_backbone(folder: Path | str, *, seed: int = 0) -> Path:
    """Write a tiny OPT with random weights, and its tokenizer, as a model folder; returns `folder`.

    config.json has `"untrained": true`. The same seed gives the same weights; an existing folder is kept.
    """
    folder = Path(folder)
    if (folder / "config.json").exists():
        return folder
    import torch
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        model = _model(torch.Generator().manual_seed(seed))
        model.config.save_pretrained(made)
        save_file(dict(model.named_parameters()), made / "model.safetensors", metadata={"format": "pt"})
        _tokenizer(np.random.default_rng(seed)).save_pretrained(made)
        made.chmod(0o755)
        made.rename(folder)
    except OSError:
        if not (folder / "config.json").exists():
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _csv(sequence: Callable[[bool, np.random.Generator], Bases], rows: int, rng: np.random.Generator) -> str:
    labels = rng.permutation(np.arange(rows) % 2)
    lines = [f"{''.join(sequence(bool(label), rng))},{label}" for label in labels]
    return "\n".join(["sequence,label", *lines]) + "\n"


def _background(length: int, rng: np.random.Generator, *, gc: float = 0.5) -> Bases:
    """Independent bases with GC content `gc`."""
    return rng.choice(list("ACGT"), size=length, p=[(1 - gc) / 2, gc / 2, gc / 2, (1 - gc) / 2])


def _plant(bases: Bases, motif: str, start: int) -> None:
    bases[start : start + len(motif)] = list(motif)


def _promoter(positive: bool, rng: np.random.Generator) -> Bases:
    """A TATA box followed by a GC-rich region, or neither."""
    bases = _background(LENGTH, rng)
    if positive:
        start = int(rng.integers(10, 25))
        _plant(bases, TATA_BOX, start)
        bases[start + 12 : start + 30] = _background(18, rng, gc=0.75)
    return bases


def _motif_pair(positive: bool, rng: np.random.Generator) -> Bases:
    """A GC box and, 20 bp downstream, an E-box; or one of the two twice. No single motif separates the classes."""
    bases = _background(LENGTH, rng)
    start = int(rng.integers(5, 20))
    twice = (GC_BOX, E_BOX)[int(rng.integers(2))]
    first, second = (GC_BOX, E_BOX) if positive else (twice, twice)
    _plant(bases, first, start)
    _plant(bases, second, start + 20)
    return bases


GENERATORS = {"quickstart/promoter": _promoter, "quickstart/motif_pair": _motif_pair}


def _model(generator: "torch.Generator") -> "OPTForCausalLM":
    """Random features that adapters can use: unit-variance projections, embeddings wider than OPT's own."""
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    values: dict[str, Any] = {
        "architectures": ["OPTForCausalLM"],
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "word_embed_proj_dim": HIDDEN,
        "ffn_dim": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": POSITIONS,
        "dropout": 0.0,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "untrained": True,
    }
    config = OPTConfig(**values)
    with torch.device("meta"):  # initialisation would draw from torch's global generator
        model = OPTForCausalLM(config)
    model = model.to_empty(device="cpu")
    model.tie_weights()
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.dim() == 2:
                scale = 0.5 if "embed" in name else 1 / math.sqrt(parameter.shape[1])
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            else:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return model


def _tokenizer(rng: np.random.Generator) -> "PreTrainedTokenizerFast":
    """Byte-level BPE like OPT's, its merges learned from random DNA; begins every text with `<s>`."""
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(WORDS.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(("".join(_background(LENGTH, rng)) for _ in range(500)), trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokens = {f"{name}_token": word for name, word in WORDS.items()}
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe, model_max_length=POSITIONS, padding_side="right", **tokens
    )
