"""Cost of the results: scores against device hours and FLOPs, and rank trajectories."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.core.wording import duration
from harness.report import best_pairs, drawing, naming, stats
from harness.report.aggregates import baselines
from harness.report.content import Block, Field, Missing, Picture, Section, Table, amount, count
from harness.report.drawing import FAINT, count_axis, draw_front
from harness.report.outcomes import Outcome, Outcomes
from harness.report.run_results import RunResults
from harness.runs.rank_trajectories import to_the_end

MOST_PANELS = 8
"""Maximum number of datasets drawn; beyond it, one per family."""


def section(runs: Sequence[RunResults], outcomes: Outcomes) -> Section:
    """Costs and ranks."""
    return Section(
        anchor="cost",
        title="Cost",
        intro="Training cost of one final run of each study (mean over its seeds), without its search; the table below "
        "includes the searches.",
        blocks=[
            _against(outcomes, "hours"),
            _against(outcomes, "flops"),
            _costs(runs),
            _trajectories(outcomes),
            _kept(outcomes),
        ],
    )


def device_seconds(facts: Mapping[str, Any], wall: float) -> float:
    """Device seconds of a trial: its share of its workers' time, per GPU (a CPU counts as one device); its wall time if
    not measured."""
    share = facts.get("device_seconds")
    return wall if share is None else float(share) * max(float(facts.get("gpus") or 1), 1.0)


def final_hours(outcome: Outcome) -> float:
    """Device hours of one final run, mean over seeds."""
    return stats.mean([device_seconds(outcome.facts[s], t.seconds) for s, t in outcome.finals.items()]) / 3600


def final_flops(outcome: Outcome) -> float:
    """Floating point operations of one final run."""
    return outcome.total("flops")


COSTS: dict[str, Callable[[Outcome], float]] = {"hours": final_hours, "flops": final_flops}


def on_gpus(outcomes: Outcomes) -> bool:
    """Whether any final run used a GPU."""
    return any((facts.get("gpus") or 0) > 0 for o in outcomes for facts in o.facts.values())


def time_unit(hours: float, unit: str) -> tuple[str, float]:
    """The unit in which a time is readable, and how many of it an hour has: 20 s are no 0.0055 hours.

    Args:
        hours: The longest time.
        unit: `hours` or `GPU-hours`.
    """
    prefix = unit.removesuffix("hours")
    if hours < 2 / 60:
        return f"{prefix}seconds", 3600.0
    return (f"{prefix}minutes", 60.0) if hours < 2 else (unit, 1.0)


def _against(outcomes: Outcomes, kind: str) -> Block:
    unit = ("GPU-hours" if on_gpus(outcomes) else "hours") if kind == "hours" else "FLOPs"
    cost = COSTS[kind]
    costs = {o.key: cost(o) for o in outcomes.main}
    if kind == "hours" and costs:
        unit, size = time_unit(max(costs.values()), unit)
        costs = {key: hours * size for key, hours in costs.items()}
    title = f"Score against {unit}"
    held = [o for o in outcomes.main if costs[o.key] > 0]
    if not held:
        return Missing(title=title, why="The final runs have no measured cost of this kind.")
    tasks = [task for task in outcomes.tasks if any(o.key.task == task for o in held)]
    if len(tasks) > MOST_PANELS:
        family = {o.key.task: o.family for o in outcomes}
        tasks = [next(t for t in tasks if family[t] == f) for f in dict.fromkeys(family[t] for t in tasks)]
    return Picture(
        name=f"score_against_{kind}",
        title=title,
        draw=partial(_draw_against, outcomes, held, costs, tasks, unit),
        caption="One point per study; colour: method, shape: backbone. Dotted line: Pareto front."
        + (" Times are wall times on CPUs." if kind == "hours" and not on_gpus(outcomes) else ""),
    )


def _draw_against(
    outcomes: Outcomes,
    held: Sequence[Outcome],
    costs: Mapping[naming.Key, float],
    tasks: Sequence[str],
    unit: str,
) -> Figure:
    figure, panels = drawing.small_multiples(tasks, (4.2, 2.9))
    several = len(outcomes.backbones) > 1
    for panel, task in panels:
        here = [o for o in held if o.key.task == task]
        _cost_legend(panel, outcomes, several)
        for outcome in here:
            _cost_point(panel, outcome, costs[outcome.key], outcomes, several)
        draw_front(panel, [(costs[o.key], o.mean if o.useful else stats.NAN) for o in here], here[0].metric)
        drawing.baseline_lines(panel, baselines(outcomes, task))
        count_axis(panel, f"{unit} of one final run")
        panel.set_ylabel(f"test {naming.metric_title(here[0].metric)}")
        panel.set_title(naming.task_title(task))
        panel.margins(0.12)
    return drawing.legend_below(figure, 8)


def _cost_point(panel: Axes, outcome: Outcome, cost: float, outcomes: Outcomes, several: bool) -> None:
    """Colour: method; shape: backbone if there are several, otherwise method."""
    colour, marker = drawing.method_look(outcome.key.method, outcomes.methods)
    if several:
        marker = drawing.MARKERS[outcomes.backbones.index(outcome.key.backbone) % len(drawing.MARKERS)]
    name = "_" + best_pairs.pair_title((outcome.key.backbone, outcome.key.method))
    panel.plot(cost, outcome.mean, marker, color=colour, linestyle="none", zorder=3, label=name)


def _cost_legend(panel: Axes, outcomes: Outcomes, several: bool) -> None:
    """Legend entries: each method's colour, then each backbone's shape."""
    for method in outcomes.methods:
        colour, marker = drawing.method_look(method, outcomes.methods)
        panel.plot([], [], "o" if several else marker, color=colour, label=naming.method_title(method))
    for place, backbone in enumerate(outcomes.backbones if several else ()):
        marker = drawing.MARKERS[place % len(drawing.MARKERS)]
        panel.plot([], [], marker, color=FAINT, label=naming.backbone_title(backbone))


def _costs(runs: Sequence[RunResults]) -> Table:
    """Trials, time and FLOPs by backbone and method, searches included."""
    sums: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for run in runs:
        for trial in run.trials:
            facts = trial.facts
            mine = sums[trial.backbone, trial.method]
            mine[f"{trial.stage}_trials"] += 1
            mine[f"{trial.stage}_seconds"] += device_seconds(facts, trial.seconds)
            mine["flops"] += float(facts.get("flops") or 0.0)
            mine["samples"] += float(facts.get("samples") or 0.0)
            mine["shared"] += float(facts.get("samples_shared") or 0.0)
    order = [
        (backbone, method)
        for backbone in naming.backbone_order(b for b, _ in sums)
        for method in naming.method_order(m for b, m in sums if b == backbone)
    ]
    rows: list[list[Field]] = [
        [
            naming.backbone_title(pair[0]) if pair[0] != "none" else "no backbone",
            naming.method_title(pair[1]),
            f"{sums[pair]['search_trials']:,.0f}",
            duration(sums[pair]["search_seconds"]),
            f"{sums[pair]['final_trials']:,.0f}",
            duration(sums[pair]["final_seconds"]),
            amount(sums[pair]["flops"] or None),
            amount(sums[pair]["samples"] or None),
        ]
        for pair in order
    ]
    return Table(
        name="costs",
        title="Trials, time and FLOPs",
        header=[
            "backbone",
            "method",
            "search trials",
            "search time",
            "final runs",
            "final time",
            "FLOPs",
            "samples",
        ],
        rows=rows,
        text_columns=2,
        caption="Time: a trial's share of its workers' time if measured, otherwise its wall time, which includes "
        "waiting for other trials. FLOPs: matrix products (lingo/flops.py lists the operations not counted).",
        data=[{"backbone": b, "method": m, **sums[b, m]} for b, m in order],
    )


# --- ranks ------------------------------------------------------------------------------------------------


def layer_of(path: str) -> int:
    """Number of the layer in a module path, `decoder.layers.7.fc1` is 7; -1 without one."""
    found = re.search(r"(?:^|\.)(\d+)(?:\.|$)", path)
    return int(found[1]) if found else -1


def part_of(path: str) -> str:
    """The module's own name, `self_attn.q_proj` of `decoder.layers.7.self_attn.q_proj`."""
    return re.sub(r"^.*?\.?\d+\.", "", path)


def _ranked(outcomes: Outcomes) -> list[Outcome]:
    """For each backbone the first outcome of each adaptive method, in the order of tasks."""
    chosen: dict[tuple[str, str], Outcome] = {}
    for outcome in outcomes.main:
        first = next(iter(outcome.finals.values()), None)
        if first is not None and outcome.key.method in naming.ADAPTED[1:] and first.facts.get("kept_ranks"):
            chosen.setdefault((outcome.key.backbone, outcome.key.method), outcome)
    return list(chosen.values())


def _trajectories(outcomes: Outcomes) -> Block:
    title = "Rank trajectories by layer"
    found = []
    for outcome in _ranked(outcomes):
        trial = next(iter(outcome.finals.values()))
        trajectory = trial.facts.get("rank_trajectory")
        if trajectory and len(trajectory.get("steps", ())) > 1:
            found.append((outcome, to_the_end(trajectory, trial.history)))
    if not found:
        return Missing(
            title=title,
            why="The final runs have no rank trajectories (they require adaptive methods and recent results).",
        )
    return Picture(
        name="rank_trajectories",
        title=title,
        draw=partial(_draw_trajectories, found),
        caption="Mean rank of the adapted matrices of each layer over training, from the first layer (dark) to the "
        "last (bright); for the first dataset and seed of each pair. Ranks change only at allocations; at most a "
        "hundred allocations are shown.",
        folded=len(found) > 6,
    )


def _draw_trajectories(found: Sequence[tuple[Outcome, Mapping[str, Any]]]) -> Figure:
    from matplotlib import colormaps

    figure, panels = drawing.small_multiples(found, (3.6, 2.4))
    for panel, (outcome, trajectory) in panels:
        ranks = np.asarray(trajectory["ranks"], dtype=float)
        layers = [layer_of(path) for path in trajectory["paths"]]
        for layer in sorted(set(layers)):
            mine = ranks[:, [i for i, other in enumerate(layers) if other == layer]].mean(axis=1)
            colour = colormaps["cividis"](max(layer, 0) / max(1, *layers))
            panel.step(
                trajectory["steps"], mine, where="post", color=colour, linewidth=1.1, label=f"_layer {layer}"
            )
        panel.set_xlabel("step")
        panel.set_ylabel("mean rank")
        panel.set_title(_ranks_title(outcome), fontsize=8.5)
    return figure


def _ranks_title(outcome: Outcome) -> str:
    key = outcome.key
    names = naming.task_title(key.task), naming.backbone_title(key.backbone), naming.method_title(key.method)
    return " · ".join(names)


def _kept(outcomes: Outcomes) -> Block:
    title = "Ranks kept at the end, by layer and matrix"
    found = _ranked(outcomes)
    if not found:
        return Missing(title=title, why="Requires a finished final run of AdaLoRA, ARS or Lingo.")
    return Picture(
        name="kept_ranks",
        title=title,
        draw=partial(_draw_kept, found),
        caption=f"Mean over seeds; {count(len(found), 'pair')} of backbone and method, each on its first dataset. "
        "Brighter cells kept more singular values.",
        folded=len(found) > 6,
    )


def _draw_kept(found: Sequence[Outcome]) -> Figure:
    figure, panels = drawing.small_multiples(found, (3.6, 2.4))
    for panel, outcome in panels:
        ranks = [trial.facts.get("kept_ranks") or {} for trial in outcome.finals.values()]
        paths = list(ranks[0])
        parts, layers = list(dict.fromkeys(map(part_of, paths))), sorted({layer_of(path) for path in paths})
        grid = np.full((len(parts), len(layers)), np.nan)
        for path in paths:
            kept = [float(r[path]) for r in ranks if path in r]
            grid[parts.index(part_of(path)), layers.index(layer_of(path))] = stats.mean(kept)
        drawn = panel.imshow(grid, aspect="auto", cmap="cividis", interpolation="nearest")
        panel.set_yticks(range(len(parts)), [part.rsplit(".", 1)[-1] for part in parts], fontsize=7)
        panel.set_xticks(
            range(0, len(layers), max(1, len(layers) // 8)),
            [str(layer) for layer in layers[:: max(1, len(layers) // 8)]],
        )
        panel.set_xlabel("layer")
        panel.grid(visible=False)
        panel.set_title(_ranks_title(outcome), fontsize=8.5)
        figure.colorbar(drawn, ax=panel)
    return figure
