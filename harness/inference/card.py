"""The model card of an export: scores, seeds, data, versions and caveats."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from harness.runs.intervals import brackets, limits_of, with_spread
from harness.runs.record import Record
from lingo.card import card_text
from lingo.metrics import LOWER_IS_BETTER

HIDDEN = frozenset({"loss", "collapsed", "undefined_labels"})
"""Test metrics that are irrelevant to users of the model."""


def result_of(record: Record, finals: Sequence[Record], reason: str) -> dict[str, Any]:
    """Facts about the run in `lingo.json`, for programs."""
    return {
        "benchmark": record.benchmark,
        "record": record.id,
        "chosen": reason,
        "metric": record.metric,
        "selection": record.selection,
        "seed": record.seed,
        "dev": _finite(record.facts.get("best_dev") or record.dev),
        "test": _finite(record.test or {}),
        "test_interval": {name: list(limits) for name, limits in _intervals(finals).items()},
        "seeds": {str(final.seed): _finite(final.test or {}) for final in finals},
        "marks": list(record.marks),
        "environment": dict(record.environment),
    }


def write_card(folder: Path, facts: Mapping[str, Any], record: Record, finals: Sequence[Record]) -> None:
    """Write the card of an export, `README.md`.

    Args:
        folder: The export's (temporary) folder.
        facts: Its `lingo.json`, with `result`.
        record: The final run that is exported.
        finals: All finished final runs of its study.
    """
    result = facts["result"]
    tables = {
        "Result on the test split": score_table(record, finals),
        "Run": _run(record, finals, result["chosen"]),
        "Versions": record.environment.get("versions", {}),
    }
    marks = [f"Caveat: {mark}." for mark in record.marks]
    text = card_text(facts, tables, marks=marks, results=_evaluations(record))
    (folder / "README.md").write_text(text, encoding="utf-8")


def score_table(record: Record, finals: Sequence[Record]) -> dict[str, str]:
    """Metrics of this seed, and of all seeds with their spread and, from three seeds on, an interval."""
    found = {}
    intervals = _intervals(finals)
    for name, value in (record.test or {}).items():
        if name in HIDDEN:
            continue
        found[f"{name}, this seed"] = "undefined" if math.isnan(value) else f"{value:.4f}"
        values = [final.test[name] for final in finals if final.test and name in final.test]
        if len(values) > 1 and not any(map(math.isnan, values)):
            limits = intervals.get(name)
            inside = f", 95 % interval over test rows and seeds {brackets(*limits, 4)}" if limits else ""
            found[f"{name}, {len(values)} seeds"] = f"{with_spread(values, 4)}{inside}"
    return found


def _intervals(finals: Sequence[Record]) -> dict[str, tuple[float, float]]:
    """Limits of the mean over seeds, as in the leaderboard; none from fewer than three seeds."""
    names = dict.fromkeys(name for final in finals for name in final.test or {} if name not in HIDDEN)
    return {name: limits for name in names if (limits := limits_of(finals, name))}


def _run(record: Record, finals: Sequence[Record], chosen: str) -> dict[str, Any]:
    values = {
        "task": record.task,
        "benchmark": record.benchmark,
        "this adapter": chosen,
        "selected by": f"{record.metric} on the {record.selection} split; the test split was read once, at the end",
        "seeds": [final.seed for final in finals],
        "trained": record.ended.partition("T")[0],
        "configuration": record.config_hash[:12],
        "tokenization": record.facts.get("tokenization"),
        "commit": _commit(record.environment),
        "marks": list(record.marks) or None,
    }
    return {name: value for name, value in values.items() if value}


def _commit(environment: Mapping[str, Any]) -> str | None:
    sha = environment.get("git_sha")
    return f"{sha[:12]}{' with changes' if environment.get('git_dirty') else ''}" if sha else None


def _evaluations(record: Record) -> list[EvalResult]:
    """Scores in the format of the Hugging Face hub; higher is better for all of them."""
    return [
        EvalResult(
            task_type="text-classification",
            dataset_type=record.task,
            dataset_name=record.task,
            dataset_split="test",
            metric_type=name,
            metric_value=round(value, 6),
        )
        for name, value in (record.test or {}).items()
        if name not in HIDDEN | LOWER_IS_BETTER and not math.isnan(value)
    ]


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """NaN is not JSON."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
