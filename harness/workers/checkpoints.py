"""Checkpoints of a job: its slot's exact state beside what it has reported, in generations sealed by digests.

`<checkpoints>/<job>/step-<n>/` is one generation, never changed once it is whole: the slot as `lingo.state`
saves it, and `job.json` with the progress, sealed, which names the slot's digest and is written last. The two
newest are kept, and the one with the best weights of a job with patience. A damaged one counts as not there.
"""

import hashlib
import json
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.atomic_files import write_whole
from harness.pool.files import Files
from harness.runs.jobs import Job
from harness.runs.layout import checkpoint_folder
from lingo.pack import Pack
from lingo.slot import Slot
from lingo.state import StateError, read_state, save_slot
from lingo.text_files import read_json

log = logging.getLogger(__name__)

FORMAT = 1
GENERATIONS = 2
PROGRESS = "job.json"


@dataclass(frozen=True)
class Generation:
    """A whole checkpoint: where it lies on this host, what `slot.json` says, and the progress beside it."""

    name: str
    folder: Path
    step: int
    slot: dict[str, Any]
    progress: dict[str, Any]


class Checkpoints:
    """The generations of one job, or of one shared prefix, below a folder of the driver's host."""

    def __init__(self, files: Files, folder: str) -> None:
        self._files, self.folder = files, folder

    @classmethod
    def of(cls, job: Job, files: Files) -> "Checkpoints | None":
        """Those of a job; `None` where it keeps none."""
        return cls(files, str(checkpoint_folder(job.checkpoints, job.id))) if job.checkpoints else None

    def save(
        self, pack: Pack, slot: Slot, progress: dict[str, Any], *, keep: Collection[str] = ()
    ) -> str | None:
        """Add a generation and remove all but the newest two and those to `keep`.

        Returns its name, or `None` where the disk refused: a warning, and what was there stays.
        """
        name = generation_name(slot.step)
        target = f"{self.folder}/{name}"
        try:
            local = self._files.place(target)
            local.mkdir(parents=True, exist_ok=True)
            digest = save_slot(pack, slot, local)
            content = {"format": FORMAT, "step": slot.step, "slot": digest, "progress": progress}
            write_whole(local / PROGRESS, json.dumps(content | {"seal": _seal(content)}))
            self._files.send(local, target)
        except OSError as problem:
            log.warning("no checkpoint of %s at step %d: %s", Path(self.folder).name, slot.step, problem)
            self._drop_half(target)
            return None
        names = [other for other in self.names() if other <= name]
        for other in self.names():
            if other not in (*names[-GENERATIONS:], *keep):
                self._files.remove(f"{self.folder}/{other}")
        return name

    def names(self) -> list[str]:
        """Names of the generations, whole or not, oldest first."""
        return [name for name in self._files.names(self.folder) if name.startswith("step-")]

    def newest(self) -> Iterator[Generation]:
        """Whole generations, newest first; a warning for each that is not."""
        for name in reversed(self.names()):
            try:
                yield self.read(name)
            except StateError as problem:
                log.warning("%s; the checkpoint before it is used", str(problem).rstrip("."))

    def read(self, name: str) -> Generation:
        """One generation, checked by its digests. Raises `StateError` when it is not whole."""
        try:
            folder = self._files.fetch(f"{self.folder}/{name}")
            content = read_json(folder / PROGRESS)
            seal = content.pop("seal")
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise StateError(f"{self.folder}/{name} holds no readable checkpoint: {error}.") from error
        if seal != _seal(content) or content.get("format") != FORMAT:
            raise StateError(f"{folder / PROGRESS} is damaged: its content is not what was saved.")
        meta, _ = read_state(folder)
        if meta["sha256"] != content["slot"]:
            raise StateError(f"{folder} is damaged: its slot is not the one that was saved.")
        return Generation(name, folder, content["step"], meta, content["progress"])

    def _drop_half(self, target: str) -> None:
        """A disk that is full must not stay so for our sake; a whole earlier one of that name is no loss."""
        try:
            self._files.remove(target)
        except OSError as problem:
            log.warning("could not remove %s: %s", target, problem)


def generation_name(step: int) -> str:
    """Names of generations sort as their steps do."""
    return f"step-{step:08d}"


def _seal(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
