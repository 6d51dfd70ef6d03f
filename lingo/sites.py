"""Adaptable matrices of a backbone, and those that a trial adapts."""

from collections import Counter
from collections.abc import Mapping, Sequence

from torch import nn

from lingo.backbones import Backbone
from lingo.layout import Input
from lingo.trial import ALL_LINEAR

TOGETHER = (("W_q", "W_k", "W_v"), ("W_f1",))
"""The paper's names of matrices that read the same vector if they are in the same module."""


def linear_shapes(backbone: Backbone) -> dict[str, tuple[int, int]]:
    """Module path → (d_in, d_out) of every matrix that may be adapted, in layer order."""
    shapes: dict[str, tuple[int, int]] = {}
    paths = {path for paths in backbone.matrices.values() for path in paths}
    for path, module in backbone.model.named_modules():
        if path in paths:
            # Not the weight's shape for linear layers, because 4-bit weights are flat.
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
    """Module paths of the named matrices, each once: see `resolve`."""
    return resolve(backbone.name, backbone.matrices, targets)


def resolve(name: str, matrices: Mapping[str, Sequence[str]], targets: Sequence[str]) -> tuple[str, ...]:
    """Module paths, each once, of targets that are the paper's names, the backbone's own, ends of paths (`q_proj`,
    `mlp.down_proj`), or `all-linear`.

    Args:
        name: The backbone, for messages.
        matrices: Its matrices by name, as `Backbone.matrices`.
        targets: What to adapt.

    Raises:
        ValueError: For a target that no matrix has, with the available ones.
    """
    every = tuple(dict.fromkeys(path for paths in matrices.values() for path in paths))
    found: list[str] = []
    lacking: list[str] = []
    for target in targets:
        ends = (
            every if target == ALL_LINEAR else [path for path in every if f".{path}".endswith(f".{target}")]
        )
        paths = matrices.get(target) or ends
        found += paths
        lacking += [] if paths else [target]
    if lacking:
        raise ValueError(
            f"`--targets` must be {ALL_LINEAR} or among the {', '.join(matrices)} of {name}, but got {lacking}."
        )
    return tuple(dict.fromkeys(found))


def names_of(matrices: Mapping[str, Sequence[str]], paths: Sequence[str]) -> tuple[str, ...] | None:
    """The names of exactly these paths; `None` if they are only a part of a name's."""
    wanted = set(paths)
    names = tuple(name for name, held in matrices.items() if held and wanted.issuperset(held))
    return names if wanted == {path for name in names for path in matrices[name]} else None


def counts_by_end(paths: Sequence[str]) -> dict[str, int]:
    """Number of matrices by the last part of their path, such as `{"q_proj": 12}`."""
    return dict(Counter(path.rpartition(".")[2] for path in paths))
