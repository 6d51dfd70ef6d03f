"""Behaviour of a model, determined by a few short rows: for architectures without a row in `lingo.families`.

A pack combines rows of several trials in a batch and replaces linear layers. That is exact only if a row does not
depend on its neighbours or on padding, and if a layer is called as a layer. Both are tested: six forward passes and
one backward pass over two rows of thirteen tokens, on the device and in the type of the weights. Compared rows have
the same shape, so that rounding is the same and the comparison exact.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lingo.architectures import group_by_name
from lingo.checkpoint import BackboneError
from lingo.families import Pooling
from lingo.text_files import one_line

ROWS, TOKENS, SHORT = 2, 13, 7
"""Rows of the probe, their tokens, and tokens of a padded row: a prime, so that a class that pads rows to a multiple
does so."""

SKIPPED = ("experts", "router", "gate", "shared_expert_gate")
"""Parts of paths that are not sites: the tokens of an expert depend on the router, which must not change."""


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """Result of the probe.

    Attributes:
        causal, pooling, hidden_size, matrices: As in `lingo.backbones.Backbone`.
    """

    causal: bool
    pooling: Pooling
    hidden_size: int
    matrices: dict[str, list[str]]


@dataclass
class _Site:
    """Observations of a linear layer in one pass: its inputs [B, S, d_in], and leaves added to its outputs."""

    inputs: list[Tensor] = field(default_factory=list)
    leaves: list[Tensor] = field(default_factory=list)


def probe(name: str, model: nn.Module, tokenizer: Any, *, pad_id: int, rows: int) -> Behaviour:
    """Probe a frozen model in evaluation mode.

    Args:
        name: The backbone, for messages.
        model: Maps ids `[B, S]` and a mask to `last_hidden_state`; its state is restored afterwards.
        tokenizer: Its tokenizer, for ids that occur in text.
        pad_id: Id that pads shorter rows.
        rows: Rows of the token embedding.

    Raises:
        BackboneError: With the reason, if rows depend on neighbours or on padding, a pass cannot be repeated, or no
            linear layer can be adapted.
    """
    return _Probe(name, model, *_words(tokenizer, rows, pad_id), pad_id=pad_id).run(_begins(tokenizer))


def _words(tokenizer: Any, rows: int, pad_id: int) -> tuple[Tensor, Tensor]:
    """Two blocks of ids [ROWS, TOKENS] that differ everywhere, of ordinary tokens if there are enough."""
    special = {*tokenizer.all_special_ids, pad_id}
    ids = [i for i in sorted(tokenizer.get_vocab().values()) if i < rows and i not in special]
    ids = ids if len(ids) > 1 else [i for i in range(rows) if i != pad_id] or [0]
    steps = torch.arange(ROWS * TOKENS)
    mixed = (steps * 7 + steps // 3) % len(ids)
    pick = torch.tensor(ids)
    return pick[mixed].view(ROWS, TOKENS), pick[(mixed + 1) % len(ids)].view(ROWS, TOKENS)


def _begins(tokenizer: Any) -> bool:
    """Whether texts begin with a special token, whose state an encoder's head may read."""
    first = tokenizer("ACGT")["input_ids"][:1]
    return bool(first) and first[0] in (tokenizer.cls_token_id, tokenizer.bos_token_id)


class _Probe:
    def __init__(self, name: str, model: nn.Module, ids: Tensor, others: Tensor, *, pad_id: int) -> None:
        self.name, self.model, self.pad_id = name, model, pad_id
        weight = next(model.parameters())
        self.ids, self.others = ids.to(weight.device), others.to(weight.device)
        self.tight = {torch.float64: 1e-9, torch.float32: 1e-5}.get(weight.dtype, 1e-2)
        self.loose = {torch.float64: 1e-6, torch.float32: 1e-3}.get(weight.dtype, 0.1)
        self.sites = linear_layers(model)

    def run(self, begins: bool) -> Behaviour:
        whole = torch.ones_like(self.ids)
        with torch.no_grad(), self._watched() as first:
            base = self._states(self.ids, whole)
        with torch.no_grad():
            self._same(base, self._states(self.ids, whole), "the same rows twice give different states")
            last = self.ids.clone()
            last[:, -1] = self.others[:, -1]
            causal = _close(base[:, :-1], self._states(last, whole)[:, :-1], self.tight)
            neighbour = torch.cat([self.ids[:1], self.others[1:]])
            with self._watched() as second:
                beside = self._states(neighbour, whole)
            self._same(base[0], beside[0], "a row depends on the rows beside it")
            self._padding(base, causal)
        left_out = self._uses(first, second)
        left_out |= self._gradients([path for path in self.sites if path not in left_out], causal)
        sites = [path for path in self.sites if path not in left_out]
        if not sites:
            reasons = "; ".join(f"{path}: {why}" for path, why in list(left_out.items())[:2])
            self._refuse(
                f"none of its linear layers can be adapted ({reasons or 'there are none in layers'})"
            )
        pooling: Pooling = "last" if causal else "first" if begins else "mean"
        return Behaviour(
            causal=causal, pooling=pooling, hidden_size=base.shape[-1], matrices=group_by_name(sites)
        )

    def _padding(self, base: Tensor, causal: bool) -> None:
        """A short row followed by other tokens, and alone."""
        length = torch.arange(TOKENS, device=self.ids.device)
        mask = (length < SHORT).long().expand(ROWS, -1)
        padded = torch.where(mask.bool(), self.ids, self.pad_id)
        filled = torch.where(mask.bool(), self.ids, self.others)
        given = None if causal else mask
        short = self._states(padded, given)[:, :SHORT]
        self._same(
            short,
            self._states(filled, given)[:, :SHORT],
            "what stands in the padding changes the states before it",
        )
        own = self._states(self.ids[:1, :SHORT], None if causal else mask[:1, :SHORT])
        self._same(short[:1], own, "a row alone and the row padded in a batch differ", self.loose)
        if causal:  # packs pass no mask to causal models
            self._same(base, self._states(self.ids, None), "a mask of ones changes the states", self.loose)

    def _uses(self, first: dict[str, _Site], second: dict[str, _Site]) -> dict[str, str]:
        """Sites that are not called as a layer, with the reason: not once, or not with [B, S, d_in] row by row."""
        left_out = {}
        for path, module in self.sites.items():
            one, two = first[path].inputs, second[path].inputs
            if len(one) != 1 or len(two) != 1:
                left_out[path] = f"is called {len(one)} times a pass, not once"
                continue
            (a,), (b,) = one, two
            if a.shape != b.shape or a.numel() != ROWS * TOKENS * _width(module) or a.shape[0] % ROWS:
                left_out[path] = f"reads {list(a.shape)} from {ROWS} rows of {TOKENS} tokens"
                continue
            a, b = (x.reshape(ROWS, TOKENS, -1) for x in (a, b))
            if not _close(a[0], b[0], self.tight) or torch.equal(a[1], b[1]):
                left_out[path] = "does not read row after row"
        return left_out

    def _gradients(self, paths: list[str], causal: bool) -> dict[str, str]:
        """Sites without a gradient."""
        if not paths:
            return {}
        with torch.enable_grad(), self._watched(paths) as seen:
            try:
                states = self._states(self.ids, None if causal else torch.ones_like(self.ids))
                weight = torch.linspace(-1, 1, states[0].numel(), device=states.device).view(states[0].shape)
                leaves = [seen[path].leaves[0] for path in paths]
                found = torch.autograd.grad((states.float() * weight).sum(), leaves, allow_unused=True)
            except (RuntimeError, IndexError) as error:
                self._refuse(f"no gradient can be computed ({one_line(error)})")
        return {
            path: "no gradient reaches it"
            for path, grad in zip(paths, found, strict=True)
            if grad is None or not grad.isfinite().all() or not grad.any()
        }

    def _states(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        model: Any = self.model
        try:
            states = model(input_ids=ids, attention_mask=mask).last_hidden_state
        except Exception as error:  # a class may require other inputs, with an arbitrary error
            self._refuse(f"it computes no states from token ids and a mask ({one_line(error)})")
        if states is None or states.shape[:2] != ids.shape:
            got = "none" if states is None else f"{list(states.shape)}"
            self._refuse(f"it must give one state a token, {list(ids.shape)}, but gives {got}")
        if not states.isfinite().all():
            self._refuse("its states are not finite")
        held: Tensor = states
        return held

    def _same(self, a: Tensor, b: Tensor, otherwise: str, tolerance: float | None = None) -> None:
        if not _close(a, b, tolerance or self.tight):
            self._refuse(f"{otherwise} (by up to {float((a - b).abs().max()):.1e})")

    def _refuse(self, why: str) -> Any:
        raise BackboneError(
            f"{self.name}: {type(self.model).__name__} cannot be a backbone: {why}; take another model."
        ) from None

    @contextlib.contextmanager
    def _watched(self, added: list[str] | None = None) -> Iterator[dict[str, _Site]]:
        """Record the inputs of all sites, or add a leaf to the outputs of some."""
        seen = {path: _Site() for path in self.sites}

        def watch(site: _Site) -> Callable[..., None]:
            return lambda _, inputs, __: site.inputs.append(inputs[0].detach())

        def add(site: _Site) -> Callable[..., Tensor]:
            def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
                site.leaves.append(torch.zeros_like(output, requires_grad=True))
                return output + site.leaves[-1]

            return hook

        chosen = self.sites if added is None else added
        kind = watch if added is None else add
        hooks = [self.sites[path].register_forward_hook(kind(seen[path])) for path in chosen]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()


def linear_layers(model: nn.Module) -> dict[str, nn.Linear | Conv1D]:
    """Linear layers that may be sites, by path."""
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and _is_layer(path) and not _is_fused(model, path)
    }


def _is_layer(path: str) -> bool:
    parts = path.split(".")
    return any(part.isdigit() for part in parts[:-1]) and not set(parts) & set(SKIPPED)


def _is_fused(model: nn.Module, path: str) -> bool:
    """Whether kernels of Mamba read the weight directly in training mode; peft refuses to adapt it."""
    parent, _, name = path.rpartition(".")
    return name == "out_proj" and "Mamba" in type(model.get_submodule(parent)).__name__


def _width(module: nn.Module) -> int:
    return module.in_features if isinstance(module, nn.Linear) else module.nx  # type: ignore[return-value]


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    scale = max(1e-6, float(a.abs().max()), float(b.abs().max()))
    return float((a.float() - b.float()).abs().max()) <= tolerance * scale
