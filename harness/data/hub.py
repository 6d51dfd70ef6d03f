"""Data from the Hugging Face hub, cached as Parquet files: GUE in its official layout, other datasets as custom
datasets.

No code of a dataset is run: `datasets` reads data files only.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from harness.core.errors import InputError
from harness.data.tasks import SPLITS, TaskRow

MIRROR = "leannmlindsey/GUE"
"""The mirror; its configurations are named like `TaskRow.mirror`."""

NAMES = {"train": ("train",), "dev": ("dev", "validation", "valid"), "test": ("test",)}
"""Accepted names of each split on the hub."""

PREFIX = "hub:"
"""Prefix of the name of a task from any dataset on the hub: `hub:owner/name`, or `hub:owner/name/configuration`."""

SOURCE = "source.json"
"""File beside a copy that names its source."""

TIMEOUT_S = 10.0
"""Seconds to wait for an answer of the hub; the libraries would retry for half a minute."""


def task_folder(row: TaskRow, data_dir: Path | None) -> Path:
    """The data folder of a task: `data_dir`, or the cached copy from the hub.

    Raises:
        InputError: If there is no `data_dir` and the hub cannot be reached; the message says what to do.
    """
    if row.source:
        return row.path.parent
    if data_dir is not None:
        return data_dir
    if row.packed:
        raise InputError(
            f"`--data-dir` is needed for {row.name}: name the folder that `prepare {row.family}` wrote."
        )
    try:
        return fetch(row)
    except InputError as error:
        raise InputError(
            f"`--data-dir` is needed for {row.name}: name the folder that holds {row.name}/train.csv, dev.csv "
            f"and test.csv (or .parquet). The copy on the hub is not available: {error}"
        ) from None


def fetch(row: TaskRow, *, repository: str = MIRROR, cache_dir: Path | None = None) -> Path:
    """Download a task's splits, or use the cached copy (without network access).

    Args:
        repository: Hub id of a dataset, or a local folder in the hub's layout.
        cache_dir: Folder of cached copies; that of the `datasets` library if `None`.

    Returns:
        A folder for `harness.data.sources.find_task_files`, with `<mirror name>/{train,dev,test}.parquet`.

    Raises:
        InputError: If the hub cannot be reached, or has no such configuration, split or columns.
    """
    if not row.mirror:
        raise InputError(f"{row.name} is not in {repository}.")
    there = kept(row, repository=repository, cache_dir=cache_dir)
    if there is not None:
        return there
    folder = _folder(repository, cache_dir)
    final = folder / row.mirror
    revision = None if Path(repository).is_dir() else _revision(repository)
    splits = _load(repository, row.mirror, revision)
    _keep(final, splits, {"repository": repository, "revision": revision})
    return folder


def _keep(final: Path, splits: Mapping[str, Any], source: Mapping[str, Any]) -> None:
    """Write a copy atomically."""
    final.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        for split, table in splits.items():
            table.to_parquet(made / f"{split}.parquet")
        (made / SOURCE).write_text(json.dumps(source) + "\n")
        made.chmod(0o755)
        shutil.rmtree(final, ignore_errors=True)
        made.rename(final)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def own_copy(name: str, *, cache_dir: Path | None = None) -> str:
    """The cached copy of a task whose name begins with `PREFIX`: its folder, with the options for reading it.

    Raises:
        InputError: If the name is malformed, or the hub does not provide the dataset.
    """
    given, mark, reading = name.removeprefix(PREFIX).partition("?")
    parts = given.strip("/").split("/")
    if not 2 <= len(parts) <= 3 or not all(
        re.fullmatch(r"[\w.-]+", part) and set(part) != {"."} for part in parts
    ):
        raise InputError(
            f"`--tasks` must name a data set of the hub as {PREFIX}owner/name[/configuration], but got {name!r}."
        )
    repository, configuration = "/".join(parts[:2]), parts[2] if len(parts) == 3 else None
    return f"{fetch_any(repository, configuration, cache_dir=cache_dir)}{mark}{reading}"


def fetch_any(repository: str, configuration: str | None, *, cache_dir: Path | None = None) -> Path:
    """Download those of train, dev and test that a dataset has, or use the cached copy.

    Args:
        repository: Hub id of a dataset, or a local folder in the hub's layout.
        configuration: Configuration of the dataset; `None` if there is only one.
        cache_dir: As in `fetch`.

    Returns:
        A folder with `train.parquet` and, if the dataset has them, dev and test; classes are given by name.

    Raises:
        InputError: If the hub cannot be reached, or has no such dataset, configuration or split.
    """
    name = Path(repository).name + (f"_{configuration}" if configuration else "")
    final = _folder(repository, cache_dir) / "own" / name
    if (final / SOURCE).is_file():
        return final
    title = f"{PREFIX}{repository}{f'/{configuration}' if configuration else ''}"
    try:
        revision = None if Path(repository).is_dir() else _revision(repository)
        held = _held(repository, configuration, revision)
    except InputError as error:
        raise InputError(f"`--tasks {title}` cannot be downloaded: {error}") from None
    splits = {split: held[known] for split, names in NAMES.items() for known in names if known in held}
    if "train" not in splits:
        raise InputError(f"`--tasks {title}` must have a split train, but has {', '.join(held)}.")
    named = {split: _with_names(table) for split, table in splits.items()}
    aside = [split for split in held if not any(split in names for names in NAMES.values())]
    _keep(
        final,
        named,
        {"repository": repository, "configuration": configuration, "revision": revision, "aside": aside},
    )
    return final


def source_note(folder: Path) -> str:
    """The source of a cached copy; empty for other folders."""
    try:
        found = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
        parts = [found["repository"], *filter(None, [found.get("configuration")])]
        aside = f"; ignored: {', '.join(found['aside'])}" if found.get("aside") else ""
        return f"{'/'.join(parts)} of the hub, revision {found['revision'] or 'of a folder'}{aside}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _with_names(table: Any) -> Any:
    """A table with class names instead of numbers, if classes have names."""
    from datasets import ClassLabel, Value

    for column, feature in table.features.items():
        if isinstance(feature, ClassLabel) and not all(name.isdigit() for name in feature.names):
            names = [None if code is None else feature.names[code] for code in table[column]]
            table = table.remove_columns(column).add_column(column, names, feature=Value("string"))
    return table


def kept(row: TaskRow, *, repository: str = MIRROR, cache_dir: Path | None = None) -> Path | None:
    """The folder that `fetch` would return without network access; `None` if nothing is cached."""
    folder = _folder(repository, cache_dir)
    whole = all((folder / row.mirror / f"{split}.parquet").is_file() for split in SPLITS)
    return folder if row.mirror and whole else None


def _folder(repository: str, cache_dir: Path | None) -> Path:
    from datasets import config

    parent = cache_dir or Path(config.HF_DATASETS_CACHE) / "lingo-bench"
    return parent / repository.strip("/").replace("/", "--")


def _revision(repository: str) -> str:
    """The commit to download. Requested first, because this fails at once without network access."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise InputError("HF_HUB_OFFLINE is set.")
    answer, problem = _ask(repository)
    if answer is None:
        raise InputError(problem)
    return answer


@cache
def _ask(repository: str) -> tuple[str | None, str]:
    """Requested once for all tasks: (commit, "") or (None, reason)."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(repository, timeout=TIMEOUT_S).sha or "main", ""
    except Exception as error:  # the client raises a dozen types, which all mean the same here
        return None, f"{repository} does not answer ({_one_line(error)})."


def _held(repository: str, name: str | None, revision: str | None) -> Any:
    import datasets

    try:
        return datasets.load_dataset(repository, name, revision=revision)
    except Exception as error:  # as above, and errors of its builders on malformed files
        raise InputError(f"{repository} does not give {name or 'its table'} ({_one_line(error)}).") from None


def _load(repository: str, name: str, revision: str | None) -> dict[str, Any]:
    held = _held(repository, name, revision)
    found: dict[str, Any] = {}
    for split, names in NAMES.items():
        there = next((known for known in names if known in held), None)
        if there is None:
            raise InputError(f"{repository}, {name}: has no split {split}, but {', '.join(held)}.")
        columns = held[there].column_names
        if not {"sequence", "label"} <= set(columns):
            raise InputError(
                f"{repository}, {name}: must have sequence and label, but got {', '.join(columns)}."
            )
        found[split] = held[there].select_columns(["sequence", "label"])
    return found


def _one_line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:120]
