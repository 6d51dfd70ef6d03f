"""What a benchmark would do to each file with each backbone: tokens, what is cut, memory, time. No weights are read."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.core import home
from harness.core.errors import InputError
from harness.core.wording import duration
from harness.data import hub, sources
from harness.data.tasks import TaskRow
from lingo.trial import PAPER_MATRICES

ROWS, BATCH, RANK = 64, 8, 8
"""Rows of train that are looked at; sequences of a step, and rank of the adapters, for memory and time."""

SIDE, TIMES = 1024, 5
"""Of the matrix product that measures this machine."""


class Told(NamedTuple):
    """A line about a file and a backbone, and whether something in it should be looked at."""

    text: str
    noticed: bool


def readings(models: Sequence[str], tasks: Sequence[TaskRow], data_dir: Path | None) -> Iterator[Told]:
    """One line for each task and backbone whose files are here."""
    from lingo.checkpoint import BackboneError
    from lingo.outline import outline

    speed = 0.0
    for model in models:
        try:
            folder = home.path_of(model)
            found = outline(folder) if folder.is_dir() else None
        except BackboneError:  # the check of backbones has said so
            continue
        for row in tasks if found else ():
            try:
                where = row.path.parent if row.source else data_dir or hub.kept(row)
                if row.generated or where is None:
                    continue
                sequences = sources.read_splits(row, where)["train"].sequences
            except InputError:
                continue
            speed = speed or _speed()
            assert found is not None
            yield _told(row, model, found, sequences, speed)


def _told(row: TaskRow, model: str, found: object, sequences: Sequence[str], speed: float) -> Told:
    from harness.data.token_checks import caveats, sample_reading, spelling_note
    from lingo.outline import Outline
    from lingo.vocabulary import unknown_bases

    assert isinstance(found, Outline)
    backbone = found.backbone
    sample = [sequences[i] for i in range(min(ROWS, len(sequences)))]
    reading, lengths = sample_reading(sample, backbone.tokenizer, None, backbone.max_length)
    tokens = min(lengths.longest, backbone.max_length)
    marks, _ = caveats(row.name, model, {"train": reading}, refuse=False)
    unknown = unknown_bases(backbone.tokenizer)
    parts = [
        f"{row.name} with {Path(model).name}: {lengths.median:,} tokens a sequence, up to {lengths.longest:,}",
        f"{lengths.cut:.0%} of {len(sample)} rows cut to {backbone.max_length:,}"
        if lengths.cut
        else "none cut",
        f"about {max(0.1, found.gib(tokens=tokens, batch=BATCH, weight_bytes=4)):.1f} GiB in fp32",
        f"an epoch of LoRA at least {duration(_seconds(found, tokens, len(sequences), speed))} here",
        spelling_note(backbone.tokenizer),
        reading.told,
        f"{', '.join(unknown)} unknown: refused by a run" if unknown else "",
    ]
    return Told("; ".join(filter(None, parts)), bool(lengths.cut or marks or unknown))


def _seconds(found: object, tokens: int, rows: int, speed: float) -> float:
    """Of an epoch, by its FLOPs at the speed of a matrix product; `plan` measures real steps."""
    from lingo.outline import Outline
    from lingo.trial import ALL_LINEAR

    assert isinstance(found, Outline)
    paper = tuple(name for name in PAPER_MATRICES if name in found.backbone.matrices)
    step = found.step(paper or (ALL_LINEAR,), full=False, length=tokens, batch=BATCH, rank=RANK)
    return float(step.total) * -(-rows // BATCH) / speed


def _speed() -> float:
    """FLOPs a second of a product of matrices on this machine's device."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.ones(SIDE, SIDE, device=device)
    _ = a @ a
    begun = time.perf_counter()
    for _ in range(TIMES):
        a = (a @ a) * 1e-3
    float(a[0, 0])
    return 2.0 * SIDE**3 * TIMES / (time.perf_counter() - begun)
