"""Which matrices of a backbone may be adapted, and which a trial adapts."""

from collections.abc import Sequence

from torch import nn

from lingo.backbones import Backbone


def linear_shapes(backbone: Backbone) -> dict[str, tuple[int, int]]:
    """Module path → (d_in, d_out) of every matrix that may be adapted, in layer order."""
    shapes: dict[str, tuple[int, int]] = {}
    paths = {path for paths in backbone.matrices.values() for path in paths}
    for path, module in backbone.model.named_modules():
        if path in paths:
            # Not the weight's shape where a linear layer has its own word: that of 4-bit weights is flat.
            linear = isinstance(module, nn.Linear)
            shapes[path] = (module.in_features, module.out_features) if linear else tuple(module.weight.shape)
    return shapes


def target_paths(backbone: Backbone, targets: Sequence[str]) -> tuple[str, ...]:
    """Module paths of the paper's matrix names, each once. Raises `ValueError` for a name the backbone lacks."""
    lacking = [name for name in targets if not backbone.matrices.get(name)]
    if lacking:
        raise ValueError(
            f"`targets` must be among the {', '.join(backbone.matrices)} of {backbone.name}, but got {lacking}; name "
            "others in `fixed` of a search space of your own (`--search-space`)."
        )
    return tuple(dict.fromkeys(path for name in targets for path in backbone.matrices[name]))
