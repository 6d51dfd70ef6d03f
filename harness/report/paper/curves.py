"""The paper's figure 5 from these results: length, training curves at equal compute, scores per label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from harness.data.tasks import TASKS, family_of
from harness.report import drawing, naming, stats
from harness.report.aggregates import baselines
from harness.report.content import Block, Cell, Field, Missing, Picture, Section, Table, amount, number
from harness.report.drawing import BLUE, FAINT, INK, LINES, ORANGE, count_axis
from harness.report.outcomes import Outcome, Outcomes
from lingo.flops import OPT_125M
from lingo.metrics import merit

MOST_PANELS = 12
"""Maximum number of panels of training curves; beyond it, one task per family."""


def section(outcomes: Outcomes) -> Section:
    """Figures 5a to 5e."""
    return Section(
        anchor="compute",
        title="Length, compute and single labels (figure 5)",
        intro="Compute as a function of sequence length, scores of the backbones at equal compute, and differences "
        "between backbones per label on multi-label tasks.",
        blocks=[_attention(outcomes), _curves(outcomes), *_labels(outcomes)],
    )


# --- 5a ---------------------------------------------------------------------------------------------------


def attention_computations(length: float) -> float:
    """n² times the hidden size of OPT-125M; with 768 it is 7.7e8 at 1,000, the paper's "1e9" (figure 5a).

    The paper states no formula; this interpretation has the matching order of magnitude.
    """
    return length * length * OPT_125M.hidden


def _attention(outcomes: Outcomes) -> Block:
    lengths = {task: TASKS[task].length for task in outcomes.tasks if task in TASKS}
    return Picture(
        name="figure_5a_attention",
        title="Figure 5a: attention computations against sequence length",
        draw=partial(_draw_attention, lengths),
        caption="n² × 768 (the hidden size of OPT-125M) with one token per base; the tasks of this run are marked. The "
        "paper states the order of 1e9 at 1,000 bases without a formula. Tokenizers with longer tokens reduce n.",
    )


def _draw_attention(lengths: Mapping[str, int]) -> Figure:
    figure, (panel,) = drawing.canvas(1, 1, (5.2, 2.9))
    x = np.linspace(0, max([1000, *lengths.values()]) * 1.1, 200)
    panel.plot(x, attention_computations(1.0) * x**2, color=BLUE)
    marked: list[tuple[int, str]] = []
    for length, family in sorted({(length, family_of(task)) for task, length in lengths.items()}):
        panel.plot(length, attention_computations(length), "o", color=ORANGE, zorder=3)
        text = f"{naming.family_title(family)}, {length}"
        if marked and length - marked[-1][0] < 0.06 * x[-1]:  # too close for a separate line
            marked[-1] = (length, f"{marked[-1][1]}; {text}")
        else:
            marked.append((length, text))
    for length, text in marked:
        right = length < 0.55 * x[-1]
        place: dict[str, Any] = {"xytext": (8, -3) if right else (-8, 4), "ha": "left" if right else "right"}
        where = (length, attention_computations(length))
        panel.annotate(text, where, textcoords="offset points", fontsize=8, **place)
    panel.set_xlabel("sequence length")
    panel.set_ylabel("attention computations")
    return figure


# --- 5b ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """Dev scores over training, mean over seeds.

    Attributes:
        steps: FLOPs-adjusted steps: steps of OPT-125M with the same FLOPs (section 4.4).
        scores: Dev score at each.
    """

    steps: tuple[float, ...]
    scores: tuple[float, ...]


def curve_of(outcome: Outcome) -> Curve | None:
    """The dev curve of a study's final runs against FLOPs-adjusted steps; `None` without history or FLOPs.

    If seeds stopped early, the mean ends at the last evaluation that all have.
    """
    lines = []
    for seed, trial in outcome.finals.items():
        facts = outcome.facts[seed]
        own, reference = facts.get("flops_per_step"), facts.get("reference_flops_per_step")
        points = [
            (e["step"], e.get("dev", {}).get(outcome.metric, stats.NAN)) for e in trial.history if "step" in e
        ]
        if not own or not reference or not points:
            return None
        lines.append([(step * own / reference, score) for step, score in points])
    if not lines:
        return None
    length = min(map(len, lines))
    return Curve(
        tuple(stats.mean([line[i][0] for line in lines]) for i in range(length)),
        tuple(stats.mean([line[i][1] for line in lines]) for i in range(length)),
    )


def _curves(outcomes: Outcomes) -> Block:
    title = "Figure 5b: dev score against FLOPs-adjusted steps"
    curves = {o.key: curve for o in outcomes.main if (curve := curve_of(o)) is not None}
    if not curves:
        return Missing(
            title=title, why="Requires final runs with an evaluation history and measured FLOPs per step."
        )
    tasks = [task for task in outcomes.tasks if any(key.task == task for key in curves)]
    if len(tasks) > MOST_PANELS:
        family = {o.key.task: o.family for o in outcomes}
        tasks = [next(t for t in tasks if family[t] == f) for f in dict.fromkeys(family[t] for t in tasks)]
    return Picture(
        name="figure_5b_flops_adjusted",
        title=title,
        draw=partial(_draw_curves, outcomes, curves, tasks),
        caption="Mean over seeds of the final runs. Steps are converted to steps of OPT-125M with the same FLOPs "
        "(section 4.4), so that backbones of different sizes share one axis. For each backbone, the method with the "
        "best dev score is shown; the paper's figure has Lingo on the OPT models and ARS on NT-500M.",
    )


def _draw_curves(outcomes: Outcomes, curves: Mapping[naming.Key, Curve], tasks: Sequence[str]) -> Figure:
    figure, panels = drawing.small_multiples(tasks, (4.2, 2.8))
    for panel, task in panels:
        metric = ""
        for place, backbone in enumerate(outcomes.backbones):
            here = {k: c for k, c in curves.items() if (k.task, k.backbone) == (task, backbone)}
            if not here:
                continue
            key = max(here, key=lambda k: _merit_at_the_end(outcomes.by_key[k], here[k]))
            metric = outcomes.by_key[key].metric
            label = f"{naming.backbone_title(backbone)} ({naming.method_title(key.method)})"
            look = drawing.method_look(key.method, outcomes.methods)[0]
            panel.plot(*_line(here[key]), color=look, linestyle=LINES[place % len(LINES)], label=label)
            panel.plot(here[key].steps[-1], here[key].scores[-1], drawing.MARKERS[place % 10], color=look)
        panel.legend(fontsize=7, loc="lower right")
        drawing.baseline_lines(panel, baselines(outcomes, task, "dev"))
        count_axis(panel, "FLOPs-adjusted steps")
        panel.set_ylabel(f"dev {naming.metric_title(metric)}")
        panel.set_title(naming.task_title(task))
    _baseline_legend(figure)
    return figure


def _merit_at_the_end(outcome: Outcome, curve: Curve) -> tuple[bool, bool, float]:
    """Of use, defined, and how good the last score is."""
    last = merit(outcome.metric, curve.scores[-1])
    return outcome.useful, last == last, last


def _baseline_legend(figure: Figure) -> None:
    """Below the panels, since their own legends name the curves."""
    found = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        if label.startswith("baseline ")
    }
    if found:
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=4)


def _line(curve: Curve) -> tuple[Sequence[float], Sequence[float]]:
    return curve.steps, curve.scores


# --- 5c to 5e ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelScores:
    """AUROC of every label, mean over seeds, of one backbone's best method.

    Attributes:
        auroc: By label name; NaN where a label has one class only.
    """

    backbone: str
    method: str
    auroc: Mapping[str, float]


def label_scores(outcomes: Outcomes, task: str) -> list[LabelScores]:
    """For each backbone the labels of its method with the best score."""
    made = []
    for backbone in outcomes.backbones:
        held = [o for o in outcomes.main if (o.key.task, o.key.backbone) == (task, backbone)]
        for outcome in sorted((o for o in held if o.useful), key=lambda o: -o.merit):
            found = [t.facts.get("test_labels") for t in outcome.finals.values()]
            if found and all(found):
                made.append(LabelScores(backbone, outcome.key.method, _mean_labels([f for f in found if f])))
                break
    return made


def _mean_labels(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    names = list(dict.fromkeys(found[0]["names"]))
    columns = [dict(zip(f["names"], f["auroc"], strict=True)) for f in found]
    return {name: stats.mean([float(column.get(name, stats.NAN)) for column in columns]) for name in names}


def correlation(a: LabelScores, b: LabelScores) -> tuple[float, int]:
    """(Pearson's r over the labels that both have, how many); NaN for fewer than three."""
    both = [(x, b.auroc.get(name, stats.NAN)) for name, x in a.auroc.items()]
    pairs = [(x, y) for x, y in both if x == x and y == y]
    if len(pairs) < 3:
        return stats.NAN, len(pairs)
    x, y = np.array(pairs).T
    return (float(np.corrcoef(x, y)[0, 1]) if np.ptp(x) and np.ptp(y) else stats.NAN), len(pairs)


def _labels(outcomes: Outcomes) -> list[Block]:
    titles = (
        "Figure 5c, 5d: AUROC of each label, two backbones",
        "Figure 5e: correlation of AUROC between backbones",
    )
    found = {task: label_scores(outcomes, task) for task in outcomes.tasks}
    tasks = [task for task, scores in found.items() if scores]
    several = [task for task in tasks if len(found[task]) > 1]
    blocks: list[Block] = [_label_table(task, found[task]) for task in tasks]
    if not several:
        why = "Requires a multi-label task (deepsea/histone) finished on at least two backbones."
        return [*(Missing(title=title, why=why) for title in titles), *blocks]
    for task in several:
        name = task.replace("/", "_")
        many = f" ({naming.task_title(task)})" if len(several) > 1 else ""
        blocks = [
            Picture(
                name=f"figure_5cd_labels_{name}",
                title=titles[0] + many,
                draw=partial(_draw_labels, found[task]),
                caption="One dot per label; above the diagonal, the backbone of the vertical axis is better. Means "
                "over seeds, with the best method of each backbone.",
            ),
            _correlations(task, found[task], titles[1] + many),
            *blocks,
        ]
    return blocks


def _draw_labels(scores: Sequence[LabelScores]) -> Figure:
    pairs = list(combinations(scores, 2))
    figure, panels = drawing.small_multiples(pairs, (3.3, 3.1))
    for panel, (a, b) in panels:
        names = [name for name in a.auroc if name in b.auroc]
        both = [(a.auroc[name], b.auroc[name]) for name in names]
        known = [v for pair in both for v in pair if v == v]
        ends = [min(known, default=0.0), max(known, default=1.0)]
        panel.plot(ends, ends, color=FAINT, linewidth=1)
        for name, point in zip(names, both, strict=True):
            panel.plot(*point, "o", color=BLUE, markersize=3.5, alpha=0.7, label=f"_{name}")
        above = sum(q > p for p, q in both)
        panel.set_xlabel(f"{naming.backbone_title(a.backbone)} ({naming.method_title(a.method)})")
        panel.set_ylabel(f"{naming.backbone_title(b.backbone)} ({naming.method_title(b.method)})")
        panel.set_title(f"{above} of {len(both)} labels above", fontsize=8.5, color=INK)
    return figure


def _correlations(task: str, scores: Sequence[LabelScores], title: str) -> Table:
    rows: list[list[Field]] = [
        [naming.backbone_title(a.backbone), *(_r(a, b) for b in scores)] for a in scores
    ]
    return Table(
        name=f"figure_5e_correlation_{task.replace('/', '_')}",
        title=title,
        header=["Pearson's r over labels", *(naming.backbone_title(s.backbone) for s in scores)],
        rows=rows,
        caption="Correlation of the AUROC per label. In the paper, the two OPT models are more similar than an OPT "
        "model and NT-500M.",
        data=[
            {
                "task": task,
                "a": a.backbone,
                "b": b.backbone,
                "r": correlation(a, b)[0],
                "labels": correlation(a, b)[1],
            }
            for a, b in combinations(scores, 2)
        ],
    )


def _r(a: LabelScores, b: LabelScores) -> Cell:
    return Cell("1", "muted") if a is b else Cell(number(correlation(a, b)[0]))


def _label_table(task: str, scores: Sequence[LabelScores]) -> Table:
    names = list(scores[0].auroc)
    hardest = sorted(names, key=lambda name: scores[0].auroc[name])
    return Table(
        name=f"labels_{task.replace('/', '_')}",
        title=f"AUROC of every label of {naming.task_title(task)}",
        header=["label", *(naming.backbone_title(s.backbone) for s in scores)],
        rows=[[name, *(number(s.auroc.get(name)) for s in scores)] for name in hardest],
        caption=f"{amount(len(names))} labels, the hardest first.",
        data=[
            {"label": name, **{s.backbone: s.auroc.get(name, stats.NAN) for s in scores}} for name in names
        ],
        limit=120,
        folded=True,
    )
