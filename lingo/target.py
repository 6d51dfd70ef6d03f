"""The transformers class that reads an export."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from lingo.architectures import family_of
from lingo.backbones import Backbone
from lingo.data import Kind
from lingo.packed_linear import PackedLinear

PROBLEM_TYPES = {
    "classification": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}


class Outputs(Protocol):
    """Outputs of a head: those of a task, or of an export's facts."""

    @property
    def kind(self) -> Kind: ...
    @property
    def num_labels(self) -> int: ...
    @property
    def pad_id(self) -> int: ...


class ExportError(ValueError):
    """A slot cannot be written in the requested layout; one line per error."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The class that reads an export: `AutoModel` (for an encoder-decoder its encoder's class); the head is in a
    separate file.

    The classification classes of transformers do not fit the head: those of causal models (OPT, Llama, GPT-2) have no
        bias, those of encoders have another layer.

    Attributes:
        architecture: The class behind it, `OPTModel`.
        auto: The class that loads it, `AutoModel`.
        options: Arguments of `from_pretrained` beside the model's name.
        config: The model's configuration with the task's number and kind of outputs.
        own: Whether the class is this project's, which only `load_backbone` can load.
    """

    architecture: str
    auto: str
    options: dict[str, Any]
    config: Any
    own: bool

    @property
    def load(self) -> dict[str, Any]:
        """How the backbone is loaded, for `lingo.json`."""
        return {"auto": self.auto, "options": self.options, "own": self.own}


def target_of(backbone: Backbone, outputs: Outputs, labels: Sequence[str] = ()) -> Target:
    """The class that computes a backbone's hidden states.

    Args:
        backbone: The backbone, with or without adapters on it.
        outputs: What is predicted.
        labels: Names of all outputs in order, or empty.
    """
    config = _config(backbone, outputs, labels)
    family = family_of(config)
    return Target(
        architecture=type(backbone.model).__name__,
        auto=family.auto,
        options={"pad_token_id": outputs.pad_id} | family.init | family.settings,
        config=config,
        own=type(backbone.model).__module__.startswith("lingo."),
    )


def backbone_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers by their names in the backbone, the same with or without adapters on it; tied ones once."""
    packed = {path for path, module in model.named_modules() if isinstance(module, PackedLinear)}
    found: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in model.state_dict().items():
        path, _, leaf = name.rpartition(".")
        owner, _, last = path.rpartition(".")
        place = (tensor.data_ptr(), tensor.shape)
        if path in packed or (tensor.numel() and place in seen):
            continue
        seen.add(place)
        found[f"{owner}.{leaf}" if last == "base" and owner in packed else name] = tensor
    return found


def _config(backbone: Backbone, outputs: Outputs, labels: Sequence[str]) -> Any:
    config: Any = copy.deepcopy(backbone.model.config)
    config.num_labels = outputs.num_labels
    config.problem_type = PROBLEM_TYPES[outputs.kind]
    config.pad_token_id = outputs.pad_id
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
    return config
