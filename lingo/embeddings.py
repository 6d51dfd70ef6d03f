"""New rows of a backbone's embedding, for tokens that its vocabulary lacks."""

from typing import Any

import torch
from torch import nn

from lingo.backbones import Backbone

SEED = 20240212
"""Seed of the new rows: the same in every process, trial and run."""


def rows_of(backbone: Backbone) -> int:
    """Rows of the backbone's token embedding; a tokenizer may use fewer."""
    return _embedding(backbone).num_embeddings


def last_rows(backbone: Backbone, count: int) -> torch.Tensor:
    """The last `count` rows of the token embedding, [count, width]."""
    return _embedding(backbone).weight.detach()[-count:]


@torch.no_grad()
def add_rows(backbone: Backbone, count: int) -> None:
    """Append `count` rows to the token embedding, in place.

    Each value is drawn from a normal distribution with the mean and the standard deviation that the pretrained
    rows have in that column: new vectors have the norm of old ones, and differ from each other. The paper does not
        specify the initialisation. The rows belong to the backbone: full fine-tuning trains them, adapters do not.
    """
    if not count:
        return
    weight = _embedding(backbone).weight.detach()
    draws = torch.randn(
        count, weight.shape[1], generator=torch.Generator().manual_seed(SEED), dtype=torch.float64
    )
    known = weight.cpu().double()
    append_rows(backbone, known.mean(0) + known.std(0) * draws)


@torch.no_grad()
def append_rows(backbone: Backbone, rows: torch.Tensor) -> None:
    """Append these rows [count, width] to the token embedding, in place."""
    model: Any = backbone.model
    old = _embedding(backbone)
    weight = old.weight.detach()
    new = nn.Embedding.from_pretrained(
        torch.cat([weight, rows.to(weight)]), freeze=not old.weight.requires_grad, padding_idx=old.padding_idx
    )
    model.set_input_embeddings(new.train(old.training))
    model.config.vocab_size = new.num_embeddings


def _embedding(backbone: Backbone) -> nn.Embedding:
    model: Any = backbone.model
    found: nn.Embedding = model.get_input_embeddings()
    return found
