"""From an exported folder to predictions: `open_adapter(folder).predict(sequences)`.

The input is built as in training: tokens, prompt, length, pooling and strands are read from the folder's facts.
Adapters are merged into weights of full precision, so that a prediction costs as much as with the backbone alone; with
bfloat16 weights they are computed separately, as in training.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, softmax
from torch import Tensor, nn

from lingo import checkpoint
from lingo.about import PROBE
from lingo.adapter_folder import (
    BEFORE,
    WEIGHTS,
    AdapterError,
    Facts,
    read_facts,
    read_head,
    read_rows,
    tensors_of,
    updates,
)
from lingo.backbones import Backbone, load_backbone
from lingo.card import HEAD, source_of
from lingo.checkpoint import BackboneError
from lingo.data import Split
from lingo.embeddings import append_rows, rows_of
from lingo.heads import pooled_states
from lingo.layer_states import layer_vectors
from lingo.long_sequences import encode
from lingo.nucleotides import units_for
from lingo.packed_linear import PackedLinear
from lingo.quantized import load_frozen
from lingo.sequences import PAIR, Case, reverse_complement, sequence_problem, uniform
from lingo.strands import average_strands
from lingo.text_files import one_line
from lingo.tokenization import first_bases
from lingo.trial import Frozen

Array = NDArray[np.float64]

BATCH_TOKENS, BATCH_TOKENS_CPU = 16_384, 2_048
"""Tokens of a batch, padding included; a CPU is fastest if a layer's activations fit in its cache."""


def open_adapter(
    folder: str | Path,
    backbone: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    frozen: Frozen | None = None,
) -> "Predictor":
    """Load an exported adapter, or an exported merged model, on its backbone.

    Args:
        folder: An export: `lingo.json`, the weights and, for adapters, `adapter_config.json`.
        backbone: Present location of its backbone: a folder, hub id or known name; `None` for the former one. Not for
            merged models.
        device: Device of the computation.
        frozen: Number type of the backbone's weights; `None` for that of training.

    Raises:
        AdapterError: If the folder is not a complete export, the backbone is not the adapter's, or this machine does
            not support the number type.
        BackboneError: If the backbone cannot be loaded.
    """
    facts = read_facts(Path(folder))
    if facts.layout == "merged":
        if backbone is not None:
            raise AdapterError(f"{folder}: is a merged model, which needs no backbone, but got {backbone}.")
        return _open_merged(facts, device)
    found = _load(facts, backbone, device, frozen)
    if found.digest != facts.digest:
        raise AdapterError(
            f"{folder}: needs the backbone {facts.backbone} with digest {facts.digest[:12]}, but {found.source} has "
            f"digest {found.digest[:12]}: another model, or other files of it."
        )
    if facts.new_tokens:
        append_rows(found, read_rows(facts))
    if facts.layout == PROBE:
        return Predictor(facts, found, *read_head(facts, {}))
    tensors = tensors_of(facts.folder / WEIGHTS)
    head = read_head(facts, tensors)
    model: Any = found.model
    if facts.layout not in ("lora", "adalora"):
        return Predictor(facts, replace(found, model=_with_peft(facts, model, tensors)), *head)
    prefixes = (f"{model.base_model_prefix}.", "") if facts.head != HEAD else ("",)
    for path, p, q in updates(facts, tensors, prefixes):
        _adapt(facts, model, path, p, q)
    return Predictor(facts, found, *head)


def _load(
    facts: Facts, backbone: str | Path | None, device: str | torch.device, frozen: Frozen | None
) -> Backbone:
    """Load the backbone from the given location, or else from its former or moved one."""
    name, revision = source_of(facts.place) if backbone is None else (backbone, None)
    try:
        if frozen or facts.dtype == "4bit":
            return load_frozen(name, frozen or "4bit", device=device, revision=revision)
        return load_backbone(name, device=device, dtype=getattr(torch, facts.dtype), revision=revision)
    except BackboneError as error:
        if backbone is not None:
            raise
        raise AdapterError(
            f"{facts.folder}: its backbone {facts.backbone} (digest {facts.digest[:12]}) cannot be loaded from "
            f"{facts.source}; give its location with --backbone FOLDER ({'; '.join(error.problems)})"
        ) from None
    except ValueError as error:
        raise AdapterError(
            f"{facts.folder}: was trained on weights in 4 bits; `--frozen bf16` predicts without them, not quite "
            f"the same ({one_line(error)})"
        ) from None


def _open_merged(facts: Facts, device: str | torch.device) -> "Predictor":
    found = load_backbone(facts.folder, device=device)
    if facts.head == HEAD:
        head = read_head(facts, {})
    else:  # of version 0.1.0
        wanted = f"{facts.head}.weight"
        held = ((f"{BEFORE}{name}", tensor) for name, tensor in checkpoint.tensors(facts.folder))
        head = read_head(facts, {name: tensor for name, tensor in held if name == f"{BEFORE}{wanted}"})
    return Predictor(facts, found, *head)


def _with_peft(facts: Facts, model: Any, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The model with an adapter of another kind, loaded and merged by the library peft."""
    try:
        from peft import PeftModel, get_peft_model_state_dict
    except ImportError:
        raise AdapterError(
            f"{facts.folder}: an adapter of the kind {facts.layout} needs the library peft, which is not installed."
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensors that it did not load are found below
        try:
            adapted: Any = PeftModel.from_pretrained(model, str(facts.folder))
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            raise AdapterError(f"{facts.folder}: peft cannot read it ({one_line(error)}).") from None
    held = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    lost = sorted(held.keys() ^ tensors.keys())
    if lost or not all(torch.equal(held[name].cpu(), tensors[name].to(held[name].dtype)) for name in held):
        raise AdapterError(f"{facts.folder}: peft did not load it whole ({', '.join(lost[:3])}).")
    merged: nn.Module = adapted.merge_and_unload()
    return merged.eval().requires_grad_(False)


@torch.no_grad()
def _adapt(facts: Facts, model: Any, path: str, p: Tensor, q: Tensor) -> None:
    """Add P Q̂ to the matrix at `path`: to its weight in full precision, separately in a lower one."""
    try:
        base = model.get_submodule(path)
    except AttributeError:
        raise AdapterError(
            f"{facts.folder}: {facts.backbone} has no matrix {path}, which it adapts."
        ) from None
    weight, inputs_last = base.weight, isinstance(base, nn.Linear)
    shape = [base.in_features, base.out_features] if inputs_last else list(weight.shape)
    if shape != [p.shape[0], q.shape[1]]:
        raise AdapterError(
            f"{facts.folder}: {path} must be {shape}, but its adapter is for {[p.shape[0], q.shape[1]]}."
        )
    if weight.dtype in (torch.float32, torch.float64):
        p, q = (factor.to(weight.device) for factor in (p, q))
        weight.copy_(weight + ((p @ q).t() if inputs_last else p @ q))
        return
    packed = PackedLinear(base, torch.zeros(()))
    to: dict[str, Any] = {"dtype": next(model.parameters()).dtype, "device": weight.device}
    packed.slots, packed.p, packed.q = 1, p[None].to(**to), q[None].to(**to)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, packed)


@dataclass(frozen=True, eq=False)
class Encoded:
    """Tokenised sequences.

    Attributes:
        split: Their ids; with both strands followed by all reverse complements.
        count: Sequences.
        cut: Number of sequences that lost bases at their end.
    """

    split: Split
    count: int
    cut: int


class Predictor:
    """An adapted backbone with its head.

    Attributes:
        facts: The export's metadata.
        backbone: The backbone, adapted.
    """

    def __init__(self, facts: Facts, backbone: Backbone, head: Tensor, bias: Tensor) -> None:
        if head.shape[1] != backbone.hidden_size and facts.layout != PROBE:
            raise AdapterError(
                f"{facts.folder}: the head must read {backbone.hidden_size} numbers, but reads {head.shape[1]}."
            )
        window = facts.max_length or 0 if facts.long == "chunk" else 0
        self.facts, self.backbone = facts, replace(backbone, window=window)
        self.device = next(backbone.model.parameters()).device
        self._head, self._bias = head.t().to(self.device).contiguous(), bias.to(self.device)
        self._tokenizer = _tokenizer(facts, backbone)
        # Letters of the longest token: bases further behind cannot be part of an input of limited length.
        self._letters = max(map(len, backbone.tokenizer.get_vocab()))

    @property
    def case(self) -> Case:
        """Meaning of lower case."""
        return self.facts.case

    @property
    def head(self) -> Tensor:
        """Weight of the head, [labels, hidden]."""
        return self._head.t()

    @property
    def bias(self) -> Tensor:
        """Bias of the head, [labels]."""
        return self._bias

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each output: those of the task, or numbers; `value` for a regression."""
        if self.facts.labels:
            return self.facts.labels
        if self.facts.kind == "regression" and self.facts.num_labels == 1:
            return ("value",)
        return tuple(str(i) for i in range(self.facts.num_labels))

    def predict(self, sequences: Sequence[str], *, batch_size: int | None = None) -> Array:
        """Predict each sequence.

        Args:
            sequences: n sequences of IUPAC nucleotide codes, upper or lower case; of an adapter of pairs both with
                `lingo.sequences.PAIR` between them.
            batch_size: Sequences per batch; by default as many as have `BATCH_TOKENS` tokens (on a CPU
                `BATCH_TOKENS_CPU`).

        Returns:
            float64 `[n, labels]`: probabilities, which add up to 1 over the classes of a classification; the
            values themselves, `[n, targets]`, of a regression. NaN if the model's output is not finite.

        Raises:
            ValueError: If a text is not a sequence, or the prompt leaves no room for it.
        """
        return self.probabilities(self.compute(self.encode(sequences), batch_size=batch_size))

    def logits(self, sequences: Sequence[str], *, batch_size: int | None = None) -> Array:
        """Outputs of the head, float64 `[n, labels]`, of a regression in the unit of its targets; arguments as in
        `predict`."""
        return self.compute(self.encode(sequences), batch_size=batch_size)

    def probabilities(self, logits: Array) -> Array:
        """Softmax, sigmoid or nothing, by the kind of task: `[n, labels]` from logits `[n, labels]`."""
        if self.facts.kind == "classification":
            return np.asarray(softmax(logits, axis=1), dtype=np.float64) if len(logits) else logits
        return np.asarray(expit(logits), dtype=np.float64) if self.facts.kind == "multilabel" else logits

    def encode(self, sequences: Sequence[str]) -> Encoded:
        """Tokenise sequences as in training; needs no device, so it may run beside `compute`."""
        texts = [self._uniform(number, sequence) for number, sequence in enumerate(sequences, 1)]
        if self.facts.both_strands:
            texts += reverse_complement(texts)
        ids, offsets = self._tokenize(texts, None)
        cut, most = 0, self.facts.max_length
        if most is not None and (long := np.diff(offsets) > most).any():
            cut = 0 if self.facts.long == "chunk" else int(long[: len(sequences)].sum())
            ids, offsets = self._tokenize(texts, most)
        return Encoded(Split(ids, offsets, np.zeros(len(texts), dtype=np.int64)), len(sequences), cut)

    def compute(
        self,
        encoded: Encoded,
        *,
        batch_size: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Array:
        """Outputs of the head for tokenised sequences, float64 `[n, labels]`, averaged over strands if so trained.

        `progress` is called after each batch with the share of the sequences done.
        """
        outputs = self._forward(encoded.split, batch_size, progress)
        if not self.facts.both_strands:
            return outputs
        return average_strands(self.facts.kind, outputs[: encoded.count], outputs[encoded.count :])

    @torch.inference_mode()
    def _forward(
        self, split: Split, batch_size: int | None, progress: Callable[[float], None] | None = None
    ) -> Array:
        """Longest first, so that a batch has little padding and the first one needs the most memory."""
        order = np.argsort(-split.lengths, kind="stable")
        out = torch.zeros(len(split), self._head.shape[1], dtype=self._head.dtype, device=self.device)
        start, tokens = 0, BATCH_TOKENS_CPU if self.device.type == "cpu" else BATCH_TOKENS
        while start < len(order):
            size = batch_size or max(1, tokens // max(1, int(split.lengths[order[start]])))
            rows = order[start : start + size]
            ids, lengths = (
                torch.from_numpy(part).to(self.device) for part in split.padded(rows, self.facts.pad_id)
            )
            padded = bool(split.lengths[rows].min() < ids.shape[1])
            pooled = self._pooled(ids, lengths, padded)
            out[torch.from_numpy(rows).to(self.device)] = torch.addmm(
                self._bias, pooled.to(self._head.dtype), self._head
            )
            start += size
            if progress is not None:
                progress(min(1.0, start / len(order)))
        return self.facts.scale.restored(out.double().cpu().numpy())

    def _pooled(self, ids: Tensor, lengths: Tensor, padded: bool) -> Tensor:
        how: Any = self.facts.pooling
        if self.facts.layout == PROBE:
            own: Any = "auto" if how == "strands" else how
            return layer_vectors(self.backbone, ids, lengths, self.facts.depth, own, padded=padded)
        return pooled_states(self.backbone, ids, lengths, [how], padded=padded)

    def _uniform(self, number: int, sequence: str) -> str:
        parts = [sequence] if self.facts.pair is None else sequence.split(PAIR)
        if len(parts) != 1 + (self.facts.pair is not None):
            raise ValueError(f"sequence {number}: must be a pair with {PAIR!r} between its sequences.")
        problem = next(filter(None, map(sequence_problem, parts)), None)
        if problem:
            raise ValueError(f"sequence {number}: {problem}")
        most = self.facts.max_length
        whole = most is None or self.facts.long != "truncate"
        text = sequence if whole else first_bases(sequence, self._letters * (most + 1))  # type: ignore[operator]
        return uniform(text, self.facts.case)

    def _tokenize(
        self, texts: Sequence[str], most: int | None
    ) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
        return encode(texts, self._tokenizer, self.facts.prompt, most, self.facts.long)


def _tokenizer(facts: Facts, backbone: Backbone) -> Any:
    """The tokenizer of training: the backbone's own, or the units of the scheme."""
    recipe = facts.tokenization
    if not recipe:
        return backbone.tokenizer
    units = units_for(recipe["tokenization"], backbone.tokenizer, rows_of(backbone) - facts.new_tokens)
    if units.recipe() != dict(recipe):
        raise AdapterError(
            f"{facts.folder}: its tokens are {dict(recipe)}, but on this backbone they would be {units.recipe()}."
        )
    return units
