"""A person's own data as a task: one file, or a folder with train, dev and test, in CSV or Parquet.

The columns say what is predicted: `sequence,label` (whole numbers from 0: classes), `sequence,label_0,…,label_n`
(0 or 1: several labels at once) or `sequence,target` (numbers: regression). Splits that are missing are cut from
train: the same rows each time, equal sequences together, classes in equal shares.
"""

import csv
import hashlib
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness.core.errors import InputError
from harness.core.home import path_of
from harness.data.labelled_files import SHOWN, Rows, file_digest
from harness.data.tasks import SPLITS, TaskRow
from lingo.data import Kind
from lingo.sequences import UNIFORM, reverse_complement, sequence_problem

NAMES = {"train": ("train",), "dev": ("dev", "valid", "validation", "val"), "test": ("test",)}
"""File names of each split, before the suffix."""

SUFFIXES = (".csv", ".parquet")
METRICS: Mapping[Kind, str] = {"classification": "mcc", "multilabel": "auroc", "regression": "pearson"}
SHARE = 0.1
"""Of the rows in train, for each split that is cut."""

LEAST = 10
"""Rows without which nothing is cut."""

CUT = 1
"""Part of the digest of a cut split: raised when the same file would be cut another way."""

EXPECTED = "`sequence` and `label`, or `label_0`, `label_1`, …, or `target`"


@dataclass(frozen=True, kw_only=True)
class OwnData:
    """A task's rows.

    Attributes:
        kind, num_labels: As in `lingo.data.TaskData`.
        label_names: Columns of a multi-label task.
        splits: Rows of train, dev and test.
        digests: What tells the content of each split.
        cut: Splits that were cut from train.
    """

    kind: Kind
    num_labels: int
    label_names: tuple[str, ...]
    splits: Mapping[str, Rows]
    digests: Mapping[str, str]
    cut: tuple[str, ...]


def is_own(name: str) -> bool:
    """Whether a task's name means a file or folder."""
    path = path_of(name)
    return path.suffix.casefold() in SUFFIXES or name.startswith((".", "/", "~")) or path.exists()


def own_task(name: str) -> TaskRow:
    """The row of a task from a file or folder; its name is `own/` and the path's last part.

    Raises:
        InputError: with every problem of its files, each with its line.
    """
    path = path_of(name).resolve()
    data = read_own(path)
    lengths = [len(sequence) for sequence in data.splits["train"].sequences]
    return TaskRow(
        name=f"own/{re.sub(r'[^A-Za-z0-9._-]+', '_', path.stem if path.is_file() else path.name)}",
        family="own",
        num_labels=data.num_labels,
        length=int(np.median(lengths)),
        domain="DNA",
        kind=data.kind,
        metric=METRICS[data.kind],
        source=str(path),
    )


def read_own(path: Path | str) -> OwnData:
    """Read and check a file or folder, and cut the splits that it lacks.

    Raises:
        InputError: with every problem, each with file and line.
    """
    files = _files(Path(path))
    digests = {split: file_digest(file) for split, file in files.items()}
    return _read(tuple(files.items()), tuple(digests.items()))


def own_places(path: Path | str) -> dict[str, str]:
    """For each split the file that its rows come from."""
    files = _files(Path(path))
    return {
        split: str(files[split]) if split in files else f"{split}, which is cut from {files['train']},"
        for split in SPLITS
    }


def _files(path: Path) -> dict[str, Path]:
    if path.is_file():
        if path.suffix.casefold() not in SUFFIXES:
            raise InputError(f"{path}: must be a .csv or .parquet file.")
        return {"train": path}
    if not path.is_dir():
        raise InputError(f"`--tasks` must name known tasks, files or folders, but there is no {path}.")
    files, problems = {}, []
    for split, names in NAMES.items():
        found = [file for name in names for suffix in SUFFIXES if (file := path / (name + suffix)).is_file()]
        if len(found) > 1:
            both = ", ".join(file.name for file in found)
            problems.append(f"{path}: must hold one file for {split}, but has {both}.")
        if found:
            files[split] = found[0]
    if "train" not in files:
        problems.append(f"{path}: must hold train.csv or train.parquet, but has neither.")
    if problems:
        raise InputError(problems)
    return files


@lru_cache(maxsize=4)
def _read(files: tuple[tuple[str, Path], ...], digests: tuple[tuple[str, str], ...]) -> OwnData:
    """As `read_own`; a file is read again when its content has changed."""
    tables = {split: _Table(path) for split, path in files}
    problems = [line for table in tables.values() for line in table.problems]
    schemas = {tuple(sorted(table.columns)) for table in tables.values()}
    if not problems and len(schemas) > 1:
        given = "; ".join(f"{table.path.name} has {', '.join(table.columns)}" for table in tables.values())
        problems.append(f"{tables['train'].path.parent}: all splits must have the same columns, but {given}.")
    for (first, one), (split, other) in combinations(digests, 2):
        if one == other:
            problems.append(f"{dict(files)[split]}: must differ from the other splits, but is the same file.")
        elif not problems and tables[first].same_sequences(tables[split]):
            problems.append(
                f"{dict(files)[split]}: must differ from {dict(files)[first].name}, but holds the same sequences."
            )
    if not problems:
        problems += _class_problems(tables)
    if problems:
        raise InputError(problems)
    train = tables["train"]
    splits = {split: table.rows() for split, table in tables.items()}
    known = dict(digests)
    cut = tuple(split for split in SPLITS if split not in splits)
    if cut:
        splits, known = _cut(train.path, train.kind, splits, known, cut)
    highest = int(max(split.labels.max() for split in splits.values()))
    outputs = {"classification": highest + 1, "multilabel": len(train.names), "regression": 1}
    return OwnData(
        kind=train.kind,
        num_labels=outputs[train.kind],
        label_names=tuple(train.names) if train.kind == "multilabel" else (),
        splits={split: splits[split] for split in SPLITS},
        digests=known,
        cut=cut,
    )


class _Table:
    """One file: its columns, its good rows, and what is wrong with the others.

    Attributes:
        kind: What its columns say is predicted.
        names: The columns with labels, in their order.
        problems: One line each, at most `SHOWN` of bad rows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kind: Kind = "classification"
        self.columns: list[str] = []
        self.names: list[str] = []
        self.problems: list[str] = []
        self._sequences: list[str] = []
        self._values: list[Any] = []
        self._read()

    def rows(self) -> Rows:
        """The good rows."""
        kinds = {"classification": np.int64, "multilabel": np.uint8, "regression": np.float64}
        return Rows(self._sequences, np.array(self._values, dtype=kinds[self.kind]))

    def same_sequences(self, other: "_Table") -> bool:
        """Whether two files have the same good sequences, in any order and number."""
        return set(self._sequences) == set(other._sequences)

    def _read(self) -> None:
        lines = _parquet_lines(self.path) if self.path.suffix.casefold() == ".parquet" else _lines(self.path)
        bad: list[str] = []
        try:
            place, header = next(lines)
            self.columns = [name.strip().casefold() for name in header]
            problem = self._schema()
            if problem:
                self.problems.append(f"{self.path}, {place}: {problem}")
                return
            for place, fields in lines:
                problem = self._take(fields)
                if problem:
                    bad.append(f"{self.path}, {place}: {problem}")
        except _UnreadableError as error:
            bad.append(f"{self.path}{error}")
        except StopIteration:
            bad.append(f"{self.path}: is empty; expected the columns {EXPECTED}.")
        if not self._sequences and not bad:
            bad.append(f"{self.path}: must have at least one row below the header, but got none.")
        if len(bad) > SHOWN:
            bad[SHOWN:] = [f"{self.path}: {len(bad) - SHOWN:,} more bad lines."]
        self.problems += bad

    def _schema(self) -> str | None:
        others = [name for name in self.columns if name != "sequence"]
        numbered = sorted(others, key=lambda name: (len(name), name))
        if self.columns.count("sequence") != 1 or not others:
            return f"the columns must be {EXPECTED}, but are {', '.join(self.columns) or 'none'}."
        if others == ["label"]:
            self.kind = "classification"
        elif others == ["target"]:
            self.kind = "regression"
        elif numbered == [f"label_{i}" for i in range(len(numbered))]:
            self.kind = "multilabel"
        else:
            return f"the columns must be {EXPECTED}, but are {', '.join(self.columns)}."
        self.names = numbered
        return None

    def _take(self, fields: Sequence[str]) -> str | None:
        if len(fields) != len(self.columns):
            return f"a row must have {len(self.columns)} fields, but has {len(fields)}."
        row = {name: value.strip() for name, value in zip(self.columns, fields, strict=True)}
        problem = sequence_problem(row["sequence"])
        if problem:
            return problem
        values = []
        for name in self.names:
            value = PARSERS[self.kind](row[name])
            if value is None:
                return f"`{name}` must be {RULES[self.kind]}, but got {row[name][:40]!r}."
            values.append(value)
        self._sequences.append(row["sequence"].translate(UNIFORM))
        self._values.append(values if self.kind == "multilabel" else values[0])
        return None


def _class(text: str) -> int | None:
    text = WHOLE.get(text) or re.sub(r"\.0+$", "", text)  # 1.0 is how tables with gaps write 1
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None


def _bit(text: str) -> int | None:
    return {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "False": 0, "True": 1}.get(text)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


WHOLE = {"False": "0", "True": "1"}
PARSERS: Mapping[Kind, Callable[[str], Any]] = {
    "classification": _class,
    "multilabel": _bit,
    "regression": _number,
}
RULES: Mapping[Kind, str] = {
    "classification": "a whole number from 0",
    "multilabel": "0 or 1",
    "regression": "a finite number",
}


class _UnreadableError(Exception):
    """A file that cannot be read on; says where and why."""


def _lines(path: Path) -> Iterator[tuple[str, Sequence[str]]]:
    """The place and the fields of each line of a CSV file, the header first."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise _UnreadableError(f": cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise _UnreadableError(f": must be a text file in UTF-8 with the columns {EXPECTED}.") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for fields in reader:
            if fields:
                yield f"line {reader.line_num}", fields
    except csv.Error as error:
        raise _UnreadableError(f", line {reader.line_num}: is not readable as CSV ({error}).") from None


def _parquet_lines(path: Path) -> Iterator[tuple[str, Sequence[str]]]:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        why = " ".join(str(error).split())[:120]
        raise _UnreadableError(f": is not readable as Parquet ({why}).") from None
    yield "columns", table.column_names
    rows: Iterable[tuple[Any, ...]] = zip(*(column.to_pylist() for column in table.columns), strict=True)
    for number, row in enumerate(rows, 1):
        yield f"row {number}", [_text(value) for value in row]


def _text(value: object) -> str:
    """A value of a Parquet file as a CSV file would have it."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return "" if value is None else str(value)


def _class_problems(tables: Mapping[str, _Table]) -> list[str]:
    """Classes that no training row has."""
    train = tables["train"]
    if train.kind != "classification":
        return []
    present = set(train.rows().labels.tolist())
    highest = max(int(table.rows().labels.max()) for table in tables.values())
    lacking = [number for number in range(max(highest, 1) + 1) if number not in present]
    if not lacking:
        return []
    some = ", ".join(map(str, lacking[:5])) + (", …" if len(lacking) > 5 else "")
    return [
        f"{train.path}: `label` must have rows of every class from 0 to {max(highest, 1)}, but has none of {some}."
    ]


def _cut(
    path: Path, kind: Kind, splits: dict[str, Rows], digests: dict[str, str], cut: Sequence[str]
) -> tuple[dict[str, Rows], dict[str, str]]:
    """`SHARE` of the rows of train for each split in `cut`."""
    train, digest = splits["train"], digests["train"]
    if len(train.labels) < LEAST:
        raise InputError(
            f"{path}: must have at least {LEAST} rows for {' and '.join(cut)} to be cut from it, "
            f"but has {len(train.labels)}."
        )
    strata = train.labels if kind == "classification" else np.zeros(len(train.labels), dtype=np.int64)
    place = _places(train.sequences, strata, len(cut), np.random.default_rng(int(digest[:16], 16)))
    made = {**splits, "train": train.take(np.flatnonzero(place == 0))}
    marks = {"train": f"{digest} without {' '.join(cut)}"}
    for number, split in enumerate(cut, 1):
        made[split] = train.take(np.flatnonzero(place == number))
        marks[split] = f"{digest} {split} of {' '.join(cut)}"
        if not len(made[split].labels):
            raise InputError(f"{path}: has too few different sequences for {split} to be cut from it.")
    own = {name: hashlib.sha256(f"{CUT} {SHARE} {text}".encode()).hexdigest() for name, text in marks.items()}
    return made, {**digests, **own}


def _places(
    sequences: Sequence[str], strata: NDArray[np.int64], parts: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Where each row goes: 0 for train, 1 to `parts` for the others, `SHARE` of each stratum to each of them.

    Rows of one sequence, or of its other strand, go together, with the stratum of the first.
    """
    groups: dict[str, list[int]] = {}
    for i, (text, turned) in enumerate(zip(sequences, reverse_complement(sequences), strict=True)):
        groups.setdefault(min(text, turned), []).append(i)
    shuffled = list(groups.values())
    shuffled = [shuffled[i] for i in rng.permutation(len(shuffled)).tolist()]
    place = np.zeros(len(sequences), dtype=np.int64)
    for stratum in np.unique(strata).tolist():
        mine = [rows for rows in shuffled if strata[rows[0]] == stratum]
        quota = max(1, round(SHARE * sum(map(len, mine))))
        for part in range(1, parts + 1):
            taken = 0
            while taken < quota and len(mine) > 1:
                rows = mine.pop()
                place[rows] = part
                taken += len(rows)
    return place
