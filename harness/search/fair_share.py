"""Whose trial is next: search groups share the worker groups fairly, the longest first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(kw_only=True)
class Claim:
    """What a search group still wants, and what it has.

    Attributes:
        key: The search group.
        lane: What its trials can share a worker group with: a backbone and a kind of pack.
        work: Expected work of one of its trials, over all members, in any common unit.
        jobs: Jobs of one trial: the group's members.
        single: Whether a worker group holds one job of this lane at a time, whatever its slots.
        total: Trials that it will have in all.
        begun: Trials proposed so far, those of earlier runs included.
        running: Trials proposed and not ended.
        ready: Whether its next trial can be proposed now.
    """

    key: str
    lane: tuple[str, str]
    work: float
    jobs: int
    total: int
    single: bool = False
    begun: int = 0
    running: int = 0
    ready: bool = True

    @property
    def left(self) -> int:
        """Trials still to propose."""
        return max(0, self.total - self.begun)

    @property
    def share(self) -> float:
        """How much of its work has begun, from 0 to 1."""
        return self.begun / self.total if self.total else 1.0


def next_claim(claims: Sequence[Claim], *, groups: int, slots: int, spare: int, room: int) -> Claim | None:
    """The search group whose trial is next, or `None` while enough are under way.

    At most `groups` lanes are open at once, those with the most work left: a worker group serves one lane at a
    time. Each open lane may have as many jobs under way as its worker groups hold, and `spare` more; of trials of
    several jobs one more, so that no slot waits for the last jobs of a trial. Within the open lanes the smallest
    share of begun work goes first, of equals the longest trials.

    Args:
        groups: Worker groups.
        slots: Jobs that one of them holds.
        spare: Jobs beyond those that can train, so that no slot waits for the search.
        room: Jobs that may be under way in all.
    """
    under_way = _under_way(claims)
    granted = _grant(claims, groups)
    wanting = [claim for claim in claims if claim.left and claim.ready and claim.lane in granted]
    busy = {lane: _under_way([claim for claim in claims if claim.lane == lane]) for lane in granted}
    free = [
        claim
        for claim in wanting
        if busy[claim.lane] < granted[claim.lane] * (1 if claim.single else slots) + spare
    ]
    if not free or (under_way and under_way >= room):
        return None
    return min(free, key=lambda claim: (claim.share, -claim.work, claim.key))


def _under_way(claims: Sequence[Claim]) -> int:
    """Jobs of running trials; the last trial, of several jobs, counts as one: it waits behind the others."""
    last = max((claim.jobs for claim in claims if claim.running), default=1)
    return sum(claim.running * claim.jobs for claim in claims) - (last - 1)


def _grant(claims: Sequence[Claim], groups: int) -> Mapping[tuple[str, str], int]:
    """How many worker groups each open lane gets: one, and of the rest by the work that is left."""
    left: dict[tuple[str, str], float] = {}
    started = {claim.lane for claim in claims if claim.begun}
    for claim in claims:
        if claim.left:
            left[claim.lane] = left.get(claim.lane, 0.0) + claim.left * claim.work
    order = sorted(left, key=lambda lane: (lane not in started, -left[lane], lane))
    granted = dict.fromkeys(order[:groups], 1)
    for _ in range(groups - len(granted)):
        if granted:
            most = max(granted, key=lambda lane: (left[lane] / granted[lane], lane))
            granted[most] += 1
    return granted
