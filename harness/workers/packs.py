"""The packs of a worker: which backbone, how many slots, and room for the largest trial that may come."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from harness.pool.files import Files
from lingo.backbones import Backbone
from lingo.batch import Share
from lingo.embeddings import add_rows
from lingo.layout import Layout
from lingo.pack import Pack
from lingo.quantized import load_frozen
from lingo.reduce import Reduce, alone
from lingo.trial import Frozen, TrialConfig


@dataclass(frozen=True, kw_only=True)
class Room:
    """What a worker's packs hold.

    Attributes:
        pack: Trials at once (K); full fine-tuning always has a pack of one.
        max_rank: Largest LoRA rank or b0 of any trial that may come.
        max_labels: Most outputs of any task.
        frozen: Number type of frozen weights; full fine-tuning has none and stays in float32.
    """

    pack: int = 1
    max_rank: int = 16
    max_labels: int = 2
    frozen: Frozen = "fp32"

    def __post_init__(self) -> None:
        if self.pack < 1:
            raise ValueError(f"`pack` must be at least 1, but got {self.pack}.")
        if self.frozen not in get_args(Frozen):
            raise ValueError(
                f"`frozen` must be one of {', '.join(get_args(Frozen))}, but got {self.frozen!r}."
            )

    def holds_no_more(self, layout: Layout) -> bool:
        """Whether a pack of this layout has just this room."""
        return layout.rank in (0, self.max_rank) and layout.labels == self.max_labels


def is_full(config: TrialConfig) -> bool:
    """Whether a trial trains every weight and so needs a pack for itself."""
    return config.kind.trains_all


def local_source(source: str, files: Files) -> str:
    """Where this host finds a backbone: the name of a known one or of one at the hub, or a folder fetched."""
    is_folder = source.startswith((".", "/", "~")) or source.count("/") > 1
    return str(files.fetch(source)) if is_folder else source


def load(source: str | Path, room: Room, *, full: bool, device: str, new_tokens: int) -> Backbone:
    """A frozen backbone on its device, its embedding grown by the new tokens of the data."""
    backbone = load_frozen(source, "fp32" if full else room.frozen, device=device)
    add_rows(backbone, new_tokens)
    return backbone


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
    """An empty pack with room for this trial and for all that the room is meant for."""
    full = is_full(config)
    return Pack(
        backbone,
        capacity=1 if full else capacity,
        max_rank=max(room.max_rank, config.kind.rank(config)),
        max_labels=max(room.max_labels, labels),
        full=full,
        share=share,
        reduce=reduce,
        micro_batches=micro_batches,
    )
