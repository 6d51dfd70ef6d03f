"""The packs of a worker: backbone, number of slots, and capacity for the largest possible trial."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, get_args

from harness.data.prepared import read_recipe
from harness.pool.files import Files
from lingo.backbones import Backbone
from lingo.batch import Share
from lingo.embeddings import add_rows
from lingo.fresh_names import fresh_name, parts_of
from lingo.pack import Pack
from lingo.quantized import load_frozen
from lingo.reduce import Reduce, alone
from lingo.trial import Frozen, Precision, TrialConfig


@dataclass(frozen=True, kw_only=True)
class Room:
    """Capacity of a worker's packs.

    Attributes:
        pack: Trials at once (K); full fine-tuning always has a pack of one.
        max_rank: Largest possible LoRA rank or b0.
        max_labels: Largest number of outputs of a task.
        outputs: Whether trials may train a number of each output of a matrix, see `lingo.pack.Pack`.
        frozen: Number type of frozen weights; full fine-tuning has none, and its weights are float32.
        precision: How full fine-tuning computes.
    """

    pack: int = 1
    max_rank: int = 16
    max_labels: int = 2
    outputs: bool = False
    frozen: Frozen = "fp32"
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.pack < 1:
            raise ValueError(f"`pack` must be at least 1, but got {self.pack}.")
        if self.frozen not in get_args(Frozen):
            raise ValueError(
                f"`frozen` must be one of {', '.join(get_args(Frozen))}, but got {self.frozen!r}."
            )

    def holds_no_more(self, pack: Pack) -> bool:
        """Whether a pack has exactly this capacity."""
        same = pack.max_rank == self.max_rank and pack.layout.outputs == self.outputs
        return (same or pack.full) and pack.layout.labels == self.max_labels


def is_full(config: TrialConfig) -> bool:
    """Whether a trial trains every weight and so needs a pack for itself."""
    return config.kind.trains_all


def local_source(source: str, files: Files) -> str:
    """Source of a backbone on this host: a known name, a hub id, or a transferred folder; fresh weights are drawn
    here and never sent."""
    seed, plain = parts_of(source)
    is_folder = plain.startswith((".", "/", "~")) or plain.count("/") > 1
    here = str(files.fetch(plain)) if is_folder else plain
    return here if seed is None else fresh_name(here, seed)


class InputNeeds(NamedTuple):
    """What prepared data needs of a backbone: new rows of its embedding, and the tokens of a chunk of longer rows."""

    new_tokens: int = 0
    window: int = 0

    @classmethod
    def of(cls, folder: Path) -> "InputNeeds":
        """Those of a prepared task."""
        recipe = read_recipe(folder)
        window = recipe["max_length"] or 0 if recipe.get("long") == "chunk" else 0
        return cls(int(recipe.get("new_tokens", 0)), int(window))

    def applied(self, backbone: Backbone) -> Backbone:
        """The backbone with them."""
        add_rows(backbone, self.new_tokens)
        return replace(backbone, window=self.window)


def load(source: str | Path, room: Room, *, full: bool, device: str, needs: InputNeeds) -> Backbone:
    """A frozen backbone on its device, as the data needs it."""
    return needs.applied(load_frozen(source, "fp32" if full else room.frozen, device=device))


def build(
    backbone: Backbone,
    room: Room,
    config: TrialConfig,
    labels: int,
    *,
    capacity: int,
    share: Share | None = None,
    reduce: Reduce = alone,
    micro_batches: int = 1,
) -> Pack:
    """An empty pack with capacity for this trial and for the given room."""
    full = is_full(config)
    return Pack(
        backbone,
        capacity=1 if full else capacity,
        max_rank=max(room.max_rank, config.kind.rank(config)),
        max_labels=max(room.max_labels, labels),
        outputs=room.outputs or config.kind.outputs != "none",
        full=full,
        precision=room.precision,
        share=share,
        reduce=reduce,
        micro_batches=micro_batches,
    )
