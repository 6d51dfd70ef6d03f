"""Sum over the workers of a data-parallel group: one flat buffer, one reduction per step."""

from collections.abc import Callable

from torch import Tensor
from torch import distributed as dist

Reduce = Callable[[Tensor], None]


def alone(tensor: Tensor) -> None:
    """A single worker: nothing to sum."""


def all_reduce(tensor: Tensor) -> None:
    """Sum in place over the default process group (adapter gradients of all slots in one buffer)."""
    dense = tensor.contiguous()
    dist.all_reduce(dense)
    if dense is not tensor:
        tensor.copy_(dense)
