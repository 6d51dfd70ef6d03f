"""Which matrices of a backbone may be adapted, and which a trial adapts."""

from collections.abc import Sequence

from torch import nn

from lingo.backbones import Backbone
from lingo.layout import Input

TOGETHER = (("W_q", "W_k", "W_v"), ("W_f1",))
"""The paper's names of matrices that read the same vector where they stand in the same module."""


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


def inputs_of(backbone: Backbone) -> tuple[Input, ...]:
    """The inputs of all matrices that may be adapted, in layer order: those of `TOGETHER` in one module share one."""
    shapes = linear_shapes(backbone)
    block = {
        path: i
        for i, names in enumerate(TOGETHER)
        for name in names
        for path in backbone.matrices.get(name, ())
    }
    found: dict[object, list[str]] = {}
    for path, (width, _) in shapes.items():
        key = (block[path], path.rpartition(".")[0], width) if path in block else path
        found.setdefault(key, []).append(path)
    return tuple(Input(i, tuple(paths), shapes[paths[0]][0]) for i, paths in enumerate(found.values()))


def target_paths(backbone: Backbone, targets: Sequence[str]) -> tuple[str, ...]:
    """Module paths of the paper's matrix names, each once. Raises `ValueError` for a name the backbone lacks."""
    lacking = [name for name in targets if not backbone.matrices.get(name)]
    if lacking:
        raise ValueError(
            f"`targets` must be among the {', '.join(backbone.matrices)} of {backbone.name}, but got {lacking}; name "
            "others in `fixed` of a search space of your own (`--search-space`)."
        )
    return tuple(dict.fromkeys(path for name in targets for path in backbone.matrices[name]))
