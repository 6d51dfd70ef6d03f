"""One trial trained plainly: autograd, `torch.optim.AdamW`, and NumPy loops over single numbers.

The slow counterpart of `lingo.pack` and `lingo.ranks` in tests, for classification without dropout. It shares
nothing with them but the start values, the order of the data and the draws of equation 4.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lingo.backbones import Backbone
from lingo.pack import Pack
from lingo.ranks import draw
from lingo.slot import Slot

Array = NDArray[np.float64]


class PlainTrial:
    """The trial of a slot of `pack`, at step 0, on a backbone of its own.

    Attributes:
        factors: Module path → (P [d_in, r], λ [r], Q [r, d_out]), in the order in which R is drawn.
        masks: Module path → 0/1 [r], what the forward pass uses of λ.
        sensitivity, uncertainty: As `factors`, the averages of equations 2 and 3.
    """

    def __init__(self, backbone: Backbone, pack: Pack, slot: Slot) -> None:
        self.model, self.config, self.data, self.slot = backbone.model, slot.config, slot.data, slot
        self.total = slot.total_steps
        row = slice(slot.row, slot.row + 1)
        paths = sorted(slot.paths, key=lambda path: pack.layout.site(path).number)
        self.factors = {path: self._start(pack, row, path) for path in paths}
        self.head, self.bias = (
            view(pack.bank.theta[row])[0, :, : self.data.num_labels].clone().requires_grad_(True)
            for view in (pack.layout.head, pack.layout.head_bias)
        )
        self.masks = {path: np.ones(slot.rank) for path in paths}
        self.sensitivity, self.uncertainty = (
            {path: [np.zeros(part.shape) for part in parts] for path, parts in self.factors.items()}
            for _ in "IU"
        )
        rank = self.config.b0 + 1e-5 if slot.svd else self.config.rank
        self.scale = self.config.alpha / rank
        for path in paths:
            self.model.get_submodule(path).register_forward_hook(self._hook(path))
        trained = [part for parts in self.factors.values() for part in parts if part.requires_grad]
        self.trained = [*trained, self.head, self.bias]
        groups = [{"params": self.trained[:-1]}, {"params": [self.bias], "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=self.config.weight_decay)
        self.step_count = 0

    def _start(self, pack: Pack, row: slice, path: str) -> tuple[Tensor, Tensor, Tensor]:
        p, lam, q = pack.layout.parts(pack.bank.theta[row], pack.layout.site(path))
        rank, svd = self.slot.rank, self.slot.svd
        lam = lam[:rank].clone() if svd else torch.ones(rank, dtype=lam.dtype)
        p, q = (part.clone().requires_grad_(True) for part in (p[:, :rank], q[:rank]))
        return p, lam.requires_grad_(svd), q

    def _hook(self, path: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def add(_: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
            p, lam, q = self.factors[path]
            # Straight through: λ̂ is used, and its gradient is that of λ (Algorithm 1).
            used = lam + (lam * torch.from_numpy(self.masks[path]) - lam).detach()
            return out + self.scale * (inputs[0] @ p * used) @ q

        return add

    def logits(self, ids: Tensor, lengths: Tensor) -> Tensor:
        hidden = self.model(input_ids=ids).last_hidden_state
        return hidden[torch.arange(len(ids)), lengths - 1] @ self.head + self.bias

    def step(self, rows: NDArray[np.int64]) -> float:
        """Train on these rows of the training split. Returns the loss without the orthogonality term."""
        ids, lengths = (torch.from_numpy(part) for part in self.data.train.padded(rows, self.data.pad_id))
        loss = F.cross_entropy(self.logits(ids, lengths), torch.from_numpy(self.data.train.labels[rows]))
        self.optimizer.zero_grad()
        (loss + self.config.orthogonality * self.orthogonality()).backward()
        if self.config.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.trained, self.config.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.step()
        self.step_count += 1
        if self.slot.svd:
            self.ranks()
        return float(loss.detach())

    def learning_rate(self) -> float:
        warmup = int(np.ceil(self.config.warmup_ratio * self.total))
        if self.step_count < warmup:
            return self.config.learning_rate * self.step_count / warmup
        return self.config.learning_rate * (self.total - self.step_count) / (self.total - warmup)

    def orthogonality(self) -> Tensor:
        """Mean over all P and Q of ‖PᵀP - I‖_F and ‖QQᵀ - I‖_F."""
        if not self.slot.svd:
            return torch.zeros(())
        grams = [gram for p, _, q in self.factors.values() for gram in (p.t() @ p, q @ q.t())]
        norms = [torch.linalg.matrix_norm(gram - torch.eye(len(gram), dtype=gram.dtype)) for gram in grams]
        return torch.stack(norms).mean()

    # --- ranks ------------------------------------------------------------------------------------------

    def phase(self) -> tuple[int, int]:
        config, total = self.config, self.total
        return int(config.initial_warmup_ratio * total), total - int(config.final_finetune_ratio * total)

    def budget(self, t: int) -> int:
        first, last = self.phase()
        start, end = (rank * len(self.factors) for rank in (self.config.b0, self.config.bT))
        if t <= first:
            return start
        return end if t >= last else int(end + (start - end) * (1 - (t - first) / (last - first)) ** 3)

    def ranks(self) -> None:
        t, (first, last) = self.step_count, self.phase()
        if t < last:
            for path, parts in self.factors.items():
                for k, part in enumerate(parts):
                    average(self.sensitivity[path][k], self.uncertainty[path][k], part.detach().numpy(),
                            part.grad.numpy(), self.config.beta1, self.config.beta2)  # fmt: skip
        if t == last or (first < t < last and t % self.config.delta_T == 0):
            self.allocate(t, final=t == last)

    def allocate(self, t: int, *, final: bool) -> None:
        r = self.slot.rank
        lam = np.concatenate([lam.detach().numpy() for _, lam, _ in self.factors.values()])
        drawn = np.zeros(len(lam), dtype=bool)
        if self.config.kind.sampled and not final:
            drawn = draw(self.config, t, ranks=len(lam)).numpy()
        update = self.config.rank_update or self.config.kind.rank_update
        mask = np.concatenate(list(self.masks.values()))
        lam, mask = equation_4(lam, mask, self.scores(), self.budget(t), drawn, update=update, final=final)
        for i, (path, (_, values, _)) in enumerate(self.factors.items()):
            values.data.copy_(torch.from_numpy(lam[i * r : (i + 1) * r]))
            self.masks[path] = mask[i * r : (i + 1) * r]

    def scores(self) -> Array:
        found = []
        for path in self.factors:
            pairs = zip(self.sensitivity[path], self.uncertainty[path], strict=True)
            found += triplets(*(mean * spread for mean, spread in pairs))
        return np.array(found)


def average(mean: Array, spread: Array, weight: Array, grad: Array, beta1: float, beta2: float) -> None:
    """Equations 1 to 3 for every number of a matrix, in place."""
    for at in np.ndindex(mean.shape):
        importance = abs(weight[at] * grad[at])
        mean[at] = beta1 * mean[at] + (1 - beta1) * importance
        spread[at] = beta2 * spread[at] + (1 - beta2) * abs(importance - mean[at])


def triplets(p: Array, lam: Array, q: Array) -> list[float]:
    """s(λ_i) + mean over the i-th column of P + mean over the i-th row of Q."""
    found = []
    for i in range(len(lam)):
        column = sum(p[j, i] for j in range(len(p))) / len(p)
        row = sum(q[i, j] for j in range(q.shape[1])) / q.shape[1]
        found.append(lam[i] + column + row)
    return found


def equation_4(
    lam: Array, mask: Array, scores: Sequence[float], budget: int, drawn: NDArray[np.bool_], *, update: str,
    final: bool,
) -> tuple[Array, Array]:  # fmt: skip
    """New (λ, forward mask) after one allocation, one singular value at a time."""
    lam, mask = lam.copy(), mask.copy()
    best_first = sorted(range(len(lam)), key=lambda i: -scores[i])
    for place, i in enumerate(best_first):
        inside = place < budget
        if update == "published_code":
            if not inside:
                lam[i] = 0.0  # before the draw, which therefore finds nothing to bring back
            keep = inside and not drawn[i]
        else:
            keep = not drawn[i] if inside else bool(drawn[i])
        if update == "held" or final:
            mask[i] = float(keep)
        if update != "held" and not keep:
            lam[i] = 0.0
    return lam, mask
