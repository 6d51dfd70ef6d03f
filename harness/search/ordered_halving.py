"""Early stopping that does not depend on which trial reports first.

A trial that reaches a rung waits there until every earlier trial of its search group (and bracket) has reached it or
has ended. It continues if it is among the best 1/η of those and itself: successive halving in the order of trial
numbers, not of arrival. The jobs wait in the pool (`harness.runs.jobs.Job.rungs`); decisions are sent to it by
`proceed` and `release`, and repeated every few seconds, since its job source may be restarted.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from harness.search.proposals import job_id
from harness.search.schedulers import GroupScheduler, bracket, rungs_of
from harness.search.study import Past, SearchStudy
from harness.search.trial_client import EPOCH, METRIC, STATE

LOCK = threading.RLock()
"""Lock of Tune's thread and the repeating one; not part of the scheduler, which Tune pickles."""

AGAIN_S = 2.0
"""Seconds between repetitions of the decisions."""


class Halving:
    """Decisions of one search group, by trial number.

    Args:
        study: The group's first member.
    """

    def __init__(self, study: SearchStudy) -> None:
        self._study = study
        self._scores: dict[int, dict[float, float]] = {}
        self._ended: set[int] = set()
        self._due: dict[int, float] = {}

    def score(self, number: int, epoch: float, value: float) -> None:
        """Record an evaluation; a repeated epoch has no effect."""
        scores = self._scores.setdefault(number, {})
        if epoch not in scores:
            scores[epoch] = value
            if epoch in rungs_of(self._study, number):
                self._due[number] = epoch

    def begin(self, number: int) -> None:
        """A trial that seemed to have ended continues."""
        self._ended.discard(number)

    def end(self, number: int) -> None:
        """A trial has ended, with any status."""
        self._ended.add(number)
        self._due.pop(number, None)

    def decide(self) -> list[tuple[int, float, bool]]:
        """Trial, rung and whether it continues, for all decisions that can be made now."""
        decided = []
        for number in sorted(self._due):
            rung = self._due[number]
            rivals = [other for other in range(number) if self._together(other, number)]
            if any(rung not in self._scores.get(other, {}) and other not in self._ended for other in rivals):
                continue
            there = [self._scores[n][rung] for n in (*rivals, number) if rung in self._scores.get(n, {})]
            cutoff = np.quantile(there, 1 - 1 / self._study.reduction_factor)
            decided.append((number, rung, bool(self._scores[number][rung] >= cutoff)))
            del self._due[number]
        return decided

    def _together(self, one: int, other: int) -> bool:
        return bracket(self._study, one) == bracket(self._study, other)


class InOrder(GroupScheduler):
    """Tells the pool, and not Tune, which trials continue: for Tune every trial does, until its jobs have ended.

    Args:
        members: By search group the studies of its members.
        history: By search group its ended trials.
        proceed: Receives, by job, the last rung that it may pass.
        release: Receives the id of a job to be stopped.
    """

    def __init__(
        self,
        members: Mapping[str, Sequence[SearchStudy]],
        history: Mapping[str, Sequence[Past]],
        proceed: Callable[[Mapping[str, float]], object],
        release: Callable[[str], object],
    ) -> None:
        super().__init__(members)
        self._members, self._proceed, self._release = members, proceed, release
        self._groups = {key: Halving(studies[0]) for key, studies in members.items()}
        self._go: dict[str, float] = {}
        self._stop: set[str] = set()
        for key, trials in history.items():
            for past in trials:
                for epoch, value in past.evaluations:
                    self._groups[key].score(past.number, epoch, value)
                self._groups[key].end(past.number)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        with LOCK:
            self._groups[trial.config["group"]].begin(trial.config["number"])

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        with LOCK:
            self._score(trial, result)
            self._settle(trial.config["group"])
        return self.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        with LOCK:
            self._score(trial, result)
            self._ended(trial)
            self._settle(trial.config["group"])

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """No decision yet: a trial that lost its client is added again immediately."""
        with LOCK:
            self._ended(trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self.on_trial_error(tune_controller, trial)

    def tell_until(self, ended: threading.Event) -> None:
        """Repeat the decisions on trials that have not ended."""
        while not ended.wait(AGAIN_S):
            with LOCK:
                for key in self._groups:
                    self._settle(key)
                self._tell()

    def _score(self, trial: Any, result: dict[str, Any]) -> None:
        if result.get(STATE) in ("running", "finished"):
            halving = self._groups[trial.config["group"]]
            halving.score(trial.config["number"], result[EPOCH], result[METRIC])

    def _ended(self, trial: Any) -> None:
        key, number = trial.config["group"], trial.config["number"]
        self._groups[key].end(number)
        for name in self._jobs(key, number):
            self._go.pop(name, None)
            self._stop.discard(name)

    def _settle(self, key: str) -> None:
        decided = self._groups[key].decide()
        for number, rung, goes_on in decided:
            for name in self._jobs(key, number):
                if goes_on:
                    self._go[name] = rung
                else:
                    self._stop.add(name)
        if decided:
            self._tell()

    def _tell(self) -> None:
        if self._go:
            self._proceed(dict(self._go))
        for name in sorted(self._stop):
            self._release(name)

    def _jobs(self, key: str, number: int) -> list[str]:
        return [job_id(study, number) for study in self._members[key]]
