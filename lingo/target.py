"""Where a backbone and a slot's head lie in the transformers class that reads an export."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from lingo.adapters import PackedLinear
from lingo.backbones import Backbone
from lingo.data import TaskData
from lingo.families import FAMILIES

PROBLEM_TYPES = {
    "classification": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}
HeadPlace = Literal["classifier", "separate"]


class ExportError(ValueError):
    """A slot that cannot be written in the layout asked for, with one clear line."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The model class that reads an export.

    Attributes:
        auto: `AutoModelForSequenceClassification`, or `AutoModel` for a head that lies in a file of its own.
        architecture: The class behind it, `OPTForSequenceClassification`.
        options: Arguments of `from_pretrained` beside the model's name.
        config: The model's configuration with the task's number and kind of outputs.
        prefix: Stands before the path of every module of the backbone: `model.`, `transformer.` or nothing.
        head: Path of the linear layer that is the head; `None` in `AutoModel`.
        bias: Whether that layer has a bias, which is then 0.
        own: Whether the class is this project's, which only `load_backbone` knows how to read.
    """

    auto: str
    architecture: str
    options: dict[str, Any]
    config: Any
    prefix: str
    head: str | None
    bias: bool = False
    own: bool = False

    def head_tensors(self, weight: Tensor) -> dict[str, Tensor]:
        """The head's tensors by name from its weight [labels, hidden]; none where it lies in its own file."""
        if self.head is None:
            return {}
        zero = {f"{self.head}.bias": weight.new_zeros(len(weight))} if self.bias else {}
        return {f"{self.head}.weight": weight} | zero


def target_of(backbone: Backbone, data: TaskData, place: HeadPlace, labels: Sequence[str] = ()) -> Target:
    """The class that computes what a slot computes: the backbone, its pooling, and one linear layer.

    Args:
        backbone: The backbone, with or without adapters on it.
        data: The slot's task.
        place: `classifier` for the head in `AutoModelForSequenceClassification`, `separate` for `AutoModel`.
        labels: Names of the outputs, in order; none, or one for each.

    Raises:
        ExportError: If the architecture has no such class, or one that computes something else.
    """
    config = _config(backbone, data, labels)
    if place == "separate":
        family = FAMILIES.get(config.model_type)
        return Target(
            auto="AutoModel",
            architecture=type(backbone.model).__name__,
            options={"pad_token_id": data.pad_id} | (family.init if family else {}),
            config=config,
            prefix="",
            head=None,
            own=type(backbone.model).__module__.startswith("lingo."),
        )
    model = _classifier(config)
    prefix = f"{model.base_model_prefix}."
    head = _single_linear(backbone, model, prefix)
    _check_pooling(backbone, data)
    return Target(
        auto="AutoModelForSequenceClassification",
        architecture=type(model).__name__,
        options={
            "num_labels": data.num_labels,
            "problem_type": config.problem_type,
            "pad_token_id": data.pad_id,
        },
        config=config,
        prefix=prefix,
        head=head,
        bias=model.get_submodule(head).bias is not None,
    )


def backbone_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers by their names in the backbone, the same with or without adapters on it."""
    packed = {path for path, module in model.named_modules() if isinstance(module, PackedLinear)}
    found = {}
    for name, tensor in model.state_dict().items():
        path, _, leaf = name.rpartition(".")
        owner, _, last = path.rpartition(".")
        if last == "base" and owner in packed:
            found[f"{owner}.{leaf}"] = tensor
        elif path not in packed:
            found[name] = tensor
    return found


def _config(backbone: Backbone, data: TaskData, labels: Sequence[str]) -> Any:
    config: Any = copy.deepcopy(backbone.model.config)
    config.num_labels = data.num_labels
    config.problem_type = PROBLEM_TYPES[data.kind]
    config.pad_token_id = data.pad_id
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
    return config


def _classifier(config: Any) -> Any:
    try:
        with torch.device("meta"):
            return AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    except ValueError:
        raise ExportError(
            f"{config.model_type} has no AutoModelForSequenceClassification: export with head='separate'."
        ) from None


def _single_linear(backbone: Backbone, model: Any, prefix: str) -> str:
    """Path of the one linear layer after the backbone. Raises `ExportError` where there is anything else."""
    ours, theirs = backbone_tensors(backbone.model), model.state_dict()
    modules = {name.rpartition(".")[0] for name in theirs if name.removeprefix(prefix) not in ours}
    absent = [name for name in ours if f"{prefix}{name}" not in theirs]
    head = next(iter(modules)) if len(modules) == 1 else ""
    layer = model.get_submodule(head) if head else None
    if absent or not isinstance(layer, nn.Linear) or layer.in_features != backbone.hidden_size:
        raise ExportError(
            f"the head of {type(model).__name__} must be one linear layer on the pooled state, as trained, "
            f"but it is {' + '.join(sorted(modules)) or 'none'}: export with head='separate', for AutoModel."
        )
    return head


def _check_pooling(backbone: Backbone, data: TaskData) -> None:
    """Refuse what the class would pool otherwise: it reads the last token that is not the padding id."""
    if backbone.pooling != ("last" if backbone.causal else "first"):
        raise ExportError(
            f"transformers' classes pool the last token (causal) or the first (encoders), but "
            f"{backbone.name} pools {backbone.pooling}: export with head='separate'."
        )
    ends = data.dev.offsets[1:][data.dev.lengths > 0] - 1
    if backbone.pooling == "last" and bool(np.any(data.dev.ids[ends] == data.pad_id)):
        raise ExportError(
            f"no sequence of {data.name} may end with the padding id {data.pad_id}, which the class of "
            "transformers takes for padding: export with head='separate'."
        )
