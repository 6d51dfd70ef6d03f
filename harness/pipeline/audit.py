"""The shortcut audit of a benchmark's tasks: the rules' dev scores beside the checks of `harness.data.shortcuts`."""

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.config.benchmark import Benchmark
from harness.config.plan import present
from harness.core.errors import InputError
from harness.data.find_tasks import find_task
from harness.data.hub import task_folder
from harness.data.prepared import open_prepared, prepare
from harness.data.quickstart import make_data
from harness.data.shortcuts import audit_shortcuts
from harness.data.sources import read_splits
from harness.data.tasks import TaskRow
from lingo.methods import METHODS
from lingo.metrics import score
from lingo.nucleotides import bare_bases
from lingo.single import simple_trial
from lingo.trial import TrialConfig


def audits(benchmark: Benchmark) -> Iterator[dict[str, Any]]:
    """For each task what `audit_shortcuts` returns, with `task`, `metric`, and `rules`: dev scores by the rule's title.

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
    data, found = open_prepared(prepared.folder), {}
    for method in benchmark.methods:
        trial = simple_trial(TrialConfig(method=method, seed=benchmark.seed), data)
        try:
            trial.advance()
        except ValueError as error:
            raise InputError(str(error)) from None
        dev = score(data.kind, trial.predict(data.dev), data.dev.labels)
        found[METHODS[method].title] = round(float(dev[row.metric]), 4)
    return found
