"""Sequences with labels from any table: valid rows, and for each invalid one a message with file and line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harness.core.errors import InputError
from harness.data.columns import CHROMOSOME, CURE, Roles, find_columns, plain
from harness.data.genome import with_sequences
from harness.data.labels import ColumnValues, Meaning, first_fault, parts
from harness.data.sequence_column import Gathered, LetterCounts, Texts, cleaned, halves, joined_pairs
from harness.data.steps import tell
from harness.data.table_batches import TableFile, texts
from harness.data.table_files import open_table
from lingo.sequences import Case

SHOWN = 5
"""Maximum number of messages per file; the rest is counted."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one split.

    Attributes:
        sequences: Sequences of A, C, G, T and N, in lower case too with `--case keep`; of pairs both, with
            `lingo.sequences.PAIR` between them.
        labels: int64 `[n]`; uint8 `[n, labels]`, or float32 with NaN for unknown ones (multi-label); or float64 `[n]`
            or `[n, targets]` (regression).
        chromosomes: Values of the column `chrom`, `[n]`; `None` without one.
    """

    sequences: Sequence[str]
    labels: NDArray[Any]
    chromosomes: NDArray[Any] | None = None

    def take(self, indices: NDArray[np.int64]) -> "Rows":
        """Select rows, in this order."""
        take = getattr(self.sequences, "take", None)
        chosen = [self.sequences[i] for i in indices.tolist()] if take is None else take(indices)
        on = None if self.chromosomes is None else self.chromosomes[indices]
        return Rows(chosen, self.labels[indices], on)


@dataclass(frozen=True, eq=False)
class LabelFile:
    """Labels from a separate file.

    Attributes:
        roles: Its columns.
        rows: Label values by `id`.
    """

    roles: Roles
    rows: Mapping[str, Sequence[str]]

    @classmethod
    def read(cls, path: Path, asked: Mapping[str, str]) -> "LabelFile":
        """Read the whole file.

        Raises:
            InputError: If it cannot be read, or has no `id` or no labels.
        """
        file = open_table(path)
        roles = find_columns(file.names, asked, sequence=False)
        if isinstance(roles, str):
            raise InputError(f"{path}{', ' * bool(file.head)}{file.head}: {roles}")
        rows: dict[str, Sequence[str]] = {}
        assert roles.id is not None
        for batch in file.batches([roles.id, *roles.labels]):
            names, *values = (column.to_pylist() for column in batch.columns)
            rows |= {name.strip(): row for name, *row in zip(names, *values, strict=True)}
        return cls(roles, rows)


@dataclass(eq=False)
class LabelledTable:
    """The rows of one or several files with the same layout (a split, or all), before their labels are interpreted.

    Attributes:
        paths: The files.
        roles: Roles of the columns; `None` if they could not be assigned.
        problems: One line for each invalid row, at most `SHOWN`, and the number of further ones.
        notes: Observations on format and columns, one line each.
        bad: Number of invalid rows.
        written: Count of each letter.
        tasks: Values of the column `task`.
        only: The task whose rows are used; `None` for all.
    """

    paths: Sequence[Path]
    roles: Roles | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bad: int = 0
    written: LetterCounts = field(default_factory=LetterCounts)
    tasks: set[str] = field(default_factory=set)
    only: str | None = None
    _sequences: Gathered = field(default_factory=Gathered)
    _codes: list[list[NDArray[np.int32]]] = field(default_factory=list)
    _places: list[tuple[Path, str, Sequence[int]]] = field(default_factory=list)
    _split: ColumnValues = field(default_factory=ColumnValues)
    _splits: list[NDArray[np.int32]] = field(default_factory=list)
    _chromosome: ColumnValues = field(default_factory=ColumnValues)
    _chromosomes: list[NDArray[np.int32]] = field(default_factory=list)

    @classmethod
    def read(
        cls,
        paths: Sequence[Path],
        columns: list[ColumnValues],
        asked: Mapping[str, str],
        *,
        only: str | None = None,
        joined: LabelFile | None = None,
        guess: bool = True,
        case: Case = "upper",
        genome: str = "",
    ) -> "LabelledTable":
        """Read complete files.

        Args:
            paths: Files of one layout.
            columns: Collects the label values, one item per column; empty before the first file is read.
            asked: Requested columns, see `find_columns`.
            only: Rows whose column `task` has this value; `None` for all.
            joined: Labels by `id`, if they are in another file.
            guess: As in `find_columns`.
            case: Meaning of lower case.
            genome: FASTA file of the genome for intervals; empty for none.
        """
        made = cls(paths)
        for path in paths:
            try:
                file = with_sequences(open_table(path), genome, [*asked])
                guesses = getattr(file, "guess", True)
                asked, only = _one_task(file.names, asked, only)
                made.only = only
                roles = find_columns(file.names, asked, labels=joined is None, guess=guess and guesses)
                head = f"{path}, {file.head}" if file.head else f"{path}"
                if isinstance(roles, str):
                    made.problems.append(f"{head}: {roles}{'' if guesses else f' {CURE}.'}")
                    continue
                if joined is not None and roles.id is None:
                    made.problems.append(
                        f"{head}: must have a column `id`, by which its labels are found, but has none."
                    )
                    continue
                if made.roles is not None and roles.layout != made.roles.layout:
                    made.problems.append(f"{head}: must have the columns of {paths[0].name}, but has others.")
                    continue
                if joined is not None:
                    roles = replace(roles, names=joined.roles.names, say=joined.roles.say)
                made.roles = roles
                columns += [ColumnValues() for _ in roles.names[len(columns) :]]
                made._say(path, file, roles)
                made._read(file, roles, columns, only, joined, case)
            except InputError as error:
                made.problems += error.problems
        if not made.bad and not made.problems and not made.count:
            made.problems.append(f"{paths[0]}: must have at least one row below the header, but got none.")
        return made

    def _say(self, path: Path, file: TableFile, roles: Roles) -> None:
        parts_ = [*file.notes, *([roles.found] if roles.found else [])]
        if roles.aside:
            aside = ", ".join(dict.fromkeys(roles.aside[:8])) + (", …" if len(roles.aside) > 8 else "")
            parts_.append(f"left aside: {aside}")
        if parts_:
            self.notes.append(f"{path.name}: {'; '.join(parts_)}.")

    def _read(
        self,
        file: TableFile,
        roles: Roles,
        columns: Sequence[ColumnValues],
        only: str | None,
        joined: LabelFile | None,
        case: Case,
    ) -> None:
        wanted = [roles.sequence, *([] if roles.second is None else [roles.second]), *roles.labels]
        on = next((i for i, name in enumerate(file.names) if plain(name) in CHROMOSOME), None)
        extra = [
            i
            for i in (roles.id if joined is not None else None, roles.split, roles.task, on)
            if i is not None
        ]
        for batch in file.batches(list(dict.fromkeys([*wanted, *extra]))):
            held = dict(zip(dict.fromkeys([*wanted, *extra]), batch.columns, strict=True))
            keep = np.ones(len(batch.places), dtype=bool)
            if roles.task is not None:
                tasks = held[roles.task].to_pylist()
                self.tasks.update(tasks)
                if only is not None:
                    keep = np.array([task.strip() == only for task in tasks], dtype=bool)
            written, second = held[roles.sequence], None if roles.second is None else held[roles.second]
            if second is None and (both := halves(written)) is not None:
                written, second = both
            sequences, wrong = cleaned(written, self.written, case)
            if second is not None:
                others, more = cleaned(second, self.written, case)
                wrong = {**_named(more, "sequence_b"), **_named(wrong, "sequence_a")}
                sequences = joined_pairs(sequences, others)
            wrong = {**wrong, **batch.problems}
            labels = [held[i] for i in roles.labels]
            if joined is not None:
                assert roles.id is not None
                labels, lacking = _joined(held[roles.id].to_pylist(), joined.rows, len(columns))
                wrong = {**lacking, **wrong}
            for row, problem in wrong.items():
                if keep[row]:
                    self._refuse(f"{file.path}, {file.unit} {batch.places[row]}: {problem}")
                    keep[row] = False
            if keep.all():
                places = batch.places
            else:
                chosen = np.flatnonzero(keep)
                places = [batch.places[i] for i in chosen.tolist()]
                sequences, labels = sequences.take(chosen), [column.take(chosen) for column in labels]
            self._sequences.add(sequences)
            self._codes.append([column.codes(values) for column, values in zip(columns, labels, strict=True)])
            self._places.append((file.path, file.unit, places))
            if roles.split is not None:
                split = held[roles.split]
                self._splits.append(self._split.codes(split)[keep])
            if on is not None:
                self._chromosomes.append(self._chromosome.codes(held[on])[keep])
            tell(f"reading {file.path.name}", min(file.done, file.total - 1), file.total)
        tell(f"reading {file.path.name}", file.total, file.total)

    def _refuse(self, line: str) -> None:
        self.bad += 1
        if self.bad <= SHOWN:
            self.problems.append(line)

    @property
    def count(self) -> int:
        """Number of valid rows."""
        return self._sequences.count

    def parts_of(self) -> tuple[Sequence[str], NDArray[np.int32]]:
        """The distinct values of the column `split`, and the code of each row; empty without such a column."""
        return self._split.values, np.concatenate([np.zeros(0, np.int32), *self._splits])

    def rows(self, found: Meaning, columns: Sequence[ColumnValues]) -> tuple[Rows, NDArray[np.bool_]]:
        """The valid rows with their interpreted labels, and which of the rows read these are.

        Rows without a usable label are reported in `problems`.
        """
        codes = list(parts(self._codes, len(columns)))
        numbers = found.numbers(codes)
        unfit = found.unfit(numbers, codes, columns)
        for row in np.flatnonzero(unfit)[: max(0, SHOWN - self.bad)].tolist():
            path, place = self._place(row)
            fault = first_fault(
                columns, [int(code[row]) for code in codes], self.label_names(len(columns)), found
            )
            self.problems.append(f"{path}, {place}: {fault}")
        self.bad += int(unfit.sum())
        on = np.concatenate([np.zeros(0, np.int32), *self._chromosomes])
        names = np.array([*self._chromosome.values, ""], dtype=object)
        rows = Rows(
            Texts(self._sequences.column()),
            _typed(numbers, found, unfit),
            names[on] if len(on) == len(numbers) else None,
        )
        return (rows.take(np.flatnonzero(~unfit)) if unfit.any() else rows), ~unfit

    def label_names(self, count: int) -> Sequence[str]:
        """Names of the label columns."""
        names = self.roles.names if self.roles is not None else ()
        return names or ["label"] * count

    def _place(self, row: int) -> tuple[Path, str]:
        for path, unit, places in self._places:
            if row < len(places):
                return path, f"{unit} {places[row]}"
            row -= len(places)
        raise IndexError(row)

    def settle(self) -> None:
        """Append the number of invalid rows that are not shown."""
        if self.bad > SHOWN:
            self.problems.append(f"{self.paths[0]}: {self.bad - SHOWN:,} more invalid lines.")


def _one_task(
    names: Sequence[str], asked: Mapping[str, str], only: str | None
) -> tuple[Mapping[str, str], str | None]:
    """Treats `task=enhancers` as a value of the column `task` if no column has that name."""
    given = asked.get("task", "")
    if only is None and given and plain(given) not in map(plain, names) and "task" in map(plain, names):
        return {role: name for role, name in asked.items() if role != "task"}, given
    return asked, only


def _named(problems: Mapping[int, str], name: str) -> dict[int, str]:
    return {row: problem.replace("`sequence`", f"`{name}`") for row, problem in problems.items()}


def _joined(
    ids: Sequence[str], joined: Mapping[str, Sequence[str]], width: int
) -> tuple[list[pa.LargeStringArray], dict[int, str]]:
    found = [joined.get(name.strip()) for name in ids]
    lacking = {
        row: f"has no labels: `id` {ids[row][:40]!r} is not in the file of labels."
        for row, labels in enumerate(found)
        if labels is None
    }
    return [texts("" if labels is None else labels[i] for labels in found) for i in range(width)], lacking


def _typed(numbers: NDArray[Any], found: Meaning, unfit: NDArray[np.bool_]) -> NDArray[Any]:
    if found.kind == "regression":
        return np.asarray(numbers, dtype=np.float64)
    if found.kind == "multilabel":
        unknown = np.isnan(numbers[~unfit]).any()
        return np.asarray(numbers if unknown else np.nan_to_num(numbers), np.float32 if unknown else np.uint8)
    return np.asarray(np.nan_to_num(numbers), np.int64)


def read_rows(path: Path, num_labels: int) -> tuple[Rows, list[str]]:
    """Read a file of classified sequences.

    Args:
        path: Any table with a column of sequences and one of labels, see `harness.data.table_files`.
        num_labels: Classes C; labels are 0 to C-1.

    Returns:
        The valid rows, and one line for each problem (at most `SHOWN` and the number of further ones).
    """
    columns = [ColumnValues()]
    table = LabelledTable.read([path], columns, {}, guess=False)
    found = Meaning("classification", (), num_labels, [_in_range(columns[0], num_labels)])
    found = Meaning(
        found.kind, (), num_labels, found.values, rule=f"a whole number from 0 to {num_labels - 1}"
    )
    if table.roles is None or len(table.roles.labels) != 1:
        return Rows([], np.zeros(0, dtype=np.int64)), table.problems
    rows, _ = table.rows(found, columns)
    table.settle()
    return rows, table.problems


def _in_range(column: ColumnValues, num_labels: int) -> NDArray[np.float64]:
    given = [
        int(value) if value.isascii() and value.isdigit() and len(value) < 6 else -1
        for value in column.values
    ]
    return np.array([value if 0 <= value < num_labels else np.nan for value in given], dtype=np.float64)
