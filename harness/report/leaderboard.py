"""The leaderboard: results per task, backbone and method. Reads only results."""

import math
import re
import statistics
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console
from rich.markup import escape

from harness.core.columns import HEADER as HEADER_LINE
from harness.core.columns import Column, Line, fitted, left_out
from harness.runs.controls import control_name, is_control
from harness.runs.front import final_points, has_front
from harness.runs.intervals import EQUAL, all_equal, brackets, is_useful, limits_of, with_spread
from harness.runs.record import Record
from harness.runs.shortcuts import SHORTCUT, shortcut_tasks
from lingo.metrics import merit

Key = tuple[str, str, str]
"""Task, backbone, method."""

MISSING, UNDEFINED = "missing", "undefined"

BESIDE = {"virus": "f1", "pearson": "spearman"}
"""Secondary metric, by family or selection metric; AUROC by default."""

MORE = ("mcc", "pearson", "auroc", "auprc", "f1", "brier", "ece", "nll", "mse")
"""Test metrics with a column of their means, where a row has them and the width allows."""


@dataclass(frozen=True)
class Spread:
    """A metric over the seeds of one study.

    Attributes:
        values: One number per seed, NaN if undefined; empty if nothing was measured.
    """

    values: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """Mean over seeds; NaN if a value is undefined or there is none."""
        return statistics.fmean(self.values) if self.values else float("nan")

    @property
    def sd(self) -> float:
        """Sample standard deviation over seeds (n - 1); NaN for a single seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else float("nan")

    def __str__(self) -> str:
        return with_spread(self.values) or MISSING


@dataclass(frozen=True, kw_only=True)
class LeaderboardRow:
    """One row of the leaderboard.

    Attributes:
        task, backbone, method: The study.
        metric: Selection metric, such as `mcc`.
        trained_parameters: Trained parameters reported by the final runs; `None` if none did.
        dev, test: The dev metric and the test metric of the final runs.
        second, beside: Another metric, `auroc`, and that of the test split.
        others: The other test metrics of `MORE`.
        done, expected: Number of seeds with a finished final run, and expected seeds.
        limits: 95 % limits of the mean test metric over test rows and seeds, see `limits_of`.
        collapsed: Seeds whose model predicts the same class for every test row.
        failed: Seeds without a finished final run whose final run failed.
        failed_trials: Trials of the search that failed.
        marks: Caveats.
        useful: Whether it is eligible as best, see `harness.runs.intervals.is_useful`.
        over_random: Differences by seed to the same study on random weights; empty without such a control.
        over_random_limits: 95 % interval (Student) of their mean; `None` for fewer than three seeds.
        trial: Trial of the search whose configuration it has, where the search had several objectives: a study then has
            a row for each point of its front that is trained; else `None`.
        best: Whether no other complete and useful row of the same task has a better mean of the test metric, and
            another one has a worse one.
    """

    task: str
    backbone: str
    method: str
    metric: str
    trained_parameters: int | None
    dev: Spread
    test: Spread
    second: str
    beside: Spread
    done: int
    expected: int
    failed: int
    marks: tuple[str, ...]
    others: Mapping[str, Spread] = field(default_factory=dict)
    limits: tuple[float, float] | None = None
    collapsed: int = 0
    useful: bool = True
    failed_trials: int = 0
    over_random: tuple[float, ...] = ()
    over_random_limits: tuple[float, float] | None = None
    trial: int | None = None
    best: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain data: `test` and `dev` are the scores of the seeds, with their means beside them."""
        values = {**vars(self), "complete": self.complete}
        for name in ("dev", "test", "beside"):
            values |= {name: list(getattr(self, name).values), f"{name}_mean": getattr(self, name).mean}
        values["others"] = {name: list(spread.values) for name, spread in self.others.items()}
        if not self.over_random:
            del values["over_random"], values["over_random_limits"]
        if self.trial is None:
            del values["trial"]
        return values

    @property
    def title(self) -> str:
        """Its method; of a point of a front with its trial."""
        return self.method if self.trial is None else f"{self.method} trial {self.trial}"

    @property
    def complete(self) -> bool:
        """Whether every seed has a finished final run."""
        return self.done >= self.expected > 0


def leaderboard(
    records: Iterable[Record], *, expected: Sequence[Key] = (), seeds: Sequence[int] = ()
) -> list[LeaderboardRow]:
    """The rows of a benchmark, in the order of `expected`, then by name; of a front by trained parameters.

    Args:
        records: All records, including those of the search.
        expected: The expected studies; those without records become rows of missing cells.
        seeds: Expected seeds of each study; if empty, all seeds of any final record.
    """
    studies: dict[Key, list[Record]] = {key: [] for key in expected}
    for record in sorted(records, key=lambda record: record.id):
        studies.setdefault((record.task, record.backbone, record.method), []).append(record)
    wanted = set(seeds) or {r.seed for found in studies.values() for r in found if r.stage == "final"}
    rows = [
        _row(key, found, wanted, trial)
        for key, records in studies.items()
        for trial, found in _points(records).items()
    ]
    easy = shortcut_tasks(
        (r.task, r.method, merit(r.metric, r.test.mean))
        for r in rows
        if r.test.values and r.useful and not is_control(r.backbone)
    )
    rows = [replace(row, marks=(*row.marks, SHORTCUT)) if row.task in easy else row for row in rows]
    rows = [_beside_random(row, studies) for row in rows]
    return [replace(row, best=_is_best(row, rows)) for row in rows]


def _points(records: Sequence[Record]) -> dict[int | None, list[Record]]:
    """The records of a study; of one with a front those of each of its points, which are its search and the point's
    final runs, by trial."""
    searched = [record for record in records if record.stage == "search"]
    finals = [record for record in records if record.stage == "final"]
    if not has_front(records):
        return {None: list(records)}
    tested = {one.trial: one for one in [*finals, *(final_points(searched) if searched else [])]}
    order = sorted(tested, key=lambda trial: (tested[trial].trained_parameters or 0, trial or 0))
    found = {trial: [*searched, *(one for one in finals if one.trial == trial)] for trial in order}
    return found or {None: searched}


def _beside_random(row: LeaderboardRow, studies: Mapping[Key, Sequence[Record]]) -> LeaderboardRow:
    """The row with its lead over its control, where there is one."""
    control = studies.get((row.task, control_name(row.backbone), row.method), ())
    mine = studies[row.task, row.backbone, row.method]
    scores = [_scores(records, row) for records in (mine, control)]
    if not all(scores):
        return row
    from harness.report.stats import over_random  # scipy, only here

    by, limits = over_random(row.metric, *scores)
    shown = limits if limits[0] == limits[0] else None
    return replace(row, over_random=tuple(by), over_random_limits=shown)


def _scores(records: Sequence[Record], row: LeaderboardRow) -> dict[int, float]:
    """Test scores by seed of the finished final runs, of a front those of the row's point."""
    finals = [r for r in records if (r.stage, r.status) == ("final", "finished") and r.test]
    finals = [r for r in finals if row.trial in (None, r.trial)]
    return {r.seed: r.test[row.metric] for r in finals if r.test and row.metric in r.test}


def _row(key: Key, records: Sequence[Record], seeds: set[int], trial: int | None = None) -> LeaderboardRow:
    finals = [r for r in records if r.stage == "final" and r.status == "finished" and r.seed in seeds]
    finals.sort(key=lambda record: record.seed)
    metric = records[0].metric if records else "mcc"
    family = records[0].family if records else ""
    wanted_second = (BESIDE.get(family), BESIDE.get(metric), "auroc", "auprc")
    second = next(name for name in wanted_second if name not in (None, metric))
    counts = [r.trained_parameters for r in finals if r.trained_parameters is not None]
    test = _spread((record.test or {}).get(metric) for record in finals)
    collapsed = sum(bool(record.facts.get("collapsed")) for record in finals)
    constants = [r.facts["constant"] for r in finals if r.facts.get("constant")]
    return LeaderboardRow(
        task=key[0],
        backbone=key[1],
        method=key[2],
        metric=metric,
        trained_parameters=round(statistics.fmean(counts)) if counts else None,
        dev=_spread(record.dev.get(metric) for record in finals),
        test=test,
        second=second,
        beside=_spread((record.test or {}).get(second) for record in finals),
        others={
            name: _spread((record.test or {}).get(name) for record in finals)
            for name in MORE
            if name not in (metric, second) and any(name in (record.test or {}) for record in finals)
        },
        done=len({record.seed for record in finals}),
        expected=len(seeds),
        failed=_failed(records, "final"),
        marks=tuple(dict.fromkeys(mark for record in records for mark in record.marks)),
        limits=limits_of(finals, metric),
        collapsed=collapsed,
        useful=is_useful(metric, test.values, collapsed=collapsed, constants=constants),
        failed_trials=_failed(records, "search"),
        trial=trial,
    )


def _failed(records: Sequence[Record], stage: str) -> int:
    return sum((record.stage, record.status) == (stage, "failed") for record in records)


def _spread(values: Iterable[float | None]) -> Spread:
    return Spread(tuple(value for value in values if value is not None))


def _is_best(row: LeaderboardRow, rows: Sequence[LeaderboardRow]) -> bool:
    """The complete, useful rows of a task with the best mean, unless all rows have that mean."""
    rivals = [other for other in rows if other.task == row.task and other.complete and other.test.values]
    rivals = [other for other in rivals if not is_control(other.backbone)]
    if not (row.complete and row.useful) or is_control(row.backbone):
        return False
    mine = merit(row.metric, row.test.mean)
    others = [merit(other.metric, other.test.mean) for other in rivals if other.useful]
    return mine >= max(others) - EQUAL and any(
        not other.useful or merit(other.metric, other.test.mean) < mine - EQUAL for other in rivals
    )


HEADER = ("task", "backbone", "method", "trained", "dev {}", "test {}", "test {}", "seeds", "marks")
OVER_RANDOM = "− random"
"""Heading of the column that is there where controls are."""

NAMES = 3
"""Columns of names, which are not right-aligned, like the last one."""


def _more(rows: Sequence[LeaderboardRow]) -> list[str]:
    """The metrics that have a column of their own."""
    return [name for name in MORE if any(name in row.others for row in rows)]


def _lines(rows: Sequence[LeaderboardRow]) -> tuple[list[str], list[list[str]], list[str]]:
    """Header without the columns of `_more`, cells with them at the end, and the legend of the caveats, which are
    letters in the cells."""
    single, second = _only(row.metric for row in rows), _only(row.second for row in rows)
    letters = {mark: _letter(i) for i, mark in enumerate(dict.fromkeys(m for row in rows for m in row.marks))}
    header = [name.format(single).strip() for name in HEADER]
    header[HEADER.index("seeds") - 1] = f"test {second}" if second else "secondary"
    header.insert(HEADER.index("seeds"), OVER_RANDOM)
    starred = any(row.best for row in rows)
    cells = [
        [
            row.task,
            row.backbone,
            row.title,
            MISSING if row.trained_parameters is None else f"{row.trained_parameters:,}",
            _cell(row.dev, row.metric, single),
            _cell(row.test, row.metric, single) + _between(row) + ("*" if row.best else " " * starred),
            _cell(row.beside, row.second, second),
            _over_random(row),
            f"{row.done} of {row.expected}{_counted(row.failed, 'failed')}{_counted(row.collapsed, 'collapsed')}",
            " ".join(letters[mark] for mark in row.marks),
            *(_mean(row.others.get(name, Spread())) for name in _more(rows)),
        ]
        for row in rows
    ]
    legend = [f"{letter}: {mark}" for mark, letter in letters.items()]
    legend = [
        "*: best mean test score of its task; the report tests whether the lead is significant over seeds"
    ] * starred + legend
    crowns = Counter(row.task for row in rows if row.best)
    if any(number > 1 for number in crowns.values()):
        legend.insert(1, "several * in a task: tie")
    if any(row.limits for row in rows):
        legend.append("[ ]: 95 % bootstrap interval over test rows and seeds")
    if any(row.limits is None and row.test.values for row in rows):
        legend.append(
            "no [ ]: fewer than three seeds, or a score is undefined, the same in all resamples, or not resampled"
        )
    if any(len(row.test.values) == 2 and not all_equal(row.test.values) for row in rows):
        legend.append("( ): the scores of both seeds; a standard deviation requires three")
    for row in rows:
        if row.failed_trials:
            name = " ".join((row.task, row.backbone, row.method))
            some = "1 trial" if row.failed_trials == 1 else f"{row.failed_trials} trials"
            legend.append(f"{name}: {some} of the search failed")
    legend = list(dict.fromkeys(legend))  # rows of one front have one search
    if any(row.trial is not None for row in rows):
        legend.append(
            "trial: point of the Pareto front of dev score and trained parameters, by its trial of the search"
        )
    if any(row.collapsed for row in rows):
        legend.append("collapsed: seeds whose model predicts the same class or value for every test row")
    if any(row.over_random for row in rows):
        legend.append(
            f"{OVER_RANDOM}: difference from the same configuration on random weights, with a 95 % interval over seeds"
        )
    else:
        for line in (header, *cells):
            del line[HEADER.index("seeds")]
    return header, cells, legend


def _over_random(row: LeaderboardRow) -> str:
    if not row.over_random:
        return ""
    mean = f"{statistics.fmean(row.over_random):+.3f}"
    return f"{mean} {brackets(*row.over_random_limits)}" if row.over_random_limits else mean


def _between(row: LeaderboardRow) -> str:
    return f" {brackets(*row.limits)}" if row.limits else ""


def _counted(count: int, what: str) -> str:
    return f", {count} {what}" if count else ""


def _only(names: Iterable[str]) -> str:
    """The common metric of all rows as a heading; empty if there are several."""
    found = set(names)
    return found.pop().upper() if len(found) == 1 else ""


def _letter(number: int) -> str:
    return chr(ord("a") + number % 26) * (1 + number // 26)


def _cell(spread: Spread, metric: str, single: str) -> str:
    return str(spread) if single or not spread.values else f"{metric} {spread}"


def _mean(spread: Spread) -> str:
    return "" if not spread.values else UNDEFINED if math.isnan(spread.mean) else f"{spread.mean:.3f}"


RANKS = {"trained": 5, "test {}": 4, "dev {}": 2}
"""Columns that are left out of a narrow terminal, the highest first; of the two test columns the secondary metric."""


def lines(rows: Sequence[LeaderboardRow], width: int | None = None) -> list[Line]:
    """The leaderboard as lines of text with a legend of the caveats, see `harness.core.columns.fitted`.

    Args:
        width: Columns of the terminal; `None` for no limit.
    """
    header, cells, legend = _lines(rows)
    second = HEADER.index("seeds") - 1
    names = [*HEADER[: second + 1], *[OVER_RANDOM] * (len(header) - len(HEADER)), *HEADER[second + 1 :]]
    columns = [
        Column(
            title=title,
            right=NAMES <= i < len(header) - 1,
            name=i < NAMES,
            rank=0 if name == "test {}" and i != second else RANKS.get(name, 0),
        )
        for i, (name, title) in enumerate(zip(names, header, strict=True))
    ]
    more = [Column(title=name.upper(), right=True, rank=10 + i) for i, name in enumerate(_more(rows))]
    place = HEADER.index("seeds")  # beside the other scores
    columns[place:place] = more
    cells = [[*row[:place], *row[len(header) :], *row[place : len(header)]] for row in cells]
    hidden = left_out(columns, cells, width)
    if shown := [column.title for column in more if column.title not in hidden]:
        legend.append(f"{', '.join(shown)}: test split, mean over the seeds")
    below = [part for text in legend for part in (textwrap.wrap(text, width) if width else [text])]
    return [*fitted(columns, cells, width), *((text, None) for text in below)]


def plain(rows: Sequence[LeaderboardRow]) -> str:
    """The leaderboard as text in columns, with a legend of the caveats."""
    return "\n".join(text for text, _ in lines(rows)) + "\n"


def print_leaderboard(
    records: Iterable[Record],
    console: Console,
    *,
    expected: Sequence[Key] = (),
    seeds: Sequence[int] = (),
) -> None:
    """Print the leaderboard: within the width of a terminal, and whole where the output goes elsewhere."""
    rows = leaderboard(records, expected=expected, seeds=seeds)
    if not console.is_terminal:
        console.print(plain(rows), markup=False, highlight=False, soft_wrap=True, end="")
        return
    for text, row in lines(rows, console.width):
        shown, of_row = escape(text), row is not None and row != HEADER_LINE
        if of_row:
            shown = re.sub(rf"\b({MISSING}|{UNDEFINED})\b", r"[red]\1[/]", shown)
        strong = row == HEADER_LINE or (row is not None and of_row and rows[row].best)
        console.print(f"[bold]{shown}[/]" if strong else shown, highlight=False, soft_wrap=True)


def print_winners(
    records: Iterable[Record],
    console: Console,
    *,
    expected: Sequence[Key] = (),
    seeds: Sequence[int] = (),
) -> list[str]:
    """Print the best study of each task, or that there is none; the lines."""
    lines = winners(leaderboard(records, expected=expected, seeds=seeds))
    for text in lines:
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    return lines


def winners(rows: Sequence[LeaderboardRow]) -> list[str]:
    """A line for each task: its best study by mean test score, those that tie, or why none can be named."""
    lines = []
    for task in dict.fromkeys(row.task for row in rows):
        mine = [row for row in rows if row.task == task and not is_control(row.backbone)]
        controls = [row.test.mean for row in rows if row.task == task and row not in mine and row.useful]
        best = [row for row in mine if row.best]
        if best:
            names = " and ".join(" ".join(filter(None, [_model(row, rows), _method(row)])) for row in best)
            said = (
                f"{names}{' tie' if len(best) > 1 else ''}, {best[0].metric.upper()} {best[0].test.mean:.3f}"
            )
        elif not any(row.complete for row in mine):
            said = "no study is complete"
        elif not any(row.useful for row in mine if row.complete):
            said = "none: no study is above a constant prediction"
        else:
            (first, *others) = [row for row in mine if row.complete and row.useful]
            why = "all studies have the same score" if others else "there is no other study to compare"
            said = f"none: {why}, {first.metric.upper()} {first.test.mean:.3f}"
        left = sum(not row.complete for row in mine)
        if best and any(merit(best[0].metric, mean - best[0].test.mean) >= 0 for mean in controls):
            said += ", which a control with random weights reaches"
        unfinished = f" ({left} of {len(mine)} studies are not complete)" if best and left else ""
        lines.append(f"best of {task}: {said}{unfinished}")
    return lines


def _model(row: LeaderboardRow, rows: Sequence[LeaderboardRow]) -> str:
    several = len({other.backbone for other in rows if not is_control(other.backbone)}) > 1
    return row.backbone if several and row.backbone != "none" else ""


def _method(row: LeaderboardRow) -> str:
    return f"{row.title} (a simple baseline)" if row.backbone == "none" else row.title
