"""Early stopping of several search groups in one Tuner, with a separate scheduler for each.

`hyperband` here is asynchronous successive halving in several brackets (Li et al., arXiv:1810.05934, section 3),
which differ in the epoch of their first rung; a trial's bracket depends only on the seed and its number.
`asha` is one bracket, whose first rung is after the learning-rate warm-up.
"""

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from harness.runs.evaluations import Grid
from harness.search.study import Past, SearchStudy
from harness.search.trial_client import EPOCH, METRIC, STATE
from lingo.methods import METHODS
from lingo.trial import TrialConfig


@dataclass(frozen=True)
class _Earlier:
    """Stand-in for a Tune trial that ended before this Tuner was started."""

    trial_id: str
    config: Mapping[str, Any]


class GroupScheduler(TrialScheduler):
    """A scheduler of several search groups: each has a metric to maximise, and Tune decides which trial starts next.

    Args:
        groups: The groups.
    """

    def __init__(self, groups: Collection[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._metric, self._count = METRIC, len(groups)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """The objective is maximised."""
        return True

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """No choice: Tune starts pending trials in the order in which they were proposed."""
        return None

    def debug_string(self) -> str:
        return f"{self._count} search groups, each with early stopping of its own."


class GroupSchedulers(GroupScheduler):
    """Delegates every trial to the scheduler of its search group.

    Args:
        studies: By search group the study of its first member.
        history: By search group its ended trials, which its scheduler receives first.
    """

    def __init__(self, studies: Mapping[str, SearchStudy], history: Mapping[str, Sequence[Past]]) -> None:
        super().__init__(studies)
        self._studies = studies
        self._brackets = {key: brackets(study) for key, study in studies.items()}
        self._child_of: dict[str, TrialScheduler] = {}
        for key, trials in history.items():
            for past in trials:
                self._replay(key, past)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        key, number = trial.config["group"], trial.config["number"]
        child = self._brackets[key][bracket(self._studies[key], number)]
        self._child_of[trial.trial_id] = child
        child.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision: str = self._child_of[trial.trial_id].on_trial_result(tune_controller, trial, _slim(result))
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        child = self._child_of.pop(trial.trial_id)
        if result.get(STATE) in ("running", "finished"):
            child.on_trial_complete(tune_controller, trial, _slim(result))
        else:  # without an evaluation to compare
            child.on_trial_remove(tune_controller, trial)
        _forget(trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._child_of.pop(trial.trial_id).on_trial_remove(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._child_of.pop(trial.trial_id).on_trial_remove(tune_controller, trial)

    def _replay(self, key: str, past: Past) -> None:
        if not past.evaluations:
            return
        trial = _Earlier(f"{key}/{past.number}", {"group": key, "number": past.number})
        results = [{METRIC: value, EPOCH: epoch, STATE: "running"} for epoch, value in past.evaluations]
        self.on_trial_add(None, trial)
        for result in results:
            self.on_trial_result(None, trial, result)
        child: Any = self._child_of.pop(trial.trial_id)
        child.on_trial_complete(None, trial, _slim(results[-1]))


def _forget(trial: Any) -> None:
    """Drop the data that Tune keeps of an ended trial (its configuration twice, and statistics of every reported
    number), which are not used and would fill the memory over thousands of trials."""
    trial.config["jobs"] = []
    trial.evaluated_params = {}
    for statistics in ("metric_analysis", "metric_n_steps"):
        getattr(trial.run_metadata, statistics, {}).clear()


def _slim(result: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a result that schedulers read, since the median rule stores every result."""
    return {name: result[name] for name in (METRIC, EPOCH) if name in result}


class SuccessiveHalving(TrialScheduler):
    """Asynchronous successive halving (Li et al., arXiv:1810.05934, section 3) that revises early decisions.

    A trial continues at a rung if it is among the best 1/η of the trials that have reached it. The trials of a pack
    arrive almost at the same time, and the first ones have no others to be compared with. A trial that passed a rung
    before 2η trials had reached it is therefore compared again, by its score at that rung, at each evaluation up to
    the next rung.

    Args:
        rungs: Epochs, whole or fractions, at which trials are compared, ascending.
        factor: η; one in η trials continues.
    """

    def __init__(self, rungs: Sequence[float], factor: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._factor = factor
        self._scores: dict[float, dict[str, float]] = {rung: {} for rung in rungs}
        self._settled: dict[str, float] = {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Nothing to do: a trial counts from its first rung on."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        name, epoch = trial.trial_id, result.get(EPOCH, 0)
        rung = max((rung for rung in self._scores if rung <= epoch), default=None)
        if rung is None or self._settled.get(name) == rung:
            return self.CONTINUE
        scores = self._scores[rung]
        score = scores.setdefault(name, result[METRIC])
        if len(scores) >= 2 * self._factor:
            self._settled[name] = rung
        cutoff = np.quantile(list(scores.values()), 1 - 1 / self._factor)
        return self.STOP if score < cutoff else self.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._settled.pop(trial.trial_id, None)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._settled.pop(trial.trial_id, None)


def parts(study: SearchStudy) -> int:
    """Parts of an epoch after which trials may be stopped: those after which they are evaluated, except that studies
    that share their configurations have only whole epochs in common."""
    return study.evaluations if study.search_group == study.key else 1


def rungs(study: SearchStudy) -> list[float]:
    """Epochs at which `asha` compares, all before the last: the first evaluation after twice the learning-rate warm-up
    (earlier scores say little about the learning rate), the others η, η² … times as far."""
    settings = {**study.space.fixed, **study.benchmark.of_trials}
    share = settings.get("warmup_ratio", TrialConfig.warmup_ratio)
    if "warmup_ratio" not in METHODS[study.method].settings:
        share = 0.0
    grid = Grid(parts(study), parts(study))  # one step of it is one evaluation
    last = grid.parts * study.benchmark.epochs
    first = max(1, math.ceil(2 * share * last - 1e-9))
    count = max(0, math.ceil(math.log(last / first) / math.log(study.reduction_factor) - 1e-9))
    return [grid.epoch(math.ceil(first * study.reduction_factor**index - 1e-9)) for index in range(count)]


def first_rungs(study: SearchStudy) -> list[int]:
    """First rungs of Hyperband's brackets: epochs 1, η, η² …, up to the last."""
    count = int(math.log(study.benchmark.epochs) / math.log(study.reduction_factor) + 1e-9) + 1
    return [math.ceil(study.reduction_factor**index) for index in range(count)]


def sync_epochs(members: Sequence[SearchStudy]) -> list[int]:
    """Epochs after which a group's scheduler may stop a trial, and its jobs therefore wait for each other.

    Empty if they cannot wait: without checkpoints they would start again.
    """
    first = members[0]
    lasting = METHODS[first.method].engine == "pack" and all(study.checkpoints for study in members)
    if len(members) == 1 or not lasting or first.benchmark.scheduler == "none":
        return []
    if first.benchmark.scheduler == "hyperband":
        return [epoch for epoch in first_rungs(first) if epoch < first.benchmark.epochs]
    last = first.benchmark.epochs
    begin = 1 if first.benchmark.scheduler == "median" else min(rungs(first), default=last)
    return list(range(int(begin), last))  # asha revises early decisions after every epoch


def brackets(study: SearchStudy) -> list[TrialScheduler]:
    """The schedulers that share a group's trials: one, except for `hyperband`."""
    if study.benchmark.scheduler == "none":
        return [FIFOScheduler()]  # type: ignore[no-untyped-call]
    common: dict[str, Any] = {"time_attr": EPOCH, "metric": METRIC, "mode": "max"}
    if study.benchmark.scheduler == "median":
        common["min_time_slice"] = math.inf  # it stops trials and never pauses them
        return [MedianStoppingRule(**common, grace_period=1 / parts(study), min_samples_required=3)]
    if study.benchmark.scheduler == "asha":
        return [SuccessiveHalving(rungs(study), study.reduction_factor)]
    common |= {"max_t": study.benchmark.epochs, "reduction_factor": study.reduction_factor}
    return [AsyncHyperBandScheduler(**common, grace_period=first) for first in first_rungs(study)]


def rungs_of(study: SearchStudy, number: int) -> list[float]:
    """The epochs after which a trial may be stopped in a deterministic search, by `asha` or `hyperband`."""
    if study.benchmark.scheduler == "none":
        return []
    if study.benchmark.scheduler == "asha":
        return rungs(study)
    first = first_rungs(study)
    return [epoch for epoch in first[bracket(study, number) :] if epoch < study.benchmark.epochs]


def bracket(study: SearchStudy, number: int) -> int:
    """The bracket of a trial. As in Hyperband, bracket b gets (s_max + 1) / (s + 1) · η^s trials, s = s_max - b."""
    if study.benchmark.scheduler != "hyperband":
        return 0
    last = len(first_rungs(study)) - 1
    weights = [
        (last + 1) / (last - index + 1) * study.reduction_factor ** (last - index)
        for index in range(last + 1)
    ]
    stream = random.Random(f"{study.benchmark.seed}|{study.search_group}|{number}|bracket")
    return stream.choices(range(last + 1), weights)[0]
