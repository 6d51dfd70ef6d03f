"""Tables and figures of an ended trial, for data unsuitable as metrics.

They are built from `Record.facts`; missing facts give no table. The format is the one that MLflow's UI shows as a table
and `mlflow.load_table` reads.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from harness.runs.intervals import usable
from harness.runs.rank_trajectories import held, to_the_end
from harness.runs.record import Record

Table = dict[str, list[Any]]
"""`columns` and `data`, one list for each row."""

SHOWN_LABELS = 12
"""Maximum number of curves in one figure; the table has all."""

BLUE, GREY = "#0072b2", "#8c8c8c"


def tables(record: Record) -> Iterator[tuple[str, Table]]:
    """(file name, table) for all data of a record."""
    facts = record.facts
    if record.test is not None:
        yield "scores.json", _scores(record)
    labels = facts.get("test_labels")
    if labels:
        names = [name for name in labels if name != "names"]
        yield (
            "labels.json",
            _table(["label", *names], zip(labels["names"], *(labels[name] for name in names), strict=True)),
        )
    confusion = facts.get("confusion")
    if confusion:
        columns = ["label", *(f"predicted {index}" for index in range(len(confusion)))]
        yield "confusion.json", _table(columns, ([index, *row] for index, row in enumerate(confusion)))
    for name, x, y in (("roc", "false positive rate", "true positive rate"), ("pr", "recall", "precision")):
        if facts.get(name):
            yield f"{name}.json", _table(["label", x, y], _curve_rows(facts[name]))
    if facts.get("reliability"):
        bins = facts["reliability"]
        yield "reliability.json", _table(list(bins), zip(*bins.values(), strict=True))
    if facts.get("kept_ranks"):
        yield "kept_ranks.json", _table(["module", "rank"], facts["kept_ranks"].items())
    trajectory = facts.get("rank_trajectory")
    if trajectory:
        columns = ["step", *trajectory["paths"]]
        rows = held(to_the_end(trajectory, record.history))
        yield "rank_trajectory.json", _table(columns, ([step, *ranks] for step, ranks in rows))


def pictures(record: Record) -> Iterator[tuple[str, Figure]]:
    """(file name, figure) of a final run: confusion matrix, ROC, precision-recall, ranks over steps."""
    if record.stage != "final":
        return
    facts = record.facts
    title = f"{record.study.replace('|', ' · ')}, seed {record.seed}"
    if facts.get("confusion"):
        yield "confusion.png", _confusion(facts["confusion"], title)
    for name, x, y in (("roc", "False positive rate", "True positive rate"), ("pr", "Recall", "Precision")):
        if facts.get(name):
            yield f"{name}.png", _curves(facts[name], x, y, title)
    if facts.get("rank_trajectory"):
        yield "rank_trajectory.png", _ranks(to_the_end(facts["rank_trajectory"], record.history), title)


def _scores(record: Record) -> Table:
    """Every score of both splits, with the 95 % bootstrap interval of the test score if defined."""
    test, intervals = record.test or {}, record.facts.get("interval", {})
    rows = [
        [name, record.dev.get(name), test.get(name), *(usable(intervals.get(name), name) or (None, None))]
        for name in sorted({*record.dev, *test})
    ]
    return _table(["score", "dev", "test", "test, low", "test, high"], rows)


def _table(columns: Sequence[str], rows: Any) -> Table:
    return {"columns": list(columns), "data": [[_plain(value) for value in row] for row in rows]}


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _curve_rows(curves: Mapping[str, Any]) -> Iterator[list[Any]]:
    for label, curve in curves.items():
        for x, y in zip(curve["x"], curve["y"], strict=True):
            yield [label, x, y]


def _figure(title: str, width: float = 5.0, height: float = 4.2) -> tuple[Figure, Any]:
    """A figure without pyplot, whose global state is not thread-safe."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=9)
    return figure, axes


def _confusion(counts: Sequence[Sequence[int]], title: str) -> Figure:
    figure, axes = _figure(title)
    largest = max(max(row) for row in counts) or 1
    axes.imshow(counts, cmap="Blues", vmin=0, vmax=largest)
    axes.set(xlabel="Predicted class", ylabel="Class", xticks=range(len(counts)), yticks=range(len(counts)))
    for row, values in enumerate(counts):
        for column, value in enumerate(values):
            shade = "white" if value > largest / 2 else "black"
            axes.text(column, row, str(value), ha="center", va="center", color=shade, fontsize=9)
    return figure


def _curves(curves: Mapping[str, Any], x: str, y: str, title: str) -> Figure:
    figure, axes = _figure(title)
    shown = list(curves)[:SHOWN_LABELS]
    for label in shown:
        many = len(shown) > 1
        axes.plot(curves[label]["x"], curves[label]["y"], lw=1.2, color=None if many else BLUE, label=label)
    if len(shown) > 1:
        axes.legend(fontsize=6, frameon=False)
    if len(shown) < len(curves):
        axes.annotate(
            f"{len(shown)} of {len(curves)} labels", (0.02, 0.02), xycoords="axes fraction", fontsize=7
        )
    axes.set(xlabel=x, ylabel=y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    return figure


def _ranks(trajectory: Mapping[str, Any], title: str) -> Figure:
    """Mean kept rank per matrix type over the steps; single matrices in grey."""
    figure, axes = _figure(title, 6.5)
    steps, ranks = trajectory["steps"], trajectory["ranks"]
    for index in range(len(trajectory["paths"])):
        axes.step(steps, [row[index] for row in ranks], where="post", color=GREY, lw=0.5, alpha=0.4)
    means = [sum(row) / len(row) for row in ranks]
    axes.step(steps, means, where="post", color=BLUE, lw=2, label="mean of all matrices")
    axes.legend(fontsize=7, frameon=False)
    axes.set(xlabel="Step", ylabel="Ranks kept", ylim=(0, None))
    return figure
