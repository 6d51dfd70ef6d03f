"""Sampling of a search: a Latin hypercube, then Optuna's samplers, created anew for every trial."""

import hashlib
import random
from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from harness.search.study import SearchStudy


def startup_trials(num_samples: int) -> int:
    """Number of space-filling trials before TPE: eight, fewer in short searches."""
    return max(3, min(8, num_samples // 3))


def sampler_of(study: SearchStudy) -> Callable[[int], BaseSampler]:
    """Creates the sampler of a trial from its seed."""
    start = startup_trials(study.trials(study.benchmark))

    def tpe(seed: int) -> BaseSampler:
        # In seven dimensions the best region is rarely among Optuna's default of 24 candidates.
        return TPESampler(seed=seed, multivariate=True, n_startup_trials=start, n_ei_candidates=128)

    return tpe if study.benchmark.searcher == "tpe" else RandomSampler


def seed_of(seed: int, name: str) -> int:
    """Seed of a trial's sampler."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{name}".encode()).digest()[:4], "big")


class PerTrial(BaseSampler):
    """A sampler that is created anew for every trial, from a seed of the trial."""

    def __init__(self, make: Callable[[int], BaseSampler]) -> None:
        self._make = make
        self._inner = make(0)

    def begin(self, seed: int, name: str) -> None:
        self._inner = self._make(seed_of(seed, name))

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)


class LatinHypercube:
    """Stand-in for an Optuna trial that suggests one of `count` points of a Latin hypercube: the range of each setting
    is divided into `count` equal parts, and each point uses a different part.

    Args:
        index: Index of the point.
        stream: Random stream of the hypercube.
    """

    def __init__(self, index: int, count: int, stream: str) -> None:
        self._index, self._count, self._stream = index, count, stream

    def _share(self, name: str) -> float:
        draws = random.Random(f"{self._stream}|{name}|even start")
        parts = draws.sample(range(self._count), self._count)
        return (parts[self._index] + [draws.random() for _ in parts][self._index]) / self._count

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        share = self._share(name)
        if step is not None:
            return low + step * int(share * (int((high - low) / step + 1e-9) + 1))
        return min(high, max(low, low * (high / low) ** share)) if log else low + share * (high - low)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        share = self._share(name)
        if log:
            return min(high, int((low - 0.5) * ((high + 0.5) / (low - 0.5)) ** share + 0.5))
        return low + step * int(share * ((high - low) // step + 1))

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return choices[int(self._share(name) * len(choices))]
