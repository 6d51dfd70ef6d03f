"""From hidden states to logits: pooling, and one linear head per slot."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from lingo.backbones import Backbone
from lingo.families import Pooling
from lingo.layout import Layout


class _Bank(Protocol):
    theta: Tensor
    grad: Tensor


def pool(hidden: Tensor, lengths: Tensor, how: Pooling) -> Tensor:
    """[B, H] from hidden states [B, S, H]: that of the last token before padding, of the first, or the mean.

    `strands` is the mean over positions and both strands, [B, H / 2]: the second half of a state is that of the other
    strand with its channels in reverse (Caduceus-PS), so that a reverse complement has the same.
    """
    if how == "first":
        return hidden[:, 0]
    if how == "last":
        index = (lengths - 1)[:, None, None].expand(-1, 1, hidden.shape[-1])
        return hidden.gather(1, index)[:, 0]
    inside = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
    mean = (hidden * inside[..., None]).sum(1) / lengths[:, None].to(hidden.dtype)
    if how == "mean":
        return mean
    first, second = mean.chunk(2, dim=-1)
    return (first + second.flip(-1)) / 2


def pooling_of(how: str, own: Pooling) -> Pooling:
    """What a head reads where `how` of `lingo.trial.HEAD_POOLINGS` is asked for, on a backbone whose heads read `own`.

    Raises:
        ValueError: If the backbone's states have no such vector: those of two strands have no first or last token.
    """
    if how == "auto" or (how, own) == ("mean", "strands"):
        return own
    if own == "strands":
        raise ValueError(f"`pooling` must be auto or mean on a backbone of both strands, but got {how!r}.")
    return cast(Pooling, how)


def pooled_states(
    backbone: Backbone, ids: Tensor, lengths: Tensor, how: Sequence[Pooling] = (), *, padded: bool = True
) -> Tensor:
    """[B, H] from ids [B, S] and lengths [B] of a backbone whose modules may be adapted.

    Rows of more than `backbone.window` tokens are chunks of that length (`lingo.long_sequences`): the mean of theirs.

    Args:
        how: How each of as many equal parts of the rows is pooled; as the backbone has it without.
        padded: As in `states`.
    """
    kinds = tuple(how) if len(set(how)) > 1 else (*how, backbone.pooling)[:1]

    def compute(ids: Tensor, lengths: Tensor, padded: bool) -> Tensor:
        hidden = backbone.states(ids, lengths, padded=padded)
        if len(kinds) == 1:
            return pool(hidden, lengths, kinds[0])
        parts = zip(hidden.chunk(len(kinds)), lengths.chunk(len(kinds)), kinds, strict=True)
        return torch.cat([pool(*part) for part in parts])

    return over_chunks(backbone, ids, lengths, compute, padded=padded)


def over_chunks(
    backbone: Backbone,
    ids: Tensor,
    lengths: Tensor,
    compute: Callable[[Tensor, Tensor, bool], Tensor],
    *,
    padded: bool,
) -> Tensor:
    """[B, H] of `compute`, of rows of more than `backbone.window` tokens the mean over their chunks.

    Args:
        compute: Takes ids [B, S], lengths [B] and whether a row may be padded, and gives [B, H].
    """
    window = backbone.window
    if not window or ids.shape[1] <= window:
        return compute(ids, lengths, padded)
    count = -(-ids.shape[1] // window)
    ids = F.pad(ids, (0, count * window - ids.shape[1]), value=backbone.pad_id)
    first = torch.arange(0, count * window, window, device=ids.device)
    held = (lengths[:, None] - first).clamp(0, window)  # [B, chunks]; none in chunks that only fill up
    each = compute(ids.reshape(-1, window), held.clamp(min=1).flatten(), True).view(len(ids), count, -1)
    inside = (held > 0).to(each.dtype)[..., None]
    return (each * inside).sum(1) / inside.sum(1)


def apply_head(pooled: Tensor, layout: Layout, bank: _Bank, rows: slice) -> Tensor:
    """Logits [n, B, labels] from pooled states [n, B, H] with the head of each slot in `rows`."""
    theta, grad = bank.theta[rows], bank.grad[rows]
    out: Tensor = _Head.apply(
        pooled, layout.head(theta), layout.head_bias(theta), layout.head(grad), layout.head_bias(grad)
    )
    return out


class _Head(torch.autograd.Function):
    """pooled · W + b for every slot; gradients of W and b go into the bank's buffer, as in `lingo.packed_linear`."""

    @staticmethod
    def forward(
        ctx: Any, pooled: Tensor, weight: Tensor, bias: Tensor, grad_weight: Tensor, grad_bias: Tensor
    ) -> Tensor:
        ctx.save_for_backward(pooled)
        ctx.weight, ctx.grad_weight, ctx.grad_bias = weight, grad_weight, grad_bias
        return torch.baddbmm(bias, pooled, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (pooled,), (grad,) = ctx.saved_tensors, grads
        ctx.grad_weight.baddbmm_(pooled.transpose(1, 2), grad)
        ctx.grad_bias.add_(grad.sum(1, keepdim=True))
        return torch.bmm(grad, ctx.weight.transpose(1, 2)), None, None, None, None
