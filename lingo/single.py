"""Trials that are not trained in a pack: baselines, and methods of other libraries. One at a time, on one worker.

Data order, learning rates and clipping are those of `lingo.pack`.
"""

import math
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lingo.balance import first_bias, target_weights
from lingo.cnn import OneHotCnn
from lingo.data import Split, TaskData
from lingo.kmers import KmerModel
from lingo.losses import LOSSES
from lingo.methods.rules import RULES
from lingo.quantized import type_name
from lingo.rules import rule_model
from lingo.slot import ADAM_BETAS, ADAM_EPS, Slot
from lingo.streams import stream
from lingo.trial import TrialConfig

EVAL_TOKENS = 65_536


class Single(Protocol):
    """A single trial.

    Attributes:
        config, data: What is trained, on what.
        epoch, step, total_steps, done: Its position in training; `epoch` counts complete passes.
        samples: Sequences trained on so far, repeats counted.
        slow: Whether one step may take minutes.
    """

    config: TrialConfig
    data: TaskData
    slow: bool

    @property
    def epoch(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def total_steps(self) -> int: ...
    @property
    def done(self) -> bool: ...
    @property
    def samples(self) -> int: ...

    def advance(self) -> bool:
        """One training step; True at the end of an epoch."""

    def summed_loss(self) -> float:
        """Sum of the training losses since `take_loss`, of which that is the mean."""

    def take_loss(self) -> float:
        """Mean training loss since the last call; squared errors in the square of the user's unit."""

    def first_lost(self) -> int | None:
        """The step since which the training loss is not finite; `None` while it is. Waits for the device."""

    def predict(self, split: Split) -> NDArray[np.float64]:
        """Logits [rows, labels]; of a regression the values [rows, 1] in the user's unit."""

    def state(self) -> dict[str, Tensor]:
        """A copy of what is trained."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore such a copy."""

    def facts(self) -> dict[str, Any]:
        """Number of trained parameters, and further facts."""


class Network(nn.Module):
    """What `GradientTrial` trains: logits [B, labels] from ids [B, S] and lengths [B]."""

    def logits(self, ids: Tensor, lengths: Tensor, generator: torch.Generator | None) -> Tensor:
        """`generator` draws the dropout masks of a training step; `None` is evaluation."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """Facts beside the number of trained parameters."""
        return {}


class GradientTrial:
    """AdamW on any network: linear warm-up and decay, clipping of the whole gradient, one epoch after another.

    As in `lingo.pack`, the head's bias (`head.bias` of the network) is not decayed, and targets are standardised.
    """

    slow = False

    def __init__(self, network: Network, config: TrialConfig, data: TaskData, *, device: str = "cpu") -> None:
        self.config, self.data, self.device = config, data, torch.device(device)
        self.network = network.to(self.device)
        self._slot = Slot(config=config, data=data, paths=(), row=0)
        self._trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        biases = [p for name, p in self._trained.items() if name.endswith("head.bias")]
        others = [p for name, p in self._trained.items() if not name.endswith("head.bias")]
        self._optimiser = torch.optim.AdamW(
            [
                {"params": others, "weight_decay": config.weight_decay},
                {"params": biases, "weight_decay": 0.0},
            ],
            lr=0.0,
            betas=ADAM_BETAS,
            eps=ADAM_EPS,
        )
        self._open = torch.ones(1, 1, data.num_labels, dtype=torch.bool, device=self.device)
        self._loss, self._steps = torch.zeros((), device=self.device), 0
        self._lost = torch.zeros((), device=self.device)

    @property
    def epoch(self) -> int:
        return self._slot.epoch

    @property
    def step(self) -> int:
        return self._slot.step

    @property
    def total_steps(self) -> int:
        return self._slot.total_steps

    @property
    def done(self) -> bool:
        return self._slot.done

    @property
    def samples(self) -> int:
        rows, size = len(self.data.train), self.config.batch_size
        epochs, rest = divmod(self._slot.step, self._slot.steps_per_epoch)
        return epochs * rows + rest * size

    def advance(self) -> bool:
        slot = self._slot
        rows = slot.batch()
        ids, lengths = self._batch(self.data.train, rows)
        generator = stream(self.config.seed, "dropout", slot.step, device=self.device)
        logits = self.network.logits(ids, lengths, generator)
        labels: NDArray[np.generic] = self.data.train.labels[rows]
        if self.data.kind == "regression":
            labels = self.data.scale.standardised(labels)
        loss = self._mean_loss(logits, labels, target_weights(self.config, self.data, rows))
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.config.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._trained.values(), self.config.max_grad_norm)
        for group in self._optimiser.param_groups:
            group["lr"] = slot.learning_rate()
        self._optimiser.step()
        self._loss, self._steps = self._loss + loss.detach(), self._steps + 1
        self._lost += (self._loss - self._loss) != 0
        slot.step += 1
        return slot.step % slot.steps_per_epoch == 0

    def summed_loss(self) -> float:
        return float(self._loss) * self.data.scale.square

    def take_loss(self) -> float:
        loss, self._loss = float(self._loss) / max(1, self._steps), torch.zeros((), device=self.device)
        self._steps = 0
        return loss * self.data.scale.square

    def first_lost(self) -> int | None:
        lost = int(self._lost)
        return self.step - lost + 1 if lost else None

    @torch.no_grad()
    def predict(self, split: Split) -> NDArray[np.float64]:
        out = np.zeros((len(split), self.data.num_labels))
        for rows in _batches(split):
            logits = self.network.logits(*self._batch(split, rows), None)
            out[rows] = logits.double().cpu().numpy()
        return self.data.scale.restored(out)

    def state(self) -> dict[str, Tensor]:
        return {name: parameter.detach().cpu().clone() for name, parameter in self._trained.items()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        for name, parameter in self._trained.items():
            parameter.copy_(state[name])

    def facts(self) -> dict[str, Any]:
        count = sum(parameter.numel() for parameter in self._trained.values())
        kinds = {type_name(parameter.dtype) for parameter in self._trained.values()}
        counts = {"trained_parameters": count, "used_parameters": count}
        return counts | {"trained_type": "+".join(sorted(kinds))} | self.network.facts()

    def _batch(self, split: Split, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        ids, lengths = split.padded(rows, self.data.pad_id)
        return torch.from_numpy(ids).to(self.device), torch.from_numpy(lengths).to(self.device)

    def _mean_loss(
        self, logits: Tensor, labels: NDArray[np.generic], factors: NDArray[np.float64] | None
    ) -> Tensor:
        return mean_loss(self.data.kind, logits, labels, self._open, factors)


def mean_loss(
    kind: str,
    logits: Tensor,
    labels: NDArray[np.generic],
    open_: Tensor | None = None,
    factors: NDArray[np.float64] | None = None,
) -> Tensor:
    """The training loss of logits [B, labels], one number; `factors` are those of `lingo.balance.target_weights`."""
    truth = torch.from_numpy(np.ascontiguousarray(labels)).to(logits.device)
    truth = truth if kind == "classification" else truth.to(logits.dtype)
    if open_ is None:
        open_ = torch.ones(1, 1, logits.shape[-1], dtype=torch.bool, device=logits.device)
    weights = None if factors is None else torch.from_numpy(factors).to(logits)[None]
    return LOSSES[kind](logits[None], truth[None], open_, weights).mean()  # type: ignore[index]


def _batches(split: Split) -> Iterator[NDArray[np.int64]]:
    """Rows, longest first, so many that a batch has a bounded number of tokens."""
    order = np.argsort(-split.lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, EVAL_TOKENS // max(1, int(split.lengths[order[start]])))
        yield order[start : start + size]
        start += size


class CnnNetwork(Network):
    """`OneHotCnn` with a trial's sizes and its own initial weights."""

    def __init__(self, config: TrialConfig, data: TaskData) -> None:
        super().__init__()
        self.net = OneHotCnn(
            data.num_labels, filters=config.filters, width=config.kernel_width, dropout=config.dropout
        )
        self.net.initialise(stream(config.seed, "init"), torch.from_numpy(first_bias(config, data)))

    def logits(self, ids: Tensor, lengths: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.net(ids, lengths, generator)


class KmerTrial:
    """`KmerModel`, or a rule, as a trial of one step, which is also all of its epochs."""

    slow = True

    def __init__(self, config: TrialConfig, data: TaskData, model: Any) -> None:
        problems = config.problems()
        if problems:
            raise ValueError("\n".join(problems))
        self.config, self.data = config, data
        self.model = model
        self.done = False

    @property
    def epoch(self) -> int:
        return self.config.epochs if self.done else 0

    @property
    def step(self) -> int:
        return self.model.iterations

    @property
    def total_steps(self) -> int:
        return self.model.iterations

    @property
    def samples(self) -> int:
        return self.model.rows if self.done else 0

    def advance(self) -> bool:
        self.model.fit()
        self.done = True
        return True

    def summed_loss(self) -> float:
        """The same as `take_loss`: there is one step."""
        return self.take_loss()

    def take_loss(self) -> float:
        """Mean loss on the training rows of the fitted model."""
        return self.model.train_loss if self.done else math.nan

    def first_lost(self) -> int | None:
        """`None`: there is only one step, whose loss is checked."""
        return None

    def predict(self, split: Split) -> NDArray[np.float64]:
        return self.model.predict(split)

    def state(self) -> dict[str, Tensor]:
        """Nothing: there is one evaluation, which is the best."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Nothing to restore."""

    def facts(self) -> dict[str, Any]:
        count = self.model.parameters
        found: dict[str, Any] = {"trained_parameters": count, "used_parameters": count}
        if self.model.rows < len(self.data.train):
            found["sampled_rows"] = self.model.rows
        return found


def simple_trial(config: TrialConfig, data: TaskData, *, device: str = "cpu") -> Single:
    """A trial of a baseline. Raises `ValueError` with every problem of the configuration."""
    if config.method == "kmer_logreg":
        return KmerTrial(config, data, KmerModel(config, data))
    if config.method in RULES:
        return KmerTrial(config, data, rule_model(config, data))
    return GradientTrial(CnnNetwork(config, data), config, data, device=device)
