"""A slot, or an exported adapter, as a whole model in the hub's layout: adapters merged into plain weights."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lingo.about import FORMAT, About, Trained, write_about
from lingo.card import HEAD
from lingo.data import Split, TaskData
from lingo.export import factors_of, head_tensors
from lingo.folder import new_folder, write_tensors
from lingo.pack import Pack
from lingo.predict import Predictor
from lingo.prompts import Prompt
from lingo.slot import Slot
from lingo.target import backbone_tensors, target_of
from lingo.text_files import file_digest


def merge_adapter(
    pack: Pack,
    slot: Slot,
    folder: Path,
    *,
    card: Mapping[str, Any],
    prompt: Prompt | None = None,
    max_length: int | None = None,
    labels: Sequence[str] = (),
    tokenization: Mapping[str, Any] | None = None,
    both_strands: bool = False,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write W0 + s · P Λ Q (or the fully fine-tuned weights), the head, configuration, tokenizer and a card.

    `AutoModel.from_pretrained(folder)` gives the hidden states, and the head in `head.safetensors` the slot's logits,
    as the card's program does. The folder is complete or not there at all; an earlier export of that name is
    replaced.

    Args:
        pack, slot: The slot, at any step.
        folder: Where to; its last part is created.
        card: Measured facts for the model card.
        prompt, max_length, labels, tokenization, both_strands: As in `lingo.export.export_adapter`; embedding rows
            of new tokens are part of the model.
        dtype: Of the weights written; `None` for that of the trained parameters: nothing is rounded.

    Returns:
        `folder`.

    Raises:
        ExportError: If the prompt is not given, or `folder` holds something else.
        OSError: If the disk refuses.
    """
    about = About(
        card=card,
        prompt=prompt,
        max_length=max_length,
        labels=labels,
        tokenization=tokenization,
        both_strands=both_strands,
    )
    about.check(pack.backbone, slot.data, slot.config)
    dtype = dtype or pack.dtype
    target = target_of(pack.backbone, slot.data, labels)
    target.config.architectures = [target.architecture]
    target.config.dtype = dtype
    head = {name: tensor.to(dtype) for name, tensor in head_tensors(pack, slot).items()}
    with new_folder(folder) as new:
        write_tensors(new / "model.safetensors", merged_tensors(pack, slot, dtype))
        write_tensors(new / HEAD, head)
        target.config.save_pretrained(new)
        _tokenizer(pack.backbone.tokenizer, slot.data.pad_id).save_pretrained(new)
        write_about(new, Trained.of(pack, slot), target, about, layout="merged")
    return folder


def write_merged(folder: Path, predictor: Predictor, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write an opened adapter as a whole model: weights, configuration and tokenizer, without `lingo.json` and card.

    Args:
        folder: An export's (temporary) folder.
        predictor: The adapter, opened with `frozen="fp32"`: what was trained beside weights of lower precision is
            merged into the checkpoint's own.
        facts: The adapter's `lingo.json`.

    Returns:
        `lingo.json` of the model.

    Raises:
        OSError: If the disk refuses.
    """
    about, backbone = predictor.facts, predictor.backbone
    data = TaskData(
        name=about.task,
        kind=about.kind,
        num_labels=about.num_labels,
        metric="",
        pad_id=about.pad_id,
        train=_no_rows(about.kind, about.num_labels),
        dev=_no_rows(about.kind, about.num_labels),
    )
    target = target_of(backbone, data, about.labels)
    target.config.architectures, target.config.dtype = [target.architecture], torch.float32
    write_tensors(folder / "model.safetensors", backbone_tensors(backbone.model))
    write_tensors(folder / HEAD, {"weight": predictor.head, "bias": predictor.bias})
    target.config.save_pretrained(folder)
    _tokenizer(backbone.tokenizer, about.pad_id).save_pretrained(folder)
    files = {path.name: file_digest(path) for path in sorted(folder.glob("*.safetensors"))}
    changed = {"format": FORMAT, "layout": "merged", "head": HEAD, "load": target.load, "files": files}
    return {**facts, **changed}


def _no_rows(kind: str, labels: int) -> Split:
    none: dict[str, NDArray[Any]] = {
        "classification": np.zeros(0, np.int64),
        "multilabel": np.zeros((0, labels), np.uint8),
        "regression": np.zeros(0, np.float32),
    }
    return Split(np.zeros(0, np.int16), np.zeros(1, np.int64), none[kind])


@torch.no_grad()
def merged_tensors(pack: Pack, slot: Slot, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights and buffers of the backbone by name, with the slot's adapters added in their own precision."""
    frozen = backbone_tensors(pack.backbone.model)
    tensors = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in frozen.items()
    }
    for path, site in factors_of(pack, slot).items():
        name, delta = f"{path}.weight", site.delta(slot.scale)
        # nn.Linear keeps [d_out, d_in], GPT-2's Conv1D [d_in, d_out].
        delta = delta if _keeps_inputs_first(pack, path) else delta.t()
        tensors[name] = (frozen[name].to(delta.dtype) + delta).to(dtype)
    return tensors


def _keeps_inputs_first(pack: Pack, path: str) -> bool:
    base: Any = pack.backbone.model.get_submodule(path)
    return not isinstance(base.base, torch.nn.Linear)


def _tokenizer(tokenizer: Any, pad_id: int) -> Any:
    """The tokenizer, able to pad also where the backbone's own names no padding token (GPT-2)."""
    if tokenizer.pad_token_id is None:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_id)
    return tokenizer
