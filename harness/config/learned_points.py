"""`--learn-from`: first points of a search from dev scores of earlier runs.

A zero-shot portfolio as of Wistuba et al. (2015), greedy in the mean regret.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.config.search_space import OPTIONS, SearchSpace, settings_of
from harness.config.values import Learned
from harness.core.errors import InputError
from harness.runs.layout import RunFolder
from harness.runs.record import Record
from harness.runs.store import load
from lingo.methods import METHODS
from lingo.metrics import merit

POINTS = 4
"""Configurations of a portfolio, at most."""

WIDTH, NOISE = 0.7, 0.3
"""Of the Gaussian process that predicts a configuration's score on a task: length scale, where each setting goes from 0
to 1, and variance of the noise, where that of the scores is 1."""

LEAST = 1e-9
"""Mean regret, in shares of trials, that another configuration must save."""

LEARNED = "first points: "
"""How a note of learned first points begins."""

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Told:
    """A trial of an earlier search: its searched settings, its last dev score (more is better), and whether it trained
    all epochs."""

    values: Values
    score: float
    whole: bool = True


def portfolio(studies: Sequence[Sequence[Told]], count: int = POINTS) -> list[dict[str, Any]]:
    """Configurations that together do well on all of these studies.

    One after the other, the trained configuration is taken that lowers most the mean over the studies of the regret
    of the best one so far. Scores count as the share of the study's trials that they exceed; what
    counts is the prediction of a Gaussian process of them, also for configurations that the study did not train.

    Args:
        studies: By study its trials, at least one of them `whole`, in an order that is always the same.
        count: At most so many, each once; fewer where no further one lowers the regret.
    """
    told = [trial for study in studies for trial in study]
    places = _places([trial.values for trial in told])
    candidates = [index for index, trial in enumerate(told) if trial.whole]
    shares, begin = [], 0
    for study in studies:
        own = places[begin : begin + len(study)]
        begin += len(study)
        scores = np.array([trial.score for trial in study])
        ranks = (scores[:, None] > scores).mean(axis=1)
        noisy = _kernel(own, own) + NOISE * np.eye(len(own))
        weights = np.linalg.solve(noisy, ranks - ranks.mean())
        shares.append(ranks.mean() + _kernel(places[candidates], own) @ weights)
    predicted = np.stack(shares, axis=1)
    held, chosen = np.zeros(len(studies)), list[dict[str, Any]]()
    while len(chosen) < count and len(candidates):
        gains = (np.maximum(predicted, held) - held).mean(axis=1)
        best = int(gains.argmax())
        if chosen and gains[best] < LEAST:
            break
        held = np.maximum(held, predicted[best])
        values = dict(told[candidates[best]].values)
        chosen += [values] if values not in chosen else []
        candidates.pop(best)
        predicted = np.delete(predicted, best, axis=0)
    return chosen


def _kernel(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    near: NDArray[np.float64] = np.exp(-((one[:, None] - other) ** 2).sum(axis=2) / (2 * WIDTH**2))
    return near


def _places(configurations: Sequence[Values]) -> NDArray[np.float64]:
    """Configurations as points, (configurations, columns): a number as its rank among all, from 0 to 1, whatever its
    scale; anything else as a column for each value."""
    columns = []
    for name in sorted({name for values in configurations for name in values}):
        found = [values.get(name) for values in configurations]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in found):
            known, places = np.unique(np.array(found, dtype=float), return_inverse=True)
            columns.append(places / max(1, len(known) - 1))
        else:
            texts = [repr(value) for value in found]
            columns += [np.array([text == one for text in texts], float) for one in sorted(set(texts))]
    return np.stack([*columns, np.zeros(len(configurations))], axis=1)


def learned(runs: Sequence[Path]) -> tuple[Learned, ...]:
    """What the searches of these runs teach, for each backbone and method. Test scores are not read.

    Raises:
        InputError: with a line for each folder that has no trial that trained all epochs.
    """
    problems: list[str] = []
    found: dict[tuple[str, str], dict[tuple[Path, str], list[Told]]] = {}
    for run in dict.fromkeys(run.absolute() for run in runs):
        try:
            records = load(run) if RunFolder(run).is_run() else []
        except InputError as error:
            problems += error.problems
            continue
        told = [(record, one) for record in records if (one := _told(record)) is not None]
        if not any(one.whole for _, one in told):
            has = "no trial of a search that trained all epochs" if records else "no records"
            problems.append(
                f"`--learn-from` must name output folders of benchmarks, but {run} contains {has}."
            )
        for record, one in told:
            studies = found.setdefault((record.backbone, record.method), {})
            studies.setdefault((run, record.task), []).append(one)
    if problems:
        raise InputError(problems)
    return tuple(
        Learned(
            backbone=backbone,
            method=method,
            runs=tuple(sorted({run.name for run, _ in useful})),
            tasks=tuple(sorted({task for _, task in useful})),
            points=tuple(portfolio(list(useful.values()))),
        )
        for (backbone, method), studies in sorted(found.items())
        if (useful := {key: told for key, told in sorted(studies.items()) if any(one.whole for one in told)})
    )


def _told(record: Record) -> Told | None:
    score = merit(record.metric, record.dev.get(record.metric, math.nan))
    if record.stage != "search" or record.status not in ("finished", "stopped") or math.isnan(score):
        return None
    usable = settings_of(record.method) - set(OPTIONS) if record.method in METHODS else frozenset()
    values = {name: value for name, value in sorted(record.config.items()) if name in usable}
    return Told(values, score, record.status == "finished")


def with_learned(space: SearchSpace, entries: Sequence[Learned] | None, *, backbone: str) -> SearchSpace:
    """The space with what earlier runs teach about its method on this backbone as first points, and a note of it.

    A configuration that lacks a setting, or has a choice that the space does not have, is left out; numbers outside of
    a range are for `SearchSpace.restrict` to clip.
    """
    if not entries:
        return space
    entry = _entry(entries, backbone, space.method)
    if entry is None:
        note = (
            f"{LEARNED}none learned, for the runs of --learn-from have no study of this backbone and method."
        )
        return replace(space, notes=(*space.notes, note))
    found = [_point(space, config) for config in entry.points]
    points = [point for point in found if point is not None]
    left = len(found) - len(points)
    note = f"{LEARNED}{len(points)} learned from {_origin(entry)}"
    note += f"; {left} left out, outside of the search space." if left else "."
    return replace(space, first_points=(*points, *space.first_points), notes=(*space.notes, note))


def origin_of(entries: Sequence[Learned] | None, *, backbone: str, method: str) -> str:
    """Where a study's learned first points come from, for its records; empty without any."""
    entry = _entry(entries or (), backbone, method)
    return _origin(entry) if entry else ""


def _entry(entries: Sequence[Learned], backbone: str, method: str) -> Learned | None:
    return next((one for one in entries if (one.backbone, one.method) == (backbone, method)), None)


def _origin(entry: Learned) -> str:
    runs, tasks = entry.runs, entry.tasks
    return f"run{'s' * (len(runs) > 1)} {', '.join(runs)}, task{'s' * (len(tasks) > 1)} {', '.join(tasks)}"


def _point(space: SearchSpace, config: Values) -> dict[str, Any] | None:
    """The searched settings of a configuration; `None` if the space cannot have it, even with its numbers clipped."""
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
    if any(
        name not in given
        or (leaf.type == "choice" and given[name] not in leaf.choices)
        or (leaf.type != "choice" and not isinstance(given[name], int | float))
        for name, leaf in space.leaves.items()
    ):
        return None
    clipped = {name: leaf.clip(given[name]) for name, leaf in space.leaves.items()}
    if space.config(clipped, seed=0).problems():
        return None
    return {name: given[name] for name in space.leaves}
