"""Hyper-parameters: importance of each hyper-parameter, and all configurations."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from scipy import stats as scipy_stats

from harness.report import drawing, naming
from harness.report.content import Block, Missing, Picture, Section
from harness.report.drawing import FAINT, INK
from harness.report.run_results import RunResults
from harness.runs.record import Record

log = logging.getLogger(__name__)


TREES = 24
LEAST = 12
"""Minimum number of trials."""


def importances(
    configs: Sequence[Mapping[str, float]], scores: Sequence[float], log: Mapping[str, bool]
) -> dict[str, float]:
    """Share of the variance of `scores` that each hyper-parameter explains alone or with others; sums to 1.

    Args:
        configs: Numbers by hyper-parameter, the same names in each.
        scores: One score per configuration; no NaN.
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


MOST = 400
"""Maximum number of trials of a method; more are thinned evenly."""

LINES = 150
"""Maximum number of lines per method."""


@dataclass(frozen=True)
class Searched:
    """Search trials of one method, over all its studies.

    Attributes:
        configs: Searched hyper-parameters of each trial.
        standing: Scaled rank of its dev score within its study, 0 (worst) to 1 (best).
        log: Whether each hyper-parameter has a logarithmic scale.
        total: Trials before thinning.
    """

    configs: Sequence[Mapping[str, float]]
    standing: Sequence[float]
    log: Mapping[str, bool]
    total: int


def section(runs: Sequence[RunResults]) -> Section:
    """Importance, parallel coordinates."""
    found = {method: gathered for method, gathered in searched(runs).items() if len(gathered.configs) >= 2}
    blocks: list[Block] = [_importance(found), _parallel(found)]
    return Section(
        anchor="hyperparameters",
        title="Hyper-parameters",
        intro="All search trials of a method, over its datasets and backbones. Since scores of different studies are "
        "not comparable, trials are compared by their rank within their study, scaled from 0 (worst) to 1 (best). "
        "Trials stopped early count with their last dev score.",
        blocks=blocks,
    )


def searched(runs: Sequence[RunResults]) -> dict[str, Searched]:
    """Gather the search trials of each method."""
    studies: dict[tuple[str, str], list[tuple[Record, float]]] = {}
    for run in runs:
        for trial in run.trials:
            score = trial.dev.get(trial.metric, math.nan)
            if trial.stage == "search" and math.isfinite(score):
                studies.setdefault((trial.method, f"{run.folder}|{trial.study}"), []).append((trial, score))
    standing: dict[str, list[tuple[Record, float]]] = {}
    for (method, _), held in studies.items():
        if len(held) > 1:
            ranks = scipy_stats.rankdata([score for _, score in held])
            places = (ranks - 1) / (len(held) - 1)
            standing.setdefault(method, []).extend(
                (t, float(p)) for (t, _), p in zip(held, places, strict=True)
            )
    leaves = _leaves(runs)
    return {
        method: _searched(standing[method], leaves.get(method, {}))
        for method in naming.method_order(standing)
    }


def _leaves(runs: Sequence[RunResults]) -> dict[str, dict[str, bool]]:
    """For each method its searched numbers, and whether they are drawn on a logarithmic scale."""
    found: dict[str, dict[str, bool]] = {}
    for run in runs:
        for study in run.studies:
            for name, leaf in study.get("space", {}).get("leaves", {}).items():
                if not leaf.get("choices"):
                    found.setdefault(study["method"], {})[name] = bool(leaf.get("log"))
    return found


def _searched(trials: Sequence[tuple[Record, float]], log: Mapping[str, bool]) -> Searched:
    thinned = trials[:: max(1, -(-len(trials) // MOST))]
    read = [(trial.config, place) for trial, place in thinned]
    names = [name for name in log if read and all(_is_number(config.get(name)) for config, _ in read)]
    configs = [{name: float(config[name]) for name in names} for config, _ in read]
    return Searched(configs, [place for _, place in read], {n: log[n] for n in names}, len(trials))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


# --- importance -------------------------------------------------------------------------------------------


def _importance(found: Mapping[str, Searched]) -> Block:
    title = "Importance of hyper-parameters"
    made = {m: importances(s.configs, s.standing, s.log) for m, s in found.items() if len(s.log) > 1}
    made = {method: shares for method, shares in made.items() if shares}
    if not made:
        return Missing(
            title=title,
            why=f"Requires a method with two searched hyper-parameters and at least {LEAST} trials with a score.",
        )
    return Picture(
        name="importance",
        title=title,
        draw=partial(_draw_importance, made, {m: found[m].total for m in made}),
        caption="Share of the variance in scaled rank explained by a hyper-parameter (functional ANOVA of Optuna). "
        "With few trials this is only indicative; a hyper-parameter that the searcher soon kept near its best value "
        "appears less important than it is.",
    )


def _draw_importance(made: Mapping[str, Mapping[str, float]], totals: Mapping[str, int]) -> Figure:
    most = max(map(len, made.values()))
    figure, panels = drawing.small_multiples(made.items(), (3.6, 0.9 + 0.26 * most))
    for panel, (method, shares) in panels:
        names = sorted(shares, key=lambda name: shares[name])
        colour = drawing.method_look(method, list(made))[0]
        panel.barh(range(len(names)), [shares[name] for name in names], color=colour)
        for place, name in enumerate(names):
            panel.text(shares[name] + 0.01, place, f"{shares[name]:.2f}", va="center", fontsize=8)
        panel.set_yticks(range(len(names)), names)
        panel.set_xlim(0, 1.12)
        panel.grid(visible=False, axis="y")
        panel.set_title(f"{naming.method_title(method)} ({totals[method]:,} trials)")
    return figure


# --- parallel coordinates ---------------------------------------------------------------------------------


def _parallel(found: Mapping[str, Searched]) -> Block:
    title = "All configurations (parallel coordinates)"
    shown = {method: s for method, s in found.items() if len(s.log) > 1}
    if not shown:
        return Missing(title=title, why="Requires a method with two searched hyper-parameters.")
    return Picture(
        name="parallel_coordinates",
        title=title,
        draw=partial(_draw_parallel, shown),
        caption="One line per trial, from its hyper-parameters to its scaled rank on the right; bright lines are the "
        f"best of their studies. At most {LINES} lines per method.",
    )


def _draw_parallel(shown: Mapping[str, Searched]) -> Figure:
    figure, panels = drawing.canvas(1, len(shown), (8.2, 2.3))
    scale = Normalize(0, 1)
    for panel, (method, gathered) in zip(panels, shown.items(), strict=True):
        _draw_coordinates(panel, gathered, scale)
        panel.set_title(naming.method_title(method), pad=16)
    figure.colorbar(
        ScalarMappable(scale, colormaps["cividis"]), ax=panels, label="scaled rank in the study", aspect=40
    )
    return figure


def _draw_coordinates(panel: Axes, gathered: Searched, scale: Normalize) -> None:
    names = list(gathered.log)
    order = np.argsort(gathered.standing)
    order = order[:: max(1, -(-len(order) // LINES))]
    heights = {name: _heights([c[name] for c in gathered.configs], gathered.log[name]) for name in names}
    for i in order:
        place = gathered.standing[i]
        line = [heights[name][0][i] for name in names] + [place]
        width = 0.6 + 1.2 * place
        panel.plot(
            range(len(line)), line, color=colormaps["cividis"](scale(place)), linewidth=width, alpha=0.7
        )
    for x, name in enumerate(names):
        panel.axvline(x, color=FAINT, linewidth=0.8)
        low, high = heights[name][1]
        panel.text(x, -0.05, f"{low:.3g}", ha="center", va="top", fontsize=7.5, color=INK)
        panel.text(x, 1.05, f"{high:.3g}", ha="center", va="bottom", fontsize=7.5, color=INK)
    panel.set_xticks(range(len(names) + 1), [*names, "standing"])
    panel.tick_params(axis="x", pad=12)
    panel.set_yticks([])
    panel.set_ylim(-0.02, 1.02)
    panel.spines[["left", "bottom"]].set_visible(False)
    panel.grid(visible=False)


def _heights(values: Sequence[float], log: bool) -> tuple[np.ndarray[Any, Any], tuple[float, float]]:
    """(0 to 1 for each value, lowest and highest value)."""
    low, high = min(values), max(values)
    x = np.log(values) if log and low > 0 else np.asarray(values)
    return (x - x.min()) / (np.ptp(x) or 1.0), (low, high)
