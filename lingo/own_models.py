"""Models implemented in this project, because the public checkpoints have custom code, which is never run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel

from lingo import checkpoint
from lingo.caduceus import CaduceusConfig, CaduceusPSConfig
from lingo.dnabert2 import DnaBert2Config
from lingo.hyenadna import HyenaDNAConfig
from lingo.ntv2 import NTv2Config

CONFIGS = (DnaBert2Config, NTv2Config, HyenaDNAConfig, CaduceusConfig, CaduceusPSConfig)
MODEL_TYPES = frozenset(config.model_type for config in CONFIGS)


def public_config(fields: Mapping[str, Any]) -> Any:
    """The configuration class of the public model that a config.json describes, or `None`."""
    return next((config for config in CONFIGS if config.is_public(fields)), None)


def plain_name(model: Any, name: str) -> str | None:
    """Conversion of a checkpoint's tensor names for a model that stores tied tensors once; `None` for other models."""
    own = getattr(model, "own_name", None)
    return own(name) if own else None


def read_tied(folder: Path, config: Any, dtype: torch.dtype) -> Any:
    """The model of a checkpoint in which tied tensors may have any of their names; `None` for a model that
    transformers can load."""
    with torch.device("meta"):
        model: Any = AutoModel.from_config(config)
    if not hasattr(model, "own_name"):
        return None
    wanted = model.state_dict().keys()
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in checkpoint.tensors(folder):
        own = model.own_name(name)
        if own in wanted:
            exact = torch.finfo(dtype).bits < 32 and any(part in own for part in model.own_float32)
            kind = torch.float32 if exact else dtype
            tensors[own] = tensor.to(kind) if tensor.is_floating_point() else tensor
    model.load_state_dict(tensors, assign=True)
    model.config.dtype = dtype
    return model
