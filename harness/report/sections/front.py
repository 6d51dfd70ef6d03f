"""The Pareto fronts of studies whose search had several objectives: dev score against trained parameters."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from harness.report import drawing, naming
from harness.report.content import Picture, Section, Table, number
from harness.report.drawing import FAINT, count_axis, draw_front, seeds_point
from harness.report.naming import Key
from harness.report.outcomes import Outcome
from harness.report.run_results import RunResults
from harness.runs.front import by_study, final_points, front_of, has_front
from harness.runs.intervals import why_none
from harness.runs.record import Record


@dataclass(frozen=True, kw_only=True)
class Front:
    """A study with a front.

    Attributes:
        searched: Its trials of the search that have a score and a number of trained parameters.
        on_front: Those on the front, by ascending parameters.
        tested: The final runs of each trained point of it, in the metric that selects, in the same order.
    """

    searched: Sequence[Record]
    on_front: Sequence[Record]
    tested: Sequence[tuple[Record, Outcome]]

    @property
    def title(self) -> str:
        """Task, method and backbone."""
        one = self.searched[0]
        parts = [naming.task_title(one.task), naming.method_title(one.method)]
        return " · ".join(parts if one.backbone == "none" else [*parts, naming.backbone_title(one.backbone)])


def sections(runs: Sequence[RunResults]) -> list[Section]:
    """One section; none where every search had one objective."""
    fronts = [
        front
        for run in runs
        for records in by_study(run.trials).values()
        if (front := _front(records, frozenset(run.settings.get("seeds") or ())))
    ]
    if not fronts:
        return []
    picture = Picture(
        name="pareto_fronts",
        title="Score against trained parameters",
        draw=partial(_draw, fronts),
        caption="Small points: trials of the search, by their last dev score. Dotted line: Pareto front of the trials "
        "that trained all epochs. Large points: final runs, mean test score over the seeds with one standard deviation "
        "(from three seeds on). Parameters are those that a trial trains, at its starting ranks.",
    )
    return [
        Section(
            anchor="fronts",
            title="Pareto fronts",
            intro="These searches weighed dev score against trained parameters, without early stopping. The final "
            "stage trained points along each front, chosen by dev scores and parameters alone. In all other parts of "
            "the report a study stands for its point with the best dev score.",
            blocks=[picture, _table(fronts)],
        )
    ]


def _front(records: Sequence[Record], seeds: frozenset[int]) -> Front | None:
    searched = [r for r in records if r.stage == "search" and r.trained_parameters and r.metric in r.dev]
    if not has_front(records) or not searched:
        return None
    chosen = [(point, _tested(point, records, seeds)) for point in final_points(records)]
    return Front(
        searched=searched,
        on_front=front_of(records),
        tested=[(point, outcome) for point, outcome in chosen if outcome.scores],
    )


def _tested(point: Record, records: Sequence[Record], seeds: frozenset[int]) -> Outcome:
    """The finished final runs of one point, in the metric of the search."""
    finals = {
        one.seed: one
        for one in sorted(records, key=lambda one: one.seed)
        if (one.stage, one.status, one.trial) == ("final", "finished", point.trial)
    }
    return Outcome(
        key=Key(point.task, point.backbone, point.method, str(point.facts.get("tokenization") or "bbpe")),
        family=point.family,
        metric=point.metric,
        scores={
            seed: (one.test or {})[point.metric]
            for seed, one in finals.items()
            if point.metric in (one.test or {})
        },
        finals=finals,
        expected=seeds,
    )


def _draw(fronts: Sequence[Front]) -> Figure:
    figure, panels = drawing.small_multiples(fronts, (3.6, 2.7))
    for panel, front in panels:
        metric = front.searched[0].metric
        points = [(float(one.trained_parameters or 0), one.dev[metric]) for one in front.searched]
        panel.plot(*zip(*points, strict=True), ".", color=FAINT, label="trial of the search, dev")
        on_front = [(float(one.trained_parameters or 0), one.dev[metric]) for one in front.on_front]
        draw_front(panel, on_front, metric)
        for point, outcome in front.tested:
            look = drawing.method_look(point.method, [point.method])
            seeds_point(
                panel, outcome, *look, label=f"final runs of {naming.method_title(point.method)}, test"
            )
        count_axis(panel, "trained parameters")
        panel.set_ylabel(naming.metric_title(metric))
        panel.set_title(front.title, fontsize=8.5)
        panel.margins(0.12, 0.15)
    return drawing.legend_below(figure)


def _table(fronts: Sequence[Front]) -> Table:
    rows = [
        (point, next((found for one, found in front.tested if one is point), None))
        for front in fronts
        for point in front.on_front
    ]
    data: list[dict[str, Any]] = [
        {
            "task": point.task,
            "backbone": point.backbone,
            "method": point.method,
            "trial": point.trial,
            "trained_parameters": point.trained_parameters,
            "metric": point.metric,
            "dev": point.dev.get(point.metric),
            "seeds": len(outcome.values) if outcome else 0,
            "test": outcome.mean if outcome else None,
            "test_sd": outcome.sd if outcome and not why_none(outcome.values) else None,
        }
        for point, outcome in rows
    ]
    return Table(
        name="pareto_fronts",
        title="Points of the fronts",
        header=["task", "backbone", "method", "trial", "trained", "metric", "dev", "test", "sd", "seeds"],
        rows=[
            [
                naming.task_title(str(line["task"])),
                naming.backbone_title(str(line["backbone"])),
                naming.method_title(str(line["method"])),
                str(line["trial"]),
                f"{line['trained_parameters']:,}",
                naming.metric_title(str(line["metric"])),
                number(line["dev"]),
                number(line["test"]),
                number(line["test_sd"]),
                str(line["seeds"]),
            ]
            for line in data
        ],
        text_columns=3,
        caption="By ascending trained parameters; dev scores of the search, test scores of the final runs, with their "
        "standard deviation from three seeds on. Of a front with more than four points the final stage trains both "
        "ends and two between them.",
        data=data,
    )
