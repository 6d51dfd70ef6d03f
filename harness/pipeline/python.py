"""Python interface: results of a run as tables, and benchmarks started from a program or a notebook."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin

import pyarrow as pa
import pyarrow.parquet as pq

from harness.config.benchmark import DECLARED, Benchmark, flag_of
from harness.config.build import build
from harness.config.learned_points import learned
from harness.core.errors import InputError, nearest
from harness.core.home import path_of
from harness.pipeline.state import RunState, state_of
from harness.runs.layout import RunFolder, file_name
from harness.runs.record import numbers
from harness.runs.store import CONFIG, FACTS, NESTED, column, configuration

if TYPE_CHECKING:
    import pandas as pd


NAMES = ("task", "backbone", "method", "trial", "seed")
"""What tells final runs apart."""


class Run:
    """A benchmark's output folder, read on access: also during the run, and on another machine.

    Every table is a pandas DataFrame, or an Arrow table with `arrow=True`. Configurations are columns
    `config_<setting>`, scores `dev_<metric>` and `test_<metric>`; a missing value is null.

    Args:
        path: The output folder.

    Raises:
        InputError: If `path` is no output folder of a benchmark.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.state()

    def __repr__(self) -> str:
        now = self.state()
        return f"Run({str(self.path)!r}): {now.state}, {now.trials} trials, {now.finals} final runs"

    def state(self) -> RunState:
        """The state of the run."""
        return state_of(self.path)

    def results(self, *, arrow: bool = False) -> Any:
        """The final runs: one row per study and seed, with dev and test scores.

        Args:
            arrow: Whether to return an Arrow table instead of a DataFrame.
        """
        return _as(self._records("final"), arrow)

    def trials(self, *, arrow: bool = False) -> Any:
        """The trials of the search: one row each, with dev scores; arguments as of `results`."""
        return _as(self._records("search"), arrow)

    def curves(self, *, arrow: bool = False) -> Any:
        """The evaluations of all trials and final runs: one row each, with `id`, `study`, `stage`, `trial`, `seed`,
        `epoch`, `step`, `seconds`, `train_loss` and dev scores; arguments as of `results`."""
        keys = ("id", "study", "task", "backbone", "method", "stage", "trial", "seed")
        held = self._table([*keys, "history"])
        rows = [
            {name: row[name] for name in keys}
            | {name: entry.get(name) for name in ("epoch", "step", "seconds", "train_loss")}
            | {f"dev_{name}": value for name, value in entry.get("dev", {}).items()}
            for row in held.to_pylist()
            for entry in numbers(json.loads(row["history"] or "[]"))
        ]
        return _as(_from_rows(rows), arrow)

    def best(self, metric: str | None = None, *, arrow: bool = False) -> Any:
        """The best configuration of every study, as by the command `best`.

        Args:
            metric: A dev metric; `None` for that of each task.
            arrow: As of `results`.
        """
        from harness.pipeline.best import best_of, records_of

        rows = []
        for one in best_of(records_of(self.path), metric):
            values = one.to_dict()
            config, test = values.pop("config"), values.pop("test")
            scores = [score for score in test.values() if score == score]
            mean = sum(scores) / len(scores) if scores else None
            rows.append(values | {"test": mean, "test_seeds": len(test)} | _prefixed(config))
        return _as(_from_rows(rows), arrow)

    def predictions(
        self,
        task: str,
        method: str,
        *,
        seed: int,
        backbone: str | None = None,
        trial: int | None = None,
        arrow: bool = False,
    ) -> Any:
        """The predictions of a final run on the test split, one row per test row, in the same order.

        Args:
            task, method, seed: Of the final run.
            backbone: Of the final run; the only one if `None`.
            trial: Of the point of a front; the only one if `None`.
            arrow: As of `results`.

        Raises:
            InputError: If there is no such final run, or it has no predictions.
        """
        held = self._table(["id", "stage", *NAMES]).to_pylist()
        found = [
            row["id"]
            for row in held
            if (row["stage"], row["task"], row["method"], row["seed"]) == ("final", task, method, seed)
            and backbone in (None, row["backbone"])
            and trial in (None, row["trial"])
        ]
        if len(found) != 1:
            known = sorted(
                {
                    " ".join(str(r[name]) for name in NAMES if r[name] is not None)
                    for r in held
                    if r["stage"] == "final"
                }
            )
            raise InputError(
                f"`predictions` needs one final run, but {task} {backbone or ''} {method} {seed} names {len(found)}."
                f"{nearest(f'{task} {backbone or chr(32)} {method} {seed}', known)}"
            )
        path = RunFolder(self.path).predictions / f"{file_name(found[0]).removesuffix('.json')}.parquet"
        try:
            return _as(pq.read_table(path), arrow)
        except OSError:
            raise InputError(f"{found[0]} has no predictions ({path} does not exist).") from None

    def _table(self, columns: Sequence[str] | None = None) -> pa.Table:
        try:
            return pq.read_table(RunFolder(self.path).table, columns=columns)
        except OSError:
            raise InputError(f"{self.path} has no results.parquet yet: no trial has ended.") from None

    def _records(self, stage: str) -> pa.Table:
        """The records of a stage, with their configurations and main facts as columns."""
        table = self._table().filter(pa.compute.field("stage") == stage)
        if "config" in table.schema.names:  # written by a version up to 0.1
            table = _flat(table)
        table = table.drop_columns([name for name in NESTED if name in table.schema.names])
        for place, field in enumerate(table.schema):
            if field.name.startswith(CONFIG) and pa.types.is_list(field.type):
                texts = [None if v is None else ",".join(map(str, v)) for v in table[field.name].to_pylist()]
                table = table.set_column(place, field.name, pa.array(texts, pa.string()))
        empty = [
            name
            for name in table.schema.names
            if name.startswith(("dev_", "test_", CONFIG)) or name in FACTS
            if table[name].null_count == len(table)
        ]
        return table.drop_columns(empty)


def _flat(table: pa.Table) -> pa.Table:
    """Convert a table with configurations and facts as JSON to one with a column for each setting and main fact."""
    configs = [configuration(numbers(json.loads(text or "{}"))) for text in table["config"].to_pylist()]
    facts = [numbers(json.loads(text or "{}")) for text in table["facts"].to_pylist()]
    more = [
        config | {name: fact[name] for name in FACTS if name in fact}
        for config, fact in zip(configs, facts, strict=True)
    ]
    for name in dict.fromkeys(name for row in more for name in row):
        table = table.append_column(name, column([row.get(name) for row in more])[0])
    return table.drop_columns(["config"])


def benchmark(tasks: Any = None, models: Any = None, methods: Any = None, **options: Any) -> Run:
    """Run a benchmark on this machine and return it; progress is shown in the notebook or terminal.

    Args:
        tasks, models, methods: Names as for `--tasks`, `--models` and `--methods`: a list, or comma-separated text.
        **options: All other options of `run`, like `num_samples=8, seeds=[0, 1], out="results/x"`.

    Returns:
        The run, even if final results are missing: see `Run.state`.

    Raises:
        InputError: For bad input, with every problem, before anything is trained.
    """
    from rich.console import Console

    from harness.core.cluster_address import joins
    from harness.pipeline.run import run_benchmark

    given = {"tasks": tasks, "models": models, "methods": methods, **options}
    asked = build(_settings({name: value for name, value in given.items() if value is not None}))
    if not joins(asked.cluster):
        raise InputError(
            "`cluster` must be a running Ray cluster here; machines are started by the command `run`."
        )
    console = Console(file=sys.stdout, highlight=False)
    from harness.config.plan import plan

    out = plan(asked).out
    run_benchmark(asked, console)
    return Run(out)


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options given by setting or option name, as settings for `build`."""
    names = {flag_of(name).removeprefix("--").replace("-", "_"): name for name in DECLARED}
    unknown = [name for name in given if name not in names and name not in DECLARED]
    if unknown:
        raise InputError(
            [f"`{name}` is not an option of a benchmark.{nearest(name, names)}" for name in unknown]
        )
    read: dict[str, Any] = {}
    for option, value in given.items():
        name = option if option in DECLARED else names[option]
        annotation = Benchmark.model_fields[name].annotation
        several = get_origin(annotation) is tuple or name in ("search_spaces", "configurations")
        if several:
            parts = (
                value.split(",")
                if isinstance(value, str)
                else [value]
                if isinstance(value, Path | int)
                else value
            )
            value = tuple(map(Path, parts)) if name == "search_spaces" else tuple(parts)
            value = tuple(map(str, value)) if name in ("tasks", "models", "methods") else value
        elif name == "learn_from" and isinstance(value, str | Path):
            runs = str(value).split(",")
            value = None if runs == ["none"] else learned([path_of(run) for run in runs])
        elif name in ("out", "data_dir"):
            value = Path(value)
        read[name] = value
    return read


def _prefixed(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: ",".join(map(str, value)) if isinstance(value, list | tuple) else value
        for name, value in configuration(config).items()
    }


def _from_rows(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A table of rows; columns in the order of first appearance."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: column([row.get(name) for row in rows])[0] for name in names})


def _as(table: pa.Table, arrow: bool) -> "pa.Table | pd.DataFrame":
    return table if arrow else table.to_pandas()
