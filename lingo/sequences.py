"""What counts as a DNA sequence, how it is written uniformly, and its other strand."""

from collections.abc import Sequence

CODES = "ACGTNURYSWKMBDHV"
"""IUPAC nucleotide codes."""

UNIFORM = str.maketrans(CODES + CODES.lower(), "ACGTNTNNNNNNNNNN" * 2)
"""To A, C, G, T and N: lower case is raised, U is T, and every other ambiguous code is N."""

NOT_TEXT = "\ufffd"
"""What a byte becomes that is not UTF-8."""

ACCEPTED = frozenset(CODES + CODES.lower())
_BYTES = "".join(sorted(ACCEPTED)).encode()

COMPLEMENT = str.maketrans("ACGTN", "TGCAN")


def sequence_problem(sequence: str) -> str | None:
    """What keeps a text from being a sequence; `None` when it is one."""
    if not sequence:
        return "`sequence` must not be empty."
    # Deleting all that is accepted is twenty times faster than looking at each letter.
    if not sequence.isascii() or sequence.encode().translate(None, _BYTES):
        position, letter = next((i, c) for i, c in enumerate(sequence, 1) if c not in ACCEPTED)
        return (
            f"`sequence` must hold nucleotide codes (A, C, G, T, N; other IUPAC codes count as N), "
            f"but got {letter!r} at position {position}{' (a byte that is not UTF-8)' * (letter == NOT_TEXT)}."
        )
    return None


def uniform(sequence: str) -> str:
    """A sequence of nucleotide codes in A, C, G, T and N, as training reads it."""
    return sequence.translate(UNIFORM)


def reverse_complement(sequences: Sequence[str]) -> list[str]:
    """The other strand of each sequence of A, C, G, T and N, read in its own direction."""
    return [sequence.translate(COMPLEMENT)[::-1] for sequence in sequences]
