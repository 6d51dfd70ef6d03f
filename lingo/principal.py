"""The largest singular values of frozen matrices, computed once for each matrix."""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_KNOWN: "WeakKeyDictionary[nn.Module, tuple[Tensor, Tensor]]" = WeakKeyDictionary()


def principal(layer: nn.Module, weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(V·√S [d_in, r], √S·Uᵀ [r, d_out]), r the least of `rank` and the matrix's own, of Wᵀ = V S Uᵀ: their product is
    the matrix of that rank nearest to Wᵀ.

    Args:
        layer: The frozen layer; the result is cached as long as it exists.
        weight: Its W [d_out, d_in].
        rank: r.
    """
    found = _KNOWN.get(layer)
    if found is None or found[0].shape[1] < min(rank, *weight.shape):
        exact = weight.detach() if weight.dtype == torch.float64 else weight.detach().float()
        u, s, v = torch.linalg.svd(exact, full_matrices=False)
        root = s[:rank].sqrt()
        found = (v[:rank].t() * root).contiguous(), root[:, None] * u[:, :rank].t()
        _KNOWN[layer] = found
    return found[0][:, :rank], found[1][:rank]
