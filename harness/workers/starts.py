"""Starting point of a job: its newest complete checkpoint, a shared prefix, or the beginning."""

import logging
from collections.abc import Callable

import torch

from harness.runs.jobs import Report
from harness.workers.checkpoints import Generation, generation_name
from harness.workers.shared_prefixes import Prefixes
from harness.workers.training import Training
from lingo.batch import Share
from lingo.pack import Pack
from lingo.reduce import Reduce
from lingo.state import StateError, load_slot
from lingo.trial import TrialConfig

log = logging.getLogger(__name__)


class Starts:
    """Assigns a slot to a job, or a reserved slot for forking from another trial.

    Args:
        prefixes: The shared prefixes of this worker.
        share, reduce, device: Of the worker; rank 0 of a group decides the starting point of a job.
    """

    def __init__(self, prefixes: Prefixes, share: Share, reduce: Reduce, device: str) -> None:
        self._prefixes, self._share, self._reduce, self._device = prefixes, share, reduce, device

    def place(self, pack: Pack, training: Training) -> None:
        """Place a job in a pack with capacity for it. Raises `ValueError` if it does not fit."""
        found = self._agreed(lambda: self._checkpoint(pack, training), training.read_generation)
        if found is not None:
            training.slot = load_slot(pack, found.folder, training.probe.data)
            training.restore(found)
            self._prefixes.lead(training)
            return
        kept = self._agreed(
            lambda: self._prefixes.kept(training), lambda name: self._prefixes.read(training, name)
        )
        leader = self._prefixes.leader(training)
        if leader is not None and leader.slot and (kept is None or kept.step < leader.slot.step):
            self._prefixes.wait(training)
            self._prefixes.part(pack)
            return
        if kept is None or not self._continue(pack, training, kept):
            training.slot = pack.admit(training.probe.config, training.probe.data)
        self._prefixes.lead(training)

    def _continue(self, pack: Pack, training: Training, kept: Generation) -> bool:
        """Continue from the state stored by an earlier trial. False if it is not usable."""
        try:
            training.slot = load_slot(
                pack, kept.folder, training.probe.data, config=training.probe.config
            )  # fmt: skip
        except StateError as problem:
            log.warning("%s", problem)
            return False
        training.counted = kept.progress["counted"]
        training.losses.restore(kept.progress.get("losses"))
        training.shared = training.samples(kept.step)
        told = [Report(**report) for report in kept.progress["reports"]]
        training.reports = [training.like(report) for report in told]
        return True

    def _checkpoint(self, pack: Pack, training: Training) -> Generation | None:
        """The newest generation from which this trial can continue."""
        if training.checkpoints is None:
            return None
        for found in training.checkpoints.newest():
            if _is_of(found, pack, training):
                try:
                    training.restore_best(found)
                    return found
                except StateError as problem:
                    log.warning("%s; the checkpoint before it is used", str(problem).rstrip("."))
        return None

    def _agreed(
        self, find: Callable[[], Generation | None], read: Callable[[str], Generation]
    ) -> Generation | None:
        """The result of rank 0, on every rank of the group."""
        mine = find() if self._share.index == 0 else None
        if self._share.of == 1:
            return mine
        after = torch.zeros(1, dtype=torch.float64, device=self._device)
        after += mine.step + 1 if mine else 0
        self._reduce(after)
        step = int(after.item()) - 1
        return mine if mine is not None or step < 0 else read(generation_name(step))


def _is_of(found: Generation, pack: Pack, training: Training) -> bool:
    """Whether a checkpoint belongs to this trial: the name of a final run is the same when another configuration
    wins."""
    slot, probe = found.slot, training.probe
    try:
        config = TrialConfig.from_dict(slot["config"])
    except (TypeError, ValueError):
        return False
    expected = (probe.config, probe.data.digest, pack.backbone.digest, str(pack.dtype))
    return (config, slot["data_digest"], slot["backbone_digest"], slot["dtype"]) == expected
