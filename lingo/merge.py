"""An exported adapter as a complete model in the hub's layout: merged into plain weights."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lingo.about import FORMAT
from lingo.card import HEAD
from lingo.folder import write_tensors
from lingo.predict import Predictor
from lingo.target import backbone_tensors, target_of
from lingo.text_files import file_digest


def write_merged(folder: Path, predictor: Predictor, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write an opened adapter as a complete model: weights W0 + s · P Λ Q, head, configuration and tokenizer.

    `AutoModel.from_pretrained(folder)` then gives the hidden states, and the head in `head.safetensors` the logits.
    The caller writes `lingo.json` and the model card.

    Args:
        folder: An export's (temporary) folder.
        predictor: The adapter, opened with `frozen="fp32"`: what was trained beside weights of lower precision is
            merged into the checkpoint's own.
        facts: The adapter's `lingo.json`.

    Returns:
        `lingo.json` of the model.

    Raises:
        OSError: If a file cannot be written.
    """
    about, backbone = predictor.facts, predictor.backbone
    target = target_of(backbone, about, about.labels)
    target.config.architectures, target.config.dtype = [target.architecture], torch.float32
    write_tensors(folder / "model.safetensors", backbone_tensors(backbone.model))
    write_tensors(folder / HEAD, {"weight": predictor.head, "bias": predictor.bias})
    target.config.save_pretrained(folder)
    _tokenizer(backbone.tokenizer, about.pad_id).save_pretrained(folder)
    files = {path.name: file_digest(path) for path in sorted(folder.glob("*.safetensors"))}
    changed = {"format": FORMAT, "layout": "merged", "head": HEAD, "load": target.load, "files": files}
    return {**facts, **changed}


def _tokenizer(tokenizer: Any, pad_id: int) -> Any:
    """The tokenizer, able to pad also where the backbone's own names no padding token (GPT-2)."""
    if tokenizer.pad_token_id is None:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_id)
    return tokenizer
