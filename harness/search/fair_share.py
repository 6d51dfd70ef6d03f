"""Order of trials: search groups share the worker groups fairly, the longest first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(kw_only=True)
class Request:
    """Remaining and running trials of a search group.

    Attributes:
        key: The search group.
        queue: What its trials can share a worker group with: a backbone and a kind of pack.
        cost: Expected cost of one of its trials, over all members, in any common unit.
        jobs: Jobs of one trial: the group's members.
        single: Whether a worker group holds one job of this queue at a time, whatever its slots.
        total: Total number of trials.
        begun: Trials proposed so far, including earlier runs.
        running: Trials proposed and not ended.
        ready: Whether its next trial can be proposed now.
    """

    key: str
    queue: tuple[str, str]
    cost: float
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
        """Share of its work that has started, from 0 to 1."""
        return self.begun / self.total if self.total else 1.0


def next_request(
    requests: Sequence[Request], *, groups: int, slots: int, spare: int, capacity: int
) -> Request | None:
    """The search group whose trial is next, or `None` while enough are running.

    At most `groups` queues are open at once, those with the most work left: a worker group serves one queue at a
    time. Each open queue may have as many jobs under way as its worker groups hold, and `spare` more; of trials of
    several jobs one more, so that no slot waits for the last jobs of a trial. Within the open queues the smallest
    share of begun work goes first, of equals the longest trials.

    Args:
        groups: Worker groups.
        slots: Jobs per worker group.
        spare: Jobs beyond those that can train, so that no slot waits for the search.
        capacity: Jobs that may be under way in all.
    """
    under_way = _under_way(requests)
    granted = _grant(requests, groups)
    wanting = [request for request in requests if request.left and request.ready and request.queue in granted]
    busy = {
        queue: _under_way([request for request in requests if request.queue == queue]) for queue in granted
    }
    free = [
        request
        for request in wanting
        if busy[request.queue] < granted[request.queue] * (1 if request.single else slots) + spare
    ]
    if not free or (under_way and under_way >= capacity):
        return None
    return min(free, key=lambda request: (request.share, -request.cost, request.key))


def _under_way(requests: Sequence[Request]) -> int:
    """Jobs of running trials; the last trial of several jobs counts as one, because it waits behind the others."""
    last = max((request.jobs for request in requests if request.running), default=1)
    return sum(request.running * request.jobs for request in requests) - (last - 1)


def _grant(requests: Sequence[Request], groups: int) -> Mapping[tuple[str, str], int]:
    """How many worker groups each open queue gets: one, and of the rest by the work that is left."""
    left: dict[tuple[str, str], float] = {}
    started = {request.queue for request in requests if request.begun}
    for request in requests:
        if request.left:
            left[request.queue] = left.get(request.queue, 0.0) + request.left * request.cost
    order = sorted(left, key=lambda queue: (queue not in started, -left[queue], queue))
    granted = dict.fromkeys(order[:groups], 1)
    for _ in range(groups - len(granted)):
        if granted:
            most = max(granted, key=lambda queue: (left[queue] / granted[queue], queue))
            granted[most] += 1
    return granted
