"""GUE from the Hugging Face hub: each dataset of the mirror once, as Parquet files in the official layout."""

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from harness.core.errors import InputError
from harness.data.tasks import SPLITS, TaskRow

MIRROR = "leannmlindsey/GUE"
"""The mirror; its configurations are named like `TaskRow.mirror`."""

NAMES = {"train": ("train",), "dev": ("dev", "validation", "valid"), "test": ("test",)}
"""Names that a split may have there."""

TIMEOUT_S = 10.0
"""How long the hub may take to answer at all; the libraries would try for half a minute."""


def task_folder(row: TaskRow, data_dir: Path | None) -> Path:
    """The data folder of a task: `data_dir`, or without one the kept copy from the hub.

    Raises:
        InputError: If there is no `data_dir` and the hub cannot be reached; it says what to do.
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
            f"and test.csv (or .parquet). The hub's copy is not to be had: {error}"
        ) from None


def fetch(row: TaskRow, *, repository: str = MIRROR, cache_dir: Path | None = None) -> Path:
    """Download a task's splits, or find them where they were kept before (the network is not used then).

    Args:
        repository: Hub id of a dataset, or a local folder in the hub's layout.
        cache_dir: Where copies are kept; the `datasets` library's cache when `None`.

    Returns:
        A folder for `harness.data.sources.find_task_files`: it holds `<mirror name>/{train,dev,test}.parquet`.

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
    folder.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{row.mirror}.", dir=folder))
    try:
        for split, table in splits.items():
            table.to_parquet(made / f"{split}.parquet")
        (made / "source.json").write_text(json.dumps({"repository": repository, "revision": revision}) + "\n")
        made.chmod(0o755)
        shutil.rmtree(final, ignore_errors=True)
        made.rename(final)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def kept(row: TaskRow, *, repository: str = MIRROR, cache_dir: Path | None = None) -> Path | None:
    """The folder that `fetch` would give without asking the network; `None` when nothing is kept."""
    folder = _folder(repository, cache_dir)
    whole = all((folder / row.mirror / f"{split}.parquet").is_file() for split in SPLITS)
    return folder if row.mirror and whole else None


def _folder(repository: str, cache_dir: Path | None) -> Path:
    from datasets import config

    parent = cache_dir or Path(config.HF_DATASETS_CACHE) / "lingo-bench"
    return parent / repository.strip("/").replace("/", "--")


def _revision(repository: str) -> str:
    """The commit that is downloaded. Asked first, since it fails at once where there is no network."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise InputError("HF_HUB_OFFLINE is set.")
    answer, problem = _ask(repository)
    if answer is None:
        raise InputError(problem)
    return answer


@cache
def _ask(repository: str) -> tuple[str | None, str]:
    """Once for all tasks: (commit, "") or (None, why not)."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(repository, timeout=TIMEOUT_S).sha or "main", ""
    except Exception as error:  # the client raises a dozen kinds, and all of them mean the same here
        return None, f"{repository} does not answer ({_one_line(error)})."


def _load(repository: str, name: str, revision: str | None) -> dict[str, Any]:
    import datasets

    try:
        held = datasets.load_dataset(repository, name, revision=revision)
    except Exception as error:  # as above, and whatever its builders make of odd files
        raise InputError(f"{repository} does not give {name} ({_one_line(error)}).") from None
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
