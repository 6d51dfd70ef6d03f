"""A frozen linear layer with one low-rank adapter per slot, and its dropout.

The update of a site is W0 + s · P Λ Q (paper section 4.3.2; AdaLoRA, arXiv:2303.10512). With Q̂ = s·Λ·Q folded
once a step for all sites, forward is y = x W0 + (x P) Q̂, and backward needs, per site, only
    dU = g Q̂ᵀ,   dP = xᵀ dU,   G = Uᵀ g   (U = x P),   dx = g W0ᵀ + dU Pᵀ;
the gradients of Q and Λ follow from G for all sites at once (`lingo.adapters`).
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lingo.packed_bits import is_packed, unpacked


class Dropped:
    """The input of one or several sites, as dropout leaves it in one forward pass: computed by the first site that
    reads it, and held until the last one has.

    Attributes:
        sites: How many sites use it.
        kept: Mask [n, B·S, d_in] of this pass; the factor 1/(1 - rate) is part of the folded scale.
    """

    def __init__(self) -> None:
        self.sites = 0
        self.kept: Tensor | None = None
        self._held: tuple[Tensor, Tensor, Tensor] | None = None
        self._left = 0

    def __call__(self, x: Tensor, slots: int) -> tuple[Tensor, Tensor | None]:
        """(x without what is dropped [slots, R, d_in], the mask of these rows or None)."""
        if self._held is not None and self._held[0] is x:
            _, rows, kept = self._held
            self._left -= 1
            self._held = self._held if self._left else None
            return rows, kept
        rows = x.detach().reshape(slots, -1, x.shape[-1])
        if self.kept is None:
            return rows, None
        kept = self.kept
        if kept.shape[1] != rows.shape[1]:  # positions that hold several vectors (strands) share theirs
            kept = kept.repeat_interleave(rows.shape[1] // kept.shape[1], dim=1)
        rows, self._left = rows * kept, self.sites - 1
        self._held = (x, rows, kept) if self._left else None
        return rows, kept

    def set(self, kept: Tensor | None) -> None:
        """The mask of the next pass, or none."""
        self.kept, self._held = kept, None


class PackedLinear(nn.Module):
    """A frozen linear layer with one low-rank adapter per slot.

    Input [n·B, …, d_in] holds the rows of n slots one after the other, B for each; output likewise.
    Without an arrangement (`p` is None) it is the frozen layer alone.
    """

    def __init__(self, base: nn.Module, anchor: Tensor, dropped: Dropped | None = None) -> None:
        super().__init__()
        self.base, self.dropped = base, dropped or Dropped()
        weight = cast(Tensor, base.weight)
        # GPT-2's Conv1D keeps its weight as [d_in, d_out].
        dense = weight if isinstance(base, nn.Linear) else weight.t()
        self._dense = None if is_packed(weight) else (dense, dense.t())
        self.bias = cast(Tensor | None, base.bias)
        self.anchor = anchor
        self.slots = 0
        self.p: Tensor | None = None
        self.q: Tensor | None = None
        self.grad_p: Tensor | None = None
        self.grad_g: Tensor | None = None
        self.origin: tuple[Tensor, Tensor, Tensor] | None = None
        """What of W0 some slots lack: two factors of its largest singular values [d_in, R] and [R, d_out], and which of
        them each slot lacks [n, 1, R]."""
        self.lengths: Lengths | None = None
        """Of slots that learn the lengths of rows."""
        self.views: tuple[Tensor, ...] = ()
        """Pᵀ, Q̂ᵀ and the gradient buffers of P and G, as the backward pass takes them."""

    @property
    def weight(self) -> Tensor:
        """W0 [d_out, d_in]; of 4-bit weights made anew at each call."""
        return self._dense[0] if self._dense else unpacked(cast(Tensor, self.base.weight))

    @property
    def weight_t(self) -> Tensor:
        """W0ᵀ [d_in, d_out]."""
        return self._dense[1] if self._dense else self.weight.t()

    def forward(self, x: Tensor) -> Tensor:
        if self.p is None:
            return F.linear(x, self.weight, self.bias)
        rows, kept = self.dropped(x, self.slots)
        out: Tensor = _LowRank.apply(x.contiguous(), self.anchor, self, rows, kept)
        if self.lengths is not None:
            out = self._of_length(x, out, kept, self.lengths)
        if self.origin is not None:
            down, up, lacking = self.origin
            among = (x @ down).view(self.slots, -1, lacking.shape[-1]) * lacking
            out = out - (among @ up).view(out.shape)
        return out

    def _of_length(self, x: Tensor, low: Tensor, kept: Tensor | None, lengths: "Lengths") -> Tensor:
        """c·(x W0 + low) + b, low the adapter's part and c = m/‖row‖; with dropout only the change takes part in it, as
        in peft: x W0 + b + (c - 1)·drop(x) W0 + c·low."""
        shape, ratio = low.shape, lengths.ratio
        plain, low = F.linear(x, self.weight), low.view(self.slots, -1, shape[-1])
        whole = plain.view(low.shape)
        if kept is None:
            out = ratio * (whole + low)
        else:
            rows = x.reshape(self.slots, -1, x.shape[-1])
            dropped = F.linear(rows * kept * lengths.share, self.weight)
            out = whole + (ratio - 1) * dropped + ratio * low
        return (out if self.bias is None else out + self.bias).view(shape)

    def extra_repr(self) -> str:
        return f"slots={self.slots}"


class _LowRank(torch.autograd.Function):
    """y = x W0ᵀ + b + (drop(x) P) Q̂ for every slot; gradients of the factors go into the bank's buffers.

    The factors are not autograd leaves: their gradients are accumulated in place, as views of one flat
    buffer, which the optimiser and the data-parallel reduction use as it is. `anchor` makes autograd call
    `backward` where x itself needs no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, anchor: Tensor, site: PackedLinear, rows: Tensor, kept: Tensor | None
    ) -> Tensor:
        if site.lengths is None:
            out = F.linear(x, site.weight, site.bias)
        else:
            out = x.new_zeros(*x.shape[:-1], site.weight.shape[0])
        u = torch.bmm(rows, site.p)  # type: ignore[arg-type]
        out.view(site.slots, -1, out.shape[-1]).baddbmm_(u, site.q)  # type: ignore[arg-type]
        ctx.save_for_backward(rows, u)
        # The buffers of this step: a later arrangement must not be mixed in.
        ctx.site, ctx.kept, ctx.alone = site, kept, site.lengths is not None
        ctx.views = site.views
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        rows, u = ctx.saved_tensors
        site, kept, (grad,) = ctx.site, ctx.kept, grads
        p_t, q_t, grad_p, grad_g = ctx.views
        slots = u.shape[0]
        g = grad.reshape(slots, -1, grad.shape[-1])
        du = torch.bmm(g, q_t)
        grad_p.baddbmm_(rows.mT, du)
        grad_g.baddbmm_(u.mT, g)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        dx = torch.zeros_like(rows).view(*grad.shape[:-1], -1) if ctx.alone else F.linear(grad, site.weight_t)
        dx_rows = dx.view(slots, -1, rows.shape[-1])
        if kept is None:
            dx_rows.baddbmm_(du, p_t)
        elif kept.dtype == dx.dtype:
            dx_rows.addcmul_(torch.bmm(du, p_t), kept)
        else:
            dx_rows.add_(torch.bmm(du, p_t).mul_(kept))
        return dx, None, None, None, None


@dataclass
class Lengths:
    """The lengths that some slots learn for the rows of a matrix.

    Attributes:
        ratio: c = m/‖row‖ [n, 1, d_out], 1 for slots that learn none; receives a gradient in training.
        norm: ‖row‖ [n, d_out].
        share: [n, 1, 1], one over the share of inputs that dropout keeps.
    """

    ratio: Tensor
    norm: Tensor
    share: Tensor
