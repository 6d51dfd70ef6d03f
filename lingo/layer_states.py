"""States of a chosen layer of a backbone, and one vector of them for each sequence."""

import torch
from torch import Tensor

from lingo.backbones import Backbone
from lingo.families import Pooling
from lingo.heads import over_chunks, pool
from lingo.masks import unread
from lingo.trial import FeaturePooling


def layer_number(depth: float, layers: int) -> int:
    """The layer at a share `depth` of `layers`, from 1; `layers` itself is the output, after the last norm."""
    return min(layers, max(1, round(depth * layers)))


def pooled(hidden: Tensor, lengths: Tensor, how: FeaturePooling, own: Pooling) -> Tensor:
    """[B, H] from hidden states [B, S, H] of rows with `lengths` [B] tokens; padding is ignored."""
    if how == "max":
        inside = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
        return hidden.masked_fill(~inside[..., None], -torch.inf).amax(dim=1)
    return pool(hidden, lengths, own if how == "auto" else how)


def states_at(
    backbone: Backbone, ids: Tensor, lengths: Tensor, depth: float, *, padded: bool = True
) -> Tensor:
    """Hidden states [B, S, H] of ids [B, S] after the layer at `depth`.

    Raises:
        ValueError: If the backbone does not return states of its layers.
    """
    if depth >= 1:
        return backbone.states(ids, lengths, padded=padded)
    mask = None
    if padded and not backbone.causal:
        mask = (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()
    with unread(causal=backbone.causal):
        out = backbone.model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    states = getattr(out, "hidden_states", None)
    if not states or len(states) < 2:
        raise ValueError(f"{backbone.name} gives no states of its layers; use depth 1.")
    found: Tensor = states[layer_number(depth, len(states) - 1)]
    return found


def layer_vectors(
    backbone: Backbone,
    ids: Tensor,
    lengths: Tensor,
    depth: float,
    how: FeaturePooling,
    *,
    padded: bool = True,
) -> Tensor:
    """[B, H] from ids [B, S] and lengths [B]; rows of more than `backbone.window` tokens as in `pooled_states`."""

    def compute(ids: Tensor, lengths: Tensor, padded: bool) -> Tensor:
        hidden = states_at(backbone, ids, lengths, depth, padded=padded)
        return pooled(hidden, lengths, how, backbone.pooling)

    return over_chunks(backbone, ids, lengths, compute, padded=padded)
