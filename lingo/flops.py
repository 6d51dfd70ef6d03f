"""Floating point operations of training, and the paper's FLOPs-adjusted step (section 4.4)."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from typing import Any

# Element-wise work of the rank allocation, per adapter parameter: each step sensitivity |w·g| (2), its
# average (3), its deviation (2) and that one's average (3); at an allocation the product and the mean (2).
IMPORTANCE_OPS = 10
SCORE_OPS = 2

More = Callable[..., tuple[float, float]]
"""FLOPs forward and backward of one adapted matrix, by `tokens`, `d_in`, `d_out` and `needs_grad`."""

LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen3")
"""Architectures with a gated MLP in two projections."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What of a transformer's shape decides its matrix products.

    Attributes:
        layers, hidden, intermediate: Number of layers, their width, and the width inside the MLP.
        heads, kv_heads, head_dim: Query heads, key and value heads (may be fewer), width of a head.
        gated: Whether the MLP has a gate beside its first projection.
        fused: Whether one projection makes queries, keys and values (GPT-2, DNABERT-2).
        fused_gate: Whether one projection makes the gate and what it gates (DNABERT-2,
            Nucleotide Transformer v2).
        embedding: Width of embeddings and outputs where it differs from `hidden` (OPT-350M), else 0.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    gated: bool = False
    fused: bool = False
    fused_gate: bool = False
    embedding: int = 0

    @property
    def output(self) -> int:
        """Width of the last hidden state."""
        return self.embedding or self.hidden

    def matrices(self) -> list[tuple[tuple[str, ...], int, int]]:
        """(paper names, d_in, d_out) of every matrix of a layer."""
        return [
            *self.attention_inputs(),
            (("W_o",), self.heads * self.head_dim, self.hidden),
            *((("W_f1",), self.hidden, width) for width in self.mlp_inputs()),
            (("W_f2",), self.intermediate, self.hidden),
        ]

    def mixing(self, batch: int, length: int, full: bool) -> tuple[float, float]:
        """FLOPs forward and backward of what mixes positions in a layer; here of attention's two products."""
        forward = 4.0 * batch * length * length * self.heads * self.head_dim
        return forward, 2 * forward

    def element_wise(self, batch: int, length: int, full: bool) -> tuple[float, float]:
        """FLOPs forward and backward of what mixes positions in a layer by no products of matrices."""
        return 0.0, 0.0

    def count_mixing(self, count: "_Count", batch: int, length: int, needs_grad: bool) -> None:
        """Count what mixes positions."""
        for part in (self.mixing, self.element_wise):
            forward, backward = part(batch, length, count.full)
            count.forward += forward
            count.backward += backward if needs_grad else 0

    def count_layer(self, count: "_Count", batch: int, length: int, x: bool) -> bool:
        """Count a layer whose input needs a gradient or not; returns whether its output needs one."""
        inputs = [count.product(names, d_in, d_out, x) for names, d_in, d_out in self.attention_inputs()]
        mixed = any(inputs)
        self.count_mixing(count, batch, length, mixed)
        x |= count.product(("W_o",), self.heads * self.head_dim, self.hidden, mixed)
        first = [count.product(("W_f1",), self.hidden, d_out, x) for d_out in self.mlp_inputs()]
        return x | count.product(("W_f2",), self.intermediate, self.hidden, any(first))

    def attention_inputs(self) -> list[tuple[tuple[str, ...], int, int]]:
        """(paper names, d_in, d_out) of the projections that read a layer's input."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        if self.fused:
            return [(("W_q", "W_k", "W_v"), self.hidden, queries + 2 * keys)]
        return [
            (("W_q",), self.hidden, queries),
            (("W_k",), self.hidden, keys),
            (("W_v",), self.hidden, keys),
        ]

    def mlp_inputs(self) -> list[int]:
        """d_out of each projection that reads the MLP's input."""
        if self.fused_gate:
            return [2 * self.intermediate]
        return [self.intermediate] * (1 + self.gated)


@dataclass(frozen=True, kw_only=True)
class HyenaShape(Shape):
    """HyenaDNA: one projection to x0, x1 and v, and a convolution where attention is.

    Attributes:
        taps: Length of the short filter.
        positions, order: Width of a position's features, and of the MLP that makes the long filter from them.
    """

    taps: int
    positions: int
    order: int

    def mixing(self, batch: int, length: int, full: bool) -> tuple[float, float]:
        """The MLP of the long filters. It depends on no input: it is computed once a step, and its backward pass only
        in full fine-tuning."""
        first = 2.0 * length * self.positions * self.order
        rest = 2.0 * length * self.order * (2 * self.order + self.hidden)
        return first + rest, full * (first + 2 * rest)

    def element_wise(self, batch: int, length: int, full: bool) -> tuple[float, float]:
        """The short filters, and the convolution by FFT: 2.5 n log2 n operations a real transform of n points, 3 n a
        product of spectra."""
        short = 2.0 * self.taps * 3 * self.hidden * batch * length
        from scipy.fft import next_fast_len  # commands that plan nothing start without scipy

        size = next_fast_len(2 * length - 1, real=True)
        transform, product = 2.5 * size * math.log2(max(size, 2)) * self.hidden, 3.0 * size * self.hidden
        convolved = batch * (2 * transform + product)
        backward = short * (1 + full) + convolved + full * (batch * product + transform)
        return short + convolved + transform, backward


@dataclass(frozen=True, kw_only=True)
class MambaShape(Shape):
    """Caduceus: a layer is a bidirectional Mamba between two projections that both directions share.

    `intermediate` is the width inside; heads mean nothing.

    Attributes:
        state, step_rank, taps: Size of a channel's state, width of the step sizes' input, length of the filter.
        strands: Sequences that a layer reads for one: 2 where the reverse complement goes along.
    """

    state: int
    step_rank: int
    taps: int
    strands: int = 1

    def matrices(self) -> list[tuple[tuple[str, ...], int, int]]:
        """(paper names, d_in, d_out) of every matrix of a layer."""
        inner = self.intermediate
        each = [
            (("W_q", "W_k"), inner, self.step_rank + 2 * self.state),
            (("dt_proj",), self.step_rank, inner),
        ]
        return [
            (("W_v", "W_f1"), self.hidden, 2 * inner),
            *each,
            *each,
            (("W_o", "W_f2"), inner, self.hidden),
        ]

    def mixing(self, batch: int, length: int, full: bool) -> tuple[float, float]:
        """Nothing."""
        return 0.0, 0.0

    def element_wise(self, batch: int, length: int, full: bool) -> tuple[float, float]:
        """The filters, and the scans: 9 operations a number of a state, as state-spaces/mamba counts them, and twice
        that backward."""
        channels = 2.0 * self.strands * batch * length * self.intermediate
        filters, scans = 2 * self.taps * channels, 9 * self.state * channels
        return filters + scans, filters * (1 + full) + 2 * scans

    def count_layer(self, count: "_Count", batch: int, length: int, x: bool) -> bool:
        """Count a layer whose input needs a gradient or not; returns whether its output needs one."""
        into, *each, out = self.matrices()
        u = count.product(*into, x, times=self.strands)
        mixed = u
        for projection, step in (each[:2], each[2:]):
            states = count.product(*projection, u, times=self.strands)
            mixed |= count.product(*step, states, times=self.strands) | states
        self.count_mixing(count, batch, length, mixed)
        return x | count.product(*out, mixed, times=self.strands)


OPT_125M = Shape(layers=12, hidden=768, intermediate=3072, heads=12, kv_heads=12, head_dim=64)
_NT_500M = Shape(layers=24, hidden=1280, intermediate=5120, heads=20, kv_heads=20, head_dim=64)
_NT_2_5B = Shape(layers=32, hidden=2560, intermediate=10240, heads=20, kv_heads=20, head_dim=128)


def hyena_shape(
    layers: int, hidden: int, intermediate: int, positions: int = 5, order: int = 64, taps: int = 3
) -> HyenaShape:
    """The shape of a HyenaDNA of these sizes."""
    return HyenaShape(
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        heads=1,
        kv_heads=1,
        head_dim=hidden,
        fused=True,
        taps=taps,
        positions=positions,
        order=order,
    )


def caduceus_shape(
    layers: int, hidden: int, strands: int, expand: int = 2, state: int = 16, taps: int = 4
) -> MambaShape:
    """The shape of a Caduceus of these sizes."""
    return MambaShape(
        layers=layers,
        hidden=hidden,
        intermediate=expand * hidden,
        heads=1,
        kv_heads=1,
        head_dim=hidden,
        state=state,
        step_rank=math.ceil(hidden / 16),
        taps=taps,
        strands=strands,
    )


PUBLISHED: dict[str, Shape] = {
    "opt-125m": OPT_125M,
    "opt-350m": Shape(
        layers=24, hidden=1024, intermediate=4096, heads=16, kv_heads=16, head_dim=64, embedding=512
    ),
    "dnabert-2": Shape(
        layers=12,
        hidden=768,
        intermediate=3072,
        heads=12,
        kv_heads=12,
        head_dim=64,
        gated=True,
        fused=True,
        fused_gate=True,
    ),
    "nt-500m-human-ref": _NT_500M,
    "nt-500m-1000g": _NT_500M,
    "nt-2.5b-1000g": _NT_2_5B,
    "nt-2.5b-multi-species": _NT_2_5B,
    **{
        f"nt-v2-{size}": Shape(
            layers=layers,
            hidden=hidden,
            intermediate=4 * hidden,
            heads=heads,
            kv_heads=heads,
            head_dim=hidden // heads,
            gated=True,
            fused_gate=True,
        )
        for size, layers, hidden, heads in (
            ("50m", 12, 512, 16),
            ("100m", 22, 512, 16),
            ("250m", 24, 768, 16),
            ("500m", 29, 1024, 16),
        )
    },
    "hyenadna-tiny-1k": hyena_shape(2, 128, 512),
    "hyenadna-small-32k": hyena_shape(4, 256, 1024),
    "hyenadna-medium-160k": hyena_shape(8, 256, 1024),
    "hyenadna-medium-450k": hyena_shape(8, 256, 1024),
    "hyenadna-large-1m": hyena_shape(8, 256, 1024),
    "caduceus-ph-131k": caduceus_shape(16, 256, 1),
    "caduceus-ps-131k": caduceus_shape(16, 256, 2),
}
"""Shapes of the known backbones (`lingo.known_models.KNOWN`) from their public configurations, to plan with before they
are on this machine."""


def shape_of(config: Any) -> Shape:
    """The shape of a backbone from its transformers configuration (`backbone.model.config`).

    Raises:
        ValueError: If the architecture has no row in `lingo.families`.
    """
    kind = config.model_type
    if kind == "hyenadna":
        return hyena_shape(
            config.n_layer,
            config.d_model,
            config.d_inner,
            config.emb_dim,
            config.filter_order,
            config.short_filter_order,
        )
    if kind in ("caduceus_ph", "caduceus_ps"):
        return caduceus_shape(
            config.n_layer, config.d_model, config.strands, config.expand, config.d_state, config.d_conv
        )
    kinds = (*LIKE_LLAMA, "bert", "dnabert2", "ntv2", "roberta", "esm", "opt", "gpt2")
    if kind not in kinds:
        raise ValueError(f"`model_type` must be one of {', '.join(sorted(kinds))}, but got {kind!r}.")
    hidden, heads = config.hidden_size, config.num_attention_heads
    if kind == "gpt2":
        intermediate = config.n_inner or 4 * hidden
    else:
        intermediate = config.ffn_dim if kind == "opt" else config.intermediate_size
    embedding = getattr(config, "word_embed_proj_dim", hidden)
    return Shape(
        layers=config.num_hidden_layers,
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or hidden // heads,
        gated=kind in (*LIKE_LLAMA, "dnabert2", "ntv2"),
        fused=kind in ("gpt2", "dnabert2"),
        fused_gate=kind in ("dnabert2", "ntv2"),
        embedding=embedding if embedding != hidden else 0,
    )


@dataclass(frozen=True, kw_only=True)
class StepFlops:
    """Floating point operations of one training step, by part. A multiply-add is two."""

    forward: float = 0.0
    backward: float = 0.0
    adapters_forward: float = 0.0
    adapters_backward: float = 0.0
    orthogonality: float = 0.0
    allocation: float = 0.0
    head: float = 0.0

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return sum(getattr(self, field.name) for field in fields(self))


def step_flops(
    shape: Shape,
    *,
    length: int,
    batch: int = 1,
    num_labels: int = 2,
    full: bool = False,
    targets: Collection[str] = (),
    rank: float = 0.0,
    svd: bool = False,
    delta_T: int = 1,
    more: More | None = None,
) -> StepFlops:
    """FLOPs of one training step, by counting matrix products.

    Per token, a product with a matrix of N weights costs 2N forward, 2N for the gradient of its input and 2N
    for that of its weights; attention over S tokens costs 4·S·heads·head_dim forward and twice that backward
    (Kaplan et al., arXiv:2001.08361, section 2.1; Hoffmann et al., arXiv:2203.15556, appendix F; Chowdhery et
    al., arXiv:2204.02311, appendix B). Here a frozen matrix has no weight gradient, and gradients of
    activations are computed only where an adapted matrix stands before them (arXiv:2106.09685, section 4.2).
    An adapter x·P·Q is two more products of 2·r·d_in and 2·r·d_out. The SVD forms add the orthogonality term
    (arXiv:2303.10512, equation 4: a Gram matrix and its gradient for P and Q, 4·r²·(d_in + d_out)) and the
    importance averages with an allocation every `delta_T` steps (equations 1-3 of the paper, element-wise).

    Ignored: embedding lookup, positions, norms, biases, activation functions, softmax, dropout, residual
    sums, the loss, Λ, the optimiser, the sorting of scores, the half that a causal mask could spare, and what
    fused attention computes again backward. Padding counts like any token.

    Args:
        shape: The backbone's.
        length: Tokens of each sequence (S), padding included.
        batch: Sequences.
        num_labels: Outputs of the linear head, which reads one pooled vector a sequence.
        full: Full fine-tuning: every matrix is trained, and no adapter is.
        targets: Adapted matrices by the paper's names (W_q ... W_f2); empty trains the head alone.
        rank: Rank of every adapter; the mean where they differ.
        svd: Whether adapters are P Λ Q with allocation and orthogonality (AdaLoRA, ARS, Lingo).
        delta_T: Steps between allocations.
        more: What a method does beside LoRA's products, as `lingo.methods.Method.products`.
    """
    count = _Count(tokens=batch * length, full=full, targets=frozenset(targets), rank=rank, more=more)
    x = full  # does the layer's input need a gradient?
    if shape.embedding:
        x = count.product((), shape.embedding, shape.hidden, x)
    for _ in range(shape.layers):
        x = shape.count_layer(count, batch, length, x)
    if shape.embedding:
        x = count.product((), shape.hidden, shape.embedding, x)
    head = 2.0 * batch * shape.output * num_labels
    return StepFlops(
        forward=count.forward,
        backward=count.backward,
        adapters_forward=count.adapters_forward,
        adapters_backward=count.adapters_backward,
        orthogonality=4 * rank * count.adapter_weights if svd else 0.0,
        allocation=(IMPORTANCE_OPS + SCORE_OPS / delta_T) * count.adapter_weights if svd else 0.0,
        head=head * (3 if x else 2),
    )


@dataclass
class _Count:
    """Sums over a model's matrices, in the order in which data passes them."""

    tokens: int
    full: bool
    targets: frozenset[str]
    rank: float
    forward: float = 0.0
    backward: float = 0.0
    adapters_forward: float = 0.0
    adapters_backward: float = 0.0
    adapter_weights: float = 0.0
    more: More | None = None

    def product(
        self, names: tuple[str, ...], d_in: int, d_out: int, needs_grad: bool, *, times: int = 1
    ) -> bool:
        """Count one matrix whose input needs a gradient or not; returns whether its output needs one. It reads `times`
        vectors a token."""
        tokens = self.tokens * times
        base = 2.0 * tokens * d_in * d_out
        self.forward += base
        self.backward += base * (needs_grad + self.full)
        if self.full or self.rank == 0 or not self.targets.intersection(names):
            return needs_grad or self.full
        down, up = (2.0 * tokens * self.rank * d for d in (d_in, d_out))
        self.adapters_forward += down + up
        self.adapters_backward += 2 * up + (1 + needs_grad) * down
        self.adapter_weights += self.rank * (d_in + d_out)
        if self.more is not None:
            forward, backward = self.more(tokens=tokens, d_in=d_in, d_out=d_out, needs_grad=needs_grad)
            self.adapters_forward += forward
            self.adapters_backward += backward
        return True


def flops_adjusted_step(step: float, flops: float, flops_opt125m: float) -> float:
    """Steps of model m that cost as much as `step` steps of OPT-125M.

    I_m = I_OPT-125M · FLOPs_OPT-125M / FLOPs_m (paper section 4.4). Both costs are FLOPs of one step of
    the same kind (`StepFlops.total`).

    Raises:
        ValueError: If a cost is not above 0, or `step` is below 0.
    """
    if step < 0 or flops <= 0 or flops_opt125m <= 0:
        raise ValueError(
            "`step` must be at least 0 and both costs above 0, "
            f"but got step={step}, flops={flops}, flops_opt125m={flops_opt125m}."
        )
    return step * flops_opt125m / flops
