"""Validation, normalisation and reverse complements of DNA sequences."""

from collections.abc import Sequence
from typing import Literal, get_args

CODES = "ACGTNURYSWKMBDHV"
"""IUPAC nucleotide codes."""

Case = Literal["upper", "mask", "keep"]
"""Meaning of lower case, which marks repeats in soft-masked genomes: `upper` converts it, `mask` reads it as N, and
`keep` leaves it to the tokenizer."""

CASES: tuple[Case, ...] = get_args(Case)

READ = "ACGTNTNNNNNNNNNN"
"""How each of `CODES` is read: U is T, and every ambiguous code is N."""

UNIFORM: dict[Case, dict[int, int]] = {
    "upper": str.maketrans(CODES + CODES.lower(), READ + READ),
    "mask": str.maketrans(CODES + CODES.lower(), READ + "N" * len(READ)),
    "keep": str.maketrans(CODES + CODES.lower(), READ + READ.lower()),
}
"""To A, C, G, T and N, with `keep` also in lower case."""

PAIR = "|"
"""Separator of the two sequences of a pair."""

NOT_TEXT = "\ufffd"
"""Replacement of a byte that is not UTF-8."""

ACCEPTED = frozenset(CODES + CODES.lower())
_BYTES = "".join(sorted(ACCEPTED)).encode()

COMPLEMENT = str.maketrans("ACGTNacgtn", "TGCANtgcan")


def sequence_problem(sequence: str) -> str | None:
    """Why a text is not a sequence; `None` if it is one."""
    if not sequence:
        return "`sequence` must not be empty."
    # Deleting all accepted letters is twenty times faster than checking each letter.
    if not sequence.isascii() or sequence.encode().translate(None, _BYTES):
        position, letter = next((i, c) for i, c in enumerate(sequence, 1) if c not in ACCEPTED)
        return (
            f"`sequence` must hold nucleotide codes (A, C, G, T, N; other IUPAC codes count as N), "
            f"but got {letter!r} at position {position}{' (a byte that is not UTF-8)' * (letter == NOT_TEXT)}."
        )
    return None


def uniform(sequence: str, case: Case = "upper") -> str:
    """A sequence of nucleotide codes in A, C, G, T and N, as training reads it."""
    return sequence.translate(UNIFORM[case])


def reverse_complement(sequences: Sequence[str]) -> list[str]:
    """The other strand of each sequence of A, C, G, T and N, read in its own direction; of a pair that of both."""
    return [
        PAIR.join(part.translate(COMPLEMENT)[::-1] for part in sequence.split(PAIR)) for sequence in sequences
    ]
