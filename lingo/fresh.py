"""The same architecture with random weights: a control that shows the effect of pretraining."""

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import nn

from lingo.checkpoint import BackboneError
from lingo.families import Family


def renew(model: nn.Module, config: Any, family: Family, *, name: str, seed: int) -> str:
    """Replace a model's weights by those that its class draws for a new model, in place, in the same number types.

    They are drawn on the CPU in float32, so that they are the same for every device and number type. Buffers, such as
    tables of positions, stay as the checkpoint has them.

    Returns:
        sha256 of the drawn tensors, by name.

    Raises:
        BackboneError: If the class leaves weights unset.
    """
    config = copy.deepcopy(config)
    with torch.random.fork_rng(devices=[]), _unset_is_nan():
        torch.manual_seed(seed)
        made: nn.Module = getattr(transformers, family.auto).from_config(
            config,
            attn_implementation=family.attention,
            dtype=torch.float32,
            trust_remote_code=False,
            **family.init,
        )
    total, drawn, held = hashlib.sha256(), dict(made.named_parameters()), dict(model.named_parameters())
    unset = [key for key, tensor in drawn.items() if not torch.isfinite(tensor).all()]
    if unset or drawn.keys() != held.keys():
        what = unset or sorted(drawn.keys() ^ held.keys())
        raise BackboneError(
            f"{name}: {type(model).__name__} must draw all weights of a new model, but not {', '.join(what[:3])}; "
            "leave out `--controls random-init`."
        )
    with torch.no_grad():
        for key, tensor in sorted(drawn.items()):
            total.update(key.encode() + tensor.detach().contiguous().numpy().tobytes())
            held[key].copy_(tensor)
    return total.hexdigest()


@contextmanager
def _unset_is_nan() -> Iterator[None]:
    """Makes unset memory NaN, by torch's deterministic mode."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
