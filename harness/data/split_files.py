"""Assignment of a folder's files to splits."""

import re
from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import InputError
from harness.data.reading import stem_of

NAMES = {
    "train": ("train", "training"),
    "dev": ("dev", "valid", "validation", "val", "eval"),
    "test": ("test", "testing"),
}
"""Names of each split: of its file without extension (or without `-00000-of-00001`), and in a column `split`."""


def split_files(path: Path) -> dict[str, tuple[Path, ...]]:
    if path.is_file():
        return {"train": (path,)}
    if not path.is_dir():
        raise InputError(f"`--tasks` must name known tasks, files or folders, but there is no {path}.")
    files, problems = {}, []
    for split, names in NAMES.items():
        found = _files_of(path, names) or _files_of(path / "data", names)
        if len(found) > 1 and not all(re.search(r"[-_]\d+(-of-\d+)?$", stem_of(file)) for file in found):
            problems.append(
                f"{path}: must hold one file for {split}, but has {', '.join(f.name for f in found)}."
            )
        if found:
            files[split] = tuple(found)
    if "train" not in files:
        problems.append(
            f"{path}: must hold train.csv or train.parquet (or another kind of table), but has neither."
        )
    if problems:
        raise InputError(problems)
    return files


def _files_of(folder: Path, names: Sequence[str]) -> list[Path]:
    """The file `train.csv` of a split, or its parts `train-00000-of-00002.parquet` in order."""
    if not folder.is_dir():
        return []
    found = {}
    for file in folder.iterdir():
        if (stem := stem_of(file)) != file.name and file.is_file():
            name, parts = re.sub(r"[-_]\d+(-of-\d+)?$", "", stem).casefold(), stem.casefold()
            if name in names or parts in names:
                found[file] = (names.index(name if name in names else parts), file.name)
    return sorted(found, key=lambda file: found[file])
