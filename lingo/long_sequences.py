"""Sequences that exceed a backbone's maximum length: cut at the end, cut to their middle, or read in chunks.

A row in chunks is a row of ids whose length is a multiple of the window: chunk after chunk, each with its own prompt
and special tokens, each exactly one window long. `lingo.heads.pooled_states` computes the chunks as rows of their own
and takes the mean of their pooled states, in training as in prediction; nothing else knows of them.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingo.nucleotides import Units, frame
from lingo.prompts import Prompt
from lingo.sequences import PAIR
from lingo.tokenization import SPACER, pair_joint, tokenize
from lingo.trial import Long
from lingo.vocabulary import spelled

OVERLAP = 8
"""Neighbouring chunks overlap by at least an eighth of a chunk."""

Ids = NDArray[np.int16] | NDArray[np.int32]


def encode(
    sequences: Sequence[str],
    tokenizer: Any,
    prompt: Prompt | None,
    max_length: int | None,
    long: Long = "truncate",
) -> tuple[Ids, NDArray[np.int64]]:
    """Concatenated token ids and offsets `[n + 1]`, as `lingo.tokenization.tokenize`.

    A text that fits is the same for each `long`. With `center` a longer one is the tokens in the middle of its
    sequence, with `chunk` several such pieces, evenly spaced from its first token to its last; each piece has its own
    prompt and special tokens.

    Args:
        sequences: n sequences or pairs.
        tokenizer: The backbone's, or `lingo.nucleotides.Units` of it.
        prompt: Language prefix and suffix of each sequence or piece.
        max_length: Maximum number of tokens of a text or a piece; `None` for no limit.
        long: How longer ones are handled.

    Raises:
        ValueError: If `max_length` leaves no room for a single token of a sequence.
    """
    units = isinstance(tokenizer, Units)
    if long == "truncate" or max_length is None:
        found = tokenizer.tokenize(sequences, prompt, max_length) if units else tokenize(
            sequences, tokenizer, prompt, max_length
        )  # fmt: skip
        return found
    ids, offsets = encode(sequences, tokenizer, prompt, None)
    lengths = np.diff(offsets)
    if not (lengths > max_length).any():
        return ids, offsets
    before, after = frame(tokenizer.tokenizer if units else tokenizer, prompt)
    room = max_length - len(before) - len(after)
    if room < 1:
        raise ValueError(
            f"`max_length` must leave room for a base beside {len(before) + len(after)} tokens of prompt and special "
            f"tokens, but got {max_length}."
        )
    rows: list[Any] = np.split(ids, offsets[1:-1])
    for i in np.flatnonzero(lengths > max_length).tolist():
        inner = _inner(sequences[i], tokenizer)
        if len(inner) > room:
            pieces = [
                [*before, *inner[start : start + room], *after] for start in _starts(len(inner), room, long)
            ]
            rows[i] = list(chain.from_iterable(pieces))
        else:  # the parts of a text have fewer tokens than all of it
            rows[i] = [*before, *inner, *after]
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    flat: Any = np.fromiter(chain.from_iterable(rows), dtype=ids.dtype, count=int(offsets[-1]))
    return flat, offsets


def _starts(tokens: int, room: int, long: Long) -> list[int]:
    """First tokens of the pieces of a sequence of more tokens than `room`."""
    if long == "center":
        return [(tokens - room) // 2]
    stride = max(1, room - room // OVERLAP)
    count = -(-(tokens - room) // stride) + 1
    return [(tokens - room) * i // (count - 1) for i in range(count)]


def _inner(sequence: str, tokenizer: Any) -> list[int]:
    """Ids of a sequence alone, of a pair with what stands between its two."""
    if isinstance(tokenizer, Units):
        return tokenizer.spell(sequence.replace(PAIR, SPACER))
    (text,) = spelled(tokenizer, [sequence])
    text = text.replace(PAIR, pair_joint(tokenizer)) if PAIR in text else text
    tags = getattr(tokenizer, "dna_tags", ("", ""))
    ids: list[int] = tokenizer(tags[0] + text + tags[1], add_special_tokens=False, verbose=False)["input_ids"]
    return ids[1:-1] if tags[0] else ids


def seen(whole: int, kept: int, rows: int, fixed: int, long: Long) -> float:
    """Share of the sequences' tokens that the backbone reads; all of them in chunks.

    Args:
        whole, kept: Tokens of all rows before and after cutting.
        rows, fixed: Rows, and tokens around each.
        long: As in `encode`.
    """
    return 1.0 if long == "chunk" else (kept - rows * fixed) / max(1, whole - rows * fixed)
