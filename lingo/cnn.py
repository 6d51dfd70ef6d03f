"""A small convolutional network on one-hot bases: the baseline that needs no pretraining."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BASE_IDS = 4
"""Ids 1 to 4 are A, T, C and G (`lingo.nucleotides.bare_bases`); 0 is padding and 5 is N: both are all zeros."""


class OneHotCnn(nn.Module):
    """Two convolutions with a pooling layer between, the maximum over the sequence, and one linear layer.

    Args:
        outputs: Outputs of the head.
        filters: Channels of the first layer; the second has twice as many.
        width: Bases that the first layer sees.
        dropout: Probability before the head. Masks come from `drop`, which the caller draws.
    """

    POOL = 4

    def __init__(self, outputs: int, *, filters: int, width: int, dropout: float) -> None:
        super().__init__()
        self.rate = dropout
        self.first = nn.Conv1d(BASE_IDS, filters, width, padding=width // 2)
        self.second = nn.Conv1d(filters, 2 * filters, 5, padding=2)
        self.head = nn.Linear(2 * filters, outputs)

    def initialise(self, generator: torch.Generator, bias: Tensor) -> "OneHotCnn":
        """Draw all weights: Kaiming's normal (arXiv:1502.01852); biases 0, and `bias` [outputs] in the head."""
        for layer in (self.first, self.second, self.head):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            layer.bias.data.zero_()  # type: ignore[union-attr]
        self.head.bias.data.copy_(bias)
        return self

    def forward(self, ids: Tensor, lengths: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Logits [B, outputs] from base ids [B, S] and lengths [B]; `generator` draws the dropout masks."""
        bases = F.one_hot(ids.clamp(0, BASE_IDS + 1), BASE_IDS + 2)[..., 1 : BASE_IDS + 1]
        hidden = torch.relu(self.first(bases.transpose(1, 2).to(self.head.weight.dtype)))
        hidden = hidden[..., : ids.shape[1]]
        inside = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        # What padding leaves in a layer is 0, as a rectified nothing: a row's logits do not depend on its batch.
        hidden = hidden * inside[:, None]
        hidden = F.max_pool1d(hidden, self.POOL, ceil_mode=True)
        hidden = torch.relu(self.second(hidden)) * inside[:, None, :: self.POOL]
        pooled = hidden.amax(-1)
        if generator is not None and self.rate:
            kept = torch.rand(pooled.shape, generator=generator, device=pooled.device) >= self.rate
            pooled = pooled * kept / (1 - self.rate)
        logits: Tensor = self.head(pooled)
        return logits
