"""Sources of a task's rows: text or Parquet files in GUE's layout, custom datasets, or data packed by `prepare`."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.errors import InputError, typed
from harness.data.file_digests import digest_of
from harness.data.hashes import same_sequences
from harness.data.hub import task_folder
from harness.data.labelled_files import Rows, read_rows
from harness.data.leakage import kept_for_training
from harness.data.own_data import forget_own, own_places, read_own
from harness.data.packed import META, PackedSequences, PackedSplit
from harness.data.schema import schema_lines
from harness.data.split_checks import look_at_labels
from harness.data.tasks import SPLITS, Strands, TaskRow
from harness.data.variants import PUBLISHED
from harness.data.varied_splits import VariedRows, varied_digests, varied_rows

SUFFIXES = (".csv", ".parquet")


def find_task_files(row: TaskRow, data_dir: Path | str) -> dict[str, Path]:
    """The files of a task's splits, `{train,dev,test}.csv` or `.parquet`, below `data_dir`.

    Their folder has the official name (`EMP/H3`, also inside `GUE/`) or that of the hub's mirror (`emp_H3`).

    Raises:
        InputError: If the folder or a split is missing; one line for each.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise InputError(f"`--data-dir` must be a folder, but got {data_dir}.")
    folders = [data_dir / name for name in folder_names(row)]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise InputError(
            f"{row.name}: expected train.csv, dev.csv and test.csv (or .parquet) in {folders[0]}, "
            "but there is none."
        )
    problems: list[str] = []
    files = {split: _split_file(row, folder, split, problems) for split in SPLITS}
    if problems:
        raise InputError(problems)
    return files


def folder_names(row: TaskRow) -> list[str]:
    """Possible folders of a task below the data folder."""
    return [name for name in (row.base, f"GUE/{row.base}", row.mirror) if name]


def missing_data(row: TaskRow, data_dir: Path | None) -> str:
    """Why a task has no data here: no folder below `data_dir`, or no copy from the hub, which is downloaded if
    possible; empty if there is data, even with errors."""
    if row.generated or row.source:
        return ""
    try:
        folder = task_folder(row, data_dir)
    except InputError as error:
        return error.problems[0]
    names = folder_names(row)
    if any((folder / name / META if row.packed else folder / name).exists() for name in names):
        return ""
    return f"{row.name}: there is no folder {' or '.join(names)} in {folder}."


def _split_file(row: TaskRow, folder: Path, split: str, problems: list[str]) -> Path:
    choices = [folder / f"{split}{suffix}" for suffix in SUFFIXES]
    found = [path for path in choices if path.is_file()]
    if not found:
        problems.append(f"{choices[0]}: missing (and no .parquet); {row.name} needs its {split} split.")
    elif len(found) > 1:
        problems.append(
            f"{folder}: must hold one file for {split}, but has {found[0].name}, {found[1].name}."
        )
    return (found or choices)[0]


def check_task(row: TaskRow, data_dir: Path | str) -> list[str]:
    """Every problem of a task's files, one line each; empty if it can be prepared."""
    try:
        if row.packed:
            _packed(row, data_dir)
        else:
            read_splits(row, data_dir)
    except InputError as error:
        return error.problems
    return []


def training_rows(
    row: TaskRow,
    data_dir: Path | str,
    *,
    drop_leaks: bool = False,
    limit: int | None = None,
    strands: Strands = "none",
) -> int:
    """Number of training rows: without those that `--drop-leaks` removes, at most `limit`, and doubled if `strands`
    adds reverse complements.

    Raises:
        InputError: with every problem of the task's files, or if its dev split cannot rank trials.
    """
    if row.packed and not drop_leaks:
        rows = _packed(row, data_dir)["train"].forward
    else:
        splits = read_splits(row, data_dir)
        look_at_labels(row, splits, split_places(row, data_dir))
        rows = len(kept_for_training(splits) if drop_leaks else splits["train"].labels)
    return min(rows, limit or rows) * (2 if strands in ("train", "both") else 1)


def label_notes(row: TaskRow, data_dir: Path | str) -> list[str]:
    """Notes on a task's labels before anything is trained, see `harness.data.split_checks.look_at_labels`.

    Packed data is checked when it is prepared.

    Raises:
        InputError: As `training_rows`.
    """
    if row.packed:
        return []
    splits, names = read_splits(row, data_dir), label_names(row, data_dir)
    found = []
    if row.source:
        own = read_own(row.source)
        lines = [*own.notes, *own.marks.values(), *schema_lines(own.schema)]
        found = [f"{row.name}: {line}" for line in lines]
    found += variant_marks(row, data_dir).values()
    return found + list(look_at_labels(row, splits, split_places(row, data_dir), names=names).values())


def split_places(row: TaskRow, data_dir: Path | str) -> dict[str, str]:
    """The source of each split's rows, for messages."""
    if row.source:
        return own_places(row.source)
    if row.packed:
        return {split: f"{split} of {Path(data_dir) / row.name}" for split in SPLITS}
    return {split: str(path) for split, path in find_task_files(row, data_dir).items()}


def forget_rows() -> None:
    """Free the memory of cached rows; they are read again when needed."""
    _read_once.cache_clear()
    _varied.cache_clear()
    forget_own()


def split_digests(row: TaskRow, data_dir: Path | str) -> dict[str, str]:
    """Digest of the content of each split: the sha256 of its files, for a variant combined with its settings.

    Raises:
        InputError: If they are missing.
    """
    return varied_digests(_digests(row, data_dir), row.variant)


def _digests(row: TaskRow, data_dir: Path | str) -> dict[str, str]:
    if row.source:
        return dict(read_own(row.source).digests)
    if row.packed:
        return {name: split.digest for name, split in _packed(row, data_dir).items()}
    return {split: digest_of(path) for split, path in find_task_files(row, data_dir).items()}


def read_splits(row: TaskRow, data_dir: Path | str) -> dict[str, Rows]:
    """All splits of a task. Of packed data only the forward strand is read.

    Raises:
        InputError: with every problem of all files, or if its variant is impossible.
    """
    return dict(_variant(row, data_dir).splits) if row.variant.text else _published(row, data_dir)


def variant_marks(row: TaskRow, data_dir: Path | str) -> dict[str, str]:
    """Caveats of a variant: `changed split`, `k-shot`; empty for the published rows."""
    return dict(_variant(row, data_dir).marks) if row.variant.text else {}


def variant_facts(row: TaskRow, data_dir: Path | str) -> dict[str, Any]:
    """How a variant was made, with sizes and classes, see `harness.data.varied_splits.VariedRows`; empty for the
    published rows."""
    return dict(_variant(row, data_dir).facts) if row.variant.text else {}


def _variant(row: TaskRow, data_dir: Path | str) -> VariedRows:
    return _varied(row, Path(data_dir), tuple(_digests(row, data_dir).items()))


@lru_cache(maxsize=16)
def _varied(row: TaskRow, data_dir: Path, digested: tuple[tuple[str, str], ...]) -> VariedRows:
    return varied_rows(row, _published(row, data_dir), dict(digested), label_names(row, data_dir))


def _published(row: TaskRow, data_dir: Path | str) -> dict[str, Rows]:
    if row.source:
        return dict(read_own(row.source).splits)
    if row.packed:
        return {name: _rows_of(split) for name, split in _packed(row, data_dir).items()}
    return _read_files(replace(row, name=row.base, variant=PUBLISHED), find_task_files(row, data_dir))


def label_names(row: TaskRow, data_dir: Path | str) -> list[str]:
    """Names of labels, of several targets, or of classes; empty if they are numbers."""
    if row.source:
        return list(read_own(row.source).label_names)
    return _packed(row, data_dir)["train"].label_names if row.packed else []


def source_marks(row: TaskRow) -> dict[str, str]:
    """Caveats that follow from the source of the rows."""
    marks = read_own(row.source).marks if row.source else {}
    anew = row.variant.way != "published"  # the variant replaces a split that was cut
    return {mark: f"{row.name}: {why}" for mark, why in marks.items() if not (anew and mark == "cut split")}


def source_schema(row: TaskRow) -> Mapping[str, Any]:
    """Summary of a custom dataset, see `harness.data.schema.schema_of`; empty for built-in tasks."""
    return read_own(row.source).schema if row.source else {}


def _packed(row: TaskRow, data_dir: Path | str) -> dict[str, PackedSplit]:
    folder = Path(data_dir) / row.name
    if not (folder / META).is_file():
        raise InputError(
            f"{row.name}: expected converted data in {folder}, but there is none; make it with `"
            f"{typed('prepare', row.family, '--source', 'FOLDER', '--out', data_dir)}`."
        )
    splits = {split: PackedSplit(folder, split) for split in SPLITS}
    labels = len(splits["train"].label_names)
    if labels != row.num_labels:
        raise InputError(f"{folder}: must have {row.num_labels} labels, but has {labels}; convert it again.")
    return splits


def _rows_of(split: PackedSplit) -> Rows:
    rows = np.arange(split.forward)
    return Rows(PackedSequences(split, rows), split.labels(rows))


def _read_files(row: TaskRow, files: Mapping[str, Path]) -> dict[str, Rows]:
    """All splits, or every problem of all of them. Files are read once for the plan and all preparations."""
    digests = {split: digest_of(path) for split, path in files.items()}
    return dict(_read_once(row, tuple(files.items()), tuple(digests.items())))


@lru_cache(maxsize=64)
def _read_once(
    row: TaskRow, named: tuple[tuple[str, Path], ...], digested: tuple[tuple[str, str], ...]
) -> Mapping[str, Rows]:
    files, digests = dict(named), dict(digested)
    splits: dict[str, Rows] = {}
    problems: list[str] = []
    for split, path in files.items():
        splits[split], found = read_rows(path, row.num_labels)
        problems += found
    for split, other in combinations(splits, 2):
        if digests[split] == digests[other] and len(splits[split].labels):
            problems.append(f"{files[other]}: must differ from {files[split].name}, but is the same file.")
        elif not problems and same_sequences(splits[split].sequences, splits[other].sequences):
            problems.append(
                f"{files[other]}: must differ from {files[split].name}, but holds the same sequences."
            )
    if problems:
        raise InputError(problems)
    return splits
