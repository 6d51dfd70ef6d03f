"""Checks of tokenised sequences: unknown tokens, indistinguishable rows, truncated rows.

`plan`, `doctor` and the preparation of a task use the same checks, each on the rows at hand.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import InputError
from lingo.nucleotides import Units
from lingo.prompts import Prompt
from lingo.tokenization import NO_PROMPT, tokenize
from lingo.vocabulary import spelling, unknown_bases

UNKNOWN = "unknown tokens"
"""Caveat of a task with too many unknown tokens or indistinguishable rows."""

TOLD, REFUSED = 0.01, 0.05
"""Share of unknown tokens or indistinguishable rows from which on there is a caveat; share of rows of unknown tokens
alone that is refused."""

AT_ONCE = 1 << 22
"""Tokens processed at once."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Statistics of tokenised rows.

    Attributes:
        rows: Rows.
        tokens: Tokens of their sequences, without prompt and special tokens.
        unknown: Unknown tokens among them.
        alike: Rows with unknown tokens whose tokens equal those of a row with another sequence.
        blank: Rows whose sequence has only unknown tokens.
    """

    rows: int
    tokens: int
    unknown: int
    alike: int
    blank: int

    def share(self, name: str) -> float:
        """Share of unknown tokens among tokens, or of some rows among rows."""
        return float(getattr(self, name)) / max(1, self.tokens if name == "unknown" else self.rows)

    @property
    def told(self) -> str:
        """The loss in words; empty without any."""
        parts = [
            f"{self.unknown:,} of {self.tokens:,} tokens are unknown ({self.share('unknown'):.1%})"
            * bool(self.unknown),
            f"{self.blank:,} of {self.rows:,} rows are unknown tokens alone" * bool(self.blank),
            f"{self.alike:,} rows have the tokens of another sequence" * bool(self.alike),
        ]
        return ", ".join(filter(None, parts))


def read(
    sequences: Sequence[str],
    ids: NDArray[np.integer[Any]],
    offsets: NDArray[np.int64],
    tokenizer: Any,
    prompt: Prompt | None = None,
) -> Reading:
    """Collect the statistics of tokenised sequences.

    Args:
        sequences: n sequences.
        ids, offsets: Their concatenated tokens, and the start of each row `[n + 1]`.
        tokenizer: The backbone's, or units of one.
        prompt: Language prefix and suffix of each sequence.
    """
    own = tokenizer.tokenizer if isinstance(tokenizer, Units) else tokenizer
    unknown = getattr(own, "unk_token_id", None)
    frame = frame_tokens(tokenizer, prompt)
    lengths = np.diff(offsets) - frame
    rows: list[int] = []
    count = blank = 0
    for start, stop in _blocks(offsets) if unknown is not None else ():
        block = np.asarray(ids[offsets[start] : offsets[stop]]) == unknown
        each = np.add.reduceat(np.append(block, False), offsets[start:stop] - offsets[start]).astype(np.int64)
        count += int(each.sum())
        blank += int((each >= lengths[start:stop])[each > 0].sum())
        rows += (np.flatnonzero(each) + start).tolist()
    blank += int((lengths <= 0).sum()) if unknown is None else 0
    first: dict[bytes, str] = {}
    alike = sum(
        first.setdefault(ids[offsets[i] : offsets[i + 1]].tobytes(), sequences[i]) != sequences[i]
        for i in rows
    )
    return Reading(
        rows=len(lengths), tokens=int(np.maximum(lengths, 0).sum()), unknown=count, alike=alike, blank=blank
    )


def _blocks(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of rows of at most `AT_ONCE` tokens, at least one row each."""
    start, n = 0, len(offsets) - 1
    while start < n:
        stop = int(np.searchsorted(offsets, offsets[start] + AT_ONCE, side="right")) - 1
        stop = min(n, max(stop, start + 1))
        yield start, stop
        start = stop


def frame_tokens(tokenizer: Any, prompt: Prompt | None) -> int:
    """Number of tokens that frame every sequence."""
    base = "A"
    if isinstance(tokenizer, Units):
        return len(tokenizer.tokenize([base], prompt, None)[0]) - 1
    around = (prompt or NO_PROMPT).around("")
    return len(tokenizer(around, verbose=False)["input_ids"]) + 2 * hasattr(tokenizer, "dna_tags")


def refuse_unknown_bases(tokenizer: Any, backbone: str) -> None:
    """Raises `InputError` if a tokenizer knows one of A, C, G and T in no spelling."""
    if isinstance(tokenizer, Units) or not (unknown := unknown_bases(tokenizer)):
        return
    raise InputError(
        f"{backbone or 'the backbone'}: its tokenizer must read A, C, G and T, but {', '.join(unknown)} "
        f"{'is' if len(unknown) == 1 else 'are'} unknown to it, also as U and in lower case; use `--tokenization "
        "one_hot` or another backbone."
    )


def caveats(
    task: str, backbone: str, readings: Mapping[str, Reading], *, refuse: bool = True
) -> tuple[dict[str, str], dict[str, Any]]:
    """Caveats of a task's splits with their reasons, and the counts as plain data.

    Raises:
        InputError: if more than `REFUSED` of a split's rows have only unknown tokens, and `refuse`.
    """
    whose = f"the tokenizer of {backbone}" if backbone else "the backbone's tokenizer"
    bad = {split: one for split, one in readings.items() if one.share("blank") > REFUSED}
    if bad and refuse:
        counts = ", ".join(f"{one.blank:,} of {one.rows:,} in {split}" for split, one in bad.items())
        raise InputError(
            f"{task}: {whose} must tell the rows of a task, but makes nothing but unknown tokens of {counts} (some "
            "tokenizers do so with every sequence of more than 100 letters); use `--tokenization one_hot` or `kmer`, "
            "or another backbone."
        )
    lines = [
        f"{split}: {one.told}"
        for split, one in readings.items()
        if max(map(one.share, ("unknown", "alike", "blank"))) >= TOLD
    ]
    marks = {UNKNOWN: f"{task}: {whose} does not read all of it: {'; '.join(lines)}."} if lines else {}
    return marks, {split: asdict(one) for split, one in readings.items() if one.told}


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Token counts of rows before truncation.

    Attributes:
        median, longest: Tokens of an input, including prompt and special tokens.
        cut: Share of rows that exceed the backbone's maximum length.
        seen: Share of all tokens that remains after truncation.
    """

    median: int
    longest: int
    cut: float
    seen: float


def sample_reading(
    sequences: Sequence[str], tokenizer: Any, prompt: Prompt | None, max_length: int | None
) -> tuple[Reading, Lengths]:
    """Tokenise a sample of sequences, at least one."""
    if isinstance(tokenizer, Units):
        ids, offsets = tokenizer.tokenize(sequences, prompt, None)
    else:
        ids, offsets = tokenize(sequences, tokenizer, prompt, None)
    lengths = np.diff(offsets)
    most = lengths.max() if max_length is None else max_length
    return read(sequences, ids, offsets, tokenizer, prompt), Lengths(
        median=int(np.median(lengths)),
        longest=int(lengths.max()),
        cut=float((lengths > most).mean()),
        seen=float(np.minimum(lengths, most).sum() / lengths.sum()),
    )


def spelling_note(tokenizer: Any) -> str:
    """A note if a vocabulary spells the bases other than A, C, G and T."""
    table = {} if isinstance(tokenizer, Units) else spelling(tokenizer)
    return (
        f"its vocabulary writes the bases as {'ACGT'.translate(table)}, and so they are given to it"
        if table
        else ""
    )
