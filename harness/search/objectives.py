"""What a searcher of a Pareto front learns of a trial: Optuna has values instead of one value, and no reports."""

import math
from typing import Literal

from harness.search.study import Past
from harness.search.trial_client import UNDEFINED

DIRECTIONS: list[Literal["minimize", "maximize"]] = ["maximize", "minimize"]
"""Of the dev score and of the trained parameters; of one objective the first."""


def front_values(past: Past) -> list[float]:
    """What a searcher of a front learns of a finished trial: its last score, and the decimal logarithm of its trained
    parameters, so that the area below a front does not belong to the largest trials. Empty where one is not known."""
    score = max(past.evaluations)[1] if past.evaluations else UNDEFINED
    if past.status != "finished" or not past.parameters or score <= UNDEFINED:
        return []
    return [score, math.log10(past.parameters)]
