"""Searchers compared on tables of real learning curves, replayed without training.

    python -m tests.benchmarks.search_tables [--searchers …] [--at-once 1 8] [--seeds 30] [--trials 32] [--json FILE]

The tables are those of `tests.benchmarks.search_curves`. For each, extremely randomised trees (scikit-learn) predict
the score after every epoch from the configuration; their error is that of eight-fold cross-validation. A replayed trial
reports the predicted curve plus the out-of-fold residual curve of one of the trained trials, chosen by the
configuration, so that the same configuration always reports the same. A result is judged by the prediction without the
residual of the configuration that the final stage would take (the best last score of a trial that trained all epochs):
luck of the dev split does not count.

Trials last equally long per epoch, up to 5 %, as in a pack. Samples are counted in epochs. Intervals are those of
Student's t over seeds, each seed's value being the mean over the tables.
"""

import argparse
import heapq
import math
import statistics
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from ray.tune.schedulers import AsyncHyperBandScheduler
from rich.console import Console
from scipy import stats
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import KFold, cross_val_predict

from harness.config.learned_points import Told, portfolio
from harness.config.search_space import SearchSpace
from harness.search.sampling import LatinHypercube
from harness.search.schedulers import GroupSchedulers
from harness.search.searcher import GroupSearcher
from harness.search.trial_client import EPOCH, METRIC, STATE
from tests.benchmarks.search_curves import ALL_METHODS, ALL_TASKS, EPOCHS, STEPS, TRIALS, read, space_of
from tests.benchmarks.search_rows import Row, tell
from tests.support.studies import search_study

FOLDS = 8


def unit(space: SearchSpace, values: Mapping[str, Any]) -> list[float]:
    """A configuration as numbers from 0 to 1, in the order of the leaves; `bT` as a share of `b0`."""
    found = []
    for name, leaf in space.leaves.items():
        low, high, value = leaf.low, leaf.high, values[name]
        if name == "bT" and "b0" in values:
            high = max(low, min(high, values["b0"]))
        if leaf.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        found.append((value - low) / (high - low) if high > low else 0.5)
    return found


class Table:
    """Curves of a task and method, and a surrogate of them."""

    def __init__(self, task: str, method: str, configurations: int) -> None:
        self.task, self.method, self.space = task, method, space_of(task, method)
        trials: dict[int, list[dict[str, Any]]] = {}
        for row in read(task, method):
            trials.setdefault(row["trial"], []).append(row)
        whole = [rows for _, rows in sorted(trials.items()) if len(rows) == EPOCHS][:configurations]
        self.values = [{name: rows[0][name] for name in self.space.leaves} for rows in whole]
        self.scores = np.array([[row["score"] for row in rows] for rows in whole])
        inputs = np.array([unit(self.space, values) for values in self.values])
        model = ExtraTreesRegressor(50, min_samples_leaf=2, random_state=0)
        folds = KFold(FOLDS, shuffle=True, random_state=0)
        self.predicted = cross_val_predict(model, inputs, self.scores, cv=folds)
        self._residuals = self.scores - self.predicted
        self._model = model.fit(inputs, self.scores)
        self._known: dict[tuple[float, ...], NDArray[np.float64]] = {}

    def expected(self, values: Mapping[str, Any]) -> NDArray[np.float64]:
        """Predicted score after each epoch."""
        place = tuple(unit(self.space, values))
        if place not in self._known:
            row = np.array(
                [place], dtype=np.float32
            )  # trees one by one: `predict` takes 20 times as long for one row
            self._known[place] = np.mean(
                [tree.tree_.predict(row)[0, :, 0] for tree in self._model.estimators_], axis=0
            )
        return self._known[place]

    def curve(self, values: Mapping[str, Any]) -> NDArray[np.float64]:
        """Reported score after each epoch."""
        number = zlib.crc32(repr(unit(self.space, values)).encode()) % len(self._residuals)
        return self.expected(values) + self._residuals[number]

    def errors(self) -> tuple[float, float, float]:
        """(root mean square error, standard deviation, Spearman's correlation) of the last scores."""
        last, predicted = self.scores[:, -1], self.predicted[:, -1]
        correlation = float(stats.spearmanr(last, predicted).statistic)
        return float(np.sqrt(np.mean((last - predicted) ** 2))), float(last.std()), correlation


@dataclass(frozen=True)
class Step:
    """The state of a search when a trial ends.

    Attributes:
        epochs: Trained so far, over all trials.
        ended: Trials that have ended.
        value: Expected last score of the winner so far; NaN if no trial has trained all epochs.
    """

    epochs: int
    ended: int
    value: float


class Plain:
    """Optuna's sampler and Tune's asynchronous successive halving as they come, joined as Tune's `OptunaSearch` does:
    a stopped trial counts as complete with its last score."""

    def __init__(self, space: SearchSpace, sampler: Any, trials: int, at_once: int) -> None:
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._space, self._trials, self._at_once = space, trials, at_once
        self._open: dict[str, Any] = {}
        self._count = 0

    def suggest(self, trial_id: str) -> Any:
        if self._count >= self._trials or len(self._open) >= self._at_once:
            return None
        self._open[trial_id] = self._study.ask()
        self._count += 1
        return {"group": "", "jobs": [{"config": self._space.suggest(self._open[trial_id])}]}

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        self._open[trial_id].report(result[METRIC], result[EPOCH])

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any]) -> None:
        self._study.tell(self._open.pop(trial_id), result[METRIC])


def replay(
    table: Table, name: str, *, seed: int, at_once: int, trials: int, first: Sequence[Mapping[str, Any]] = ()
) -> list[Step]:
    """One search; `first` are the first points of a searcher of the product."""
    more = {"first_points": first} if first else {}
    searcher, scheduler = SEARCHERS[name](table, name, seed, at_once, trials, **more)
    jitter = np.random.default_rng((seed, at_once))
    events: list[tuple[float, int, SimpleNamespace]] = []
    drawn: list[SimpleNamespace] = []
    steps: list[Step] = []
    count, epochs, best, value = 0, 0, -math.inf, math.nan

    def begin(now: float) -> None:
        nonlocal count
        while isinstance(config := searcher.suggest(str(count)), dict):
            values = {leaf: config["jobs"][0]["config"][leaf] for leaf in table.space.leaves}
            drawn.append(
                SimpleNamespace(trial_id=str(count), config=config, run_metadata=None, values=values, epoch=0)
            )
            count += 1
        while drawn and len(events) < at_once:
            trial = drawn.pop(0)
            scheduler.on_trial_add(None, trial)
            heapq.heappush(events, (now + jitter.uniform(0.95, 1.05), int(trial.trial_id), trial))

    begin(0.0)
    while events:
        now, _, trial = heapq.heappop(events)
        trial.epoch, epochs = trial.epoch + 1, epochs + 1
        score = float(table.curve(trial.values)[trial.epoch - 1])
        last = trial.epoch == EPOCHS
        result = {METRIC: score, EPOCH: trial.epoch, STATE: "finished" if last else "running"}
        if not last and scheduler.on_trial_result(None, trial, result) != "STOP":
            searcher.on_trial_result(trial.trial_id, result)
            heapq.heappush(events, (now + jitter.uniform(0.95, 1.05), int(trial.trial_id), trial))
            continue
        scheduler.on_trial_complete(None, trial, result)
        searcher.on_trial_complete(trial.trial_id, result)
        if last and score > best:
            best, value = score, float(table.expected(trial.values)[-1])
        steps.append(Step(epochs, len(steps) + 1, value))
        begin(now)
    return steps


def _ours(table: Table, name: str, seed: int, at_once: int, trials: int, **more: Any) -> tuple[Any, Any]:
    """Searcher and scheduler of the product."""
    searcher = name.removesuffix(" without stops")
    plan = search_study(
        f"{table.task}|none|{table.method}",
        table.space,
        trials,
        seed=seed,
        epochs=EPOCHS,
        searcher=searcher,
        scheduler="none" if searcher != name else "asha",
        **{"first_points": (), **more},
    )
    spare = max(1, -(-at_once // 4))
    found = GroupSearcher([plan], groups=1, slots=at_once, spare=spare, limit=at_once)
    return found, GroupSchedulers({plan.search_group: plan}, {})


def _plain(make: Callable[[int], Any]) -> Callable[..., tuple[Any, Any]]:
    def made(table: Table, name: str, seed: int, at_once: int, trials: int) -> tuple[Any, Any]:
        scheduler = AsyncHyperBandScheduler(
            time_attr=EPOCH, metric=METRIC, mode="max", max_t=EPOCHS, grace_period=1
        )
        return Plain(table.space, make(seed), trials, at_once), scheduler

    return made


SEARCHERS: dict[str, Callable[..., tuple[Any, Any]]] = {
    "random without stops": _ours,
    "random": _ours,
    "tpe": _ours,
    "gp": _ours,
    "optuna tpe": _plain(lambda seed: optuna.samplers.TPESampler(seed=seed)),
    "optuna gp": _plain(lambda seed: optuna.samplers.GPSampler(seed=seed)),
    "optuna cma-es": _plain(lambda seed: optuna.samplers.CmaEsSampler(seed=seed)),
}
"""By name: what makes searcher and scheduler of a replay."""

PEERS = ("random", "optuna tpe")
"""What the others are compared with: random draws with the product's early stopping; Optuna and Tune as they come."""


def at(steps: Sequence[Step], trials: int) -> float:
    """Value after so many ended trials; of a search that has no finished trial, 0."""
    value = [step for step in steps if step.ended <= trials][-1].value
    return 0.0 if math.isnan(value) else value


def samples_to(steps: Sequence[Step], target: float) -> int | None:
    """Epochs trained until the value was reached."""
    return next((step.epochs for step in steps if step.value >= target - 1e-12), None)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), float(half)


def compare(
    tables: Sequence[Table], names: Sequence[str], at_once: int, seeds: int, trials: int, say: Any
) -> Iterator[Row]:
    """Rows of all searchers."""
    runs: dict[str, list[list[list[Step]]]] = {}
    for name in dict.fromkeys(("random without stops", *PEERS, *names)):
        begun = time.process_time()
        runs[name] = [
            [replay(table, name, seed=seed, at_once=at_once, trials=trials) for table in tables]
            for seed in range(seeds)
        ]
        seconds = time.process_time() - begun
        say(f"{name}, {at_once} at once: {seconds / seeds / len(tables) / trials:.3f} s a trial")
    full = runs.pop("random without stops")
    for name, found in runs.items():
        label = f"{name}, {at_once} at once"
        for after in (8, 16, trials):
            yield Row(
                f"{label}: score after {after} trials",
                _mean([[at(s, after) for s in one] for one in found]),
                "",
            )
        for peer in PEERS:
            gains = [
                statistics.fmean(at(s, trials) - at(r, trials) for s, r in zip(one, other, strict=True))
                for one, other in zip(found, runs[peer], strict=True)
            ]
            if name != peer:
                mean, half = interval(gains)
                title = f"{label}: ahead of {peer} after {trials} trials, ± {half:.4f}"
                yield Row(title, mean, "", "interval above 0", mean > half)
        ratios = [
            trials * EPOCHS / (samples_to(s, at(r, trials)) or trials * EPOCHS)
            for one, other in zip(found, full, strict=True)
            for s, r in zip(one, other, strict=True)
        ]
        yield Row(
            f"{label}: fewer samples to the best of {trials} random full trials",
            statistics.median(ratios),
            "x",
        )


def first_points(table: Table, tables: Sequence[Table]) -> list[dict[str, Any]]:
    """What the tables of the other tasks of the same method teach."""
    others = [one for one in tables if one.method == table.method and one is not table]
    told = [
        [Told(values, float(curve[-1])) for values, curve in zip(one.values, one.scores, strict=True)]
        for one in others
    ]
    space = replace(table.space, first_points=tuple(portfolio(told)) if told else ())
    return [dict(point) for point in space.restrict(STEPS, epochs=EPOCHS).first_points]


def winner(table: Table, points: Sequence[Mapping[str, Any]]) -> float:
    """Expected last score of the best of these configurations, each trained to the last epoch."""
    return float(table.expected(max(points, key=lambda values: table.curve(values)[-1]))[-1])


def transfer(tables: Sequence[Table], seeds: int, say: Any) -> Iterator[Row]:
    """First points from the other tasks of the same method, with a Latin hypercube up to four, and before a search."""
    gains: dict[str, list[list[float]]] = {}
    for table in tables:
        learned = first_points(table, tables)
        if not learned:
            continue
        full, plain, taught = (
            [replay(table, name, seed=n, at_once=8, trials=16, first=first) for n in range(seeds)]
            for name, first in (("random without stops", ()), ("tpe", ()), ("tpe", learned))
        )
        best = [at(steps, 16) for steps in full]
        spread = [
            [table.space.suggest(LatinHypercube(i, 4, f"{n}|{table.task}")) for i in range(4)]
            for n in range(seeds)
        ]
        even = [winner(table, points) for points in spread]
        found = [winner(table, [*learned, *points][:4]) for points in spread]
        say(f"{table.task} {table.method}: {len(learned)} learned, {statistics.fmean(found):.3f}")
        rows = {
            "4 trials from other tasks: ahead of the best of 16 random full trials": [
                f - r for f, r in zip(found, best, strict=True)
            ],
            "4 trials of a Latin hypercube: the same": [e - r for e, r in zip(even, best, strict=True)],
        } | {
            f"tpe with 4 from other tasks: ahead of tpe without after {after} trials": [
                at(t, after) - at(p, after) for t, p in zip(taught, plain, strict=True)
            ]
            for after in (8, 16)
        }
        for title, values in rows.items():
            gains.setdefault(title, []).append(values)
    for title, values in gains.items():
        mean, half = interval([statistics.fmean(one) for one in zip(*values, strict=True)])
        reach = "at least equal" if "from other tasks: ahead of the best" in title else ""
        yield Row(f"{title}, ± {half:.4f}", mean, "", reach, mean >= 0 if reach else None)


def _mean(values: Sequence[Sequence[float]]) -> float:
    return statistics.fmean(statistics.fmean(one) for one in values)


def main() -> None:
    """Replay, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--searchers", nargs="+", choices=SEARCHERS, default=["tpe"])
    parser.add_argument("--at-once", nargs="*", type=int, default=[1, 8], help="none: first points only")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--tasks", nargs="+", default=list(ALL_TASKS))
    parser.add_argument("--methods", nargs="+", default=list(ALL_METHODS))
    parser.add_argument("--configurations", type=int, default=TRIALS, help="of each table, the first so many")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    say = Console(stderr=True).print
    tables = [
        Table(task, method, options.configurations)
        for method in options.methods
        for task in options.tasks
        if read(task, method)
    ]
    for table in tables:
        error, spread, rank = table.errors()
        say(
            f"{table.task} {table.method}: {len(table.values)} trials, last scores {table.scores[:, -1].min():.3f} "
            f"to {table.scores[:, -1].max():.3f}; error {error:.3f}, spread {spread:.3f}, rank correlation {rank:.2f}"
        )
    rows: list[Row] = [
        row
        for at_once in options.at_once
        for row in compare(tables, options.searchers, at_once, options.seeds, options.trials, say)
    ]
    rows += transfer(tables, options.seeds, say)
    tell(rows, options.json)


if __name__ == "__main__":
    main()
