"""The selective scan of Mamba (arXiv:2312.00752, equation 2) in plain PyTorch, exact and differentiable.

    s_t = exp(δ_t A) · s_{t-1} + x_t B_tᵀ,   y_t = s_t C_t,   s_{-1} = 0

No state is kept between forward and backward pass: the backward pass recomputes them. A long sequence is cut into
    chunks that advance in parallel, since a step over one sequence alone is too little work for a device; the state at
each chunk's start then follows from the chunks' own ends, by products of decays, which are all at most 1.
"""

from typing import Any

import torch
from torch import Tensor

STEP = 1 << 18
"""Size of the states of one step from which on more chunks bring no gain."""

STATES = 1 << 27
"""Numbers that the backward pass holds at once, in rows of the batch as far as one alone does not exceed it."""


def selective_scan(delta: Tensor, x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """y [J, N, L, E].

    Args:
        delta: Step sizes, [J, N, L, E], at least 0.
        x: Input to the states, [J, N, L, E]: the input times `delta`.
        a: Rates, [J, E, S], below 0.
        b, c: Input and output vectors, [J, N, L, S].
    """
    found: Tensor = _Scan.apply(delta, x, a, b, c)
    return found


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, delta: Tensor, x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        ctx.save_for_backward(delta, x, a, b, c)
        chunks, steps = _chunks(x, a)
        deltas, xs, bs, cs = (_cut(tensor, chunks, steps) for tensor in (delta, x, b, c))
        rates = a[:, None, None]
        state = _starts(deltas, xs, bs, rates)
        y = torch.empty_like(xs)
        for t in range(steps):
            state = _step(state, t, deltas, xs, bs, rates)
            torch.matmul(state, cs[t].unsqueeze(-1), out=y[t].unsqueeze(-1))
        return _joined(y, x.shape[2])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,), (delta, x, a, b, c) = grads, ctx.saved_tensors
        row = x.shape[0] * x.shape[2] * a.shape[1] * a.shape[2]
        size = max(1, STATES // row)
        parts = []
        for at in range(0, x.shape[1], size):
            rows = slice(at, at + size)
            dy_, delta_, x_, b_, c_ = (tensor[:, rows] for tensor in (dy, delta, x, b, c))
            parts.append(_backward(dy_, delta_, x_, a, b_, c_, rates=ctx.needs_input_grad[2]))
        found = list(zip(*parts, strict=True))
        ddelta, dx, db, dc = (torch.cat(found[i], 1) for i in (0, 1, 3, 4))
        return ddelta, dx, sum(found[2]) if ctx.needs_input_grad[2] else None, db, dc


def _backward(
    dy: Tensor, delta: Tensor, x: Tensor, a: Tensor, b: Tensor, c: Tensor, *, rates: bool
) -> tuple[Tensor, ...]:
    """Gradients of δ, x, A (zeros unless `rates`), B and C."""
    chunks, steps = _chunks(x, a)
    dys, deltas, xs, bs, cs = (_cut(tensor, chunks, steps) for tensor in (dy, delta, x, b, c))
    a_ = a[:, None, None]
    states = [_starts(deltas, xs, bs, a_)]
    for t in range(steps):
        states.append(_step(states[-1].clone(), t, deltas, xs, bs, a_))
    carry = _ends(dys, deltas, cs, a_)
    found = [torch.empty_like(tensor) for tensor in (deltas, xs, bs, cs)]
    ddelta, dx, db, dc = found
    da = torch.zeros_like(a)
    for t in reversed(range(steps)):
        # g is the gradient of the state at t, carry that of the state before it.
        g = carry.addcmul_(dys[t].unsqueeze(-1), cs[t].unsqueeze(-2))
        torch.matmul(dys[t].unsqueeze(-2), states[t + 1], out=dc[t].unsqueeze(-2))
        torch.matmul(g, bs[t].unsqueeze(-1), out=dx[t].unsqueeze(-1))
        torch.matmul(xs[t].unsqueeze(-2), g, out=db[t].unsqueeze(-2))
        carry = g.mul_(_decay(deltas[t], a_))
        change = torch.mul(states[t], carry, out=states[t + 1])  # that state is no longer needed
        torch.sum(change * a_, -1, out=ddelta[t])
        if rates:
            da += (change * deltas[t].unsqueeze(-1)).sum((1, 2))
    ddelta, dx, db, dc = (_joined(tensor, x.shape[2]) for tensor in found)
    return ddelta, dx, da, db, dc


def _chunks(x: Tensor, a: Tensor) -> tuple[int, int]:
    """(chunks, steps of each) of sequences x [J, N, L, E]."""
    joint, rows, length, width = x.shape
    chunks = max(1, min(int(length**0.5), STEP // (joint * rows * width * a.shape[-1])))
    steps = -(-length // chunks)
    return -(-length // steps), steps


def _cut(tensor: Tensor, chunks: int, steps: int) -> Tensor:
    """[J, N, L, W] as [steps, J, N, chunks, W]; zeros at the end, which leave a state unchanged."""
    joint, rows, length, width = tensor.shape
    filled = torch.nn.functional.pad(tensor, (0, 0, 0, chunks * steps - length))
    return filled.view(joint, rows, chunks, steps, width).permute(3, 0, 1, 2, 4).contiguous()


def _joined(tensor: Tensor, length: int) -> Tensor:
    steps, joint, rows, chunks, width = tensor.shape
    return tensor.permute(1, 2, 3, 0, 4).reshape(joint, rows, chunks * steps, width)[:, :, :length]


def _decay(delta: Tensor, a: Tensor) -> Tensor:
    return (delta.unsqueeze(-1) * a).exp_()


def _step(state: Tensor, t: int, delta: Tensor, x: Tensor, b: Tensor, a: Tensor) -> Tensor:
    """The next state, in place."""
    return state.mul_(_decay(delta[t], a)).addcmul_(x[t].unsqueeze(-1), b[t].unsqueeze(-2))


def _starts(delta: Tensor, x: Tensor, b: Tensor, a: Tensor) -> Tensor:
    """State before each chunk, [J, N, chunks, E, S]."""
    steps, joint, rows, chunks, width = x.shape
    ends = x.new_zeros(joint, rows, chunks, width, b.shape[-1])
    if chunks == 1:
        return ends
    for t in range(steps):
        ends = _step(ends, t, delta, x, b, a)
    decay = _decay(delta.sum(0), a)
    found = [torch.zeros_like(ends[:, :, 0])]
    for chunk in range(chunks - 1):
        found.append(found[-1] * decay[:, :, chunk] + ends[:, :, chunk])
    return torch.stack(found, 2)


def _ends(dy: Tensor, delta: Tensor, c: Tensor, a: Tensor) -> Tensor:
    """Gradient that reaches the last state of each chunk from those after it, [J, N, chunks, E, S]."""
    steps, joint, rows, chunks, width = dy.shape
    carry = dy.new_zeros(joint, rows, chunks, width, c.shape[-1])
    if chunks == 1:
        return carry
    for t in reversed(range(steps)):
        carry = carry.addcmul_(dy[t].unsqueeze(-1), c[t].unsqueeze(-2)).mul_(_decay(delta[t], a))
    decay = _decay(delta.sum(0), a)
    found = [torch.zeros_like(carry[:, :, 0])]
    for chunk in range(chunks - 1, 0, -1):
        found.append(found[-1] * decay[:, :, chunk] + carry[:, :, chunk])
    return torch.stack(found[::-1], 2)
