"""New rows of a backbone's embedding, for tokens that its language does not have."""

from typing import Any

import torch
from torch import nn

from lingo.backbones import Backbone

SEED = 20240212
"""Of the new rows: the same in every process, trial and run."""


def rows_of(backbone: Backbone) -> int:
    """Rows of the backbone's token embedding; a tokenizer may use fewer."""
    model: Any = backbone.model
    rows: int = model.get_input_embeddings().num_embeddings
    return rows


@torch.no_grad()
def add_rows(backbone: Backbone, count: int) -> None:
    """Append `count` rows to the token embedding, in place.

    Each value is drawn from a normal distribution with the mean and the standard deviation that the pretrained
    rows have in that column: new tokens are as long as old ones, and unlike each other. The paper does not say
    how they start. They belong to the backbone: full fine-tuning trains them, adapters leave them as they are.
    """
    if not count:
        return
    model: Any = backbone.model
    old: nn.Embedding = model.get_input_embeddings()
    weight = old.weight.detach()
    draws = torch.randn(
        count, weight.shape[1], generator=torch.Generator().manual_seed(SEED), dtype=torch.float64
    )
    known = weight.cpu().double()
    rows = known.mean(0) + known.std(0) * draws
    new = nn.Embedding.from_pretrained(
        torch.cat([weight, rows.to(weight)]), freeze=not old.weight.requires_grad, padding_idx=old.padding_idx
    )
    model.set_input_embeddings(new.train(old.training))
    model.config.vocab_size = new.num_embeddings
