"""Interpretation of a table's labels: classes by number or name, several labels per row, or numbers.

All values of all splits are considered before a decision; each distinct value is parsed once.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harness.data.columns import shown
from lingo.data import Kind

MISSING = frozenset({"", "nan", "na", "n/a", "none", "null", "<na>", "-nan"})
MOST_CLASSES = 1000
"""Maximum number of classes; more distinct values are numbers or row names."""

GUESSED = 20
"""Maximum number of classes of a column without a known name; dates and row names have more distinct values."""

BITS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}
WHOLE = {"false": "0", "true": "1"}
RULES = {"classes": "a whole number from 0", "bits": "0 or 1", "numbers": "a finite number"}


class ColumnValues:
    """One column's values as codes into the list of distinct values.

    Attributes:
        values: The distinct values, stripped, in order of first appearance.
    """

    def __init__(self) -> None:
        self.values: list[str] = []
        self._known: dict[str, int] = {}

    def codes(self, texts: pa.LargeStringArray) -> NDArray[np.int32]:
        """The code of each value, `[n]`; new values are appended."""
        held = texts.dictionary_encode()
        found = np.array([self._code(value.strip()) for value in held.dictionary.to_pylist()], np.int32)
        return found[held.indices.to_numpy()] if len(found) else np.zeros(0, np.int32)

    def _code(self, value: str) -> int:
        code = self._known.setdefault(value, len(self.values))
        if code == len(self.values):
            self.values.append(value)
        return code


@dataclass(frozen=True, eq=False)
class Meaning:
    """Interpretation of the label columns.

    Attributes:
        kind: What is predicted.
        names: Class names, unless classes are 0 to C-1; of several labels or targets the names of the outputs.
        outputs: Number of outputs of the head: classes, labels or targets.
        values: For each column the numerical label of each code, float64 `[codes]` or `[codes, outputs]`; NaN for
            invalid values.
        note: A note for the user; empty if column names make it clear.
        rule: The rule for values, for messages.
        cure: Advice for values that violate the rule.
    """

    kind: Kind
    names: tuple[str, ...]
    outputs: int
    values: Sequence[NDArray[np.float64]]
    note: str = ""
    rule: str = RULES["classes"]
    cure: str = ""

    def numbers(self, codes: Sequence[NDArray[np.int32]]) -> NDArray[Any]:
        """Labels of rows as float64, `[n]` or `[n, outputs]`; NaN for invalid values."""
        each = [values[code] for values, code in zip(self.values, codes, strict=True)]
        if len(each) == 1 and (each[0].ndim == 2 or self.kind != "multilabel"):
            return each[0]
        return np.stack(each, axis=1)

    def unfit(
        self, numbers: NDArray[Any], codes: Sequence[NDArray[np.int32]], cells: Sequence[ColumnValues]
    ) -> NDArray[np.bool_]:
        """Rows whose labels cannot be used: invalid values, or only unknown labels, bool `[n]`."""
        bad = np.isnan(numbers)
        if self.kind != "multilabel":
            return np.asarray(bad if bad.ndim == 1 else bad.any(axis=1))
        wrong = np.zeros(len(numbers), dtype=bool)
        for column, code, values in zip(cells, codes, self.values, strict=True):
            whole = np.isnan(values).all(axis=-1) if values.ndim == 2 else np.isnan(values)
            fault = np.array([value.casefold() not in MISSING for value in column.values], dtype=bool) & whole
            wrong |= fault[code]
        return np.asarray(wrong | bad.all(axis=1))


def meaning(say: str, names: Sequence[str], columns: Sequence[ColumnValues], rows: int) -> Meaning | str:
    """The interpretation of columns, or the reason why there is none.

    Args:
        say: Meaning of their names: `label`, `target` or `unknown`.
        names: Their names.
        columns: Their values.
        rows: Number of rows of all splits.
    """
    given = [[value for value in column.values if value.casefold() not in MISSING] for column in columns]
    if len(columns) == 1:
        lists = _lists(columns[0], given[0], names[0], say)
        if lists is not None:
            return lists
    if say == "target" or (say == "unknown" and _are_numbers(given)):
        if say == "unknown" and not _one_family(names):
            all_of = "+".join(names) if len(names) < 4 else f"{names[0]}+{names[1]}+…"
            return (
                f"has no column `target`, but numbers in {', '.join(f'`{shown(name, 30)}`' for name in names[:5])}; "
                f"`--columns target={shown(names[0], 30)}` takes one of them, `target={shown(all_of, 60)}` all."
            )
        return _targets(names, columns, say)
    if len(columns) > 1 or (say == "label" and re.fullmatch(r"labels?_?\d+", names[0].casefold())):
        if say == "unknown" and not all(value.casefold() in BITS for values in given for value in values):
            return (
                f"has no column `label` or `target`, and {', '.join(f'`{shown(name, 30)}`' for name in names[:5])} "
                "are neither 0 and 1 alone nor numbers alone; `--columns label=NAME` or `target=NAME` says which it is."
            )
        note = f"{len(names)} columns of 0 and 1 are {len(names)} labels" if say == "unknown" else ""
        values = [_values(column, lambda text: BITS.get(text.casefold(), math.nan)) for column in columns]
        return Meaning("multilabel", tuple(names), len(names), values, note, RULES["bits"])
    found = _classes(columns[0], given[0], names[0], rows)
    if say == "unknown" and isinstance(found, Meaning) and found.outputs > GUESSED:
        return (
            f"`{shown(names[0], 30)}`, which has no known name, must hold few classes, but has {found.outputs:,}; "
            f"`--columns label={shown(names[0], 30)}` takes it as it is."
        )
    return found


def _values(column: ColumnValues, parse: Callable[[str], float]) -> NDArray[np.float64]:
    return np.array([parse(value) for value in column.values], dtype=np.float64)


def number(text: str) -> float:
    """A finite number; NaN for anything else."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _are_numbers(given: Sequence[Sequence[str]]) -> bool:
    """Whether every value is a number, and some are not integers."""
    every = [number(value) for values in given for value in values]
    return bool(every) and not any(map(math.isnan, every)) and any(value % 1 for value in every)


def _one_family(names: Sequence[str]) -> bool:
    """Whether the names of several columns share a word, such as `dev_enrichment` and `hk_enrichment`."""
    each = [set(re.split(r"[\W_]+", name.casefold())) - {""} for name in names]
    return bool(set.intersection(*each))


def _targets(names: Sequence[str], columns: Sequence[ColumnValues], say: str) -> Meaning:
    note = ""
    if say == "unknown":
        note = "numbers that are not whole, so it is a regression" + (
            f" of {len(names)} targets" if len(names) > 1 else ""
        )
    values = [_values(column, number) for column in columns]
    return Meaning(
        "regression", tuple(names) if len(names) > 1 else (), len(names), values, note, RULES["numbers"]
    )


def _lists(column: ColumnValues, given: Sequence[str], name: str, say: str) -> Meaning | None:
    """The interpretation of a column of lists; `None` if its values are not lists."""
    if not given:
        return None
    bits = (
        len({len(value) for value in given}) == 1
        and len(given[0]) > 1
        and not set("".join(given)) - {"0", "1"}
    )
    if bits and any(value.startswith("0") for value in given):
        parsed: dict[str, list[float] | None] = {value: [float(bit) for bit in value] for value in given}
    else:
        parsed = {value: _list(value) for value in given}
    lengths = Counter(len(values) for values in parsed.values() if values is not None)
    if not lengths or sum(lengths.values()) * 2 < len(given):
        return None
    width = lengths.most_common(1)[0][0]
    held = [values for values in parsed.values() if values is not None and len(values) == width]
    several = say != "target" and all(
        value in (0.0, 1.0) or math.isnan(value) for row in held for value in row
    )
    kind: Kind = "multilabel" if several else "regression"
    nothing = [math.nan] * width
    table = np.array(
        [
            row if (row := parsed.get(value)) is not None and len(row) == width else nothing
            for value in column.values
        ],
        dtype=np.float64,
    )
    what = f"{width} labels of 0 and 1" if several else f"{width} numbers, the targets of a regression"
    stem = "label" if several else "target"
    return Meaning(
        kind,
        tuple(f"{stem}_{i}" for i in range(width)) if several or width > 1 else (),
        width,
        [table if several or width > 1 else table[:, 0]],
        f"each value of `{shown(name, 30)}` is a list of {what}",
        f"a list of {width} values, {'each 0 or 1' if several else 'each a finite number'}",
    )


def _list(text: str) -> list[float] | None:
    """The numbers of a list in one field: `[1, 0]`, `1 0`, `1,0`, `1;0`; `None` for anything else."""
    if text[:1] in "[(" and text[-1:] in "])":
        inside = re.split(r"[,\s;]+", text[1:-1].strip())
    else:
        inside = re.split(r"\s*[,;|]\s*|\s+", text)
        if len(inside) < 2:
            return None
    values = [number(part) if part.casefold() not in MISSING else math.nan for part in inside]
    wrong = any(
        math.isnan(value) and part.casefold() not in MISSING
        for value, part in zip(values, inside, strict=True)
    )
    return None if wrong or not inside[0] else values


def _whole(text: str) -> int | None:
    text = WHOLE.get(text.casefold()) or re.sub(
        r"\.0+$", "", text
    )  # tables with missing values write 1 as 1.0
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None


def _classes(column: ColumnValues, given: Sequence[str], name: str, rows: int) -> Meaning | str:
    whole = {value: _whole(value) for value in given}
    numbered = {value: found for value, found in whole.items() if found is not None}
    words = [
        value
        for value in given
        if value not in numbered and math.isnan(number(value)) and "\ufffd" not in value
    ]
    if words and not numbered and len(words) == len(given):
        if len(words) > MOST_CLASSES or (len(words) > 50 and 2 * len(words) > rows):
            return (
                f"`{shown(name, 30)}` must hold classes, but has {len(words):,} different values in {rows:,} rows "
                f"(such as {shown(words[0], 30)!r}); `--columns label=NAME` names another column."
            )
        if len(words) < 2:
            return f"`{shown(name, 30)}` must have two classes at least, but all rows have {shown(words[0], 30)!r}."
        return _named(column, {word: word for word in words}, sorted(words))
    present = sorted(set(numbered.values()))
    cure = ""
    if any(not math.isnan(number(value)) for value in given if value not in numbered):
        cure = f"; for a regression name the column `target`, or say `--columns target={shown(name, 30)}`"
        broken = [value for value in given if number(value) % 1 > 0]
        if 2 * len(broken) > len(given) > 10:
            return f"`{shown(name, 30)}` must hold classes, but has numbers such as {shown(broken[0], 30)}{cure}."
    if len(present) > MOST_CLASSES or (len(present) > 50 and 2 * len(present) > rows):
        return (
            f"`{shown(name, 30)}` must hold classes, but has {len(present):,} different numbers in {rows:,} rows; for "
            f"a regression name the column `target`, or say `--columns target={shown(name, 30)}`."
        )
    if len(numbered) == len(given) and len(present) > 1 and present != list(range(len(present))):
        return _named(
            column, {value: str(code) for value, code in numbered.items()}, [str(code) for code in present]
        )
    table = _values(column, lambda text: math.nan if (found := _whole(text)) is None else float(found))
    return Meaning("classification", (), max([*present, 1]) + 1, [table], cure=cure)


def _named(column: ColumnValues, name_of: dict[str, str], names: Sequence[str]) -> Meaning:
    place = {name: number for number, name in enumerate(names)}
    table = _values(column, lambda text: float(place[name_of[text]]) if text in name_of else math.nan)
    some = ", ".join(f"{shown(name, 30)} → {number}" for name, number in list(place.items())[:10])
    note = f"classes are numbered: {some}{f' and {len(names) - 10} more' if len(names) > 10 else ''}"
    return Meaning("classification", tuple(names), len(names), [table], note, "a class")


def first_fault(
    columns: Sequence[ColumnValues], codes: Sequence[int], names: Sequence[str], found: Meaning
) -> str:
    """The error message for the labels of one row, given as codes."""
    for column, code, values, name in zip(columns, codes, found.values, names, strict=True):
        if np.isnan(values[code]).any():
            value = column.values[code]
            if found.kind == "multilabel" and value.casefold() in MISSING and len(columns) > 1:
                continue
            return f"`{shown(name, 30)}` must be {found.rule}, but got {shown(value, 40)!r}{found.cure}."
    return "must have one known label at least, but all are empty."


def parts(codes: Iterable[Sequence[NDArray[np.int32]]], width: int) -> Iterator[NDArray[np.int32]]:
    """Concatenate chunks of columns, one array per column."""
    pieces = list(codes)
    for i in range(width):
        yield np.concatenate([np.zeros(0, np.int32), *(piece[i] for piece in pieces)])
