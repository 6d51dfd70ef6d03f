"""A backbone without its weights: sizes, positions and matrices from a folder's config.json alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lingo.architectures import group_by_name
from lingo.backbone_folder import quiet, read_config, read_tokenizer
from lingo.backbones import Backbone, empty_model, family_in, matrices_of, positions_in
from lingo.flop_count import counted_step
from lingo.flops import Shape, StepFlops, shape_of, step_flops
from lingo.known_models import training_gib
from lingo.probe import linear_layers
from lingo.sites import linear_shapes, names_of, resolve
from lingo.trial import TrialConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class Outline:
    """A backbone as described by config.json and tokenizer of a folder.

    Attributes:
        backbone: Its model has no values (device `meta`). For an architecture without a row in `lingo.families` its
            matrices are determined by name: the probe at loading may exclude some.
        shape: `None` for an architecture without a closed form of its FLOPs.
        parameters, layers, width: Its sizes; `width` is the inner width of a token's state.
    """

    backbone: Backbone
    shape: Shape | None
    parameters: int
    layers: int
    width: int

    def step(self, targets: tuple[str, ...], *, full: bool, **options: Any) -> StepFlops:
        """FLOPs of one training step, as `lingo.flops.step_flops`; counted without a closed form, and 2 per parameter,
        token and pass if the class cannot be counted without values (experts: as if all were used).

        Raises:
            ValueError: If the backbone lacks a target.
        """
        matrices = self.backbone.matrices
        paths = () if full else resolve(self.backbone.name, matrices, targets)
        options = {"batch": 1} | options
        names = targets if all(name in matrices for name in targets) else names_of(matrices, paths)
        if self.shape is not None and names is not None:
            return step_flops(self.shape, targets=() if full else names, full=full, **options)
        try:
            with quiet():
                return counted_step(self.backbone, paths, full=full, **options)
        except ValueError:
            once = 2.0 * self.parameters * options["length"] * options["batch"]
            return StepFlops(forward=once, backward=once * (1 + full))

    def trained(self, trial: TrialConfig, *, full: bool) -> int:
        """Number of trained parameters of a trial, without the head: all, or those of its adapters."""
        if full:
            return self.parameters
        shapes = linear_shapes(self.backbone)
        paths = resolve(self.backbone.name, self.backbone.matrices, trial.targets)
        return sum(trial.kind.size(trial.kind.rank(trial), *shapes[path]) for path in paths)

    def gib(self, **options: Any) -> float:
        """GiB of one training step, see `training_gib`."""
        return training_gib(self.parameters, self.layers, self.width, **options)


def outline(folder: Path) -> Outline:
    """Read a folder's config.json and tokenizer.

    Raises:
        BackboneError: If they cannot be read, or do not describe a backbone.
    """
    with quiet():
        config, tokenizer = read_config(folder), read_tokenizer(folder)
        family = family_in(folder, config)
        model: Any = empty_model(folder, config, family)
    width = model.get_input_embeddings().embedding_dim
    width = getattr(config, "hidden_size", None) or width
    layers = getattr(config, "num_hidden_layers", None) or 1
    decoder = str((getattr(config, "architectures", None) or [""])[0]).endswith(("CausalLM", "LMHeadModel"))
    if family.derived:
        matrices = group_by_name(list(linear_layers(model)))
    else:
        matrices = matrices_of(model, family, layers)
    backbone = Backbone(
        name=str(folder),
        model=model,
        tokenizer=tokenizer,
        hidden_size=getattr(config, "word_embed_proj_dim", None) or width,
        max_length=positions_in(config, family, model, tokenizer),
        causal=decoder if family.derived else family.causal,
        pad_id=0,
        pooling=family.pooling,
        matrices=matrices,
        trained=not getattr(config, "untrained", False),
        digest="",
        source=str(folder),
    )
    return Outline(
        backbone=backbone,
        shape=_shape(config),
        parameters=_count(model),
        layers=int(layers),
        width=int(width),
    )


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _shape(config: Any) -> Shape | None:
    try:
        return shape_of(config)
    except ValueError:
        return None
