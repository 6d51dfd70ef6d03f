"""The searcher of all studies in one Tuner: order of trials and proposals."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from ray.tune.search import Searcher

from harness.search.fair_share import Request, next_request
from harness.search.proposals import Proposals, as_config, job_id
from harness.search.schedulers import sync_epochs
from harness.search.study import SearchStudy, members_of
from harness.search.trial_client import EPOCH, METRIC, PARAMETERS, STATE
from lingo.methods import METHODS


class GroupSearcher(Searcher):
    """Proposes trials of several search groups, each from its own Optuna study, as one stream for Tune.

    Args:
        studies: The studies to search.
        groups: Worker groups of the pool.
        slots: Jobs per worker group.
        spare: Jobs to keep queued, so that no slot waits for the search.
        limit: Maximum number of jobs that train at once; `None` for no limit except the pool.

    Attributes:
        release: Called with the id of each job of a stopped or failed trial.

    Raises:
        InputError: when the spaces of a group have nothing in common, or a grid is not finite.
    """

    def __init__(
        self, studies: Sequence[SearchStudy], *, groups: int, slots: int, spare: int, limit: int | None = None
    ) -> None:
        super().__init__(metric=METRIC, mode="max")
        capacity = min(groups * slots, limit or groups * slots) + spare
        self._rules = {"groups": groups, "slots": slots, "spare": spare, "capacity": capacity}
        self.members = dict(members_of(studies))
        self.proposals = {key: Proposals(members) for key, members in self.members.items()}
        self._requests = {key: self._request(key, members) for key, members in self.members.items()}
        self._running: dict[str, tuple[str, int]] = {}
        self._closed: set[str] = set()
        self._paused: set[str] = set()
        self._news: list[SearchStudy] | None = None
        self._count = 0
        self.release: Callable[[str], object] = lambda name: None

    @property
    def left(self) -> int:
        """Trials still to propose."""
        return sum(proposals.left for proposals in self.proposals.values())

    def close(self, groups: Collection[str]) -> None:
        """Propose no further trials of these groups. May be called from another thread."""
        self._closed = self._closed | set(groups)  # a new set: the other thread may be reading the old one

    def steer(self, studies: Sequence[SearchStudy], paused: Collection[str]) -> None:
        """What users ask for by now: the studies with their trials, and groups that propose none. May be called from
        another thread."""
        self._news, self._paused = list(studies), set(paused)

    def suggest(self, trial_id: str) -> Any:
        """The configuration of the next trial; `None` while enough are running or users may still add some, `FINISHED`
        after the last, also where all others are paused."""
        self._take_news()
        for key in self._closed:
            self._requests[key].total = self._requests[key].begun
        for key in self._requests:
            self._requests[key].ready = not self._requests[key].left or self.proposals[key].ready
        requests = [
            replace(request, total=request.begun) if key in self._paused else request
            for key, request in self._requests.items()
        ]
        if not any(request.left for request in requests):
            return None if self._running and self._requests.keys() - self._closed else Searcher.FINISHED
        request = next_request(requests, **self._rules)
        if request is None:
            return None
        proposal = self.proposals[request.key].next()
        request.begun += 1
        request.running += 1
        self._running[trial_id] = (request.key, proposal.number)
        self._count += 1
        members = self.members[request.key]
        order = (
            [] if members[0].deterministic else sync_epochs(members)
        )  # where jobs wait for each other at every rung
        return as_config(request.key, members, proposal) | {"order": self._count, "sync_epochs": order}

    def _take_news(self) -> None:
        news, self._news = self._news, None
        for key, members in members_of(news or ()).items():
            if key in self.members:
                self.members[key] = members
                self.proposals[key].steer(members)
                self._requests[key].total = self.proposals[key].total

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An evaluation."""
        key, number = self._running[trial_id]
        if result[STATE] in ("running", "finished"):
            self._report(key, number, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """End of a trial, possibly with a last evaluation."""
        key, number = self._running.pop(trial_id)
        state = "failed" if error or not result else result.get(STATE, "failed")
        if result and state in ("running", "finished"):
            self._report(key, number, result)
        ends = {"running": "stopped", "stopped": "stopped", "finished": "finished"}
        self.proposals[key].ended(number, ends.get(state, "failed"))
        if state != "finished":  # its client releases its jobs only when the next trial starts
            for study in self.members[key]:
                self.release(job_id(study, number))
        self._requests[key].running -= 1

    def _report(self, key: str, number: int, result: dict[str, Any]) -> None:
        self.proposals[key].report(number, result[EPOCH], result[METRIC], result.get(PARAMETERS))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: a new Tuner receives the current state."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""

    def _request(self, key: str, members: Sequence[SearchStudy]) -> Request:
        method = METHODS[members[0].method]
        single = not method.packs or members[0].deterministic
        return Request(
            key=key,
            queue=(members[0].source, f"{method.engine} {method.name}" if single else "pack"),
            cost=sum(study.cost for study in members),
            jobs=len(members),
            single=single,
            total=self.proposals[key].total,
            begun=self.proposals[key].begun,
        )
