"""Stacked low-rank adapters: K trials on one frozen backbone, one base product for all of them.

The backward pass of `lingo.packed_linear` gives G in the place of Q's gradient; those of Q and Λ follow from it for all
sites at once: dQ = s·Λ·G and dΛ = s·⟨G, Q⟩ row by row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lingo.dropout import Draws, Masks
from lingo.layout import Group, Input, Layout, Site
from lingo.methods.base import Matrix
from lingo.optimiser import Part
from lingo.packed_linear import Dropped, Lengths, PackedLinear
from lingo.principal import principal
from lingo.slot import Slot
from lingo.streams import stream

ALIGNED = {"cpu": 1, "cuda": 8}
"""Ranks in a product are a multiple of it, as far as the pack has them: cuBLAS wants rows of 16 bytes. What is added is
zero."""


def padded_rank(rank: int, device: torch.device) -> int:
    """The next multiple of `ALIGNED`; other accelerators are taken for GPUs."""
    multiple = ALIGNED["cpu" if device.type == "cpu" else "cuda"]
    return -(-rank // multiple) * multiple


FLAT = ("theta", "grad", "keep", "unit", "learn", "valid")
"""Tensors of a bank whose rows a layout divides."""


@dataclass
class _Arrangement:
    """Some rows as the modules use them.

    Attributes:
        rows, widths: Which rows, and how many ranks each site uses of them.
        in_place: Whether P and the gradients are views of the flat tensors.
        buffers: P, Q̂ and the gradients of P and G of each group, [M, rows, …].
        views: The same of each site, by its number.
        sites: How many sites use an input.
        traits: Of the rows' slots, see `lingo.slot.Slot.traits`.
        origins, lengths: What the modules have of these names, by the site's number.
        masks: Those of these inputs, once they are needed.
    """

    rows: slice
    widths: list[int]
    in_place: bool
    buffers: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)
    views: dict[int, tuple[Any, Any, Any, Any]] = field(default_factory=dict)
    sites: dict[Input, int] = field(default_factory=dict)
    masks: Masks | None = None
    traits: frozenset[str] = frozenset()
    origins: dict[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)
    lengths: dict[int, Lengths] = field(default_factory=dict)


class AdapterBank:
    """The adapters of all slots: flat parameters, flat gradients, and the modules that use them.

    Args:
        model: The frozen backbone; its adapted linear layers are replaced until `detach`.
        layout: Segments of a row.
        inputs: What the sites read, for dropout.
        capacity: K, rows of the flat tensors.
        dtype: Of parameters and gradients (float32, or float64 for exactness tests).
    """

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        inputs: Sequence[Input],
        *,
        capacity: int,
        dtype: torch.dtype,
    ) -> None:
        weight = next(model.parameters())
        self.model, self.layout, self.capacity = model, layout, capacity
        self.device, self.compute_dtype = weight.device, weight.dtype
        new: dict[str, Any] = {"device": self.device, "dtype": dtype}
        self.theta = torch.zeros(capacity, layout.size, **new)
        # One column more: the slot's loss travels with its gradient in the data-parallel reduction.
        self.grad = torch.zeros(capacity, layout.size + 1, **new)
        self.keep = torch.zeros(capacity, layout.ranks, **new)
        """1 where the forward pass uses λ, 0 where it is masked."""
        self.unit = torch.zeros(capacity, layout.ranks, **new)
        """1 where the singular value is fixed at one (LoRA), else 0."""
        self.learn = torch.zeros(capacity, layout.ranks, **new)
        """1 where λ receives a gradient."""
        self.valid = torch.zeros(capacity, layout.ranks, **new)
        """1 where the slot has this rank of this site at all."""
        self.lacking = torch.zeros(capacity, 1, **new)
        """1 where W0 is without its largest singular values (PiSSA)."""
        self.scaled, self.measured = (torch.zeros(capacity, 1, **new) for _ in range(2))
        """1 where P and Q are fixed and the numbers of outputs scale Q (VeRA), or are lengths of rows (DoRA)."""
        self._anchor = torch.zeros((), device=self.device, dtype=self.compute_dtype, requires_grad=True)
        self._dropped = {one: Dropped() for one in inputs}
        dropped = {path: held for one, held in self._dropped.items() for path in one.paths}
        self._modules = {site.path: self._replace(site, dropped[site.path]) for site in layout.sites}
        self._kept: dict[tuple[int, int], _Arrangement] = {}
        self._now = _Arrangement(slice(0, 0), [0] * len(layout.sites), in_place=False)

    # --- the modules ----------------------------------------------------------------------------------

    def _replace(self, site: Site, dropped: Dropped) -> PackedLinear:
        parent, name = self._parent(site.path)
        packed = PackedLinear(getattr(parent, name), self._anchor, dropped)
        setattr(parent, name, packed)
        return packed

    def _parent(self, path: str) -> tuple[nn.Module, str]:
        parent, _, name = path.rpartition(".")
        return self.model.get_submodule(parent), name

    def detach(self) -> None:
        """Put the frozen layers back in place."""
        for path, packed in self._modules.items():
            parent, name = self._parent(path)
            setattr(parent, name, packed.base)

    def initialise(self, slot: Slot) -> None:
        """Write a new trial's factors into its (zeroed) row, drawn from its own stream in layer order."""
        layout, rank, row = self.layout, slot.rank, slice(slot.row, slot.row + 1)
        kind, generator = slot.config.kind, stream(slot.config.seed, "init")
        paths = [path for path in layout.order if path in slot.paths]
        sites = [layout.site(path) for path in paths]
        modules = [self._modules[path] for path in paths]
        matrices = [
            Matrix(module.base, site.d_in, site.d_out, lambda module=module: module.weight)  # type: ignore[misc]
            for site, module in zip(sites, modules, strict=True)
        ]
        for site, first in zip(sites, kind.start(slot.config, matrices, generator), strict=True):
            p, lam, q = layout.parts(self.theta[row], site)
            p[:, : first.p.shape[1]], q[: len(first.q)] = first.p, first.q
            lam[:rank] = first.lam
            if first.outputs is not None:
                layout.out(self.theta[row], layout.groups[site.group])[0, site.index] = first.outputs
        where = torch.from_numpy(slot.positions(layout)).to(self.device)
        self.valid[slot.row, where] = 1
        for tensor in (self.keep, self.learn) if slot.svd or kind.outputs == "scales" else (self.unit,):
            tensor[slot.row, where] = 1
        self.scaled[slot.row] = float(kind.outputs == "scales")
        self.measured[slot.row] = float(kind.outputs == "lengths")
        self.lacking[slot.row] = float(kind.principal)

    def parts(self, slot: Slot) -> list[Part]:
        """What AdamW moves of a trial's row: of VeRA not P and Q; Q and the head's bias at a rate of their own where
        the method has one. All adapter weights and the head decay, but not its bias, which would be drawn away from the
        log-odds it starts with."""
        layout, config = self.layout, slot.config
        decay, ratio = config.weight_decay, config.kind.rate_ratio(config)
        bias = (slice(layout.bias_start, layout.size), ratio, 0.0)
        if config.kind.outputs == "scales":
            return [(slice(layout.lam_start, layout.bias_start), 1.0, decay), bias]
        if ratio == 1:
            return [(slice(0, layout.bias_start), 1.0, decay), bias]
        starts = [(group.p_start, group.q_start) for group in layout] + [
            (layout.lam_start, layout.bias_start)
        ]
        q = [(before[1], after[0]) for before, after in pairwise(starts)]
        return [
            *((slice(*ends), 1.0, decay) for ends in starts),
            *((slice(*ends), ratio, decay) for ends in q),
            bias,
        ]

    # --- one step -------------------------------------------------------------------------------------

    def arrange(
        self, rows: slice, widths: Sequence[int], traits: frozenset[str] = frozenset(), *, keep: bool
    ) -> None:
        """Point every module at `rows`, using the leading `widths[number]` ranks of a site.

        A site of width 0 is the frozen layer alone. A single row is used in place; several are copied to
        [M, rows, …], since batched products want each site's factors dense.

        Args:
            keep: Whether the copies are held for the next call with these rows, until `forget`.
        """
        now = self._kept.get((rows.start, rows.stop)) or self._arrangement(rows, widths, traits)
        if keep:
            self._kept[rows.start, rows.stop] = now
        self._now = now
        for one, dropped in self._dropped.items():
            dropped.sites = now.sites[one]
        for site in self.layout.sites:
            module = self._modules[site.path]
            module.slots = rows.stop - rows.start
            module.p, module.q, module.grad_p, module.grad_g = now.views[site.number]
            module.origin, module.lengths = now.origins.get(site.number), None
            if module.p is not None and module.q is not None:
                module.views = (module.p.mT, module.q.mT, module.grad_p, module.grad_g)

    def forget(self) -> None:
        """Slots have come, gone or moved, or the layout is another: nothing is arranged any more."""
        self._kept.clear()
        for module in self._modules.values():
            module.p = module.q = module.grad_p = module.grad_g = module.origin = module.lengths = None

    def _arrangement(self, rows: slice, widths: Sequence[int], traits: frozenset[str]) -> "_Arrangement":
        layout, count = self.layout, rows.stop - rows.start
        theta, grad = self.theta[rows], self.grad[rows]
        made = _Arrangement(rows, list(widths), in_place=count == 1 and self.compute_dtype == theta.dtype)
        wide = [min(layout.rank, padded_rank(width, self.device)) for width in widths]
        for group in layout:
            rank = max(1, *(wide[site.number] for site in group.sites))
            new: dict[str, Any] = {"device": self.device, "dtype": self.compute_dtype}
            p_shape = (len(group), count, group.d_in, rank)
            q_shape = (len(group), count, rank, group.d_out)
            if made.in_place:
                p, gp = (layout.p(flat, group).transpose(0, 1) for flat in (theta, grad))
                q = torch.empty(len(group), count, layout.rank, group.d_out, **new)
                gg = layout.q(grad, group).transpose(0, 1)
            else:
                p, q = torch.empty(p_shape, **new), torch.empty(q_shape, **new)
                gp, gg = torch.zeros(p_shape, **new), torch.zeros(q_shape, **new)
            made.buffers.append((p, q, gp, gg))
            for site in group.sites:
                width = wide[site.number]
                at = slice(0, width)
                one = (
                    p[site.index][:, :, at],
                    q[site.index][:, at],
                    gp[site.index][:, :, at],
                    gg[site.index][:, at],
                )
                made.views[site.number] = one if width else (None, None, None, None)
        used = {site.path for site in layout.sites if widths[site.number]}
        made.sites = {one: len(used.intersection(one.paths)) for one in self._dropped}
        made.traits = traits
        if "principal" in traits:
            made.origins = {
                site.number: self._origin(site, rows) for site in layout.sites if widths[site.number]
            }
        return made

    def _origin(self, site: Site, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """What of W0 these rows lack at a site, see `PackedLinear.origin`."""
        module, group = self._modules[site.path], self.layout.groups[site.group]
        down, up = (
            part.to(self.compute_dtype) for part in principal(module.base, module.weight, self.layout.rank)
        )
        lacking = self.layout.of_group(self.valid[rows] * self.lacking[rows], group)[:, site.index, None]
        return down, up, lacking[..., : len(up)].to(self.compute_dtype)

    def fold(self, scale: Tensor, share: Tensor | None = None) -> None:
        """Write Q̂ = s·Λ·Q of the arranged rows; `scale` s is [rows, 1], and has in it `share` [rows, 1], one over the
        share of inputs that dropout keeps, or none."""
        now, layout, theta = self._now, self.layout, self.theta[self._now.rows]
        factor = self._factor(now.rows, scale)
        for group, (p, q, _, _) in zip(layout, now.buffers, strict=True):
            whole_p, whole_q = layout.p(theta, group), layout.q(theta, group)
            weight = layout.of_group(factor, group).unsqueeze(-1)
            rank = q.shape[2]
            if "scales" in now.traits:
                whole_q = whole_q * self._scales(now.rows, group)
            folded = (whole_q[:, :, :rank].transpose(0, 1), weight[:, :, :rank].transpose(0, 1))
            if self.compute_dtype == theta.dtype:
                torch.mul(*folded, out=q)
            else:
                q.copy_(folded[0] * folded[1])
            if not now.in_place:
                p.copy_(whole_p[..., :rank].transpose(0, 1))
        if "lengths" in now.traits:
            share = torch.ones_like(scale) if share is None else share
            for site in layout.sites:
                if now.widths[site.number]:
                    now.lengths[site.number] = self._lengths(site, now.rows, scale, share)
                    self._modules[site.path].lengths = now.lengths[site.number]

    def _scales(self, rows: slice, group: Group) -> Tensor:
        """Factors of Q's columns [rows, M, 1, d_out], 1 for slots that have none."""
        own = self.layout.out(self.theta[rows], group)
        return torch.where(self.scaled[rows, :, None] > 0, own, 1.0).unsqueeze(2)

    @torch.no_grad()
    def _lengths(self, site: Site, rows: slice, scale: Tensor, share: Tensor) -> Lengths:
        """‖W0 + s·P Q‖ of each row without a product of W0's size for each slot, and m over it."""
        layout, theta = self.layout, self.theta[rows]
        module, group = self._modules[site.path], layout.groups[site.group]
        weight, s = module.weight.to(theta.dtype), scale / share
        p, q = (part(theta, group)[:, site.index] for part in (layout.p, layout.q))
        plain = weight.square().sum(1)
        across = ((weight @ p).mT * q).sum(1)
        own = ((p.mT @ p @ q) * q).sum(1)
        norm = (plain + 2 * s * across + s * s * own).clamp_min(torch.finfo(theta.dtype).tiny).sqrt()
        here = self.measured[rows] * layout.of_group(self.valid[rows], group)[:, site.index, :1] > 0
        ratio = torch.where(here, layout.out(theta, group)[:, site.index] / norm, 1.0).unsqueeze(1)
        ratio = ratio.to(self.compute_dtype).requires_grad_()
        return Lengths(ratio, torch.where(here, norm, math.inf), share.unsqueeze(2).to(self.compute_dtype))

    def _factor(self, rows: slice, scale: Tensor) -> Tensor:
        """s·Λ of some rows, [rows, R]; Λ is 1 where it is fixed and 0 where it is masked."""
        lam = self.layout.lam(self.theta[rows])
        return torch.addcmul(self.unit[rows], lam, self.keep[rows]).mul_(scale)

    def zero_grad(self) -> None:
        """Clear the gradients of the arranged rows."""
        self.grad[self._now.rows].zero_()
        if not self._now.in_place:
            for _, _, gp, gg in self._now.buffers:
                gp.zero_()
                gg.zero_()

    def collect(self) -> None:
        """Bring the gradients of the arranged rows to `grad`, as written by the backward pass: of P, and G in the place
        of Q."""
        for number, lengths in self._now.lengths.items():
            if lengths.ratio.grad is not None:
                site = self.layout.sites[number]
                found = self.layout.out(self.grad[self._now.rows], self.layout.groups[site.group])
                found[:, site.index] = lengths.ratio.grad[:, 0] / lengths.norm
        if self._now.in_place:
            return
        grad = self.grad[self._now.rows]
        for group, (_, _, gp, gg) in zip(self.layout, self._now.buffers, strict=True):
            p, q = self.layout.p(grad, group), self.layout.q(grad, group)
            p[..., : gp.shape[-1]].copy_(gp.transpose(0, 1))
            q[:, :, : gg.shape[2]].copy_(gg.transpose(0, 1))

    def drop(self, draws: Draws | None = None, width: int = 0) -> None:
        """Set the dropout masks of the next forward pass, of rows of `width` tokens; without `draws` none at all."""
        if draws and self._now.masks is None:
            inputs = [one for one, sites in self._now.sites.items() if sites]
            self._now.masks = Masks(inputs, device=self.device, dtype=self.compute_dtype)
        kept = self._now.masks.draw(draws, width) if draws and self._now.masks else {}
        for one, dropped in self._dropped.items():
            dropped.set(kept.get(one.number))

    def finish(self, grad: Tensor, scale: Tensor, *, scaled: bool = False) -> None:
        """Turn G into the gradients of Q and Λ of the leading rows, in place: dQ = s·Λ·G, dΛ = s·⟨G, Q⟩ where λ
        learns. With `scaled`, of VeRA's rows into those of Λ and b alone: dΛ = ⟨G, Q b⟩, db = Λ·G·Q."""
        rows = slice(0, len(grad))
        layout, theta = self.layout, self.theta[rows]
        factor, lam = self._factor(rows, scale), layout.lam(grad)
        for group in layout:
            g, q = layout.q(grad, group), layout.q(theta, group)
            if scaled:
                by_output = (g * q * layout.of_group(factor, group).unsqueeze(-1)).sum(2)
                layout.out(grad, group).add_(by_output * self.scaled[rows, :, None])
                g.mul_(self._scales(rows, group))
            torch.sum(g * q, dim=-1, out=layout.of_group(lam, group))
            g.mul_(layout.of_group(factor, group).unsqueeze(-1))
        lam.mul_(self.learn[rows] * scale)
        if scaled:
            grad[:, : layout.lam_start].masked_fill_(self.scaled[rows] > 0, 0.0)

    def orthogonality(self, grad: Tensor, weight: Tensor) -> None:
        """Add the gradient of weight/(2M) · Σ (‖PᵀP - I‖_F + ‖QQᵀ - I‖_F), M the slot's adapted matrices.

        d‖S‖_F = 2 P S / ‖S‖_F for S = PᵀP - I, in closed form for all sites at once; 0 where S is 0. `weight` is
        [rows, 1, 1] and already divided by 2M.
        """
        layout, n, rank = self.layout, len(grad), self.layout.rank
        theta, valid = self.theta[:n], self.valid[:n].view(n, -1, rank)
        slope = theta.new_empty(2, valid.shape[1], n, rank, rank)
        found: list[tuple[Group, Tensor, Tensor, Tensor, Tensor]] = []
        for group in layout:
            own = slope[:, group.first : group.first + len(group)].flatten(1, 2)
            # Dense once: a product copies a strided batch each time that it reads it.
            p, q = (part(theta, group).transpose(0, 1).flatten(0, 1) for part in (layout.p, layout.q))
            torch.bmm(p.mT, p, out=own[0])
            torch.bmm(q, q.mT, out=own[1])
            found.append((group, p, q, *own))
        slope.diagonal(dim1=-2, dim2=-1).sub_(valid.transpose(0, 1))
        norm = torch.linalg.matrix_norm(slope, keepdim=True)
        slope.mul_(2 * weight / norm.clamp_min(torch.finfo(slope.dtype).tiny))
        for group, p, q, of_p, of_q in found:
            layout.p(grad, group).add_((p @ of_p).unflatten(0, (len(group), n)).transpose(0, 1))
            layout.q(grad, group).add_((of_q @ q).unflatten(0, (len(group), n)).transpose(0, 1))
