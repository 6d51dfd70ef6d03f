"""Floating point operations of architectures without a closed form in `lingo.flops`: counted, on no data at all.

A copy of the model without weights (device `meta`) computes one row forward and backward under
`torch.utils.flop_counter`; which gradients pass which layers is decided by autograd, as in training.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lingo.architectures import family_of
from lingo.backbones import Backbone
from lingo.flops import IMPORTANCE_OPS, SCORE_OPS, More, StepFlops
from lingo.sites import linear_shapes
from lingo.text_files import one_line

LENGTHS = (128, 256, 512)
"""Lengths at which longer rows are counted: products are a polynomial of second degree in the length."""

# Depthwise filters (Mamba) are element-wise work, and the counter takes every channel with every other backward.
NO_FILTERS: dict[Any, Any] = {
    op: lambda *_, **__: 0 for op in (torch.ops.aten.convolution, torch.ops.aten.convolution_backward)
}


def counted_step(
    backbone: Backbone,
    paths: Sequence[str],
    *,
    length: int,
    batch: int = 1,
    num_labels: int = 2,
    full: bool = False,
    rank: float = 0.0,
    svd: bool = False,
    delta_T: int = 1,
    more: More | None = None,
) -> StepFlops:
    """FLOPs of one training step, matrix products alone, as `lingo.flops.step_flops` has them.

    Args:
        backbone: The backbone; its model may be adapted.
        paths: Module paths of the adapted matrices; empty trains the head alone.
        length, batch, num_labels, full, rank, svd, delta_T, more: As in `step_flops`.

    Raises:
        ValueError: If the class cannot be computed without values (experts, whose tokens depend on them).
    """
    model = _without_weights(backbone, full)
    shapes = linear_shapes(replace(backbone, model=model))
    at = (length,) if length <= LENGTHS[-1] else LENGTHS
    counts = [_count(model, paths, length, causal=backbone.causal) for length in at]
    forward = _extrapolated([count[0] for count in counts], length)
    backward = _extrapolated([count[1] for count in counts], length)
    open_ = counts[0][2]
    tokens, adapters_forward, adapters_backward, weights = batch * length, 0.0, 0.0, 0.0
    for path in paths:
        down, up = (2.0 * tokens * rank * d for d in shapes[path])
        adapters_forward += down + up
        adapters_backward += 2 * up + (1 + (path in open_)) * down
        weights += rank * sum(shapes[path])
        if more is not None:
            d_in, d_out = shapes[path]
            extra = more(tokens=tokens, d_in=d_in, d_out=d_out, needs_grad=path in open_)
            adapters_forward += extra[0]
            adapters_backward += extra[1]
    head = 2.0 * batch * backbone.hidden_size * num_labels
    return StepFlops(
        forward=batch * forward,
        backward=batch * backward,
        adapters_forward=adapters_forward,
        adapters_backward=adapters_backward,
        orthogonality=4 * rank * weights if svd else 0.0,
        allocation=(IMPORTANCE_OPS + SCORE_OPS / delta_T) * weights if svd else 0.0,
        head=head * (3 if full or paths else 2),
    )


def _without_weights(backbone: Backbone, full: bool) -> Any:
    config: Any = copy.deepcopy(backbone.model.config)
    family = family_of(config)
    with torch.device("meta"):
        model = getattr(transformers, family.auto).from_config(
            config, attn_implementation="eager", trust_remote_code=False, **family.init
        )
    return model.eval().requires_grad_(full)


def _count(
    model: nn.Module, paths: Sequence[str], length: int, *, causal: bool
) -> tuple[float, float, set[str]]:
    """(FLOPs forward, backward, adapted sites whose input needs a gradient) of one row."""
    open_: set[str] = set()

    def adapt(path: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            if inputs[0].requires_grad:
                open_.add(path)
            return output + torch.zeros_like(output, requires_grad=True)

        return hook

    hooks = [model.get_submodule(path).register_forward_hook(adapt(path)) for path in paths]
    ids = torch.zeros(1, length, dtype=torch.long, device="meta")
    mask = torch.ones_like(ids) if causal else None  # the other choice makes transformers look at values
    try:
        with (
            torch.device("meta"),
            FlopCounterMode(display=False, custom_mapping=NO_FILTERS) as counter,
            torch.enable_grad(),
        ):
            states = model(input_ids=ids, attention_mask=mask).last_hidden_state
            forward = counter.get_total_flops()
            if states.requires_grad:
                states.sum().backward()
            whole = counter.get_total_flops()
    except Exception as error:  # without values, each class that needs them fails in its own way
        raise ValueError(f"{type(model).__name__} cannot be counted ({one_line(error)}).") from None
    finally:
        for hook in hooks:
            hook.remove()
    return forward, whole - forward, open_


def _extrapolated(values: list[float], length: int) -> float:
    """The parabola through the values at `LENGTHS`, at `length` (Lagrange); a single value is that."""
    if len(values) == 1:
        return values[0]
    total = 0.0
    for i, (at, value) in enumerate(zip(LENGTHS, values, strict=True)):
        for j, other in enumerate(LENGTHS):
            value *= (length - other) / (at - other) if i != j else 1.0
        total += value
    return total
