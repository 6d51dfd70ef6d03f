"""The paper's figure 4 from these results (radars, means, Top-2 counts), and the section that holds 2 to 4."""

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.report import drawing, naming, stats
from harness.report.aggregates import complete_backbones, family_estimate, mean_baselines, paired_methods
from harness.report.content import Block, Missing, Picture, Section, p_text, signed
from harness.report.drawing import BLUE, FAINT, ORANGE, interval_point
from harness.report.outcomes import Outcome, Outcomes
from harness.report.paper import fronts


def section(outcomes: Outcomes) -> Section:
    """Figures 2, 3 and 4."""
    blocks: list[Block] = [
        *fronts.blocks(outcomes),
        _radars(outcomes),
        means_picture(
            outcomes, "figure_4cd_means", "Figure 4c, 4d: mean over each family, by backbone and method"
        ),
        _top_two(outcomes),
    ]
    return Section(
        anchor="figures",
        title="The paper's figures, with these results",
        intro="The figures of the paper, drawn with these results where they suffice. Error bars: one standard "
        "deviation over at least three seeds; fewer seeds are drawn as ticks. Dashed lines: simple baselines, if run.",
        blocks=blocks,
    )


def _radars(outcomes: Outcomes) -> Block:
    title = "Figure 4a, 4b: Lingo and ARS per dataset"
    chosen = [
        (family, backbone)
        for family in outcomes.families
        for backbone in outcomes.backbones
        if len(paired_methods(outcomes, family, backbone, "lingo", "ars")[0]) >= 3
    ]
    if not chosen:
        return Missing(
            title=title,
            why="Requires Lingo and ARS with the same backbone on at least three datasets of a family.",
        )
    return Picture(
        name="figure_4ab_radar",
        title=title,
        draw=partial(_draw_radars, outcomes, chosen),
        caption="One spoke per dataset, starting at the minimum of the axis; outward is better. p: one-sided paired "
        "t-test over datasets (Lingo above ARS), as in the paper, whose values are 0.013 (OPT-125M) and 0.005 "
        "(OPT-350M) on the ten yeast marks.",
    )


def _draw_radars(outcomes: Outcomes, chosen: Sequence[tuple[str, str]]) -> Figure:
    figure, panels = drawing.small_multiples(
        chosen, (4.6, 4.2), subplot_kw={"projection": "polar"}, columns=2
    )
    for panel, (family, backbone) in panels:
        tasks, lingo, ars = paired_methods(outcomes, family, backbone, "lingo", "ars")
        angles = np.linspace(0, 2 * np.pi, len(tasks), endpoint=False)
        for name, scores, colour, marker in (("ARS", ars, ORANGE, "D"), ("Lingo", lingo, BLUE, "o")):
            closed = [*scores, scores[0]]
            panel.plot([*angles, angles[0]], closed, color=colour, marker=marker, markersize=4, label=name)
            panel.fill([*angles, angles[0]], closed, color=colour, alpha=0.12)
        low, high = min(lingo + ars), max(lingo + ars)
        panel.set_ylim(max(low - 0.25 * (high - low), -1), high + 0.05 * (high - low))
        panel.set_xticks(angles, [naming.task_title(task) for task in tasks], fontsize=8)
        panel.tick_params(axis="y", labelsize=7)
        found = stats.paired_t(lingo, ars, "greater")
        panel.set_title(
            f"{naming.backbone_title(backbone)}, {naming.metric_title(outcomes.metric_of(family))}\n"
            f"Lingo − ARS {signed(found.difference)}, {p_text(found.p)}",
            fontsize=9,
        )
    return drawing.legend_below(figure)


def means_picture(outcomes: Outcomes, name: str, title: str) -> Block:
    """Means over families by backbone and method, as a figure of this name."""
    families = [
        f for f in outcomes.families if any(complete_backbones(outcomes, f, m) for m in outcomes.methods)
    ]
    if not families:
        return Missing(title=title, why="No method has a score on every dataset of a family.")
    return Picture(
        name=name,
        title=title,
        draw=partial(_draw_means, outcomes, families),
        caption="Mean over the datasets of a family, with its 95 % interval over at least three seeds; fewer seeds of "
        "a single dataset are drawn as ticks. Right is better.",
    )


def _draw_means(outcomes: Outcomes, families: Sequence[str]) -> Figure:
    high = 0.5 + 0.17 * len(outcomes.backbones) * (len(outcomes.methods) + 1)
    figure, panels = drawing.small_multiples(families, (4.2, max(2.4, high)))
    for panel, family in panels:
        _draw_mean_panel(panel, outcomes, family)
    return drawing.legend_below(figure, 8)


def _draw_mean_panel(panel: Axes, outcomes: Outcomes, family: str) -> None:
    """Backbones from top to bottom, methods within each."""
    tasks, methods = outcomes.tasks_of(family), outcomes.methods
    for row, backbone in enumerate(outcomes.backbones):
        for place, method in enumerate(methods):
            if backbone in complete_backbones(outcomes, family, method):
                found = family_estimate(outcomes, tasks, backbone, method)
                height = -row + 0.36 - 0.72 * place / max(1, len(methods) - 1)
                look = drawing.method_look(method, methods)
                interval_point(panel, found, height, look, label=naming.method_title(method))
    panel.set_yticks(
        [-r for r in range(len(outcomes.backbones))], map(naming.backbone_title, outcomes.backbones)
    )
    panel.set_ylim(0.5 - len(outcomes.backbones), 0.5)
    for row in range(1, len(outcomes.backbones)):
        panel.axhline(0.5 - row, color=FAINT, linewidth=0.6)
    panel.grid(visible=False, axis="y")
    drawing.baseline_lines(panel, mean_baselines(outcomes, tasks), vertical=True)
    panel.set_xlabel(f"mean test {naming.metric_title(outcomes.metric_of(family))}")
    panel.set_title(f"{naming.family_title(family)} ({len(tasks)})")


def top_two_of_models(
    outcomes: Outcomes, tasks: Sequence[str], backbone: str, method: str, *, others: Sequence[str]
) -> tuple[int, int]:
    """(datasets among the best two, datasets compared) of a pair compared with other backbones with the same method.

    If another backbone has no Lingo, its ARS is used, since the paper applies the prefix to OPT models only. Ties
    count. This is one interpretation of the paper, which does not specify the method of the others.
    """

    def rival(task: str, other: str) -> Outcome | None:
        same = outcomes.get(task, other, method)
        return same or (outcomes.get(task, other, "ars") if method == "lingo" else None)

    return _among_two(
        (outcomes.get(task, backbone, method), [rival(task, other) for other in others]) for task in tasks
    )


def top_two_of_methods(
    outcomes: Outcomes, tasks: Sequence[str], backbone: str, method: str, *, others: Sequence[str]
) -> tuple[int, int]:
    """(datasets among the best two, datasets compared) of a method compared with other methods on the same backbone."""
    return _among_two(
        (outcomes.get(task, backbone, method), [outcomes.get(task, backbone, other) for other in others])
        for task in tasks
    )


def _among_two(compared: Iterable[tuple[Outcome | None, Sequence[Outcome | None]]]) -> tuple[int, int]:
    """(how often an outcome is useful and among the best two, how often all outcomes exist)."""
    hits = count = 0
    for mine, rivals in compared:
        known = [rival for rival in rivals if rival is not None]
        if mine is not None and len(known) == len(rivals):
            count += 1
            hits += mine.useful and sum(rival.merit > mine.merit for rival in known) < 2
    return hits, count


def _top_two(outcomes: Outcomes) -> Block:
    title = "Figure 4e, 4f: Top-2 counts"
    dna = [name for name in outcomes.backbones if naming.paper_backbone(name) in ("DNABERT-2", "NT-500M")]
    methods = [method for method in outcomes.methods if method != "fmft"]
    panels = []
    for family in outcomes.families:
        if len(outcomes.tasks_of(family)) < 2:
            continue  # a count needs more than one dataset
        for backbone in outcomes.backbones:
            if len(dna) == 2 and backbone not in dna:
                panels.append((family, backbone, tuple(dna)))
            elif len(dna) < 2 and len(methods) > 2:
                panels.append((family, backbone, ()))
    panels = [panel for panel in panels if any(n for _, n in _counts(outcomes, *panel).values())]
    if not panels:
        return Missing(
            title=title,
            why="Requires two datasets of a family, and either a backbone other than DNABERT-2 and NT-500M or three "
            "parameter-efficient methods on one backbone.",
        )
    against = (
        "DNABERT-2 and NT-500M trained with the same method (ARS where they have no Lingo)"
        if len(dna) == 2
        else "the other parameter-efficient methods of the same backbone, since DNABERT-2 and NT-500M are not both "
        "available"
    )
    return Picture(
        name="figure_4ef_top_two",
        title=title,
        draw=partial(_draw_top_two, outcomes, panels),
        caption="Number of datasets (filled) of those compared (hatched) on which a method is among the best two, "
        f"compared with {against}. Ties count; methods not above a constant prediction do not. The paper does not "
        "specify the comparison behind its counts.",
    )


def _counts(outcomes: Outcomes, family: str, backbone: str, dna: Sequence[str]) -> dict[str, tuple[int, int]]:
    tasks, methods = outcomes.tasks_of(family), [m for m in outcomes.methods if m != "fmft"]
    if dna:
        return {m: top_two_of_models(outcomes, tasks, backbone, m, others=dna) for m in methods}
    rivals = {m: [other for other in methods if other != m] for m in methods}
    return {m: top_two_of_methods(outcomes, tasks, backbone, m, others=rivals[m]) for m in methods}


def _draw_top_two(outcomes: Outcomes, chosen: Sequence[tuple[str, str, tuple[str, ...]]]) -> Figure:
    figure, panels = drawing.small_multiples(chosen, (3.8, 2.3))
    for panel, (family, backbone, dna) in panels:
        counts = {m: c for m, c in _counts(outcomes, family, backbone, dna).items() if c[1]}
        for place, (method, (hits, compared)) in enumerate(counts.items()):
            colour, _ = drawing.method_look(method, outcomes.methods)
            panel.bar(place, compared, facecolor="none", edgecolor=FAINT, hatch="///", linewidth=0.8)
            panel.bar(place, hits, color=colour)
            panel.text(place, compared, f"{hits}/{compared}", ha="center", va="bottom", fontsize=8)
        panel.set_xticks(range(len(counts)), map(naming.method_title, counts), fontsize=8)
        panel.set_ylim(0, 1.18 * max(n for _, n in counts.values()))
        panel.yaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_ylabel("datasets")
        panel.grid(visible=False, axis="x")
        panel.set_title(f"{naming.family_title(family)} · {naming.backbone_title(backbone)}", fontsize=8.5)
    return figure
