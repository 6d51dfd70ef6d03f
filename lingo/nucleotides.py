"""Sequences as nucleotides or 6-mers instead of a backbone's own merges (paper section 2.5).

`one_hot` makes each nucleotide a token, `kmer` each 6-mer as the Nucleotide Transformer cuts them: without
overlap from the left, N alone, and the last 1 to 5 bases of a piece as single bases. If the backbone's vocabulary is
DNA and has these tokens, they are used. Otherwise they get ids after the vocabulary's, with embedding rows made by
`lingo.embeddings.add_rows`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lingo.prompts import Prompt
from lingo.sequences import PAIR
from lingo.tokenization import NO_PROMPT, SPACER, shared_room
from lingo.vocabulary import SAMPLE, reads_language, spelling

Scheme = Literal["one_hot", "kmer"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

K = 6
"""Bases of a k-mer."""

BASES = "ATCGN"
"""Bases in the order of the Nucleotide Transformer's vocabulary."""

PATTERNS: dict[Scheme, re.Pattern[str]] = {
    "one_hot": re.compile("[ACGTN]"),
    "kmer": re.compile(f"[ACGT]{{{K}}}|[ACGTN]"),
}


@dataclass(frozen=True, eq=False)
class Units:
    """The tokens of a scheme and their ids in one backbone.

    Attributes:
        scheme: `one_hot` or `kmer`.
        tokenizer: The backbone's own, for prompt and special tokens.
        ids: Token id of each unit.
        new: Number of embedding rows that the backbone lacks; 0 if its own tokens are used.
    """

    scheme: Scheme
    tokenizer: Any
    ids: dict[str, int]
    new: int

    def spell(self, sequence: str) -> list[int]:
        """Ids of a sequence of A, C, G, T and N."""
        return [self.ids[unit] for unit in PATTERNS[self.scheme].findall(sequence.upper())]

    def _pair(self, pair: str, room: int | None) -> list[int]:
        """Ids of a pair with `SPACER` between its sequences, at most `room`."""
        first, second = map(self.spell, pair.split(PAIR))
        spacer = self.spell(SPACER)
        if room is not None:
            some, others = shared_room(len(first), len(second), max(0, room - len(spacer)))
            first, second = first[:some], second[:others]
        return [*first, *spacer, *second][:room]

    def recipe(self) -> dict[str, Any]:
        """How these tokens differ from the tokenizer's own, for digests and for `lingo.embeddings`."""
        return {
            "tokenization": self.scheme,
            "first_id": self.ids[words_of(self.scheme)[0]],
            "new_tokens": self.new,
        }

    def tokenize(
        self, sequences: Sequence[str], prompt: Prompt | None, max_length: int | None
    ) -> tuple[NDArray[np.int16] | NDArray[np.int32], NDArray[np.int64]]:
        """Encode each sequence unit by unit, inside the prompt if there is one.

        Special tokens are added as by the tokenizer; prefix and suffix are its separate encodings of each.
        A text of more than `max_length` tokens loses units at the sequence's end, nothing else.

        Args:
            sequences: n sequences or pairs of A, C, G, T and N in either case.
            prompt: Prefix and suffix, or `None`.
            max_length: Maximum number of tokens of a text, special tokens included; `None` for no limit.

        Returns:
            As `lingo.tokenization.tokenize`: flat ids `[tokens]` and offsets int64 `[n + 1]`.

        Raises:
            ValueError: If `max_length` leaves no room for a single unit.
        """
        before, after = frame(self.tokenizer, prompt or NO_PROMPT)
        fixed = len(before) + len(after)
        room = None if max_length is None else max_length - fixed
        if room is not None and room < 1:
            raise ValueError(
                f"`max_length` must leave room for a base beside {fixed} tokens of prompt and special tokens, "
                f"but got {max_length}."
            )
        largest = max([*before, *after, *self.ids.values()])
        pairs = any(PAIR in sequence for sequence in sequences)
        if self.scheme == "one_hot" and not pairs:
            return self._letters(sequences, before, after, room, np.int16 if largest < 2**15 else np.int32)
        rows = [
            before + (self._pair(sequence, room) if pairs else self.spell(sequence)[:room]) + after
            for sequence in sequences
        ]
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        dtype: type[np.int16] | type[np.int32] = np.int16 if largest < 2**15 else np.int32
        flat: NDArray[Any] = np.fromiter(chain.from_iterable(rows), dtype=dtype, count=int(offsets[-1]))
        return flat, offsets

    def _letters(
        self,
        sequences: Sequence[str],
        before: list[int],
        after: list[int],
        room: int | None,
        dtype: type[np.int16] | type[np.int32],
    ) -> tuple[NDArray[np.int16] | NDArray[np.int32], NDArray[np.int64]]:
        """As `tokenize` if each letter is a token: all letters of all sequences at once."""
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        letters = np.frombuffer("".join(sequences).encode(), dtype=np.uint8)
        kept = lengths if room is None else np.minimum(lengths, room)
        if int(kept.sum()) < len(letters):
            places = np.arange(len(letters)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            letters = letters[places < np.repeat(kept, lengths)]
        table: NDArray[Any] = np.zeros(256, dtype=dtype)
        for letter, number in self.ids.items():
            table[ord(letter)] = table[ord(letter.lower())] = number
        offsets = np.zeros(len(sequences) + 1, dtype=np.int64)
        np.cumsum(kept + len(before) + len(after), out=offsets[1:])
        if not before and not after:
            return table[letters], offsets
        flat: NDArray[Any] = np.empty(int(offsets[-1]), dtype=dtype)
        inside = np.ones(len(flat), dtype=bool)
        for starts, numbers in ((offsets[:-1], before), (offsets[1:] - len(after), after)):
            where = (starts[:, None] + np.arange(len(numbers))).reshape(-1)
            flat[where], inside[where] = np.tile(np.array(numbers, dtype=dtype), len(starts)), False
        flat[inside] = table[letters]
        return flat, offsets


def words_of(scheme: Scheme) -> list[str]:
    """The units in the order of their ids: all 6-mers (`kmer`), then A, T, C, G and N."""
    kmers = ["".join(letters) for letters in product(BASES[:4], repeat=K)] if scheme == "kmer" else []
    return [*kmers, *BASES]


def units_for(scheme: Scheme, tokenizer: Any, rows: int) -> Units:
    """The units of a scheme for one backbone.

    Args:
        scheme: `one_hot` or `kmer`.
        tokenizer: The backbone's own.
        rows: Rows of the backbone's embedding; new ids start here.

    Raises:
        ValueError: If `scheme` is unknown.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"`scheme` must be one of {', '.join(SCHEMES)}, but got {scheme!r}.")
    words, vocabulary, table = words_of(scheme), tokenizer.get_vocab(), spelling(tokenizer)
    found: dict[str, int | None] = {word: vocabulary.get(word.translate(table)) for word in words}
    unknown: int | None = getattr(tokenizer, "unk_token_id", None)
    # A vocabulary of DNA may have no N (DNABERT-2), or 6-mers alone (DNABERT): what it lacks is then unknown, as it is
    # to its own tokenizer. A language's own letters A, C, G and T do not count as bases.
    needed = words[: -len(BASES)] or list(BASES[:4])
    lacks = [word for word in words if found[word] is None]
    if not reads_language(tokenizer) and not set(lacks) & set(needed) and (not lacks or unknown is not None):
        rest = unknown or 0
        own = {word: rest if number is None else number for word, number in found.items()}
        return Units(scheme, tokenizer, own, 0)
    return Units(scheme, tokenizer, {word: rows + number for number, word in enumerate(words)}, len(words))


def frame(tokenizer: Any, prompt: Prompt | None) -> tuple[list[int], list[int]]:
    """Ids before and after the sequence: the tokenizer's special tokens, prefix and suffix, and DNA markers."""
    tags, prompt = getattr(tokenizer, "dna_tags", ("", "")), prompt or NO_PROMPT

    def encode(text: str, *, special: bool) -> list[int]:
        if not text:
            return []
        found: list[int] = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        return found

    text = SAMPLE.translate(spelling(tokenizer))  # as long as every k-mer
    whole, inner = encode(text, special=True), encode(text, special=False)
    starts = range(len(whole) - len(inner) + 1)
    at = next(start for start in starts if whole[start : start + len(inner)] == inner)
    before = whole[:at] + encode(prompt.prefix + tags[0], special=False)
    return before, encode(tags[1] + prompt.suffix, special=False) + whole[at + len(inner) :]


class BareTokenizer:
    """Replaces a backbone's tokenizer for methods without a backbone: bases only, no special tokens."""

    all_special_tokens: tuple[str, ...] = ()
    special_tokens_map: dict[str, str] = {}  # noqa: RUF012 (the tokenizers' own spelling of the attribute)

    def get_vocab(self) -> dict[str, int]:
        """A, T, C, G and N: 1 to 5; 0 is padding."""
        return {base: number for number, base in enumerate(BASES, 1)}

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        """Ids of a sequence."""
        vocabulary = self.get_vocab()
        return {"input_ids": [vocabulary[base] for base in text]}


def bare_bases() -> Units:
    """Sequences as ids 1 to 5 of their bases, for methods that read no language."""
    tokenizer = BareTokenizer()
    return Units("one_hot", tokenizer, tokenizer.get_vocab(), 0)
