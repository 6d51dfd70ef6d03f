"""Proposals of Optuna's Gaussian process, which counts running trials and estimates those that were stopped."""

import statistics
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.samplers import GPSampler, RandomSampler
from optuna.trial import FixedTrial, TrialState, create_trial

from harness.config.search_space import SearchSpace, Suggester
from harness.search.objectives import DIRECTIONS, front_values
from harness.search.study import Past
from lingo.trial import TrialConfig


class Shares:
    """An Optuna trial in which an integer `bT` is a share from 0 to 1 of what its range allows.

    The range of `bT` ends at `b0`. A parameter whose range differs between trials has no place in a joint model; a
    share has.
    """

    def __init__(self, trial: Suggester) -> None:
        self._trial = trial
        self.suggest_float, self.suggest_categorical = trial.suggest_float, trial.suggest_categorical

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        if name != "bT":
            return self._trial.suggest_int(name, low, high, step=step, log=log)
        count = (high - low) // step + 1
        return low + step * min(int(self._trial.suggest_float(name, 0.0, 1.0) * count), count - 1)


def propose(
    space: SearchSpace,
    ended: Sequence[Past],
    running: Sequence[Mapping[str, Any]],
    *,
    seed: int,
    start: int,
    fronted: bool = False,
) -> dict[str, Any]:
    """The configuration with the best expected improvement, in expectation over the scores of the running trials.

    It is that of the best score, or of the hypervolume below the front of score and trained parameters.

    A function of the arguments. A stopped trial counts with `estimate` and a failed one with the lowest score.

    Args:
        ended: Ended trials; those outside the space are left out.
        running: Settings of trials that have not ended.
        start: Scores below which it is an independent draw.
        fronted: Whether a front is searched. Only trials that finished count then, and running ones by their settings.
    """
    with warnings.catch_warnings(action="ignore"):  # experimental; values outside the space
        independent = RandomSampler(seed)
        sampler = GPSampler(seed=seed, n_startup_trials=start, independent_sampler=independent)
        directions = DIRECTIONS if fronted else DIRECTIONS[:1]
        study = optuna.create_study(directions=directions, sampler=sampler)
        for past, scores in zip(ended, _scores(ended, fronted=fronted), strict=True):
            if scores:
                _add(study, space, past.values, scores)
        for values in running:
            _add(study, space, values, None)
        return space.suggest(Shares(study.ask()))


def _scores(ended: Sequence[Past], *, fronted: bool) -> list[list[float]]:
    """What each trial counts with; empty for one that does not count."""
    if fronted:
        return [front_values(past) for past in ended]
    found = [estimate(past, ended) for past in ended]
    lowest = min((score for score in found if score is not None), default=None)
    return [[] if lowest is None else [lowest if score is None else score] for score in found]


def estimate(past: Past, ended: Sequence[Past]) -> float | None:
    """Last score of a trial that finished; of a stopped one its last score and the mean change from that epoch to
    the end of the trials that finished. `None` without a score."""
    if not past.evaluations or past.status == "failed":
        return None
    epoch, score = max(past.evaluations)
    if past.status == "finished":
        return score
    curves = [dict(other.evaluations) for other in ended if other.status == "finished"]
    changes = [curve[max(curve)] - curve[epoch] for curve in curves if epoch in curve]
    return score + (statistics.fmean(changes) if changes else 0.0)


def _add(
    study: optuna.Study, space: SearchSpace, values: Mapping[str, Any], scores: list[float] | None
) -> None:
    """Add a trial, which is running if it has no scores."""
    try:
        known = FixedTrial({**values, **_share(space, values)})
        space.suggest(Shares(known))
        trial = create_trial(
            state=TrialState.RUNNING if scores is None else TrialState.COMPLETE,
            values=scores,
            params=known.params,
            distributions=known.distributions,
        )
        study.add_trial(trial)
    except (KeyError, ValueError):
        return


def _share(space: SearchSpace, values: Mapping[str, Any]) -> dict[str, float]:
    """`bT` as `Shares` draws it: the middle of the shares that give its value."""
    leaf = space.leaves.get("bT")
    if leaf is None or leaf.type != "int":
        return {}
    step = int(leaf.step or 1)
    highest = max(leaf.low, min(leaf.high, values.get("b0", space.fixed.get("b0", TrialConfig.b0))))
    count = int(highest - leaf.low) // step + 1
    return {"bT": ((values["bT"] - leaf.low) // step + 0.5) / count}
