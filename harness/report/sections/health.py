"""Caveats: missing and failed runs, collapsed seeds, leakage, winners at a bound of the search space."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.report import naming
from harness.report.content import Block, Cell, Field, Missing, Note, Section, Table, count
from harness.report.outcomes import Outcome, Outcomes
from harness.report.run_results import RunResults
from harness.report.sections.caveats import meaning
from harness.runs.record import Record

EDGE = 0.02
"""A winner within this share of the end of a range counts as at its bound."""

BOUND = frozenset({"delta_T"})
"""Ranges limited by the training itself, which cannot be extended."""


def section(runs: Sequence[RunResults], outcomes: Outcomes) -> Section:
    """All of it."""
    return Section(
        anchor="health",
        title="Caveats",
        intro="What a reader should know before citing a number from this page.",
        blocks=[
            _marks(runs),
            _incomplete(outcomes),
            _failures(runs),
            _collapsed(outcomes),
            _edges(runs, outcomes),
            _leaks(outcomes),
            *_unread(runs),
        ],
    )


# --- marks ------------------------------------------------------------------------------------------------


def mark_counts(runs: Sequence[RunResults]) -> dict[str, Counter[str]]:
    """Number of records per caveat and stage."""
    found: dict[str, Counter[str]] = {}
    for run in runs:
        for trial in run.trials:
            for mark in trial.marks:
                found.setdefault(mark, Counter())[trial.stage] += 1
    return found


def _marks(runs: Sequence[RunResults]) -> Block:
    found = mark_counts(runs)
    if not found:
        return Note(
            text="Caveats: none. No result was limited, truncated, or computed on splits other than the published ones."
        )
    rows: list[list[Field]] = [
        [mark, meaning(mark), f"{counts['search']:,}", f"{counts['final']:,}"]
        for mark, counts in found.items()
    ]
    return Table(
        name="marks",
        title="Caveats and their meaning",
        header=["caveat", "meaning", "search trials", "final runs"],
        rows=rows,
        text_columns=2,
    )


def _study(outcome: Outcome) -> tuple[str, str, str]:
    key = outcome.key
    return key.task, naming.backbone_title(key.backbone), naming.method_title(key.method)


# --- what is not there ------------------------------------------------------------------------------------


def incomplete(outcomes: Outcomes) -> list[Outcome]:
    """Studies that lack final runs."""
    return [o for o in outcomes if not o.complete]


def _incomplete(outcomes: Outcomes) -> Block:
    held = incomplete(outcomes)
    if not held:
        return Note(
            text=f"Missing final runs: none; all {count(len(outcomes), 'study', 'studies')} have every seed."
        )
    rows: list[list[Field]] = [
        [
            *_study(o),
            f"{len(o.scores)} of {len(o.expected)}",
            ", ".join(map(str, sorted(o.expected - set(o.scores)))),
            f"{o.failed:,}",
        ]
        for o in held
    ]
    return Table(
        name="missing",
        title="Studies with missing final runs",
        header=["task", "backbone", "method", "seeds", "missing seeds", "failed"],
        rows=rows,
        text_columns=3,
        caption="Means are over the available seeds; the same command continues an interrupted run.",
        folded=len(rows) > 20,
    )


def failures(runs: Sequence[RunResults]) -> list[Record]:
    """Trials and final runs that failed."""
    return [trial for run in runs for trial in run.trials if trial.status == "failed"]


def _failures(runs: Sequence[RunResults]) -> Block:
    held = failures(runs)
    if not held:
        return Note(text="Failures: none.")
    kinds: dict[str, list[Record]] = {}
    for trial in held:
        kinds.setdefault((trial.error or "no error recorded").split("(")[0].strip(), []).append(trial)
    rows: list[list[Field]] = [
        [
            kind[:300],
            ", ".join(dict.fromkeys(naming.method_title(t.method) for t in trials)),
            ", ".join([t.id for t in trials[:3]] + (["…"] if len(trials) > 3 else [])),
            f"{len(trials):,}",
        ]
        for kind, trials in sorted(kinds.items(), key=lambda item: -len(item[1]))
    ]
    return Table(
        name="failures",
        title=f"{count(len(held), 'failure')}, by error",
        header=["error", "methods", "which", "count"],
        rows=rows,
        text_columns=3,
        caption="A failed trial counts as a bad configuration in its search; a failed final run is a missing seed.",
        data=[
            {
                "id": t.id,
                "stage": t.stage,
                "seed": t.seed,
                "error": t.error,
                "config": json.dumps(dict(t.config)),
            }
            for t in held
        ],
    )


def _collapsed(outcomes: Outcomes) -> Block:
    held = [o for o in outcomes if o.collapsed]
    if not held:
        return Note(text="Collapsed seeds: none; every final model predicts more than one class.")
    rows: list[list[Field]] = [
        [
            *_study(o),
            ", ".join(map(str, o.collapsed)),
            f"{len(o.collapsed)} of {len(o.finals)}",
        ]
        for o in held
    ]
    return Table(
        name="collapsed",
        title="Collapsed seeds",
        header=["task", "backbone", "method", "seeds", "collapsed"],
        rows=rows,
        text_columns=3,
        caption="These models predict the same class for every test row. They are included in the means above, because "
        "users would encounter them too; a different learning rate or more epochs may avoid them.",
    )


# --- edges ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edge:
    """A winner at a bound of a search range."""

    outcome: Outcome
    name: str
    value: float
    low: float
    high: float


def edges(runs: Sequence[RunResults], outcomes: Outcomes) -> list[Edge]:
    """Winners at a bound of a range: the best may lie beyond it."""
    leaves = {study["key"]: study.get("space", {}).get("leaves", {}) for run in runs for study in run.studies}
    found = []
    for outcome in outcomes:
        first = next(iter(outcome.finals.values()), None)
        if first is None:
            continue
        config = first.config
        for name, leaf in leaves.get(first.study, {}).items():
            if (
                name not in BOUND
                and leaf.get("type") in ("int", "float")
                and _at_edge(config.get(name), leaf)
            ):
                found.append(Edge(outcome, name, float(config[name]), leaf["low"], leaf["high"]))
    return found


def _at_edge(value: Any, leaf: Mapping[str, Any]) -> bool:
    if not isinstance(value, int | float) or leaf["high"] <= leaf["low"]:
        return False
    ends = (float(leaf["low"]), float(leaf["high"]), float(value))
    low, high, x = map(math.log, ends) if leaf.get("log") else ends
    place = (x - low) / (high - low)
    return (place <= EDGE and leaf["low"] != 0) or place >= 1 - EDGE  # below 0 there is nothing


def _edges(runs: Sequence[RunResults], outcomes: Outcomes) -> Block:
    held = edges(runs, outcomes)
    if not held:
        return Note(text="Winners at a bound of their search space: none.")
    rows: list[list[Field]] = [
        [
            *_study(e.outcome),
            e.name,
            f"{e.value:.3g}",
            f"{e.low:.3g} to {e.high:.3g}",
        ]
        for e in held
    ]
    return Table(
        name="edges",
        title="Winners at a bound of their search space",
        header=["task", "backbone", "method", "hyper-parameter", "found", "searched"],
        rows=rows,
        text_columns=4,
        caption="A better value may lie outside: extend the range (--search-space) before concluding that a method "
        "is weak.",
        limit=20,
        folded=len(rows) > 10,
    )


# --- leaks ------------------------------------------------------------------------------------------------


def leaks_by_task(outcomes: Outcomes) -> dict[str, Mapping[str, Any]]:
    """Results of the leakage audit per task."""
    found: dict[str, Mapping[str, Any]] = {}
    for outcome in outcomes:
        for facts in outcome.facts.values():
            if facts.get("leaks"):
                found.setdefault(outcome.key.task, facts["leaks"])
    return found


def _leaks(outcomes: Outcomes) -> Block:
    title = "Leakage between splits"
    found = leaks_by_task(outcomes)
    if not found:
        return Missing(title=title, why="The records contain no leakage audit (older results).")
    pairs = ("dev in train", "test in train", "test in dev")
    rows: list[list[Field]] = [
        [
            naming.task_title(task),
            *(_shared(leaks.get("across", {}).get(pair)) for pair in pairs),
            f"{sum(w['repeated'] for w in leaks['within'].values()):,}",
            f"{sum(w['conflicting'] for w in leaks['within'].values()):,}",
            f"{leaks.get('dropped', 0):,}",
        ]
        for task, leaks in found.items()
    ]
    return Table(
        name="leaks",
        title=title,
        header=["dataset", *pairs, "repeated rows", "with two labels", "dropped from train"],
        rows=rows,
        caption="Rows of the second split whose sequence also occurs in the first, on either strand. They inflate the "
        "scores of all methods, most of all those of large models, which memorise best.",
    )


def _shared(found: Mapping[str, Any] | None) -> Cell:
    if not found:
        return Cell("–", "muted")
    share = found["shared"] / max(found["rows"], 1)
    return Cell(f"{found['shared']:,} ({share:.1%})", "bad" if share > 0.01 else "")


def _unread(runs: Sequence[RunResults]) -> list[Block]:
    problems = [problem for run in runs for problem in run.problems]
    return [Note(text="Files that could not be read:", points=problems)] if problems else []
