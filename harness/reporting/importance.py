"""Which hyper-parameters mattered: functional ANOVA over the trials of a method (Hutter et al., 2014), by Optuna."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

TREES = 24
LEAST = 12
"""Trials below which nothing is said."""


def importances(
    configs: Sequence[Mapping[str, float]], scores: Sequence[float], log: Mapping[str, bool]
) -> dict[str, float]:
    """Share of the variance of `scores` that each hyper-parameter explains alone or with others; sums to 1.

    Args:
        configs: Numbers by hyper-parameter, the same names in each.
        scores: One score a configuration; no NaN.
        log: For each name whether its scale is logarithmic (its values are then above 0).

    Returns:
        By name; empty for fewer than `LEAST` trials, equal scores, or when no hyper-parameter varies.
    """
    import optuna
    from optuna.distributions import BaseDistribution, FloatDistribution
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    ranges = {name: (min(c[name] for c in configs), max(c[name] for c in configs)) for name in log if configs}
    varied = {name: ends for name, ends in ranges.items() if ends[1] > ends[0]}
    if len(configs) < LEAST or not varied or max(scores) - min(scores) <= 0:
        return {}
    spaces: dict[str, BaseDistribution] = {
        name: FloatDistribution(*ends, log=log[name] and ends[0] > 0) for name, ends in varied.items()
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [
            optuna.trial.create_trial(
                params={name: float(config[name]) for name in varied},
                distributions=spaces,
                value=float(score),
            )
            for config, score in zip(configs, scores, strict=True)
            if math.isfinite(score)
        ]
    )
    found: dict[str, Any] = get_param_importances(
        study, evaluator=FanovaImportanceEvaluator(n_trees=TREES, seed=0)
    )
    return {name: float(value) for name, value in found.items()}
