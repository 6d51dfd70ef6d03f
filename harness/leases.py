"""What the job source knows of each job and each worker group, and how long groups stood idle."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.jobs import Job, Report, Status

Kind = tuple[str, str]
"""What a group refuses as a whole while it trains something else: a backbone and a method."""


def kind_of(job: Job) -> Kind:
    """Jobs of one kind fit beside the same others."""
    return job.backbone, str(job.config.get("method", ""))


@dataclass
class Entry:
    """A job, from its submission on.

    Attributes:
        order: Its priority and its age.
        followed: Whether a client asks for it; one that stops asking counts as gone.
        losses: Lost workers in a row without a new evaluation.
        failures: One line for each attempt that failed.
        avoid: Groups on which it failed.
        alone: Whether it is to be trained without neighbours, to tell which of several is at fault.
        trial, turns: Jobs of one `trial` take turns: after the epochs of `turns` they wait for those behind.
        turn: The epoch after which it last waited.
        go: The last rung that it may pass.
    """

    job: Job
    order: tuple[int, int]
    followed: bool
    seen: float
    status: Status = "queued"
    reports: list[Report] = field(default_factory=list)
    group: str | None = None
    losses: int = 0
    failures: list[str] = field(default_factory=list)
    avoid: set[str] = field(default_factory=set)
    alone: bool = False
    trial: str = ""
    turns: Collection[int] = ()
    turn: int = 0
    go: int = 0

    @property
    def separate(self) -> bool:
        """Whether it is trained without neighbours."""
        return self.alone or self.job.alone

    @property
    def waits(self) -> bool:
        """Whether it stands at a rung where nobody has said yet that it goes on."""
        return self.epoch in self.job.rungs and self.go < self.epoch

    @property
    def place(self) -> tuple[int, int, int]:
        """Its place in the queue: what is behind in its trial goes first."""
        return self.order[0], self.turn, self.order[1]

    @property
    def epoch(self) -> int:
        """The last epoch that it has evaluated."""
        return self.reports[-1].epoch if self.reports else 0

    @property
    def last(self) -> int:
        """Number of the latest report."""
        return self.reports[-1].number if self.reports else 0


@dataclass
class GroupState:
    """One life of a worker group.

    Attributes:
        seen, exchanged: When it last gave a sign of life, and when it last asked for orders.
        held: Jobs that it was given and that it has not ended.
        refused, kinds: Jobs, and kinds of jobs, that it cannot take as long as it holds the same others.
        slots: Jobs that it could hold, as it last said.
        nodes: Ray's names of the nodes that its workers lie on.
        waited: Seconds that it waited here because there was nothing for it, since it last had a job.
    """

    life: str
    placement_group: str | None
    seen: float
    pid: int
    exchanged: float = 0.0
    held: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    kinds: set[Kind] = field(default_factory=set)
    slots: int = 1
    waited: float = 0.0
    silent_lives: int = 0
    suspicion: str | None = None
    nodes: Sequence[str] = ()


class Usage:
    """How the worker groups' time was used. Fed with every change, in seconds of the source's clock.

    A group is busy while it holds a job, and idle while it holds none although one is queued. Its own count of
    the time between its last job and its next, less what it waited because nothing was queued, is idle as well:
    that is what messages cost.
    """

    def __init__(self, now: float) -> None:
        self._at = now
        self.busy = self.idle = self.filled = self.empty = 0.0

    def passed(self, now: float, groups: Iterable[GroupState], *, queued: bool) -> None:
        """Count the time since the last call, in which nothing changed."""
        seconds, self._at = max(0.0, now - self._at), now
        for group in groups:
            if group.held:
                self.busy += seconds
                self.filled += seconds * len(group.held)
                self.empty += seconds * max(0, group.slots - len(group.held)) * queued

    def gap(self, group: GroupState, seconds: float) -> None:
        """A group was without a job for so long, by its own clock."""
        self.idle += max(0.0, seconds - group.waited)
        group.waited = 0.0

    def to_dict(self) -> dict[str, Any]:
        """`busy_s`, `idle_s` over all groups, `idle_share` of both together, and `empty_slots_share`: of the
        slots of busy groups, the part that was empty while jobs were queued."""
        time, slots = self.busy + self.idle, self.filled + self.empty
        return {
            "busy_s": round(self.busy, 3),
            "idle_s": round(self.idle, 3),
            "idle_share": self.idle / time if time else 0.0,
            "empty_slots_share": self.empty / slots if slots else 0.0,
        }
