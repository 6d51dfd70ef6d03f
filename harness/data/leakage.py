"""Leakage audit: sequences that stand twice in a split, in two splits, or with two labels.

The published splits do leak (duplicates of genome-wide collections, overlapping promoters), which flatters
every score measured on them. A sequence counts as the same read on either strand.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import InputError
from harness.data.labelled_files import Rows
from lingo.sequences import reverse_complement


@dataclass(frozen=True, kw_only=True)
class Within:
    """Duplicates inside one split.

    Attributes:
        repeated: Rows minus distinct sequences.
        conflicting: Distinct sequences that carry more than one label.
        reverse_complement: Rows whose reverse complement is another sequence of the same split.
    """

    repeated: int
    conflicting: int
    reverse_complement: int


@dataclass(frozen=True, kw_only=True)
class Across:
    """Rows of a later split that an earlier one holds as well.

    Attributes:
        rows: Rows of the later split.
        exact: Those whose sequence is in the earlier split.
        other_label: Those of `exact` whose label the sequence never has in the earlier split.
        reverse_complement: Rows whose reverse complement, another sequence, is in the earlier split.
        shared: Rows found on either strand.
    """

    rows: int
    exact: int
    other_label: int
    reverse_complement: int
    shared: int


@dataclass(frozen=True, kw_only=True)
class Leaks:
    """What an audit counted.

    Attributes:
        within: By split.
        across: By `(earlier, later)` split in the order train, dev, test.
        dropped: Training rows taken out because dev or test has them.
    """

    within: Mapping[str, Within]
    across: Mapping[tuple[str, str], Across]
    dropped: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: `{"within": {"train": …}, "across": {"dev in train": …}, "dropped": n}`."""
        across = {f"{later} in {earlier}": asdict(found) for (earlier, later), found in self.across.items()}
        within = {split: asdict(found) for split, found in self.within.items()}
        return {"within": within, "across": across, "dropped": self.dropped}


def audit(splits: Mapping[str, Rows]) -> Leaks:
    """Count duplicates within and across splits. Labels may be of any kind; equal means equal bits."""
    seen = {split: _labels_of(rows) for split, rows in splits.items()}
    turned = {split: reverse_complement(rows.sequences) for split, rows in splits.items()}
    return Leaks(
        within={split: _within(rows, seen[split], turned[split]) for split, rows in splits.items()},
        across={
            (earlier, later): _across(splits[later], turned[later], seen[earlier])
            for earlier, later in combinations(splits, 2)
        },
    )


def kept_for_training(splits: Mapping[str, Rows]) -> NDArray[np.int64]:
    """Numbers of the training rows that neither dev nor test has, on either strand."""
    held: set[str] = set()
    for split, rows in splits.items():
        if split != "train":
            held.update(rows.sequences)
    own = splits["train"].sequences
    pairs = zip(own, reverse_complement(own), strict=True)
    kept = [row for row, (text, other) in enumerate(pairs) if text not in held and other not in held]
    return np.array(kept, dtype=np.int64)


def audited(
    name: str, splits: Mapping[str, Rows], marks: dict[str, str], *, drop: bool
) -> tuple[dict[str, Rows], dict[str, Any]]:
    """The splits of a task, without leaking training rows when `drop`, and `Leaks.to_dict` of all of them.

    What a reader of results must know is added to `marks`.

    Raises:
        InputError: If no training row would be left.
    """
    return resolve(name, splits, marks, audit(splits), kept_for_training(splits) if drop else None)


def resolve(
    name: str,
    splits: Mapping[str, Rows],
    marks: dict[str, str],
    found: Leaks,
    kept: NDArray[np.int64] | None,
) -> tuple[dict[str, Rows], dict[str, Any]]:
    """What an audit comes to: the splits with the training rows `kept` (all when `None`), and the counts.

    Raises:
        InputError: If no training row would be left.
    """
    left = dict(splits)
    if kept is not None:
        if not len(kept):
            raise InputError(f"{name}: `--drop-leaks` leaves no training row: dev and test have them all.")
        found = replace(found, dropped=len(splits["train"].labels) - len(kept))
        left["train"] = splits["train"].take(kept)
    leaks = found.to_dict()
    if found.dropped:
        changed = f"{name}: --drop-leaks took {_some(found.dropped, 'row')} out of train."
        marks["changed split"] = " ".join(filter(None, [marks.get("changed split"), changed]))
    if overlap := crossing(leaks):
        marks["overlapping splits"] = f"{name}: {overlap}."
    return left, leaks


def summary(leaks: Mapping[str, Any]) -> str:
    """One line on what `Leaks.to_dict` counted; empty when there is nothing to say."""
    parts = [
        f"{split} repeats {_some(found['repeated'], 'row')}" + _extra(found, "conflicting", "with two labels")
        for split, found in leaks["within"].items()
        if found["repeated"]
    ]
    parts += [
        f"{_some(found['reverse_complement'], 'row')} of {split} also as reverse complement"
        for split, found in leaks["within"].items()
        if found["reverse_complement"]
    ]
    parts += _crossings(leaks)
    if leaks["dropped"]:
        parts.append(f"{_some(leaks['dropped'], 'row')} dropped from train")
    return "; ".join(parts)


def crossing(leaks: Mapping[str, Any]) -> str:
    """The part of `summary` on rows that two splits still share; empty when they share none."""
    across = leaks["across"].items()
    left = {pair: found for pair, found in across if not (leaks["dropped"] and pair.endswith(" in train"))}
    return "; ".join(_crossings({"across": left}))


def _crossings(leaks: Mapping[str, Any]) -> list[str]:
    return [
        f"{found['shared']:,} of {found['rows']:,} rows of {pair.replace(' in ', ' also in ')}"
        + _extra(found, "other_label", "with another label")
        + _extra(found, "reverse_complement", "as reverse complement")
        for pair, found in leaks["across"].items()
        if found["shared"]
    ]


def _extra(found: Mapping[str, int], name: str, words: str) -> str:
    return f" ({found[name]:,} {words})" if found[name] else ""


def _some(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _labels_of(rows: Rows) -> dict[str, set[bytes]]:
    """Each distinct sequence with its labels as bytes."""
    found: dict[str, set[bytes]] = {}
    for text, label in zip(rows.sequences, _bits(rows.labels), strict=True):
        found.setdefault(text, set()).add(label)
    return found


def _bits(labels: NDArray[Any]) -> Iterable[bytes]:
    return (np.ascontiguousarray(label).tobytes() for label in labels)


def _within(rows: Rows, seen: Mapping[str, set[bytes]], turned: Sequence[str]) -> Within:
    return Within(
        repeated=len(rows.sequences) - len(seen),
        conflicting=sum(len(labels) > 1 for labels in seen.values()),
        reverse_complement=sum(
            other in seen and other != text for text, other in zip(rows.sequences, turned, strict=True)
        ),
    )


def _across(rows: Rows, turned: Sequence[str], held: Mapping[str, set[bytes]]) -> Across:
    exact = other_label = opposite = shared = 0
    for text, other, label in zip(rows.sequences, turned, _bits(rows.labels), strict=True):
        is_exact, is_opposite = text in held, other in held and other != text
        exact += is_exact
        opposite += is_opposite
        shared += is_exact or is_opposite
        other_label += is_exact and label not in held[text]
    return Across(
        rows=len(rows.sequences),
        exact=exact,
        other_label=other_label,
        reverse_complement=opposite,
        shared=shared,
    )
