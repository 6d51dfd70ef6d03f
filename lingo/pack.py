"""A pack: up to K trials trained together on one backbone, each exactly as if alone.

`Pack.step` is one training step of all running slots, from the batch to the new masks, in the order of the
paper's Algorithm 1; it reads from top to bottom.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lingo.adapters import AdapterBank
from lingo.admission import fit, misfits
from lingo.backbones import Backbone
from lingo.balance import first_bias
from lingo.batch import Batch, Share, gather
from lingo.data import Split, TaskData
from lingo.full import FullBank
from lingo.heads import apply_head, pooled_states, pooling_of
from lingo.layout import Layout, zeros
from lingo.lengths import blocks_of, overhead_of
from lingo.losses import LOSSES
from lingo.metrics import score
from lingo.optimiser import descend
from lingo.ranks import Allocation, Importance, draw
from lingo.reduce import Reduce, alone
from lingo.sites import inputs_of, linear_shapes, target_paths
from lingo.slot import Slot, StepNumbers, stacked
from lingo.streams import stream
from lingo.trial import Precision, TrialConfig

EVAL_TOKENS = 16_384

_IN_USE: WeakSet[nn.Module] = WeakSet()
"""Models whose layers, or weights, an open pack has taken over."""


class Pack:
    """K slots on one backbone.

    Args:
        backbone: The pretrained model. Its weights are never copied; a full pack trains them in place and
            puts them back on `close`.
        capacity: K.
        max_rank: Largest LoRA rank or b0 that a slot may have.
        max_labels: Largest number of outputs that a slot may have.
        outputs: Whether a slot may train a number of each output of a matrix, as DoRA and VeRA do.
        full: Whether this pack trains every weight (K = 1) instead of adapters.
        precision: How such a pack computes, see `lingo.trial.Precision`; with adapters it is the frozen weights' type.
        dtype: Of trained parameters; float32, or float64 for exactness tests. The frozen weights keep theirs.
        share, reduce: This worker's part of each batch, and the sum over workers.
        micro_batches: Parts in which each batch is computed; more parts need less memory.

    Raises:
        ValueError: If a full pack is to have several slots, or another pack is open on this backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        capacity: int = 1,
        max_rank: int = 16,
        max_labels: int = 2,
        outputs: bool = False,
        full: bool = False,
        precision: Precision = "fp32",
        dtype: torch.dtype = torch.float32,
        share: Share | None = None,
        reduce: Reduce = alone,
        micro_batches: int = 1,
    ) -> None:
        if full and capacity != 1:
            raise ValueError(f"a full fine-tuning pack has one slot, but got capacity={capacity}.")
        self.backbone, self.capacity, self.full, self.dtype = backbone, capacity, full, dtype
        self.autocast = full and precision == "bf16"
        self.share, self.reduce = share or Share(), reduce
        self.micro_batches, self.max_rank = micro_batches, max_rank
        model, width = backbone.model, backbone.hidden_size
        if model in _IN_USE:
            raise ValueError(
                f"a backbone must have one open pack at most, but {backbone.name} has one already; close that one, or "
                "load the backbone once more."
            )
        if full:
            self.layout = Layout({}, rank=0, hidden=width, labels=max_labels, body=FullBank.width(model))
            self.bank: AdapterBank | FullBank = FullBank(model, self.layout, dtype=dtype)
        else:
            self.shapes = linear_shapes(backbone)
            self.layout = Layout(self.shapes, rank=max_rank, hidden=width, labels=max_labels, outputs=outputs)
            self.bank = AdapterBank(model, self.layout, inputs_of(backbone), capacity=capacity, dtype=dtype)
        _IN_USE.add(model)
        try:
            self._allocate_state(capacity, max_labels)
        except BaseException:  # no memory: the backbone is as it was
            self.close()
            raise

    def _allocate_state(self, capacity: int, max_labels: int) -> None:
        """What the slots own beside their parameters."""
        self.slots: list[Slot] = []
        self.device = self.bank.theta.device
        self.moment = torch.zeros_like(self.bank.theta)
        self.square = torch.zeros_like(self.bank.theta)
        self.importance = Importance(self.layout, capacity=capacity, like=self.bank.theta)
        self.loss_sum = zeros(capacity, 1, like=self.bank.theta)
        """Sum of training losses since `take_loss`, [K, 1]; stays on the device."""
        self.lost = zeros(capacity, 1, like=self.bank.theta)
        """Steps since that sum stopped being finite, the first such one included, [K, 1]; stays on the device."""
        self.blocks: list[slice] = []
        """Rows that a step computes together."""
        self.open = torch.zeros(capacity, max_labels, dtype=torch.bool, device=self.device)
        """Which outputs of the head a slot has."""
        self.midway = False
        """Whether a step was broken off while it changed parameters; until then it can be taken again."""
        self.eval_tokens = EVAL_TOKENS
        """Tokens of a batch in `predict`, padding included."""
        self._arranged: slice | None = None
        """The rows at which the modules point."""

    # --- admission --------------------------------------------------------------------------------------

    @property
    def running(self) -> list[Slot]:
        """The slots that `step` trains; they fill the leading rows."""
        return [slot for slot in self.slots if slot.running]

    @property
    def free(self) -> int:
        """Slots that can still be admitted."""
        return self.capacity - len(self.slots)

    def tensors(self) -> dict[str, Tensor]:
        """Everything a slot owns on the device, each [K, …]: a trial is one row of each."""
        bank, importance = self.bank, self.importance
        return {
            "theta": bank.theta,
            "moment": self.moment,
            "square": self.square,
            "sensitivity": importance.sensitivity,
            "uncertainty": importance.uncertainty,
            "keep": bank.keep,
            "unit": bank.unit,
            "learn": bank.learn,
            "valid": bank.valid,
            "loss_sum": self.loss_sum,
            "lost": self.lost,
            "open": self.open,
        } | (
            {name: getattr(bank, name) for name in ("lacking", "scaled", "measured")} if not self.full else {}
        )

    def admit(self, config: TrialConfig, data: TaskData) -> Slot:
        """Take a trial into a free slot, at step 0. Raises `ValueError` with every reason it does not fit."""
        slot = self.place(config, data)
        for name, tensor in self.tensors().items():
            if name not in ("theta", "open") or not self.full:
                tensor[slot.row].zero_()
        self.open[slot.row] = torch.arange(self.layout.labels) < data.num_labels
        self.bank.initialise(slot)
        head = torch.empty(data.num_labels, self.layout.hidden)
        head.normal_(std=0.02, generator=stream(config.seed, "head"))
        self.layout.head(self.bank.theta)[slot.row].zero_()[:, : data.num_labels] = head.t()
        bias = self.layout.head_bias(self.bank.theta)[slot.row].zero_()
        bias[:, : data.num_labels] = torch.from_numpy(first_bias(config, data))
        return slot

    def place(self, config: TrialConfig, data: TaskData) -> Slot:
        """A slot for a trial, its row not yet written. Raises `ValueError` with every reason it does not fit."""
        problems = config.problems()
        if not problems:
            problems = misfits(self, config, data)
        if problems:
            raise ValueError("\n".join(problems))
        paths = () if self.full else target_paths(self.backbone, config.targets)
        slot = Slot(config=config, data=data, paths=paths, row=len(self.slots))
        fit(self, [*self.slots, slot])
        self.slots.append(slot)
        self._order_rows()
        return slot

    def release(self, slot: Slot) -> None:
        """Drop a trial and free its slot; the last row moves into its place."""
        self.slots.remove(slot)
        if slot.row != len(self.slots):
            mover = next(other for other in self.slots if other.row == len(self.slots))
            self._swap(mover.row, slot.row)
            mover.row = slot.row
        self._order_rows()

    def _order_rows(self) -> None:
        """Running slots first, longer sequences before shorter ones: a step works on blocks of leading rows without
        copying them (`lingo.lengths`)."""
        self._arranged = None
        if isinstance(self.bank, AdapterBank):
            self.bank.forget()
        order = sorted(self.slots, key=lambda slot: (not slot.running, -slot.data.usual_length, slot.row))
        for row, slot in enumerate(order):
            if slot.row != row:
                other = next(other for other in self.slots if other.row == row)
                self._swap(slot.row, row)
                slot.row, other.row = row, slot.row
        self.slots = order
        sizes = [(slot.data.usual_length, slot.config.batch_size) for slot in self.running]
        self.blocks = blocks_of(sizes, overhead=overhead_of(self.device))

    def _swap(self, a: int, b: int) -> None:
        for tensor in self.tensors().values():
            held = tensor[a].clone()
            tensor[a] = tensor[b]
            tensor[b] = held

    # --- one training step --------------------------------------------------------------------------------

    def step(self) -> None:
        """Train every running slot by one step. Nothing here waits for the device."""
        slots = self.running
        if not slots:
            return
        numbers = stacked(slots, device=self.device, dtype=self.dtype)
        if isinstance(self.bank, AdapterBank):
            self._adapter_step(self.bank, slots, numbers)
        else:
            self.bank.zero_grad()
            self._backward(slots, slice(0, 1))
            self._descend(slots, self._reduced(self.bank.grad), numbers)
        for slot in slots:
            slot.step += 1
            slot.running = not slot.done
        if any(slot.done for slot in slots):
            self._order_rows()
        self.midway = False

    def _adapter_step(self, bank: AdapterBank, slots: list[Slot], numbers: StepNumbers[Tensor]) -> None:
        """Gradients of the factors, AdamW, importance of every weight, and new masks where a slot allocates."""
        n, traits = len(slots), _traits(slots)
        for rows in self.blocks:
            self._arrange(rows, keep=True)
            bank.fold(numbers.scale[rows], numbers.share[rows])
            bank.zero_grad()
            self._backward(slots[rows], rows)
            bank.collect()
        grad = self._reduced(bank.grad[:n])
        bank.finish(grad, numbers.scale, scaled="scales" in traits)
        if any(slot.svd for slot in slots):
            bank.orthogonality(grad, numbers.orthogonality[:, :, None])
        self._descend(slots, grad, numbers)
        if any(slot.schedule and slot.step + 1 < slot.schedule.last for slot in slots):
            self.importance.update(
                bank.theta[:n],
                grad[:, : self.layout.size],
                numbers.sensitivity_rate,
                numbers.uncertainty_rate,
            )
        if any(slot.allocates() for slot in slots):
            self._allocate(slots, numbers)

    def _backward(self, slots: list[Slot], rows: slice) -> None:
        """Add this worker's gradients of some slots to the bank's, the loss in the last column; each row of the batch
        touches its own slot's parameters alone."""
        for part in self._gather(slots).parts(self.micro_batches):
            losses = self._losses(part, rows)
            losses.sum().backward()
            self.bank.grad[rows, -1] += losses.detach()

    def _reduced(self, grad: Tensor) -> Tensor:
        """Gradients [n, size + 1] of the leading n rows, summed over the workers; adds up the losses."""
        self.reduce(grad)
        self.midway = True
        n = len(grad)
        losses = self.loss_sum[:n].add_(grad[:, -1:])
        self.lost[:n] += (losses - losses) != 0  # of what is not finite the difference is not a number
        return grad

    def _descend(self, slots: Sequence[Slot], grad: Tensor, numbers: StepNumbers[Tensor]) -> None:
        n = len(slots)
        descend(
            slots,
            map(self.bank.parts, slots),
            numbers,
            theta=self.bank.theta[:n],
            grad=grad[:, : self.layout.size],
            moment=self.moment[:n],
            square=self.square[:n],
        )

    def _gather(self, slots: list[Slot]) -> Batch:
        return gather(
            slots,
            share=self.share,
            labels=self.layout.labels,
            device=self.device,
            dtype=self.dtype,
        )

    def _losses(self, batch: Batch, rows: slice) -> Tensor:
        """Loss of each slot of these rows: the mean over its batch, this worker's share of it."""
        if isinstance(self.bank, AdapterBank):
            self.bank.drop(batch.draws, batch.ids.shape[-1])
        logits = self._logits(batch.ids.flatten(0, 1), batch.lengths.flatten(), rows, padded=batch.padded)
        each = torch.zeros_like(batch.weight)
        open_ = self.open[rows, None]
        for kind, (index, labels) in batch.labels.items():
            if index is None:
                each = LOSSES[kind](logits, labels, open_, batch.factors.get(kind))
            else:
                own = LOSSES[kind](logits[index], labels, open_[index], batch.factors.get(kind))
                each = each.index_copy(0, index, own)
        return (each * batch.weight).sum(1)

    def _logits(self, ids: Tensor, lengths: Tensor, rows: slice, *, padded: bool) -> Tensor:
        """[n, B, labels] from ids [n·B, S] and lengths [n·B], n the slots in `rows`."""
        how = [pooling_of(slot.config.pooling, self.backbone.pooling) for slot in self.slots[rows]]
        bf16 = torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext()
        with bf16:
            pooled = pooled_states(self.backbone, ids, lengths, how, padded=padded).to(self.dtype)
        return apply_head(
            pooled.view(rows.stop - rows.start, -1, pooled.shape[-1]), self.layout, self.bank, rows
        )

    def _allocate(self, slots: Sequence[Slot], numbers: StepNumbers[Tensor]) -> None:
        n, bank, layout = len(slots), self.bank, self.layout
        drawn = np.zeros((n, layout.ranks))
        for i, slot in enumerate(slots):
            if slot.allocates() and slot.samples():
                where = slot.positions(layout)
                drawn[i, where] = draw(slot.config, slot.step + 1, ranks=len(where)).numpy()
        event = Allocation(
            now=numbers.allocates,
            budget=numbers.budget,
            drawn=torch.from_numpy(drawn).to(device=self.device, dtype=self.dtype, non_blocking=True),
            regrow=numbers.regrow,
            zero=numbers.zero,
            mask=numbers.mask,
        )
        scores = self.importance.scores(n, bank.valid[:n])
        event.apply(scores, lam=layout.lam(bank.theta[:n]), keep=bank.keep[:n], valid=bank.valid[:n])

    # --- arrangement of the modules -------------------------------------------------------------------------

    def _arrange(self, rows: slice, *, keep: bool) -> None:
        """Point the adapters' modules at these rows, as wide as their slots need; `keep` as `AdapterBank` has it."""
        if isinstance(self.bank, AdapterBank) and self._arranged != rows:
            slots = self.slots[rows]
            self.bank.arrange(rows, self._widths(slots), _traits(slots), keep=keep)
            self._arranged = rows

    def _widths(self, slots: Sequence[Slot]) -> list[int]:
        widths = [0] * len(self.layout.sites)
        for slot in slots:
            for path in slot.paths:
                number = self.layout.site(path).number
                widths[number] = max(widths[number], slot.rank)
        return widths

    # --- evaluation -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(self, slot: Slot, split: Split, *, batch_size: int | None = None) -> NDArray[np.float64]:
        """Logits [rows, labels] of one slot over a split, without dropout; of a regression the values [rows, 1] in
        the user's unit. Rows are computed longest first in batches that depend on the split alone, shared between
        the workers."""
        if isinstance(self.bank, AdapterBank):
            self._arrange(slice(slot.row, slot.row + 1), keep=False)
            self.bank.fold(torch.full((1, 1), slot.scale, device=self.device, dtype=self.dtype))
            self.bank.drop()
        order = np.argsort(-split.lengths, kind="stable")
        out = zeros(len(split), self.layout.labels, like=self.bank.theta)
        mine = order[self.share.index :: self.share.of]
        start = 0
        while start < len(mine):
            size = batch_size or max(1, self.eval_tokens // max(1, int(split.lengths[mine[start]])))
            rows = mine[start : start + size]
            ids, lengths = split.padded(rows, slot.data.pad_id)
            logits = self._logits(
                torch.from_numpy(ids).to(self.device),
                torch.from_numpy(lengths).to(self.device),
                slice(slot.row, slot.row + 1),
                padded=bool(lengths.min() < ids.shape[1]),
            )
            out[torch.from_numpy(rows).to(self.device)] = logits[0]
            start += size
        self.reduce(out)
        self._arranged = None
        return slot.data.scale.restored(out[:, : slot.data.num_labels].double().cpu().numpy())

    def evaluate(self, slot: Slot, split: Split, *, batch_size: int | None = None) -> dict[str, float]:
        """Metrics of one slot over a split, `loss` among them (see `lingo.metrics.score`)."""
        logits = self.predict(slot, split, batch_size=batch_size)
        return score(slot.data.kind, logits, split.labels)

    def summed_loss(self, slot: Slot) -> float:
        """What `take_loss` would return, and leaves."""
        return float(self.loss_sum[slot.row]) * slot.data.scale.square

    def take_loss(self, slot: Slot) -> float:
        """Sum of a slot's training losses since the last call, without the orthogonality term; squared errors are
        in the square of the user's unit. Waits for the device."""
        loss = self.summed_loss(slot)
        self.loss_sum[slot.row] = self.lost[slot.row] = 0
        return loss

    def first_lost(self) -> dict[Slot, int]:
        """The slots whose training loss is no longer finite, and the step since which it is not; waits for the device,
        once."""
        counts = self.lost[: len(self.slots), 0].tolist()
        return {slot: slot.step - int(counts[slot.row]) + 1 for slot in self.slots if counts[slot.row]}

    def close(self) -> None:
        """Put the backbone back as it was."""
        self.bank.detach()
        self.slots.clear()
        _IN_USE.discard(self.backbone.model)


def _traits(slots: Sequence[Slot]) -> frozenset[str]:
    """What any of these slots needs."""
    return frozenset().union(*(slot.traits for slot in slots))
