"""Positions of a trial's trainable parameters in its row of the pack's flat tensors.

A pack keeps every per-trial quantity (parameters, gradients, optimiser moments, importance averages) as one
flat tensor [K, size]: one row a slot. Copying, saving or resetting a trial is then copying a row, and the
optimiser and the rank allocator treat all trials and all matrices at once.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Site:
    """One adapted matrix of the backbone.

    Attributes:
        path: Module path in the backbone.
        number: Position in the canonical order of all sites (grouped by shape).
        group, index: The group of equal shape that it belongs to, and its place in it.
        d_in, d_out: Width of its input and output.
    """

    path: str
    number: int
    group: int
    index: int
    d_in: int
    d_out: int


@dataclass(frozen=True)
class Input:
    """The input of one or several sites: queries, keys and values of a layer share one.

    Attributes:
        number: Position in layer order, the same for every pack on a backbone.
        paths: Module paths of its sites.
        width: Its columns.
    """

    number: int
    paths: tuple[str, ...]
    width: int


@dataclass(frozen=True)
class Group:
    """All sites of one shape: their factors are stored together, [M, d_in, r] and [M, r, d_out]."""

    sites: tuple[Site, ...]
    d_in: int
    d_out: int
    p_start: int
    q_start: int
    first: int

    def __len__(self) -> int:
        return len(self.sites)


class Layout:
    """Segments of one row: P and Q of every group, Λ, the numbers of outputs, the body, and the head, its bias last.

    Args:
        shapes: Module path → (d_in, d_out) of the adapted matrices, in layer order.
        rank: Rank capacity r of every site.
        hidden: Width of the pooled hidden state that enters the head.
        labels: Output capacity of the head.
        outputs: Whether a number of each output of a matrix may be trained.
        only: The matrices that have a segment, or None for all; their order is that among all.
        body: Numbers at the start of a row that are not adapters: the whole backbone in full fine-tuning.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        *,
        rank: int,
        hidden: int,
        labels: int,
        outputs: bool = False,
        only: Collection[str] | None = None,
        body: int = 0,
    ) -> None:
        self.rank, self.hidden, self.labels = rank, hidden, labels
        by_shape: dict[tuple[int, int], list[str]] = {shape: [] for shape in shapes.values()}
        for path, shape in shapes.items():
            if only is None or path in only:
                by_shape[shape].append(path)
        groups, start, first = [], 0, 0
        for g, ((d_in, d_out), paths) in enumerate(
            (shape, paths) for shape, paths in by_shape.items() if paths
        ):
            sites = tuple(Site(path, first + i, g, i, d_in, d_out) for i, path in enumerate(paths))
            q_start = start + len(paths) * d_in * rank
            groups.append(Group(sites, d_in, d_out, start, q_start, first))
            start = q_start + len(paths) * rank * d_out
            first += len(paths)
        self.groups = tuple(groups)
        self.sites = tuple(site for group in groups for site in group.sites)
        self.order = tuple(path for path in shapes if path in {site.path for site in self.sites})
        """Paths in layer order, in which random initial values are drawn."""
        self.lam_start = start
        self.ranks = first * rank
        """R: singular values of all sites."""
        self.factors = start + self.ranks
        """Width of the adapter part (P, Q, Λ) of a row."""
        self.outputs = outputs
        self.head_start = self.factors + outputs * sum(site.d_out for site in self.sites) + body
        self.bias_start = self.head_start + hidden * labels
        self.size = self.bias_start + labels

    def p(self, flat: Tensor, group: Group) -> Tensor:
        """View [n, M, d_in, r] of the P factors of a group in rows [n, ≥ factors]."""
        return self._view(flat, group.p_start, len(group), group.d_in, self.rank)

    def q(self, flat: Tensor, group: Group) -> Tensor:
        """View [n, M, r, d_out] of the Q factors of a group in rows [n, ≥ factors]."""
        return self._view(flat, group.q_start, len(group), self.rank, group.d_out)

    def lam(self, flat: Tensor) -> Tensor:
        """View [n, R] of the singular values, sites in canonical order."""
        return flat[:, self.lam_start : self.factors]

    def out(self, flat: Tensor, group: Group) -> Tensor:
        """View [n, M, d_out] of the numbers of a group's outputs in rows [n, ≥ size], of a layout with `outputs`."""
        before = sum(len(other) * other.d_out for other in self.groups if other.first < group.first)
        return self._view(flat, self.factors + before, len(group), group.d_out)

    def head(self, flat: Tensor) -> Tensor:
        """View [n, hidden, labels] of the head weights in rows [n, ≥ size]."""
        return self._view(flat, self.head_start, self.hidden, self.labels)

    def head_bias(self, flat: Tensor) -> Tensor:
        """View [n, 1, labels] of the head's bias in rows [n, ≥ size]."""
        return self._view(flat, self.bias_start, 1, self.labels)

    def of_group(self, ranks: Tensor, group: Group) -> Tensor:
        """View [n, M, r] of the singular values [n, R] (or anything of that shape) of one group."""
        start = group.first * self.rank
        return self._view(ranks, start, len(group), self.rank)

    def site(self, path: str) -> Site:
        """The site of a module path. Raises `KeyError` when the path is not adapted."""
        for site in self.sites:
            if site.path == path:
                return site
        raise KeyError(path)

    def parts(self, row: Tensor, site: Site) -> tuple[Tensor, Tensor, Tensor]:
        """(P [d_in, r], λ [r], Q [r, d_out]) of one site in one row [1, ≥ factors]."""
        group = self.groups[site.group]
        lam = self.of_group(self.lam(row), group)
        return (
            self.p(row, group)[0, site.index],
            lam[0, site.index],
            self.q(row, group)[0, site.index],
        )

    def moved(self, flat: Tensor, old: "Layout") -> Tensor:
        """Rows of another layout [n, its size, size + 1, factors or ranks] in this one: what both have, else zero."""
        more = {old.size: self.size, old.size + 1: self.size + 1, old.factors: self.factors}
        new = flat.new_zeros(len(flat), more.get(flat.shape[1], self.ranks))
        whole, rank, groups = flat.shape[1] != old.ranks, min(self.rank, old.rank), old.groups
        held = {site.path: site for site in old.sites}
        for site in self.sites:
            if (was := held.get(site.path)) is None:
                continue
            here, there = self.groups[site.group], groups[was.group]
            ranks, before = (self.lam(new), old.lam(flat)) if whole else (new, flat)
            self.of_group(ranks, here)[:, site.index, :rank] = old.of_group(before, there)[
                :, was.index, :rank
            ]
            if whole:
                self.p(new, here)[:, site.index, :, :rank] = old.p(flat, there)[:, was.index, :, :rank]
                self.q(new, here)[:, site.index, :rank] = old.q(flat, there)[:, was.index, :rank]
            if self.outputs and flat.shape[1] >= old.size:
                self.out(new, here)[:, site.index] = old.out(flat, there)[:, was.index]
        if flat.shape[1] >= old.size:
            new[:, self.head_start :] = flat[:, old.head_start :]
        return new

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    @staticmethod
    def _view(flat: Tensor, start: int, *shape: int) -> Tensor:
        return flat[:, start : start + math.prod(shape)].view(flat.shape[0], *shape)


def zeros(rows: int, width: int, *, like: Tensor) -> Tensor:
    """A zeroed tensor [rows, width] on the device and in the dtype of another."""
    return torch.zeros(rows, width, device=like.device, dtype=like.dtype)
