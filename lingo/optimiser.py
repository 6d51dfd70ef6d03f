"""AdamW for all slots of a pack, each with its own learning rate, decay, clipping and count of steps."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lingo.slot import ADAM_BETAS, ADAM_EPS, Slot, StepNumbers

Part = tuple[slice, float, float]
"""Columns of a row, their learning rate over the trial's, and their weight decay."""


def descend(
    slots: Sequence[Slot],
    parts: Iterable[Sequence[Part]],
    numbers: StepNumbers[Tensor],
    *,
    theta: Tensor,
    grad: Tensor,
    moment: Tensor,
    square: Tensor,
) -> None:
    """One step of the leading rows, in place; columns in none of a slot's `parts` stay. Clips `grad` [n, size].

    What has the same rate and decay is one fused operator, which reads and writes every number once.
    """
    norm = torch.linalg.vector_norm(grad, dim=1, keepdim=True)
    grad.mul_((numbers.max_norm / (norm + 1e-6)).clamp_(max=1.0))
    alike: dict[tuple[float, float], list[tuple[int, slice]]] = {}
    for row, (slot, own) in enumerate(zip(slots, parts, strict=True)):
        rate = slot.learning_rate()
        for columns, ratio, decay in own:
            alike.setdefault((rate * ratio, decay), []).append((row, columns))
    steps = numbers.step[:, 0].float().unbind()  # CUDA's kernel reads float32
    for (rate, decay), places in alike.items():
        own_theta, own_grad, own_moment, own_square = (
            [flat[place] for place in places] for flat in (theta, grad, moment, square)
        )
        torch._fused_adamw_(  # that of `torch.optim.AdamW(fused=True)`
            own_theta,
            own_grad,
            own_moment,
            own_square,
            [],
            [steps[row] for row, _ in places],
            lr=rate,
            beta1=ADAM_BETAS[0],
            beta2=ADAM_BETAS[1],
            weight_decay=decay,
            eps=ADAM_EPS,
            amsgrad=False,
            maximize=False,
        )
