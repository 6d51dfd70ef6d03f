"""The paper's figures 2, 3 and S0 from these results: score against size, means over families."""

from collections.abc import Sequence
from functools import partial

from matplotlib.figure import Figure

from harness.report import drawing, naming, stats
from harness.report.aggregates import baselines, complete_backbones, family_estimate, mean_baselines
from harness.report.content import Block, Missing, Picture
from harness.report.drawing import INK, MARKERS, count_axis, draw_front, interval_point, seeds_point
from harness.report.outcomes import Outcomes

SHOWN_TASKS = {"EMP": "EMP/H3", "prom_300": "prom/prom_300_tata"}
"""The dataset of each family that figure 2 shows."""

PANEL_TASKS = {"EMP": "EMP/H4", "prom_300": "prom/prom_300_tata"}
"""The dataset of each family in figure 3; all others are collapsed below it."""


def blocks(outcomes: Outcomes) -> list[Block]:
    """Figures 2a to 2d, 3 and S0."""
    return [_full_fronts(outcomes), _family_means(outcomes), *_method_fronts(outcomes)]


def _full_fronts(outcomes: Outcomes) -> Block:
    title = "Figure 2a, 2b: full fine-tuning, score against model size"
    chosen = []
    for family in outcomes.families:
        full = {o.key.task for o in outcomes.main if o.family == family and o.key.method == "fmft"}
        tasks = [task for task in outcomes.tasks_of(family) if task in full]
        if tasks:
            chosen.append(SHOWN_TASKS[family] if SHOWN_TASKS.get(family) in tasks else tasks[0])
    if not chosen:
        return Missing(title=title, why="Requires finished studies of full fine-tuning (--methods fmft,…).")
    return Picture(
        name="figure_2ab_full_fine_tuning",
        title=title,
        draw=partial(_draw_full_fronts, outcomes, chosen),
        caption="One dataset per family; upper left is better. Dotted line: Pareto front of size and score."
        + _no_front(len(outcomes.backbones)),
    )


def _no_front(count: int) -> str:
    return "" if count > 1 else " With a single backbone there is no front."


def _draw_full_fronts(outcomes: Outcomes, tasks: Sequence[str]) -> Figure:
    figure, panels = drawing.small_multiples(tasks, (4.0, 3.0))
    for panel, task in panels:
        held = [o for o in outcomes.main if (o.key.task, o.key.method) == (task, "fmft")]
        for outcome in held:
            seeds_point(
                panel,
                outcome,
                INK,
                MARKERS[outcomes.backbones.index(outcome.key.backbone) % len(MARKERS)],
                f"_{naming.backbone_title(outcome.key.backbone)}",
            )
            panel.annotate(
                naming.backbone_title(outcome.key.backbone),
                (outcome.parameters, outcome.mean),
                xytext=(6, 5),
                textcoords="offset points",
                fontsize=8,
            )
        draw_front(panel, [(o.parameters, o.mean if o.useful else stats.NAN) for o in held], held[0].metric)
        drawing.baseline_lines(panel, baselines(outcomes, task))
        count_axis(panel, "parameters")
        panel.set_ylabel(naming.metric_title(held[0].metric))
        panel.set_title(naming.task_title(task))
        panel.margins(0.25, 0.15)
    return drawing.legend_below(figure)


def _family_means(outcomes: Outcomes) -> Block:
    title = "Figure 2c, 2d: full fine-tuning, mean over each family"
    families = [f for f in outcomes.families if complete_backbones(outcomes, f, "fmft")]
    if not families:
        return Missing(title=title, why="Requires full fine-tuning finished on every dataset of a family.")
    return Picture(
        name="figure_2cd_family_means",
        title=title,
        draw=partial(_draw_family_means, outcomes, families),
        caption="Mean over the datasets of a family; bars are 95 % intervals over at least three seeds.",
    )


def _draw_family_means(outcomes: Outcomes, families: Sequence[str]) -> Figure:
    figure, panels = drawing.small_multiples(families, (4.0, 2.6))
    for panel, family in panels:
        tasks, names = outcomes.tasks_of(family), complete_backbones(outcomes, family, "fmft")
        for place, name in enumerate(reversed(names)):
            found = family_estimate(outcomes, tasks, name, "fmft")
            interval_point(panel, found, place, (INK, "s"), "_full fine-tuning")
        panel.set_yticks(range(len(names)), [naming.backbone_title(name) for name in reversed(names)])
        panel.set_ylim(-0.6, len(names) - 0.4)
        drawing.baseline_lines(panel, mean_baselines(outcomes, tasks), vertical=True)
        panel.set_xlabel(f"mean test {naming.metric_title(outcomes.metric_of(family))}")
        panel.set_title(f"{naming.family_title(family)} ({len(tasks)})")
    return drawing.legend_below(figure)


def _method_fronts(outcomes: Outcomes) -> list[Block]:
    title = "Figure 3: methods, score against trained parameters"
    tasks = [task for task in outcomes.tasks if _several_methods(outcomes, task)]
    if not tasks:
        return [Missing(title=title, why="Requires at least two methods on one backbone and dataset.")]
    families = {o.key.task: o.family for o in outcomes}
    first = [task for task in tasks if PANEL_TASKS.get(families[task]) == task]
    first += [
        next(t for t in tasks if families[t] == f)
        for f in dict.fromkeys(families[t] for t in tasks)
        if f not in {families[t] for t in first}
    ]
    others = [task for task in tasks if task not in first]
    text = "One point per method; upper left is better. Dotted line: Pareto front."
    made: list[Block] = [
        Picture(
            name="figure_3_method_fronts",
            title=title,
            draw=partial(_draw_method_fronts, outcomes, first),
            caption=text + " One dataset per family.",
        )
    ]
    if others:
        made.append(
            Picture(
                name="figure_s0_method_fronts",
                title="Figure S0: the same for every other dataset",
                draw=partial(_draw_method_fronts, outcomes, others),
                caption=text,
                folded=True,
            )
        )
    return made


def _several_methods(outcomes: Outcomes, task: str) -> bool:
    found = [o.key.backbone for o in outcomes.main if o.key.task == task]
    return len(found) > len(set(found))


def _draw_method_fronts(outcomes: Outcomes, tasks: Sequence[str]) -> Figure:
    names = outcomes.backbones
    pairs = [(task, name) for task in tasks for name in names]
    columns = len(names) if len(names) > 1 else 3
    figure, panels = drawing.small_multiples(pairs, (3.0, 2.3), columns=columns)
    for panel, (task, name) in panels:
        held = [o for o in outcomes.main if (o.key.task, o.key.backbone) == (task, name)]
        if not held:
            panel.axis("off")
            continue
        for outcome in held:
            look = drawing.method_look(outcome.key.method, outcomes.methods)
            seeds_point(panel, outcome, *look, label=naming.method_title(outcome.key.method))
        draw_front(panel, [(o.parameters, o.mean if o.useful else stats.NAN) for o in held], held[0].metric)
        drawing.baseline_lines(panel, baselines(outcomes, task))
        count_axis(panel, "trained parameters")
        panel.set_ylabel(naming.metric_title(held[0].metric))
        panel.set_title(f"{naming.task_title(task)} · {naming.backbone_title(name)}", fontsize=8.5)
        panel.margins(0.12, 0.15)
    return drawing.legend_below(figure, 8)
