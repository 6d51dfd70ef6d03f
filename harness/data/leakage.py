"""Leakage audit: sequences that occur twice in a split, in two splits, or with two labels.

The published splits do leak (duplicates of genome-wide collections, overlapping promoters), which inflates every score
measured on them. A sequence and its reverse complement count as the same.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import InputError
from harness.core.wording import some
from harness.data.hashes import Hashes, among, groups, label_hashes, paired, strand_hashes
from harness.data.labelled_files import Rows


@dataclass(frozen=True, kw_only=True)
class Within:
    """Duplicates inside one split.

    Attributes:
        repeated: Rows minus distinct sequences.
        conflicting: Distinct sequences with more than one label.
        reverse_complement: Rows whose reverse complement is another sequence of the same split.
    """

    repeated: int
    conflicting: int
    reverse_complement: int


@dataclass(frozen=True, kw_only=True)
class Across:
    """Rows of a later split that also occur in an earlier one.

    Attributes:
        rows: Rows of the later split.
        exact: Those whose sequence is in the earlier split.
        other_label: Those of `exact` whose label the sequence never has in the earlier split.
        reverse_complement: Rows whose (different) reverse complement is in the earlier split.
        shared: Rows found on either strand.
    """

    rows: int
    exact: int
    other_label: int
    reverse_complement: int
    shared: int


@dataclass(frozen=True, kw_only=True)
class Leaks:
    """Counts of an audit.

    Attributes:
        within: By split.
        across: By `(earlier, later)` split in the order train, dev, test.
        dropped: Training rows removed because they occur in dev or test.
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
    """Count duplicates within and across splits. Labels of any kind are compared bit by bit."""
    return _audit({split: _Hashed.of(rows) for split, rows in splits.items()})


def kept_for_training(splits: Mapping[str, Rows]) -> NDArray[np.int64]:
    """Indices of the training rows that do not occur in dev or test, on either strand."""
    return _kept({split: _Hashed.of(rows) for split, rows in splits.items()})


@dataclass(frozen=True, eq=False)
class _Hashed:
    """Hashes of a split's sequences, their reverse complements, and sequences with labels, see `hashes`."""

    own: Hashes
    turned: Hashes
    labelled: Hashes

    @classmethod
    def of(cls, rows: Rows) -> "_Hashed":
        own, turned = strand_hashes(rows.sequences)
        return cls(own, turned, paired(own, label_hashes(rows.labels)))


def _audit(hashed: Mapping[str, _Hashed]) -> Leaks:
    return Leaks(
        within={split: _within(found) for split, found in hashed.items()},
        across={
            (earlier, later): _across(hashed[later], hashed[earlier])
            for earlier, later in combinations(hashed, 2)
        },
    )


def _kept(hashed: Mapping[str, _Hashed]) -> NDArray[np.int64]:
    held = np.concatenate([found.own for split, found in hashed.items() if split != "train"])
    train = hashed["train"]
    return np.flatnonzero(~(among(train.own, held) | among(train.turned, held)))


def audited(
    name: str, splits: Mapping[str, Rows], marks: dict[str, str], *, drop: bool
) -> tuple[dict[str, Rows], dict[str, Any]]:
    """The splits of a task, without leaking training rows if `drop`, and `Leaks.to_dict` of the unchanged splits.

    Caveats are added to `marks`.

    Raises:
        InputError: If no training row would be left.
    """
    hashed = {split: _Hashed.of(rows) for split, rows in splits.items()}
    found, left = _audit(hashed), dict(splits)
    if drop:
        if not len(kept := _kept(hashed)):
            raise InputError(
                f"{name}: `--drop-leaks` removes all training rows: each also occurs in dev or test."
            )
        found = replace(found, dropped=len(splits["train"].labels) - len(kept))
        left["train"] = splits["train"].take(kept)
    leaks = found.to_dict()
    if found.dropped:
        changed = f"{name}: --drop-leaks took {some(found.dropped, 'row')} out of train."
        marks["changed split"] = " ".join(filter(None, [marks.get("changed split"), changed]))
    if overlap := crossing(leaks):
        marks["overlapping splits"] = f"{name}: {overlap}."
    return left, leaks


def summary(leaks: Mapping[str, Any]) -> str:
    """One line about `Leaks.to_dict`; empty without leaks."""
    parts = [
        f"{split} repeats {some(found['repeated'], 'row')}" + _extra(found, "conflicting", "with two labels")
        for split, found in leaks["within"].items()
        if found["repeated"]
    ]
    parts += [
        f"{some(found['reverse_complement'], 'row')} of {split} also as reverse complement"
        for split, found in leaks["within"].items()
        if found["reverse_complement"]
    ]
    parts += _crossings(leaks)
    if leaks["dropped"]:
        parts.append(f"{some(leaks['dropped'], 'row')} dropped from train")
    return "; ".join(parts)


def crossing(leaks: Mapping[str, Any]) -> str:
    """The part of `summary` on rows that two splits still share; empty if there are none."""
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


def _within(rows: _Hashed) -> Within:
    order, starts = groups(rows.own)
    labelled, sizes = rows.labelled[order], np.diff(starts, append=len(order))
    other = labelled != np.repeat(labelled[starts], sizes)
    return Within(
        repeated=len(order) - len(starts),
        conflicting=int(np.logical_or.reduceat(other, starts).sum()) if len(starts) else 0,
        reverse_complement=int((among(rows.turned, rows.own) & (rows.turned != rows.own)).sum()),
    )


def _across(rows: _Hashed, held: _Hashed) -> Across:
    exact = among(rows.own, held.own)
    opposite = among(rows.turned, held.own) & (rows.turned != rows.own)
    return Across(
        rows=len(rows.own),
        exact=int(exact.sum()),
        other_label=int((exact & ~among(rows.labelled, held.labelled)).sum()),
        reverse_complement=int(opposite.sum()),
        shared=int((exact | opposite).sum()),
    )
