"""Full fine-tuning through the packed trainer: every weight of the backbone in the one row of a pack."""

from typing import Any

import torch
from torch import Tensor, nn

from lingo.layout import Layout, zeros
from lingo.optimiser import Part
from lingo.slot import Slot

DROPOUT = (
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
)
"""Where the configurations of `lingo.families` name rates of dropout."""


def model_dropout(config: Any) -> float:
    """The largest rate of dropout that a backbone's configuration asks for in training; packs use none."""
    return max(float(getattr(config, name, 0.0) or 0.0) for name in DROPOUT)


class FullBank:
    """Holds the backbone's own parameters as views of one flat row; the counterpart of `AdapterBank`.

    The pretrained weights are kept once more, to start every trial from them and to put them back.
    Biases, that of the head too, and vectors (normalisation weights) are not decayed, as transformers' `Trainer`
    does. The model's own dropout (`model_dropout`) stays off, as it is in a frozen backbone.
    """

    def __init__(self, model: nn.Module, layout: Layout, *, dtype: torch.dtype) -> None:
        self.model, self.layout = model, layout
        self.parameters = list(model.parameters())
        first = self.parameters[0]
        self._dtype = first.dtype
        self.theta = torch.zeros(1, layout.size, device=first.device, dtype=dtype)
        self.grad = torch.zeros(1, layout.size + 1, device=first.device, dtype=dtype)
        self.pristine = torch.cat([p.detach().flatten() for p in self.parameters])
        self.keep = self.unit = self.learn = self.valid = zeros(1, 0, like=self.theta)
        self._decays: list[tuple[slice, bool]] = []
        start = 0
        for parameter in self.parameters:
            end = start + parameter.numel()
            self._decays.append((slice(start, end), parameter.ndim > 1))
            parameter.data = self.theta[0, start:end].view(parameter.shape)
            parameter.requires_grad_(True)
            parameter.grad = self.grad[0, start:end].view(parameter.shape)
            start = end
        self._decays += [
            (slice(start, layout.bias_start), True),
            (slice(layout.bias_start, layout.size), False),
        ]
        self.theta[0, :start] = self.pristine

    @staticmethod
    def width(model: nn.Module) -> int:
        """Numbers in the backbone (tied weights once)."""
        return sum(parameter.numel() for parameter in model.parameters())

    def initialise(self, slot: Slot) -> None:
        """Start from the pretrained weights."""
        self.theta[0, : len(self.pristine)] = self.pristine

    def parts(self, slot: Slot) -> list[Part]:
        """What AdamW moves: all, and what decays of it."""
        return [(columns, 1.0, slot.config.weight_decay * decays) for columns, decays in self._decays]

    def zero_grad(self) -> None:
        """Clear the gradient."""
        self.grad.zero_()

    def collect(self) -> Tensor:
        """The gradient [1, size + 1], as autograd wrote it."""
        return self.grad

    def detach(self) -> None:
        """Give the backbone its pretrained, frozen parameters back."""
        start = 0
        for parameter in self.parameters:
            end = start + parameter.numel()
            parameter.grad = None
            parameter.requires_grad_(False)
            parameter.data = self.pristine[start:end].view(parameter.shape)
            start = end
