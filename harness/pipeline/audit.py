"""The shortcut audit of a benchmark's tasks: the rules' dev scores beside the checks of `harness.data.shortcuts`."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.config.benchmark import Benchmark
from harness.config.plan import present
from harness.core.errors import InputError, command
from harness.core.wording import one_line
from harness.data.find_tasks import find_task
from harness.data.hub import task_folder
from harness.data.labelled_files import Rows
from harness.data.prepared import open_prepared, prepare
from harness.data.quickstart import make_data
from harness.data.shortcuts import FAILURES, SCORES, audit_shortcuts, kept_audit, marks_of
from harness.data.sources import read_splits
from harness.data.tasks import TaskRow
from harness.pipeline.forecast_inputs import Data
from lingo.data import Split, TaskData
from lingo.methods import METHODS
from lingo.methods.rules import RULES
from lingo.metrics import score
from lingo.nucleotides import bare_bases
from lingo.single import simple_trial
from lingo.trial import TrialConfig

MOST_PLANNED = 20_000
"""Rows of train and dev, of all tasks together, that `plan` audits: seconds of one core."""


def audits(benchmark: Benchmark) -> Iterator[dict[str, Any]]:
    """For each task the result of `audit_shortcuts`, with `task`, `metric`, and `rules`: dev scores by the rule's
    title.

    Raises:
        InputError: with every problem of a task's files.
    """
    with TemporaryDirectory() as scratch:
        for name in present(benchmark)[0]:
            row = find_task(name)
            begun = time.monotonic()
            folder = _folder(row, benchmark, Path(scratch))
            rules = _rules(row, folder, benchmark, Path(scratch))
            found = audit_shortcuts(row.name, row.kind, read_splits(row, folder), seed=benchmark.seed)
            found["seconds"] = round(time.monotonic() - begun, 2)
            yield {"task": row.name, "metric": row.metric, "rules": rules, **found}


def _folder(row: TaskRow, benchmark: Benchmark, scratch: Path) -> Path:
    if row.generated:
        make_data(scratch / "quickstart")
        return scratch / "quickstart"
    return Path(task_folder(row, benchmark.data_dir))


def _rules(row: TaskRow, folder: Path, benchmark: Benchmark, scratch: Path) -> dict[str, float]:
    """Dev score of each rule, fitted on train."""
    options: dict[str, Any] = {"limit": benchmark.limit, "drop_leaks": benchmark.drop_leaks}
    prepared = prepare(row, folder, scratch / "data", tokenizer=bare_bases(), pad_id=0, **options)
    return rule_scores(open_prepared(prepared.folder), benchmark.methods, row.metric, benchmark.seed)


def rule_scores(data: TaskData, rules: Iterable[str], metric: str, seed: int) -> dict[str, float]:
    """Dev score of each rule, fitted on train, by its title.

    Args:
        data: Train and dev, in the ids of `lingo.nucleotides.bare_bases`.

    Raises:
        InputError: If a rule cannot be fitted on them.
    """
    found = {}
    for method in rules:
        trial = simple_trial(TrialConfig(method=method, seed=seed), data)
        try:
            trial.advance()
        except ValueError as error:
            raise InputError(str(error)) from None
        dev = score(data.kind, trial.predict(data.dev), data.dev.labels)
        found[METHODS[method].title] = round(float(dev[metric]), 4)
    return found


def planned_audits(benchmark: Benchmark, data: Iterable[Data]) -> tuple[list[dict[str, Any]], list[str]]:
    """The audit of a benchmark's tasks as `plan` shows it: what `--out` holds, and of little data a new one.

    A new audit and the rules see train and dev alone. Generated tasks have none. `data` is that of `benchmark.tasks`.

    Returns:
        For each audited task `task`, `metric`, `best_rule` and `score` on dev (`None` where no rule fits), `twins` and
        `near_duplicates` (shares of the dev rows, `None` where not checked) and `caveats`; and lines on the others.
    """
    if not benchmark.audit:
        return [], []
    pairs = zip(benchmark.tasks, data, strict=True)
    here = [(name, one.task, Path(one.where)) for name, one in pairs if one.state == "here"]
    held = None if benchmark.out is None else benchmark.out / "data"
    kept = {row.name: kept_audit(row, folder, held) if held else None for _, row, folder in here}
    splits = {row.name: _without_test(row, folder) for _, row, folder in here if not row.packed}
    rows = sum(len(part.labels) for parts in splits.values() for part in parts.values())
    small = rows <= MOST_PLANNED
    found, lines, left_out = [], list[str](), list[str]()
    for name, row, _ in here:
        audit, rules = kept[row.name], dict[str, float]()
        try:
            if small and row.name in splits:
                audit = audit or audit_shortcuts(row.name, row.kind, splits[row.name])
                rules = rule_scores(_bare(row, splits[row.name]), RULES, row.metric, benchmark.seed)
        except (*FAILURES, InputError) as error:
            lines.append(f"No shortcut audit of {row.name}: {one_line(error)}")
            continue
        if audit is None:
            left_out.append(name)
        else:
            found.append(_planned(row, audit, rules))
    if left_out:
        where = [] if benchmark.data_dir is None else ["--data-dir", benchmark.data_dir]
        lines.append(
            f"No shortcut audit yet of {', '.join(left_out)}; `plan` makes one of up to {MOST_PLANNED:,} rows of train "
            f"and dev. To make it: {command('audit', '--tasks', ','.join(left_out), *where)}"
        )
    return found, lines


def _without_test(row: TaskRow, folder: Path) -> dict[str, Rows]:
    return {split: rows for split, rows in read_splits(row, folder).items() if split != "test"}


def _bare(row: TaskRow, splits: Mapping[str, Rows]) -> TaskData:
    """Train and dev base by base, in memory."""
    units = bare_bases()
    train, dev = (
        Split(*units.tokenize(splits[name].sequences, None, None), splits[name].labels)
        for name in ("train", "dev")
    )
    return TaskData(
        name=row.name,
        kind=row.kind,
        num_labels=row.num_labels,
        metric=row.metric,
        pad_id=0,
        train=train,
        dev=dev,
    )


def _planned(row: TaskRow, audit: Mapping[str, Any], rules: Mapping[str, float]) -> dict[str, Any]:
    dev = {check["check"]: check["value"] for check in audit["checks"] if check["split"] == "dev"}
    scores = {name: value for name, value in rules.items() if math.isfinite(value)}
    if row.metric == "mcc":
        scores |= {f"rule: {what}": round(dev[check], 4) for check, what in SCORES.items() if check in dev}
    best = max(scores, key=scores.__getitem__, default=None)
    return {
        "task": row.name,
        "metric": row.metric,
        "best_rule": best,
        "score": scores.get(best) if best else None,
        "twins": dev.get("construction.shuffle"),
        "near_duplicates": dev.get("overlap.near"),
        "caveats": list(marks_of(row.name, audit)),
    }
