"""Proposals of one search group: its Optuna study, trial numbers and earlier trials.

A proposal is a function of the seed, the group, the trial number and the history: the sampler is created anew for
every trial, with its own seed.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import optuna
from optuna.trial import TrialState

from harness.config.scopes import SHARED_START, grid, merge, siblings_of
from harness.runs.jobs import Job
from harness.runs.selection import has_ended
from harness.search import gaussian_process
from harness.search.objectives import DIRECTIONS, front_values
from harness.search.sampling import LatinHypercube, PerTrial, sampler_of, seed_of, startup_trials
from harness.search.schedulers import rungs_of
from harness.search.study import Ended, Past, SearchStudy
from harness.search.trial_client import objective

optuna.logging.set_verbosity(optuna.logging.ERROR)

MODELS = ("tpe", "gp")
"""Searchers that draw from the scores of earlier trials."""

LAG = 4
"""A trial of a deterministic search is drawn from the scores of all trials up to this many before it, so that this
many can train at the same time in each search group. A different number gives a different search."""


@dataclass(kw_only=True)
class Proposal:
    """A trial to run: a job for each study of the group.

    Attributes:
        number: Its number in the group, and in each study.
        jobs: By member, in the members' order.
        seen: Evaluations of members that had already ended, by study.
    """

    number: int
    jobs: list[Job]
    seen: dict[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)


class Proposals:
    """Draws the trials of one group: open ones first, then missing numbers in order.

    Args:
        members: The studies of the group; the first one's settings are the group's.

    Raises:
        InputError: If the members' search spaces do not intersect.
    """

    def __init__(self, members: Sequence[SearchStudy]) -> None:
        self._members, self._first, self._settings = members, members[0], members[0].benchmark
        self._trials = self._first.drawn(self._settings)
        self._space = merge([study.space for study in members])
        self._siblings = siblings_of(self._space, self._first.siblings)
        self._scores: dict[int, float] = {}  # last scores of trials that were not stopped
        points = [dict(point) for point in self._space.first_points]
        self._grid = self._settings.searcher == "grid"
        self._points = grid(self._space, points, seed=self._settings.seed) if self._grid else points
        self._values: dict[int, Mapping[str, Any]] = {}
        self._pasts: dict[int, Past] = {}
        self._seen: dict[int, dict[float, float]] = {}
        self._asked: dict[int, optuna.Trial] = {}
        self._counts: dict[int, int | None] = {}  # trained parameters
        self._fronted = self._settings.has_front
        self._sampler = PerTrial(sampler_of(self._first))
        self._study = self._new_study()
        self.history, self._open = group_history(members)
        for past in self.history:
            self._remember(past)
            self._pasts[past.number] = past
        ended = {past.number for past in self.history}
        self._known = ended | {trial.number for trial in self._open}
        self._fresh: list[int] = []
        self.total = 0
        self.steer(members)
        self.begun = len(ended)

    def steer(self, members: Sequence[SearchStudy]) -> None:
        """Take the trials that users have added by now, and the number of trials that they ask for.

        Numbers that are drawn go on behind those of added trials.
        """
        self._members, self._first = members, members[0]
        self._trials = self._first.drawn(self._settings)
        added = {one.number: one for one in self._first.added}
        for number in sorted(added.keys() - self._known):
            self._open.append(OpenTrial(number=number, values=added[number].values))
            self._known.add(number)
        self._open.sort(key=lambda trial: trial.number)
        drawn = min(self._trials, len(self._points)) if self._grid else self._trials
        wanted = range(drawn + len(added))
        self._fresh = [number for number in wanted if number not in self._known]
        self.total = len(self._known | set(wanted))

    @property
    def left(self) -> int:
        """Trials still to propose."""
        return len(self._open) + len(self._fresh)

    @property
    def ready(self) -> bool:
        """Whether the next trial can be proposed. In a deterministic search, a trial drawn from the scores of others
        waits until all those up to `LAG` trials before it have ended."""
        if not self._first.deterministic or self._next_is_open() or self._fixed_by_number(self._fresh[0]):
            return True
        return all(number in self._pasts for number in range(self._fresh[0] - LAG + 1))

    def next(self) -> Proposal:
        """The next trial. Raises `IndexError` if none is left."""
        self.begun += 1
        if self._next_is_open():
            trial = self._open.pop(0)
            self._ask(trial.number, trial.values)
            jobs = [
                self._job(study, trial.number, trial.values, trial.configs.get(study.key))
                for study in self._members
            ]
            return Proposal(number=trial.number, jobs=jobs, seen=trial.seen)
        number = self._fresh.pop(0)
        self._known.add(number)
        if self._first.deterministic:
            self._forget_after(number - LAG)
        values = self._ask(number, self._fixed(number))
        return Proposal(number=number, jobs=[self._job(study, number, values) for study in self._members])

    def _next_is_open(self) -> bool:
        """Open trials first; in a deterministic search, all trials in order of their numbers."""
        if not self._open or not self._first.deterministic or not self._fresh:
            return bool(self._open)
        return self._open[0].number < self._fresh[0]

    def _fixed_by_number(self, number: int) -> bool:
        """Whether a trial's settings depend only on its number."""
        return self._settings.searcher not in MODELS or number < len(self._points) + startup_trials(
            self._trials
        )

    def _new_study(self) -> optuna.Study:
        directions = DIRECTIONS if self._fronted else DIRECTIONS[:1]
        return optuna.create_study(directions=directions, sampler=self._sampler)

    def _forget_after(self, last: int) -> None:
        """A study of only the trials up to `last`, in order of their numbers."""
        self._study, self._scores = self._new_study(), {}
        for number in sorted(self._pasts):
            if number <= last:
                self._remember(self._pasts[number])

    def report(self, number: int, epoch: float, value: float, parameters: int | None = None) -> None:
        """Record an evaluation of a running trial, with its trained parameters if they are known; a repeated epoch has
        no effect."""
        self._counts[number] = self._counts.get(number) or parameters
        seen = self._seen.setdefault(number, {})
        if epoch not in seen:
            seen[epoch] = value
            if not self._first.deterministic and not self._fronted:  # Optuna has no reports of several values
                self._asked[number].report(value, self._step(epoch))

    def _step(self, epoch: float) -> int:
        """An evaluation as Optuna counts it; joint studies have none between those of their first member."""
        return round(epoch * self._first.evaluations)

    def ended(self, number: int, state: str) -> None:
        """A trial ended: `finished`, `stopped` by the scheduler, or anything else, which counts as failed."""
        status: Ended = "finished" if state == "finished" else "stopped" if state == "stopped" else "failed"
        self._pasts[number] = past = Past(
            number=number,
            values=self._values[number],
            status=status,
            evaluations=tuple(sorted(self._seen.pop(number, {}).items())),
            parameters=self._counts.pop(number, None),
        )
        if not self._first.deterministic:
            told, values = self._outcome(past)
            self._study.tell(self._asked.pop(number), values, state=told)
            self._score(past)

    def _fixed(self, number: int) -> Mapping[str, Any]:
        """Settings of a trial that are not drawn: all of a first point and of the Latin hypercube, the shared ones of a
        fork."""
        if number < len(self._points):
            return self._points[number]
        start, index = startup_trials(self._trials), number - len(self._points)
        if self._settings.searcher in MODELS and index < start:
            return self._space.suggest(
                LatinHypercube(index, start, f"{self._settings.seed}|{self._first.search_group}")
            )
        return self._by_process(number) if self._settings.searcher == "gp" else self._next_sibling()

    def _by_process(self, number: int) -> Mapping[str, Any]:
        """Settings that the Gaussian process proposes, from all trials that this one may know of."""
        if self._first.deterministic:
            known = [self._pasts[n] for n in sorted(self._pasts) if n <= number - LAG]
            running = [self._values[n] for n in sorted(self._values) if number - LAG < n < number]
        else:
            known = [self._pasts[n] for n in sorted(self._pasts)]
            running = [self._values[n] for n in sorted(self._asked)]
        return gaussian_process.propose(
            self._space,
            known,
            running,
            seed=seed_of(self._settings.seed, f"{self._first.search_group}|{number}"),
            start=startup_trials(self._trials),
            fronted=self._fronted,
        )

    def _next_sibling(self) -> Mapping[str, Any]:
        """Settings that a further fork of the best finished trial shares with it; empty if all its forks exist."""
        if self._siblings == 1 or not self._scores:
            return {}
        best = max(self._scores, key=lambda number: (self._scores[number], -number))
        shared = _shared(self._values[best])
        family = [values for values in self._values.values() if _shared(values) == shared]
        return shared if len(family) < self._siblings else {}

    def _ask(self, number: int, fixed: Mapping[str, Any]) -> Mapping[str, Any]:
        if fixed:
            self._study.enqueue_trial(dict(fixed))
        self._sampler.begin(self._settings.seed, f"{self._first.search_group}|{number}")
        self._asked[number] = trial = self._study.ask()
        self._values[number] = self._space.suggest(trial)
        return self._values[number]

    def _job(
        self,
        study: SearchStudy,
        number: int,
        values: Mapping[str, Any],
        config: Mapping[str, Any] | None = None,
    ) -> Job:
        settings = study.benchmark
        made = {
            "seed": settings.seed,
            **study.space.fixed,
            **settings.of_trials,
            "method": study.method,
            **values,
        }
        asked = next((one for one in study.added if one.number == number), None)
        parent = None if asked is None or asked.parent is None else job_id(study, asked.parent)
        return Job(
            id=job_id(study, number),
            study=study.key,
            stage="search",
            backbone=study.source,
            data=str(study.data),
            config=dict(config or made),
            checkpoints=study.checkpoints,
            metric=study.task.metric,
            siblings=study.siblings > 1,
            asked_by="search" if asked is None else "user",
            parent=parent,
            alone=study.deterministic,
            rungs=tuple(rungs_of(self._first, number)) if study.deterministic else (),
            evaluations=study.evaluations,
        )

    def _outcome(self, past: Past) -> tuple[TrialState, list[float] | None]:
        """How an ended trial counts in the Optuna study, and its values."""
        if self._fronted:
            values = front_values(past)
            return (TrialState.COMPLETE, values) if values else (TrialState.FAIL, None)
        if not past.evaluations or past.status == "failed":
            return TrialState.FAIL, None
        if past.status == "stopped":
            return TrialState.PRUNED, None
        return TrialState.COMPLETE, [max(past.evaluations)[1]]

    def _score(self, past: Past) -> None:
        if past.status == "finished" and past.evaluations:
            self._scores[past.number] = max(past.evaluations)[1]

    def _steps(self, past: Past) -> dict[int, float]:
        """The evaluations of an ended trial as Optuna counts them; none of several values."""
        return {} if self._fronted else {self._step(epoch): score for epoch, score in past.evaluations}

    def _remember(self, past: Past) -> None:
        """Add an ended trial to the Optuna study; one outside the space only keeps its number."""
        self._values[past.number] = past.values
        self._score(past)
        state, values = self._outcome(past)
        known = optuna.trial.FixedTrial(dict(past.values), past.number)
        try:
            with warnings.catch_warnings(action="ignore"):  # of values outside the space
                params = self._space.suggest(known)
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=state,
                    values=values,
                    params=params,
                    distributions=known.distributions,
                    intermediate_values=self._steps(past),
                )
            )
        except (KeyError, ValueError):
            return


@dataclass(kw_only=True)
class OpenTrial:
    """A trial that has started and not ended.

    Attributes:
        values: The searched settings.
        configs: Complete configurations of the members whose jobs were running, by study.
        seen: Evaluations of the members that have ended, by study.
    """

    number: int
    values: Mapping[str, Any]
    configs: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    seen: dict[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)


def group_history(members: Sequence[SearchStudy]) -> tuple[list[Past], list[OpenTrial]]:
    """The group's ended trials with the means of the members' evaluations, and its open ones, by number.

    Undefined evaluations get their value.
    """
    ended: dict[int, dict[str, Past]] = {}
    opened: dict[int, OpenTrial] = {}
    for study in members:
        for past in study.history:
            ended.setdefault(past.number, {})[study.key] = past
    for study in members:
        for number, config in study.open:
            statuses = [past.status for past in ended.get(number, {}).values()]
            if not has_ended(statuses, len(members)):
                values = {name: _plain(config[name]) for name in study.space.leaves if name in config}
                trial = opened.setdefault(number, OpenTrial(number=number, values=values))
                trial.configs[study.key] = config
    whole = []
    for number, pasts in sorted(ended.items()):
        statuses = [past.status for past in pasts.values()]
        first = next(iter(pasts.values()))
        values = {name: _plain(value) for name, value in first.values.items()}
        if has_ended(statuses, len(members)):
            status: Ended = (
                "failed" if "failed" in statuses else "stopped" if "stopped" in statuses else "finished"
            )
            means = tuple(mean_evaluations(members, pasts)) if len(pasts) == len(members) else ()
            counts = [past.parameters for past in pasts.values() if past.parameters is not None]
            size = sum(counts) if len(counts) == len(members) else None
            whole.append(
                Past(number=number, values=values, status=status, evaluations=means, parameters=size)
            )
        else:
            trial = opened.setdefault(number, OpenTrial(number=number, values=values))
            trial.seen = {key: past.evaluations for key, past in pasts.items()}
    return whole, [opened[number] for number in sorted(opened)]


def mean_evaluations(
    members: Sequence[SearchStudy], pasts: Mapping[str, Past]
) -> Iterator[tuple[float, float]]:
    """Pairs of an epoch and the group's objective, for the epochs that every member has evaluated."""
    signed = [
        {epoch: objective(study.task.metric, value) for epoch, value in pasts[study.key].evaluations}
        for study in members
    ]
    for epoch in sorted(set.intersection(*(set(values) for values in signed))):
        yield epoch, math.fsum(values[epoch] for values in signed) / len(signed)


def job_id(study: SearchStudy, number: int) -> str:
    """A study's part of a trial."""
    return f"{study.key}/trial-{number:04d}"


def _shared(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings shared by forks."""
    return {name: value for name, value in values.items() if name not in SHARED_START}


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def as_config(group: str, studies: Sequence[SearchStudy], proposal: Proposal) -> dict[str, Any]:
    """A proposal as the configuration of a Tune trial, see `harness.search.trial_client`."""
    return {
        "group": group,
        "number": proposal.number,
        "jobs": [asdict(job) for job in proposal.jobs],
        "metrics": [study.task.metric for study in studies],
        "seen": {key: [list(pair) for pair in pairs] for key, pairs in proposal.seen.items()},
    }
