"""Training losses of the three kinds of task, per row, for slots with heads of different width."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from lingo.data import Kind


def cross_entropy(logits: Tensor, labels: Tensor, open_: Tensor, weights: Tensor | None = None) -> Tensor:
    """[m, B] from logits [m, B, C] and classes [m, B]; `open_` [m, 1, C] is False for outputs the slot lacks.
    `weights` [m, B, C] are what -log p counts of each class in the place of the row's own alone, see
    `lingo.balance.target_weights`."""
    logits = logits.masked_fill(~open_, float("-inf"))
    if weights is not None:
        return -(weights * logits.log_softmax(-1).masked_fill(~open_, 0)).sum(-1)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)


def binary_cross_entropy(
    logits: Tensor, labels: Tensor, open_: Tensor, weights: Tensor | None = None
) -> Tensor:
    """[m, B]: mean over the slot's labels that are known, from logits and 0/1 labels, NaN where unknown, and factors of
    each, [m, B, C]."""
    known = open_ & ~labels.isnan()
    each = F.binary_cross_entropy_with_logits(logits, labels.nan_to_num(), reduction="none") * known
    each = each if weights is None else each * weights
    return each.sum(-1) / known.sum(-1).clamp(min=1)


def squared_error(logits: Tensor, labels: Tensor, open_: Tensor, weights: Tensor | None = None) -> Tensor:
    """[m, B] from the first output [m, B, C] and standardised targets [m, B]; of several targets [m, B, C] the mean."""
    if labels.dim() == logits.dim():
        return ((logits - labels).square() * open_).sum(-1) / open_.sum(-1)
    return (logits[..., 0] - labels).square()


LOSSES: dict[Kind, Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]] = {
    "classification": cross_entropy,
    "multilabel": binary_cross_entropy,
    "regression": squared_error,
}
