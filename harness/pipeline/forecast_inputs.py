"""Data and backbones of a benchmark as found on this machine. Nothing is downloaded."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config.benchmark import TINY_MODEL, Benchmark
from harness.core.errors import InputError
from harness.core.home import path_of
from harness.data import hub, sources
from harness.data.tasks import SPLITS, TaskRow, strands_of
from lingo.flops import PUBLISHED, Shape

if TYPE_CHECKING:
    from lingo.outline import Outline

SAMPLED = 64
"""Number of sequences that are tokenised to estimate the length of inputs."""


LEFT_OUT = "left out"
"""State of data that is missing, but optional."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """A task's data as found.

    Attributes:
        state: `here`, `generated`, `missing`, `left out` (by `--skip-missing`) or `bad`.
        where: The folder, or what to do about it.
        rows: Number of training rows; `None` if unknown.
        published: Whether `rows` is the published count instead of the actual one.
        sample: Some training sequences.
        problems: One line each.
        notes: Notes on its labels, one line each.
    """

    task: TaskRow
    state: str
    where: str = ""
    rows: int | None = None
    published: bool = False
    sample: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Model:
    """A backbone as found.

    Attributes:
        name: Requested name.
        state: `here`, `made here` (the quickstart's) or `missing`.
        where: The folder, or the hub's name.
        licence: Of a known backbone.
        shape: `None` if unknown.
        tokenizer: `None` where it is not here.
        outline: The model without weights; `None` if it is missing or cannot be read.
        parameters, max_length: Its size, and the maximum number of tokens of an input; 0 if unknown.
    """

    name: str
    state: str
    where: str = ""
    licence: str = ""
    shape: Shape | None = None
    tokenizer: Any = None
    outline: "Outline | None" = None
    parameters: int = 0
    max_length: int = 0
    problems: tuple[str, ...] = ()

    def gib(self, **options: Any) -> float:
        """GiB of one training step, see `lingo.known_models.training_gib`; 0 if its size is unknown."""
        from lingo.known_models import known_model, training_gib

        if self.outline is not None:
            return self.outline.gib(**options)
        known = known_model(self.name)
        layers, width = (known.layers, known.width) if known else (0, 0)
        if self.shape is not None:
            layers, width = self.shape.layers, self.shape.hidden
        return training_gib(self.parameters, layers, width, **options) if self.parameters else 0.0


def inspect_data(row: TaskRow, benchmark: Benchmark) -> Data:
    """Inspect a task's data: here, missing (with the published counts) or bad."""
    if row.generated:
        from harness.data.quickstart import ROWS

        rows = _trained_rows(ROWS["train"], row, benchmark)
        return Data(task=row, state="generated", where="generated on this machine", rows=rows)
    folder = _folder_of(row, benchmark)
    if isinstance(folder, str):
        if benchmark.skip_missing and (row.packed or benchmark.data_dir is not None):
            return Data(task=row, state=LEFT_OUT, where=folder)
        published = row.published.get("train")
        known = None if published is None else _trained_rows(published, row, benchmark)
        return Data(task=row, state="missing", where=folder, rows=known, published=True)
    try:
        options: dict[str, Any] = {"drop_leaks": benchmark.drop_leaks, "limit": benchmark.limit}
        strands = strands_of(row, benchmark.reverse_complement)
        rows = sources.training_rows(row, folder, **options, strands=strands)
        sequences = sources.read_splits(row, folder)["train"].sequences
        sample = tuple(sequences[i] for i in range(min(SAMPLED, len(sequences))))
        notes = tuple(sources.label_notes(row, folder))
    except InputError as error:
        return Data(task=row, state="bad", where=str(folder), problems=tuple(error.problems))
    return Data(task=row, state="here", where=str(folder), rows=rows, sample=sample, notes=notes)


def _folder_of(row: TaskRow, benchmark: Benchmark) -> Path | str:
    """The data folder of a task, or advice if its files are missing."""
    if row.source:
        return row.path.parent
    folder = benchmark.data_dir
    if folder is not None:
        if any((folder / name).is_dir() for name in sources.folder_names(row)):
            return folder
        need = "train.csv, dev.csv and test.csv (or .parquet)"
        how = f"`prepare {row.family}`" if row.packed else need
        return f"{folder / row.name}: {how}"
    if row.packed:
        return f"`prepare {row.family} --source FOLDER`, then --data-dir"
    return hub.kept(row) or f"downloaded from the hub ({hub.MIRROR}) by the first run, or --data-dir"


def _trained_rows(rows: int, row: TaskRow, benchmark: Benchmark) -> int:
    both = strands_of(row, benchmark.reverse_complement) in ("train", "both")
    return min(rows, benchmark.limit or rows) * (2 if both else 1)


def find_model(name: str) -> Model:
    """Inspect a backbone: here, or missing (with its published shape)."""
    from lingo.backbone_folder import inspect_backbone
    from lingo.known_models import KNOWN, known_model

    if name == TINY_MODEL:
        from harness.data.quickstart import HEADS, HIDDEN, LAYERS

        made = Shape(
            layers=LAYERS,
            hidden=HIDDEN,
            intermediate=2 * HIDDEN,
            heads=HEADS,
            kv_heads=HEADS,
            head_dim=HIDDEN // HEADS,
        )
        return Model(name=name, state="made here", where="on this machine", shape=made)
    problems = inspect_backbone(name)
    if problems:
        return Model(name=name, state="missing", problems=tuple(f"`--models`: {line}" for line in problems))
    known = known_model(name)
    licence = known.licence if known else ""
    published = next((PUBLISHED.get(key) for key, row in KNOWN.items() if row is known), None)
    folder = _kept(known.hub_id if known else name)
    if folder is None:
        where = f"{known.hub_id if known else name} at the hub, or its folder in --models"
        return Model(
            name=name,
            state="missing",
            where=where,
            licence=licence,
            shape=published,
            parameters=int(known.millions * 1e6) if known else 0,
            max_length=known.context if known else 0,
        )
    found, why = _outline(folder)
    return Model(
        name=name,
        state="here",
        where=str(folder),
        licence=licence,
        shape=(found.shape if found else None) or published,
        tokenizer=found.backbone.tokenizer if found else None,
        outline=found,
        parameters=found.parameters if found else 0,
        max_length=found.backbone.max_length if found else 0,
        problems=tuple(f"`--models`: {line}" for line in why),
    )


def _kept(name: str) -> Path | None:
    """A backbone's folder on this machine: the given one, or that of the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    folder = path_of(name)
    if folder.is_dir():
        return folder
    try:
        found = try_to_load_from_cache(name, "config.json")
    except ValueError:  # not a hub id
        return None
    return Path(found).parent if isinstance(found, str) else None


@cache
def _outline(folder: Path) -> "tuple[Outline | None, tuple[str, ...]]":
    """The model of a folder without weights, or why it is not a backbone."""
    from lingo.checkpoint import BackboneError
    from lingo.outline import outline

    try:
        return outline(folder), ()
    except BackboneError as error:
        return None, tuple(error.problems)


def splits_text(row: TaskRow) -> str:
    """Published rows of the splits, `?` where unknown."""
    return "/".join(f"{row.published[split]:,}" if split in row.published else "?" for split in SPLITS)
