"""The search: one Tuner for all studies (each search group with its own Optuna study and its own scheduler).

Reproducibility: a proposal is a function of the seed, the search group, the trial number and the trials reported
before it was drawn. First points and start-up draws are the same in every run. Later proposals and scheduler decisions
depend on the reports received by then; with one trial at a time (`max_concurrent=1`) a study is exactly reproducible.
The training of a trial depends only on its configuration.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util import remove_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.config.scopes import grid, merge
from harness.config.studies import with_requests
from harness.core.host import free_gibibytes
from harness.pool.pool import Pool
from harness.pool.ray_causes import PoolError
from harness.pool.supervisor import placement_groups
from harness.runs.jobs import OPEN, Event, Job
from harness.runs.requests import Request, is_paused, stopped_in
from harness.search.study import CUT, Past, SearchStudy, TrialOutcome, members_of, number_of
from harness.search.tuner import AT_HOME, CLIENT, CLIENT_GIB, CONTROLLER_RAY, Tuner, knows_ray

__all__ = ["Past", "SearchStudy", "TrialOutcome", "run_finals", "run_search"]

log = logging.getLogger(__name__)

OnEvent = Callable[[Event], None]
STOP_S = 60.0
RESTARTS, WITHIN_S = 5, 300.0  # restarts of a dying Tuner, within this time
POLL_S = 0.25
SETTLE_S = 30.0


def run_search(
    studies: Sequence[SearchStudy],
    pool: Pool,
    *,
    max_concurrent: int | None = None,
    on_event: OnEvent,
    cut: Callable[[], Collection[str]] | None = None,
    requests: Sequence[Request] = (),
    asked: Callable[[], Sequence[Request] | None] = lambda: None,
    scratch: Path | None = None,
) -> dict[str, list[TrialOutcome]]:
    """Search all studies concurrently, with fair shares and the longest first, see `harness.search.fair_share`.

    Args:
        max_concurrent: Trials that train at once over all studies (`None`: limited by the pool only).
        on_event: Called here, in this thread, in order per job.
        cut: Asked again and again; the keys of studies that have used up a budget (`harness.pipeline.budgets`): none of
            their trials starts any more, running ones end as `stopped` after their next evaluation, with the
            fact `cut` = `budget` in their last report. The other studies of the same search
            group end with them.
        requests: Decided requests of users, see `harness.runs.requests`. Trials that they stop end as `stopped` with
            the fact `cut` = `user`. A search ends also where all that is left is paused.
        asked: Asked again and again; all decided requests where there is a new one, else `None`.
        scratch: Folder for Tune's own files; the pool's scratch folder by default.

    Returns:
        By study key, the trials that ended in this call, ordered by number. After Ctrl-C (`pool.interrupted`) those
        that had ended by then.

    Raises:
        InputError: If the spaces of a search group do not intersect, or a grid is not finite.
        PoolError: If the Tuner died repeatedly; ended trials were reported.
    """
    _check(studies)
    trials = _Trials(pool, on_event, {study.key: study.search_group for study in studies})
    pool.begin(max_concurrent)
    tuning = _Tuning(studies, pool, max_concurrent, scratch or pool.scratch / "tune", trials)
    cutter = _Cutter(members_of(studies), pool, tuning, trials)
    try:
        _steer(requests, tuning, pool, trials)
        tuning.start()
        while tuning.goes_on() and not pool.interrupted:
            if cut is not None:
                cutter.close(cut())
            _steer(asked(), tuning, pool, trials)
            events = trials.take(POLL_S)
            cutter.take(events)
            _end_stopped(events, pool, trials)
        if pool.interrupted:  # from another thread
            tuning.wait(STOP_S)
        else:
            _settle(pool, trials)
    except KeyboardInterrupt:
        pool.interrupt()
        tuning.wait(STOP_S)
    except BaseException:
        pool.interrupt()
        tuning.wait(STOP_S)
        raise
    finally:
        tuning.end()
    trials.take(0.0)
    return {study.key: trials.of_study(study.key) for study in studies}


def run_finals(jobs: Sequence[Job], pool: Pool, *, on_event: OnEvent) -> dict[str, TrialOutcome]:
    """Train `jobs` to completion; returns the outcome of each by its id. Interruption as in `run_search`."""
    trials = _Trials(pool, on_event)
    pool.begin(None)
    try:
        for job in jobs:
            pool.submit(job)
        left = {job.id for job in jobs}
        while left:
            left -= {event.job.id for event in trials.take(1.0) if event.status not in OPEN}
    except KeyboardInterrupt:
        pool.interrupt()
        trials.take(0.0)
    except BaseException:
        pool.interrupt()
        raise
    return {job.id: trials.outcomes[job.id] for job in jobs if job.id in trials.outcomes}


def _check(studies: Sequence[SearchStudy]) -> None:
    """Check before the start that the spaces of each group intersect."""
    for members in members_of(studies).values():
        space = merge([study.space for study in members])
        if members[0].benchmark.searcher == "grid":
            grid(space, seed=0)


class _Trials:
    """How jobs end, from the pool's events.

    Args:
        group_of: The search group of each study; a failure in one study ends the trial in all.
    """

    def __init__(self, pool: Pool, on_event: OnEvent, group_of: Mapping[str, str] | None = None) -> None:
        self._pool, self._on_event, self._group_of = pool, on_event, group_of or {}
        self._failed: dict[tuple[str, int], str] = {}
        self.outcomes: dict[str, TrialOutcome] = {}
        self.cut: set[str] = set()
        self.user_stopped: set[tuple[str, int]] = set()

    def take(self, wait_s: float) -> list[Event]:
        """What happened since the last call, at the latest after so many seconds."""
        return [self._noted(event) for event in self._pool.events(wait_s)]

    def _noted(self, event: Event) -> Event:
        job, status = event.job, event.status
        if (why := self._why_stopped(job, status)) is not None:
            report = replace(event.report, facts={**event.report.facts, CUT: why})
            event = replace(event, report=report, reports=(*event.reports[:-1], report))
        if status in ("finished", "stopped", "failed"):
            self.outcomes[job.id] = TrialOutcome(job, status, list(event.reports), event.report.error)
        self._on_event(event)
        return event

    def _why_stopped(self, job: Job, status: str) -> str | None:
        """What ended a job other than its scheduler: a limit, or the failure of another task of its trial."""
        if job.study not in self._group_of or status not in ("failed", "stopped"):
            return None
        trial = self._group_of[job.study], number_of(job.id)
        if status == "failed":
            self._failed.setdefault(trial, job.study)
            return None
        if job.id in self.cut:
            return "budget"
        if self.stopped_by_user(job):
            return "user"
        return f"{self._failed[trial]} failed" if trial in self._failed else None

    def stopped_by_user(self, job: Job) -> bool:
        """Whether a user has stopped the trial of this job."""
        group = self._group_of.get(job.study)
        return group is not None and (group, number_of(job.id)) in self.user_stopped

    def of_study(self, key: str) -> list[TrialOutcome]:
        return [self.outcomes[name] for name in sorted(self.outcomes) if self.outcomes[name].job.study == key]

    def continued(self, study: SearchStudy) -> SearchStudy:
        """The study with the current state: ended trials in its history, started ones open."""
        history = {past.number: past for past in study.history}
        history |= {number_of(found.job.id): _past(study, found) for found in self.of_study(study.key)}
        begun = dict(study.open)
        begun |= {
            number_of(e.job.id): e.job.config for e in self._pool.open.values() if e.job.study == study.key
        }
        return replace(
            study,
            history=tuple(history[number] for number in sorted(history)),
            open=tuple((number, begun[number]) for number in sorted(begun) if number not in history),
        )


def _settle(pool: Pool, trials: _Trials) -> None:
    """The Tuner and its jobs have ended: wait until the last ones are reported."""
    trials.take(0.0)
    for name in pool.open:
        pool.handle.release.remote(name)
    deadline = time.monotonic() + SETTLE_S
    while pool.open and time.monotonic() < deadline:
        trials.take(POLL_S)


def _past(study: SearchStudy, found: TrialOutcome) -> Past:
    metric = study.task.metric
    return Past(
        number=number_of(found.job.id),
        values={name: found.job.config[name] for name in study.space.leaves if name in found.job.config},
        status=found.status,
        evaluations=tuple(
            (report.epoch, report.dev[metric]) for report in found.reports if metric in report.dev
        ),
        parameters=next(
            filter(None, (r.facts.get("trained_parameters") for r in reversed(found.reports))), None
        ),
    )


def _place_of(clients: int) -> dict[str, float]:
    """Resources requested by clients: on the head if the cluster has an autoscaler and the head enough memory,
    otherwise anywhere."""
    from harness.pool.resources import autoscaled

    return AT_HOME if autoscaled() and clients * CLIENT_GIB < free_gibibytes() / 2 else CLIENT


class _Cutter:
    """Ends the studies that have reached a limit."""

    def __init__(
        self, members: Mapping[str, list[SearchStudy]], pool: Pool, tuning: "_Tuning", trials: _Trials
    ) -> None:
        self._group_of = {study.key: key for key, studies in members.items() for study in studies}
        self._pool, self._tuning, self._trials = pool, tuning, trials
        self._closed: set[str] = set()

    def close(self, studies: Collection[str]) -> None:
        """Start no further trial of these studies, and remove queued jobs."""
        groups = {self._group_of[key] for key in studies if key in self._group_of} - self._closed
        if not groups:
            return
        self._closed |= groups
        self._tuning.close(self._closed)
        for event in self._pool.open.values():
            if event.status == "queued":
                self._end(event.job)

    def take(self, events: Sequence[Event]) -> None:
        """End running trials with their next evaluation."""
        for event in events if self._closed else ():
            if event.status in ("queued", "running"):
                self._end(event.job)

    def _end(self, job: Job) -> None:
        if self._group_of.get(job.study) in self._closed:
            self._trials.cut.add(job.id)
            self._pool.handle.release.remote(job.id)


def _steer(requests: Sequence[Request] | None, tuning: "_Tuning", pool: Pool, trials: _Trials) -> None:
    """Apply what users have asked for by now; without news nothing changes."""
    if not requests:
        return
    tuning.steer(requests)
    for key, members in members_of(tuning.studies).items():
        numbers = stopped_in(requests, [study.key for study in members])
        trials.user_stopped |= {(key, number) for number in numbers}
    _end_stopped(list(pool.open.values()), pool, trials)


def _end_stopped(events: Sequence[Event], pool: Pool, trials: _Trials) -> None:
    """End the jobs of trials that users have stopped."""
    for event in events if trials.user_stopped else ():
        if event.status in OPEN and trials.stopped_by_user(event.job):
            pool.handle.release.remote(event.job.id)


class _Tuning:
    """The Tuner's process: started, told to close groups, restarted if it dies."""

    def __init__(
        self,
        studies: Sequence[SearchStudy],
        pool: Pool,
        max_concurrent: int | None,
        scratch: Path,
        trials: _Trials,
    ) -> None:
        self.studies, self._pool, self._trials, self._scratch = list(studies), pool, trials, scratch
        self._paused: set[str] = set()
        slots = max(1, pool.capacity // pool.groups)
        at_once = min(pool.capacity, max_concurrent or pool.capacity)
        spare = 0 if at_once == 1 and max_concurrent == 1 else max(1, -(-at_once // 4))
        self._rules = {
            "groups": pool.groups,
            "slots": slots,
            "spare": spare,
            "limit": max_concurrent,
        }
        self._threads = 2 * (at_once + spare) + 4
        self._client = _place_of(at_once + spare)
        if not knows_ray():
            log.warning(
                "The search was made for Ray %sx, but another is installed: Tune's own controller is used, under which "
                "slots may stand empty where trials are short and many.",
                CONTROLLER_RAY,
            )
        self._closed: set[str] = set()
        self._tuner: Any = None
        self._fit: Any = None
        self._starts: list[float] = []
        self._before = set(placement_groups())

    def start(self) -> None:
        """Start the Tuner with the known state."""
        now = time.monotonic()
        self._starts = [start for start in self._starts if now - start < WITHIN_S] + [now]
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        studies = [self._trials.continued(study) for study in self.studies]
        actor: Any = ray.remote(Tuner)
        self._tuner = actor.options(
            num_cpus=0, max_concurrency=self._threads, scheduling_strategy=here
        ).remote(studies, self._rules)
        self._tuner.steer.remote(studies, self._paused)
        self._fit = self._tuner.fit.remote(self._pool.handle, str(self._scratch), self._client)
        self.close(self._closed)

    def goes_on(self) -> bool:
        """Whether the search is unfinished; restarts a dead Tuner."""
        if not ray.wait([self._fit], timeout=0)[0]:
            return True
        try:
            ray.get(self._fit)
            return False
        except RayError as error:
            line = str(error).strip().splitlines()[-1]
            if len(self._starts) > RESTARTS:
                raise PoolError(f"The search process died {len(self._starts)} times: {line}") from error
            log.warning("The search process died and is restarted: %s", line)
            self.end()
            self._trials.take(0.0)
            self.start()
            return True

    def close(self, groups: Collection[str]) -> None:
        """Propose no more trials of these groups."""
        self._closed = set(groups)
        if self._closed:
            self._tuner.close.remote(self._closed)

    def steer(self, requests: Sequence[Request]) -> None:
        """Propose what users have asked for by now, and nothing of groups that are paused."""
        found = {key: with_requests(members, requests) for key, members in members_of(self.studies).items()}
        made = {study.key: study for members in found.values() for study in members}
        self.studies = [made[study.key] for study in self.studies]
        self._paused = {
            key for key, members in found.items() if is_paused(requests, [study.key for study in members])
        }
        if self._tuner is not None:
            self._tuner.steer.remote(self.studies, self._paused)

    def wait(self, seconds: float) -> None:
        """After an interruption: give the Tuner time to end."""
        if self._fit is not None:
            ray.wait([self._fit], timeout=seconds)

    def end(self) -> None:
        """End the Tuner's process and with it its clients; resources reserved by a killed Tuner are released."""
        if self._tuner is None:
            return
        ray.kill(self._tuner)
        self._tuner = None
        for key, row in placement_groups().items():
            ours = all(bundle == self._client for bundle in row["bundles"].values())
            if key not in self._before and ours:
                with suppress(GetTimeoutError, RayError):
                    remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(key))))
