"""A custom dataset as a task: one file, or a folder with train, dev and test, in any table format.

Columns determine what is predicted (`harness.data.columns`), and their values the kind of task
(`harness.data.labels`). Missing splits are cut from train: deterministic, stratified by class, identical sequences in
one split.

A task's name may contain reading options: `PATH?label=activity&task=enhancers`, see `Reading`.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import InputError
from harness.data.columns import shown
from harness.data.cut_splits import cut_splits, told_cut
from harness.data.file_digests import digest_of
from harness.data.hashes import same_sequences
from harness.data.hub import source_note
from harness.data.labelled_files import LabelFile, LabelledTable, Rows
from harness.data.labels import ColumnValues, Meaning, meaning
from harness.data.reading import Reading, parted, stem_of
from harness.data.schema import schema_of
from harness.data.sequence_column import LetterCounts, Texts
from harness.data.split_files import NAMES, split_files
from harness.data.tasks import DEFAULT_METRICS, SPLITS, TaskRow
from lingo.data import Kind
from lingo.sequences import Case


@dataclass(frozen=True, kw_only=True)
class OwnData:
    """The rows of a custom dataset.

    Attributes:
        kind, num_labels: As in `lingo.data.TaskData`.
        label_names: Names of labels, of several targets, or of classes that are not 0 to C-1.
        splits: Rows of train, dev and test.
        digests: Digest of the content of each split.
        cut: Splits that were cut from train.
        only: The value of the column `task` that selects rows; `None` for all.
        notes: Observations on files, columns, labels and letters, one line each.
        marks: Caveats, each with a line that gives the reason.
        schema: Summary of the content, see `harness.data.schema.schema_of`.
    """

    kind: Kind
    num_labels: int
    label_names: tuple[str, ...]
    splits: Mapping[str, Rows]
    digests: Mapping[str, str]
    cut: tuple[str, ...]
    only: str | None
    notes: tuple[str, ...] = ()
    marks: Mapping[str, str]
    schema: Mapping[str, Any]


def own_task(name: str) -> TaskRow:
    """The row of a task from a file or folder; its name is `own/` and the last part of the path, unless the reading
    options name it.

    Raises:
        InputError: with every problem of its files, each with its line.
    """
    given, reading = parted(name)
    path = Path(os.path.realpath(given))  # unlike `resolve`, it does not fail on a loop of links
    source = reading.told_of(str(path))
    data = read_own(source)
    sequences = data.splits["train"].sequences
    lengths = sequences.lengths if isinstance(sequences, Texts) else [len(text) for text in sequences]
    stem = (stem_of(path) if stem_of(path) != path.name else path.stem) if path.is_file() else path.name
    stem = f"{stem}_{data.only}" if data.only is not None else stem
    name = reading.name or f"own/{re.sub(r'[^A-Za-z0-9._-]+', '_', stem)}"
    return TaskRow(
        name=name,
        family=name.split("/")[0],
        num_labels=data.num_labels,
        length=int(np.median(lengths)),
        domain="DNA",
        kind=data.kind,
        metric=DEFAULT_METRICS[data.kind],
        source=source,
    )


def read_own(source: Path | str) -> OwnData:
    """Read and check a file or folder, and cut missing splits from train.

    Args:
        source: A path, followed by `?` and reading options if necessary.

    Raises:
        InputError: with every problem, each with file and line.
    """
    path, reading = parted(str(source))
    files = split_files(path)
    further = tuple((Path(file), digest_of(Path(file))) for file in reading.files)
    digests = {split: _joint_digest(some) for split, some in files.items()}
    return _read(tuple(files.items()), tuple(digests.items()), reading, further)


def _joint_digest(files: Sequence[Path]) -> str:
    each = [digest_of(file) for file in files]
    return each[0] if len(each) == 1 else hashlib.sha256(" ".join(each).encode()).hexdigest()


def forget_own() -> None:
    """Free the memory of cached tables; they are read again when needed."""
    _read.cache_clear()


def own_places(source: Path | str) -> dict[str, str]:
    """The source file of each split."""
    files = split_files(parted(str(source))[0])
    told = {split: str(some[0]) + (", …" if len(some) > 1 else "") for split, some in files.items()}
    data = read_own(source)
    return {
        split: told.get(split)
        or (
            f"{split}, which is cut from {told['train']},"
            if split in data.cut
            else f"{split} of {told['train']}"
        )
        for split in SPLITS
    }


@lru_cache(maxsize=4)
def _read(
    files: tuple[tuple[str, tuple[Path, ...]], ...],
    digested: tuple[tuple[str, str], ...],
    reading: Reading,
    further: tuple[tuple[Path, str], ...],
) -> OwnData:
    """As `read_own`; a file is read again if its content has changed."""
    digests = dict(digested)
    asked, columns, problems = dict(reading.columns), list[ColumnValues](), list[str]()
    joined = LabelFile.read(Path(reading.labels), asked) if reading.labels else None
    if joined is not None:
        asked = {name: value for name, value in asked.items() if name not in ("label", "target")}
    tables = {
        split: LabelledTable.read(
            paths,
            columns,
            asked,
            only=reading.only,
            joined=joined,
            case=reading.case,
            genome=reading.genome,
        )
        for split, paths in files
    }
    problems += [
        line for table in tables.values() for line in table.problems if table.roles is None or not table.bad
    ]
    problems += _layout_problems(tables, reading)
    for (_, one), (split, other) in combinations(digested, 2):
        if one == other:
            path = tables[split].paths[0]
            problems.append(f"{path}: must differ from the other splits, but is the same file.")
    found = None if problems else _meaning(tables, columns)
    if isinstance(found, str):
        problems.append(f"{tables['train'].paths[0]}: {found}")
    splits: dict[str, Rows] = {}
    kept: dict[str, NDArray[np.bool_]] = {}
    for split, table in tables.items():
        if isinstance(found, Meaning):
            splits[split], kept[split] = table.rows(found, columns)
        table.settle()
        if reading.on_error == "refuse" and (table.bad or not isinstance(found, Meaning)):
            problems += [line for line in table.problems if line not in problems]
    marks = {}
    if reading.on_error == "skip" and (some := sum(table.bad for table in tables.values())):
        example = next(line for table in tables.values() for line in table.problems)
        marks["skipped rows"] = (
            f"{tables['train'].paths[0]}: {some:,} invalid rows are left out, such as {example}"
        )
        if any(not len(rows.labels) for rows in splits.values()):
            problems.append(f"{tables['train'].paths[0]}: has no valid row; the first problem is {example}")
    if not problems and (_content(reading) or further):
        digests = {
            split: hashlib.sha256(
                f"{one} {_content(reading)} {' '.join(digest for _, digest in further)}".encode()
            ).hexdigest()
            for split, one in digests.items()
        }
    if not problems and isinstance(found, Meaning):
        splits, digests, more = _by_column(tables["train"], splits, digests, kept, reading)
        problems += more
    for (first, rows), (split, others) in combinations(splits.items(), 2):
        if not problems and same_sequences(rows.sequences, others.sequences):
            problems.append(
                f"{_place(tables, split)}: must differ from {_name(tables, first)}, but holds the same sequences."
            )
    if not problems and isinstance(found, Meaning):
        problems += _class_problems(_place(tables, "train"), splits, found, tables["train"])
    if problems or not isinstance(found, Meaning):
        raise InputError(problems)
    cut = tuple(split for split in SPLITS if split not in splits)
    if cut:
        splits, digests, staying = cut_splits(tables["train"].paths[0], found.kind, splits, digests, cut)
        marks["cut split"] = told_cut(splits, cut, staying)
    written = sum((table.written for table in tables.values()), start=LetterCounts())
    bad = sum(table.bad for table in tables.values())
    return OwnData(
        kind=found.kind,
        num_labels=found.outputs,
        label_names=found.names,
        splits={split: splits[split] for split in SPLITS},
        digests=digests,
        cut=cut,
        only=tables["train"].only,
        notes=tuple(_notes(tables, found, splits, written, reading.case)),
        marks=marks,
        schema=schema_of(found.kind, found.names, splits, written, reading, bad),
    )


def _content(reading: Reading) -> str:
    """The part of the reading options that determines rows and labels; further files are included by digest."""
    aside = ("labels=", "genome=", "name=")
    return "&".join(word for word in reading.text.split("&") if not word.startswith(aside))


def _place(tables: Mapping[str, LabelledTable], split: str) -> str:
    return str(tables[split].paths[0]) if split in tables else f"{split} of {tables['train'].paths[0]}"


def _name(tables: Mapping[str, LabelledTable], split: str) -> str:
    return tables[split].paths[0].name if split in tables else split


def _layout_problems(tables: Mapping[str, LabelledTable], reading: Reading) -> list[str]:
    """Problems: splits with different columns, and several tasks in one file."""
    known = {split: table.roles for split, table in tables.items() if table.roles is not None}
    problems = []
    if len({roles.layout for roles in known.values()}) > 1:
        given = "; ".join(
            f"{tables[split].paths[0].name} has "
            f"{', '.join(['sequence' if roles.second is None else 'sequence_a, sequence_b', *roles.names[:8]])}"
            for split, roles in known.items()
        )
        problems.append(
            f"{tables['train'].paths[0].parent}: all splits must have the same columns, but {given}."
        )
    tasks = sorted({task for table in tables.values() for task in table.tasks})
    if len(tasks) > 1 and all(table.only is None for table in tables.values()):
        some = ", ".join(shown(task, 30) for task in tasks[:5]) + (", …" if len(tasks) > 5 else "")
        problems.append(
            f"{tables['train'].paths[0]}: has {len(tasks)} tasks in its column `task` ({some}); "
            f"`--columns task={shown(tasks[0], 30)}` takes one of them."
        )
    return problems


def _meaning(tables: Mapping[str, LabelledTable], columns: Sequence[ColumnValues]) -> Meaning | str:
    roles = tables["train"].roles
    assert roles is not None
    return meaning(roles.say, roles.names, columns, sum(table.count for table in tables.values()))


def _by_column(
    train: LabelledTable,
    splits: dict[str, Rows],
    digests: dict[str, str],
    kept: Mapping[str, NDArray[np.bool_]],
    reading: Reading,
) -> tuple[dict[str, Rows], dict[str, str], list[str]]:
    """Splits given by a column of train."""
    values, codes = train.parts_of()
    asked = bool(reading.dev or reading.test)
    if not values or len(splits) > 1:
        if not asked:
            return splits, digests, []
        why = "there are further files" if values else "there is none; `split=NAME` names another column"
        return (
            splits,
            digests,
            [f"{train.paths[0]}: dev and test must be values of a column `split`, but {why}."],
        )
    codes = codes[kept["train"]]
    names: Mapping[str, Sequence[str]] = {"dev": reading.dev, "test": reading.test} if asked else NAMES
    split_of = {name: split for split, some in names.items() for name in some}
    present = [values[code] for code in np.unique(codes).tolist()]
    given = {value: split_of.get(value if asked else value.casefold()) for value in present}
    problems = []
    if asked:
        lacking = [name for name in split_of if name not in given]
        given = {value: split or "train" for value, split in given.items()}
    else:
        lacking = [value for value, split in given.items() if split is None]
    if lacking:
        what = (
            "is no value of it" if asked else "is none; `--columns dev=VALUE,test=VALUE` says which they are"
        )
        some = ", ".join(shown(value, 20) for value in list(given)[:8])
        problems.append(
            f"{train.paths[0]}: the column `split` must name train, dev and test, but {shown(lacking[0], 30)!r} {what} "
            f"(it has {some})."
        )
        return splits, digests, problems
    if "train" not in given.values():
        return (
            splits,
            digests,
            [f"{train.paths[0]}: the column `split` must have rows of train, but has none."],
        )
    rows, split_at = splits["train"], np.array([given.get(value, "") for value in values])
    found = {split: np.flatnonzero((split_at == split)[codes]) for split in SPLITS}
    made = {split: rows.take(chosen) for split, chosen in found.items() if len(chosen)}
    whole = digests["train"]
    return made, {split: hashlib.sha256(f"{whole} split {split}".encode()).hexdigest() for split in made}, []


def _class_problems(
    place: str, splits: Mapping[str, Rows], found: Meaning, table: LabelledTable
) -> list[str]:
    """Problems: classes without a training row."""
    if found.kind != "classification":
        return []
    present = set(np.unique(splits["train"].labels).tolist())
    lacking = [number for number in range(found.outputs) if number not in present]
    if not lacking:
        return []
    names = [found.names[number] if found.names else str(number) for number in lacking[:5]]
    some = ", ".join(names) + (", …" if len(lacking) > 5 else "")
    name, least = (
        table.label_names(1)[0],
        f"from 0 to {found.outputs - 1}" if not found.names else "that there is",
    )
    return [f"{place}: `{shown(name, 30)}` must have rows of every class {least}, but has none of {some}."]


def _notes(
    tables: Mapping[str, LabelledTable],
    found: Meaning,
    splits: Mapping[str, Rows],
    written: LetterCounts,
    case: Case,
) -> list[str]:
    train = tables["train"]
    notes = list(dict.fromkeys(note for table in tables.values() for note in table.notes))
    notes = [f"{line}." for line in [source_note(train.paths[0].parent)] if line] + notes
    told = [found.note] if found.note else []
    told += [line] if (line := written.note(case)) else []
    if found.kind == "multilabel":
        unknown = sum(
            int(np.isnan(rows.labels).sum()) for rows in splits.values() if rows.labels.dtype.kind == "f"
        )
        some = "1 label is" if unknown == 1 else f"{unknown:,} labels are"
        told += [f"{some} unknown: neither loss nor metrics count them"] if unknown else []
    return notes + [f"{train.paths[0].name}: {line}." for line in told]
