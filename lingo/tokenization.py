"""Tokenisation with a backbone's own tokenizer. A text that is too long loses bases, never its prompt.

The two sequences of a pair (`lingo.sequences.PAIR`) are read as one text, with the tokenizer's separator between them,
or `SPACER` if it has none. A pair that is too long loses bases at the end of its longer sequence first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingo.prompts import Prompt
from lingo.sequences import PAIR
from lingo.vocabulary import spelled

NO_PROMPT = Prompt("", "")
SPACER = "N" * 6
"""Separator of the sequences of a pair if the tokenizer has none: no 6-mer spans it."""

CHUNK = 4096


def tokenize(
    sequences: Sequence[str], tokenizer: Any, prompt: Prompt | None, max_length: int | None
) -> tuple[NDArray[np.int16] | NDArray[np.int32], NDArray[np.int64]]:
    """Encode each sequence, inside the prompt if there is one.

    A text that fits gets exactly the tokenizer's encoding of the whole text, special tokens as the
    tokenizer adds them. A text of more than `max_length` tokens loses bases at the sequence's end until the
    encoding of prefix + remaining bases + suffix fits; one base more would not fit.

    Args:
        sequences: n sequences or pairs.
        tokenizer: A transformers tokenizer.
        prompt: Prefix and suffix, or `None`.
        max_length: Maximum number of tokens of a text, special tokens included; `None` for no limit.

    Returns:
        Concatenated token ids of all texts, int16 (int32 if the vocabulary needs it) `[tokens]`, and offsets
        int64 `[n + 1]`.

    Raises:
        ValueError: If `max_length` leaves no room for a single base.
    """
    prompt = prompt or NO_PROMPT
    if tags := getattr(tokenizer, "dna_tags", None):  # what marks DNA in a text (Carbon)
        prompt = Prompt(prompt.prefix + tags[0], tags[1] + prompt.suffix)
    if any(PAIR in sequence for sequence in sequences):
        prompt = _PairPrompt(prompt.prefix, prompt.suffix, pair_joint(tokenizer))
    sequences = spelled(tokenizer, sequences)
    dtype = id_dtype(tokenizer)
    parts, lengths = [], []
    for start in range(0, len(sequences), CHUNK):
        rows = _encode([prompt.around(s) for s in sequences[start : start + CHUNK]], tokenizer)
        if max_length is not None:
            _shorten(rows, sequences[start : start + CHUNK], tokenizer, prompt, max_length)
        parts.append(np.fromiter(chain.from_iterable(rows), dtype=dtype))
        lengths += [len(row) for row in rows]
    offsets = np.zeros(len(sequences) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return np.concatenate([np.empty(0, dtype), *parts]), offsets


@dataclass(frozen=True)
class _PairPrompt(Prompt):
    """A prompt around pairs of sequences, with `joint` between the two."""

    joint: str

    def around(self, sequence: str) -> str:
        return super().around(sequence.replace(PAIR, self.joint))


def pair_joint(tokenizer: Any) -> str:
    """Separator of the sequences of a pair: the tokenizer's, if it recognises it in text, else `SPACER`."""
    separator = getattr(tokenizer, "sep_token", None)
    if not separator:
        return SPACER
    one, both = (row for row in _encode(["ACGTACGT", f"ACGT{separator}ACGT"], tokenizer))
    seen = both.count(tokenizer.sep_token_id) - one.count(tokenizer.sep_token_id)
    return str(separator) if seen == 1 else SPACER


def shared_room(first: int, second: int, room: int) -> tuple[int, int]:
    """Lengths of two sequences that fit into `room` together: the longer one is cut first."""
    kept = min(first, max(room - second, (room + 1) // 2))
    return kept, max(0, min(second, room - kept))


def first_bases(sequence: str, count: int) -> str:
    """The first bases of a sequence, or of both sequences of a pair."""
    first, mark, second = sequence.partition(PAIR)
    if not mark:
        return sequence[:count]
    some, others = shared_room(len(first), len(second), count)
    return f"{first[:some]}{PAIR}{second[:others]}"


def id_dtype(tokenizer: Any) -> type[np.int16] | type[np.int32]:
    """The smallest integer type that holds every token id."""
    return np.int16 if max(tokenizer.get_vocab().values()) < 2**15 else np.int32


def _encode(texts: list[str], tokenizer: Any) -> list[list[int]]:
    if not texts:
        return []
    if _is_plain(
        tokenizer
    ):  # takes a third of the time: transformers processes offsets, masks and types of every token
        backend = tokenizer.backend_tokenizer
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = tokenizer.split_special_tokens
        return [row.ids for row in backend.encode_batch_fast(texts)]
    # verbose=False: `_shorten` handles what the tokenizer would warn about.
    found: list[list[int]] = tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"]
    return found


def _is_plain(tokenizer: Any) -> bool:
    """Whether its encoding is that of the library tokenizers, not changed by a custom class."""
    if not getattr(tokenizer, "is_fast", False):
        return False
    from transformers import PreTrainedTokenizerFast as Plain

    own = type(tokenizer)
    return issubclass(own, Plain) and (own.__call__, own._encode_plus) == (Plain.__call__, Plain._encode_plus)


def _shorten(
    rows: list[list[int]], sequences: Sequence[str], tokenizer: Any, prompt: Prompt, max_length: int
) -> None:
    """Replace each row that is too long by the encoding of as many leading bases as fit.

    All such rows are searched at once. `low` bases are known to fit in `low_tokens`, `high` bases need
    `high_tokens`, too many. The first guess cuts at a token border of the whole text, usually the answer; then
    interpolation, since tokens grow almost linearly with bases, with bisection in every fourth round.
    """
    long = np.array([i for i, row in enumerate(rows) if len(row) > max_length], dtype=np.int64)
    if not len(long):
        return
    least = len(_encode([prompt.around("")], tokenizer)[0])
    low, low_tokens = np.zeros_like(long), np.full_like(long, least)
    high, high_tokens = (
        np.array([len(s[i]) - (s is sequences and PAIR in s[i]) for i in long]) for s in (sequences, rows)
    )
    guess = _cuts(
        [prompt.around(sequences[i]) for i in long], tokenizer, high, len(prompt.prefix), max_length
    )
    turn = 0
    while least <= max_length and (open_ := np.flatnonzero(high - low > 1)).size:
        if turn:
            share = (max_length - low_tokens) / (high_tokens - low_tokens) if turn % 4 else 0.5
            guess = low + ((high - low) * share).astype(np.int64)
        bases = np.clip(guess, low + 1, high - 1)[open_]
        tried = _encode(
            [
                prompt.around(first_bases(sequences[long[k]], int(n)))
                for k, n in zip(open_, bases, strict=True)
            ],
            tokenizer,
        )
        for k, n, row in zip(open_, bases, tried, strict=True):
            if len(row) <= max_length:
                low[k], low_tokens[k], rows[long[k]] = n, len(row), row
            else:
                high[k], high_tokens[k] = n, len(row)
        turn += 1
    if least > max_length or not low.all():
        raise ValueError(
            f"`max_length` must leave room for a base beside {least} tokens of prompt and special tokens, "
            f"but got {max_length}."
        )


def _cuts(
    texts: list[str], tokenizer: Any, bases: NDArray[np.int64], start: int, max_length: int
) -> NDArray[np.int64]:
    """Bases `[rows]` that remain if the last tokens of each sequence are removed until it fits.

    The sequence of `bases` letters is preceded by `start` characters.
    """
    cuts = []
    for ends, n in zip(_token_ends(texts, tokenizer), bases, strict=True):
        inside = [end - start for end in ends if start < end <= start + n]
        kept = len(inside) - (len(ends) - max_length)
        cuts.append(inside[kept - 1] if kept > 0 else 1)
    return np.array(cuts)


def _token_ends(texts: list[str], tokenizer: Any) -> list[list[int]]:
    """End of each token in its text, in characters (0 for special tokens)."""
    if tokenizer.is_fast:
        encoded = tokenizer(texts, return_offsets_mapping=True, return_attention_mask=False, verbose=False)
        return [[end for _, end in row] for row in encoded["offset_mapping"]]
    # Tokenizers in Python have no offsets; the tokens of k-mer tokenizers spell the text.
    special = set(tokenizer.all_special_tokens)
    tokens = [tokenizer.convert_ids_to_tokens(row) for row in _encode(texts, tokenizer)]
    return [np.cumsum([0 if token in special else len(token) for token in row]).tolist() for row in tokens]
