"""Properties of a tokenizer's vocabulary: known bases, their spelling, and language."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

BASES = "ACGT"

SAMPLE = "ACGTTGCAAGCTTCGAGATCCTAGGTACCATGTCAGGACTTAACGCGTATTGGCCAGACT"
"""60 bases, a multiple of the length of every k-mer here, fewer than a word of WordPiece may have."""

SPELLINGS = ("ACGTN", "ACGUN", "acgtn", "acgun")
"""Spellings of A, C, G, T and N in vocabularies; the first one without unknown tokens is used."""

ENGLISH = "Domain: core promoter\nSequence: DNA\nAnnotation:"


def unread(tokenizer: Any, text: str) -> int:
    """Number of letters of a text, without white space, that become an unknown token or no token; for a tokenizer in
    Python all of them if one does."""
    if tags := getattr(tokenizer, "dna_tags", None):
        text = tags[0] + text + tags[1]
    options: dict[str, Any] = {"add_special_tokens": False, "verbose": False}
    unknown = getattr(tokenizer, "unk_token_id", None)
    if not getattr(tokenizer, "is_fast", False):
        ids = tokenizer(text, **options)["input_ids"]
        return 0 if ids and unknown not in ids else len(text)
    encoded = tokenizer([text], return_offsets_mapping=True, **options)
    left = {at for at, letter in enumerate(text) if not letter.isspace()}
    for (start, end), number in zip(encoded["offset_mapping"][0], encoded["input_ids"][0], strict=True):
        if number != unknown:
            left.difference_update(range(start, end))
    return len(left)


def spelling(tokenizer: Any) -> dict[int, int]:
    """Table for `str.translate` to a vocabulary's spelling of A, C, G, T and N: in lower case, or with U for T (RNA).
    Empty if they are known as they are, or in no spelling."""
    try:
        return _spelling(tokenizer)
    except TypeError:  # a tokenizer that cannot be hashed
        return _spelling.__wrapped__(tokenizer)


@lru_cache(maxsize=16)
def _spelling(tokenizer: Any) -> dict[int, int]:
    if not callable(tokenizer) or not unread(tokenizer, SAMPLE):
        return {}
    for letters in SPELLINGS[1:]:
        table = str.maketrans(SPELLINGS[0] + SPELLINGS[0].lower(), letters * 2)
        if letters == "ACGUN":  # its lower case may have a meaning
            table = str.maketrans("Tt", "Uu")
        if not unread(tokenizer, SAMPLE.translate(table)):
            return table
    return {}


def spelled(tokenizer: Any, sequences: Sequence[str]) -> Sequence[str]:
    """Sequences of A, C, G, T and N in the vocabulary's spelling."""
    table = spelling(tokenizer)
    return [sequence.translate(table) for sequence in sequences] if table else sequences


def unknown_bases(tokenizer: Any) -> list[str]:
    """The bases of A, C, G and T that a tokenizer reads as unknown, in any spelling; empty if it knows all."""
    text = SAMPLE.translate(spelling(tokenizer))
    if not unread(tokenizer, text):
        return []
    alone = [base for base in BASES if unread(tokenizer, (base * len(SAMPLE)).translate(spelling(tokenizer)))]
    return alone or list(BASES)


def reads_language(tokenizer: Any) -> bool:
    """Whether the model can read a prompt: its tokenizer encodes English without unknown tokens.

    The tokens themselves do not decide: a vocabulary of DNA may have lower case, IUPAC codes, gaps, names of species
        and tokens like [RESERVED] or an undeclared <eos>. A vocabulary of bytes encodes everything and counts as
        language.
    """
    return not unread(tokenizer, ENGLISH)
