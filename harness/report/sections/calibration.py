"""Other metrics than the reported one, and whether predicted probabilities are what is observed."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from harness.report import drawing, naming, stats
from harness.report.content import Block, Field, Missing, Picture, Section, Table, number
from harness.report.drawing import FAINT, LINES
from harness.report.outcomes import Outcome, Outcomes
from lingo.metrics import CALIBRATION_BINS

METRICS = ("mcc", "auroc", "auprc", "f1", "accuracy", "pearson", "spearman", "mse", "brier", "ece", "nll")
MOST_PANELS = 12
"""Of more datasets only the first are drawn; the table has all."""

MEANINGS = (
    "Means over seeds of the test scores. F1 is the macro mean over classes or labels. Better when lower: Brier (half "
    "of the squared error of the probabilities, summed over classes), ECE (expected calibration error, "
    f"{CALIBRATION_BINS} bins of equal width over the probability of the predicted class, or of each label) and NLL "
    "(nats)."
)


def section(outcomes: Outcomes) -> Section:
    """A table of all metrics and a reliability diagram."""
    return Section(
        anchor="metrics",
        title="Other metrics and calibration",
        intro="Every test metric of each study, and how often predictions of a given probability are right.",
        blocks=[_scores(outcomes), _diagram(outcomes)],
    )


def mean_score(outcome: Outcome, metric: str) -> float:
    """Mean of a test metric over the seeds; NaN where a seed lacks it."""
    return stats.mean([(record.test or {}).get(metric, stats.NAN) for record in outcome.finals.values()])


def _scores(outcomes: Outcomes) -> Block:
    held = [o for o in outcomes if o.finals]
    names = [n for n in METRICS if any(n in (r.test or {}) for o in held for r in o.finals.values())]
    if not names:
        return Missing(title="Every test metric", why="Requires a finished final run.")
    means = [{name: mean_score(o, name) for name in names} for o in held]
    rows: list[list[Field]] = [
        [*_study(o), *(number(found[name]) for name in names)] for o, found in zip(held, means, strict=True)
    ]
    return Table(
        name="metrics",
        title="Every test metric",
        header=["dataset", "backbone", "method", *map(naming.metric_title, names)],
        rows=rows,
        text_columns=3,
        caption=MEANINGS,
        data=[
            {"task": o.key.task, "backbone": o.key.backbone, "method": o.key.method, **found}
            for o, found in zip(held, means, strict=True)
        ],
        folded=len(rows) > 20,
    )


def _study(outcome: Outcome) -> tuple[str, str, str]:
    key = outcome.key
    backbone = "–" if key.backbone == "none" else naming.backbone_title(key.backbone)
    return naming.task_title(key.task), backbone, naming.method_title(key.method)


def reliability(outcome: Outcome) -> tuple[list[float], list[float]] | None:
    """(mean probability, share observed) of each bin, over the predictions of all seeds; `None` if not recorded."""
    found: list[Mapping[str, Any]] = [facts.get("reliability") or {} for facts in outcome.facts.values()]
    if not found or not all(found):
        return None
    counts, chances, seen = (
        np.concatenate([held[name] for held in found]) for name in ("predictions", "probability", "observed")
    )
    bins = np.minimum((chances * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    total = np.bincount(bins, counts)
    filled = total > 0
    mean, share = (np.bincount(bins, counts * values)[filled] / total[filled] for values in (chances, seen))
    return mean.tolist(), share.tolist()


def _diagram(outcomes: Outcomes) -> Block:
    title = "Reliability diagram"
    tasks = [task for task in outcomes.tasks if any(_of_task(outcomes, task))]
    if not tasks:
        return Missing(
            title=title,
            why="Requires final runs of a classification or of several labels by this version.",
        )
    left = f" The first {MOST_PANELS} of {len(tasks)} datasets." if len(tasks) > MOST_PANELS else ""
    return Picture(
        name="reliability",
        title=title,
        draw=partial(_draw, outcomes, tasks[:MOST_PANELS]),
        caption="Predictions of all seeds in bins of their probability (of the predicted class, or of each label), "
        "against the share of them that is right. On the diagonal, probabilities are what is observed; below it, they "
        f"are too high. For each backbone the method with the best score, and the best simple baseline.{left}",
    )


def _of_task(outcomes: Outcomes, task: str) -> Sequence[Outcome]:
    """The best method of each backbone, and the best simple baseline, of those whose reliability is known."""
    held = [o for o in outcomes.scored if o.key.task == task and reliability(o) is not None]
    groups: dict[str, list[Outcome]] = {}
    for outcome in held:
        groups.setdefault("" if outcome.baseline else outcome.key.backbone, []).append(outcome)
    return [max(group, key=lambda o: (o.useful, o.merit)) for group in groups.values()]


def _draw(outcomes: Outcomes, tasks: Sequence[str]) -> Figure:
    figure, panels = drawing.small_multiples(tasks, (3.3, 3.1))
    for panel, task in panels:
        panel.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
        for place, outcome in enumerate(_of_task(outcomes, task)):
            found = reliability(outcome)
            assert found is not None
            method = naming.method_title(outcome.key.method)
            backbone = naming.backbone_title(outcome.key.backbone)
            colour, marker = drawing.method_look(outcome.key.method, outcomes.methods)
            label = method if outcome.baseline else f"{backbone} ({method})"
            style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 3.5}
            panel.plot(*found, linestyle=LINES[place % len(LINES)], label=label, **style)
        panel.legend(fontsize=7, loc="upper left")
        panel.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted probability", ylabel="share observed")
        panel.set_title(naming.task_title(task))
    return figure
