"""Shared prefixes: trials that differ only in p, bT and ΔT are identical until the first of them allocates.

In a pack, one of these trials (the leader) trains and the others wait with a reserved slot until the step before the
first allocation of either; there they fork (`lingo.state.fork_slot`). For later trials, the leader's state is stored
under `<checkpoints>/prefixes/`.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from harness.pool.files import Files
from harness.runs.layout import checkpoint_folder
from harness.workers.checkpoints import Checkpoints, Generation, generation_name
from harness.workers.training import Training
from lingo.pack import Pack
from lingo.ranks import BudgetSchedule
from lingo.state import fork_slot, shared_settings
from lingo.trial import TrialConfig


@dataclass
class _Family:
    leader: Training
    followers: list[Training] = field(default_factory=list)


def prefix_key(training: Training, backbone_digest: str, frozen: str) -> str | None:
    """Key common to trials with the same prefix; `None` for methods that never allocate."""
    if training.probe.schedule is None:
        return None
    parts: list[Any] = [backbone_digest, frozen, training.probe.data.digest, training.job.data]
    parts.append(shared_settings(training.probe.config))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


class Prefixes:
    """The groups of trials with a shared prefix on one worker, and the states stored for later ones."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._families: dict[str, _Family] = {}

    # --- in the pack --------------------------------------------------------------------------------------

    def leader(self, training: Training) -> Training | None:
        """The trial whose prefix this one can wait for, if any."""
        family = self._families.get(training.key) if training.key else None
        if family is None or family.leader.slot is None:
            return None
        return family.leader if family.leader.slot.step < min(family.leader.first, training.first) else None

    def wait(self, training: Training) -> None:
        """Wait for the leader of this prefix."""
        assert training.key is not None
        training.follow(self._families[training.key].leader)
        self._families[training.key].followers.append(training)

    def lead(self, training: Training) -> None:
        """Become the leader, if there is none and the prefix has not ended."""
        key = training.key
        assert training.slot is not None
        if key and key not in self._families and training.slot.step < training.first:
            self._families[key] = _Family(training)

    def followers(self, training: Training) -> list[Training]:
        """Trials that wait for this one."""
        family = self._led_by(training)
        return list(self._families[family].followers) if family else []

    def part(self, pack: Pack) -> None:
        """Fork the trials that differ from the present step on; the last one to allocate leads the rest."""
        for key, family in list(self._families.items()):
            slot = family.leader.slot
            assert slot is not None
            for follower in [one for one in family.followers if one.first - 1 <= slot.step]:
                self._fork(pack, family, follower)
            if family.leader.first - 1 <= slot.step:
                self._hand_on(pack, key)

    def leave(self, training: Training, pack: Pack) -> None:
        """Remove a trial; if it is a leader, one of its followers takes over."""
        for family in self._families.values():
            if training in family.followers:
                family.followers.remove(training)
                return
        key = self._led_by(training)
        if key:
            self._hand_on(pack, key)

    def forget(self) -> None:
        """The pack was released."""
        self._families.clear()

    def _led_by(self, training: Training) -> str | None:
        return next((key for key, family in self._families.items() if family.leader is training), None)

    def _hand_on(self, pack: Pack, key: str) -> None:
        """The follower that allocates last becomes the leader; without followers the group ends."""
        family = self._families.pop(key)
        if family.followers:
            heir = max(family.followers, key=lambda follower: follower.first)
            self._fork(pack, family, heir)
            self._families[key] = _Family(heir, family.followers)

    @staticmethod
    def _fork(pack: Pack, family: _Family, follower: Training) -> None:
        assert family.leader.slot is not None
        family.followers.remove(follower)
        follower.slot = fork_slot(pack, family.leader.slot, follower.probe.config)
        follower.shared = follower.samples(follower.slot.step)
        follower.counted = family.leader.counted
        follower.losses.restore(family.leader.losses.to_dict())

    # --- across time --------------------------------------------------------------------------------------

    def keep(self, training: Training, pack: Pack) -> None:
        """Store this trial's state where others may start from it: when the budget starts to decrease, usable by all,
        and right before the trial's first allocation."""
        states, slot = self._states(training), training.slot
        if states is None or slot is None or slot.schedule is None or not slot.step:
            return
        if slot.step not in (slot.schedule.first, training.first - 1):
            return
        names = states.names()
        if generation_name(slot.step) not in names:
            states.save(pack, slot, training.progress(), keep=names)

    def kept(self, training: Training) -> Generation | None:
        """The latest stored state from which this trial can start, among them the checkpoints of its parent."""
        states, parent = self._states(training), self._parent(training)
        found = states.newest() if states else iter(())
        kept = [next((one for one in found if one.step < training.first), None)]
        if parent is not None:
            kept.append(next((one for one in parent.newest() if _shares(one, training)), None))
        return max((one for one in kept if one), key=lambda one: one.step, default=None)

    def read(self, training: Training, name: str) -> Generation:
        """The stored state of this name. Raises `StateError`."""
        states, parent = self._states(training), self._parent(training)
        if states is None or (parent is not None and name not in states.names()):
            states = parent
        assert states is not None
        return states.read(name)

    def _parent(self, training: Training) -> Checkpoints | None:
        job = training.job
        if training.key is None or not job.parent or not job.checkpoints:
            return None
        return Checkpoints(self._files, str(checkpoint_folder(job.checkpoints, job.parent)))

    def _states(self, training: Training) -> Checkpoints | None:
        job, key = training.job, training.key
        if key is None or not job.siblings or not job.checkpoints:
            return None
        return Checkpoints(self._files, f"{job.checkpoints}/prefixes/{key}")


def _shares(found: Generation, training: Training) -> bool:
    """Whether another trial's checkpoint is from before what the two differ in begins to matter."""
    try:
        config = TrialConfig.from_dict(found.slot["config"])
        theirs = BudgetSchedule.of(config, matrices=1, total_steps=training.probe.total_steps)
    except (TypeError, ValueError):
        return False
    same = shared_settings(config) == shared_settings(training.probe.config)
    return same and found.step < min(training.first, theirs.first_allocation())
