"""Checkpoints of a job: the exact state of its slot and its reports, in generations protected by digests.

`<checkpoints>/<job>/step-<n>/` is one generation, immutable once complete: the slot saved by `lingo.state`, and
`job.json` with the progress and the digest of the slot, which is written last. The two newest generations are kept, and
the one with the best weights of a job with patience. A damaged generation counts as absent.
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
    """A complete checkpoint: its path on this host, the contents of `slot.json`, and the progress."""

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
        """Those of a job; `None` if it keeps none."""
        return cls(files, str(checkpoint_folder(job.checkpoints, job.id))) if job.checkpoints else None

    def save(
        self, pack: Pack, slot: Slot, progress: dict[str, Any], *, keep: Collection[str] = ()
    ) -> str | None:
        """Add a generation and remove all but the newest two and those to `keep`.

        Returns its name, or `None` with a warning if it cannot be written; earlier generations stay.
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
        """Names of all generations, complete or not, oldest first."""
        return [name for name in self._files.names(self.folder) if name.startswith("step-")]

    def newest(self) -> Iterator[Generation]:
        """Complete generations, newest first; with a warning for each incomplete one."""
        for name in reversed(self.names()):
            try:
                yield self.read(name)
            except StateError as problem:
                log.warning("%s; the checkpoint before it is used", str(problem).rstrip("."))

    def read(self, name: str) -> Generation:
        """One generation, verified by its digests. Raises `StateError` if it is incomplete."""
        try:
            folder = self._files.fetch(f"{self.folder}/{name}")
            content = read_json(folder / PROGRESS)
            seal = content.pop("seal")
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise StateError(f"{self.folder}/{name} contains no readable checkpoint: {error}.") from error
        if seal != _seal(content) or content.get("format") != FORMAT:
            raise StateError(f"{folder / PROGRESS} is damaged: its content differs from what was saved.")
        meta, _ = read_state(folder)
        if meta["sha256"] != content["slot"]:
            raise StateError(f"{folder} is damaged: its slot is not the one that was saved.")
        return Generation(name, folder, content["step"], meta, content["progress"])

    def _drop_half(self, target: str) -> None:
        """Remove an incomplete generation to free space on a full disk; losing a complete one of the same name is
        harmless."""
        try:
            self._files.remove(target)
        except OSError as problem:
            log.warning("could not remove %s: %s", target, problem)


def generation_name(step: int) -> str:
    """Name of a generation; names sort by step."""
    return f"step-{step:08d}"


def _seal(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
