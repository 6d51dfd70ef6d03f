"""Frozen features: one vector per sequence from a chosen layer of a backbone, for `embed` and for linear probes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lingo.backbones import Backbone
from lingo.data import Split
from lingo.layer_states import layer_vectors
from lingo.predict import BATCH_TOKENS, BATCH_TOKENS_CPU, Encoded
from lingo.prompts import Prompt
from lingo.sequences import Case, reverse_complement, sequence_problem, uniform
from lingo.tokenization import tokenize
from lingo.trial import FeaturePooling


@torch.inference_mode()
def features(
    backbone: Backbone,
    split: Split,
    *,
    depth: float = 1.0,
    pooling: FeaturePooling = "auto",
    rows: NDArray[np.int64] | None = None,
    batch_size: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> NDArray[np.float32]:
    """One vector for each sequence of a split, float32 `[n, H]`.

    Args:
        backbone: Frozen, on its device.
        split: Tokenised for this backbone.
        depth: Share of the layers, above 0; 1 for the output.
        pooling: See `lingo.trial.FEATURE_POOLINGS`.
        rows: The sequences, in the order of the result; `None` for all.
        batch_size: Sequences per batch; by default `lingo.predict.BATCH_TOKENS` tokens.
        progress: Called after each batch with the share done.

    Raises:
        ValueError: see `lingo.layer_states.states_at`.
    """

    device = next(backbone.model.parameters()).device
    wanted = np.arange(len(split)) if rows is None else rows
    order = np.argsort(-split.lengths[wanted], kind="stable")
    start, tokens = 0, BATCH_TOKENS_CPU if device.type == "cpu" else BATCH_TOKENS
    parts = []
    while start < len(order):
        size = batch_size or max(1, tokens // max(1, int(split.lengths[wanted[order[start]]])))
        batch = wanted[order[start : start + size]]
        ids, lengths = (torch.from_numpy(part).to(device) for part in split.padded(batch, backbone.pad_id))
        padded = bool(split.lengths[batch].min() < ids.shape[1])
        parts.append(
            layer_vectors(backbone, ids, lengths, depth, pooling, padded=padded).float().cpu().numpy()
        )
        start += size
        if progress is not None:
            progress(min(1.0, start / len(order)))
    if not parts:
        return np.zeros((0, backbone.hidden_size), dtype=np.float32)
    found = np.concatenate(parts)
    out = np.empty_like(found)
    out[order] = found
    return out


@dataclass(frozen=True, eq=False)
class Embedder:
    """A frozen backbone that turns sequences into vectors, in the two steps of `lingo.predict.Predictor`.

    Attributes:
        backbone: The backbone.
        depth, pooling: As `features` takes them.
        both_strands: Whether the vector is the mean of the sequence's and its reverse complement's.
        prompt: Language prefix and suffix of each sequence.
        max_length: Maximum number of tokens of an input; `None` for the backbone's positions.
        case: Meaning of lower case, see `lingo.sequences`.
    """

    backbone: Backbone
    depth: float = 1.0
    pooling: FeaturePooling = "auto"
    both_strands: bool = False
    prompt: Prompt | None = None
    max_length: int | None = None
    case: Case = "upper"

    @property
    def device(self) -> torch.device:
        """Its device."""
        found: torch.device = next(self.backbone.model.parameters()).device
        return found

    def encode(self, sequences: Sequence[str]) -> Encoded:
        """Tokenise sequences of IUPAC codes. Raises `ValueError` if a text is not a sequence."""
        for number, sequence in enumerate(sequences, 1):
            if problem := sequence_problem(sequence):
                raise ValueError(f"sequence {number}: {problem}")
        texts = [uniform(sequence, self.case) for sequence in sequences]
        if self.both_strands:
            texts += reverse_complement(texts)
        tokenizer: Any = self.backbone.tokenizer
        ids, offsets = tokenize(texts, tokenizer, self.prompt, None)
        most = min(self.max_length or self.backbone.max_length, self.backbone.max_length)
        cut = 0
        if (long := np.diff(offsets) > most).any():
            cut = int(long[: len(sequences)].sum())
            ids, offsets = tokenize(texts, tokenizer, self.prompt, most)
        return Encoded(Split(ids, offsets, np.zeros(len(texts), dtype=np.int64)), len(sequences), cut)

    def compute(
        self,
        encoded: Encoded,
        *,
        batch_size: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> NDArray[np.float64]:
        """Vectors of tokenised sequences, float64 `[n, H]`."""
        found = features(
            self.backbone,
            encoded.split,
            depth=self.depth,
            pooling=self.pooling,
            batch_size=batch_size,
            progress=progress,
        ).astype(np.float64)
        return (found[: encoded.count] + found[encoded.count :]) / 2 if self.both_strands else found

    def probabilities(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """The vectors themselves."""
        return vectors
