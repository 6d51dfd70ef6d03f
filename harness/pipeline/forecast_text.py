"""Text and tables of `plan`."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from harness.config.benchmark import NO_BACKBONE, Benchmark
from harness.config.learned_points import LEARNED
from harness.config.plan import front_note
from harness.config.studies import steps_per_epoch
from harness.config.values import seconds_of
from harness.core.columns import Column, fitted
from harness.core.wording import duration, some
from harness.pipeline.forecast import Forecast, Work, disk_bytes
from harness.pipeline.forecast_inputs import LEFT_OUT, Data, Model, splits_text
from harness.pipeline.forecast_time import Key, Rate, frozen_here, precision_here, total_seconds
from harness.pool.resources import WorkerLayout
from harness.runs.evaluations import Grid
from lingo.architectures import UNLIMITED
from lingo.methods import METHODS


class Print:
    """Prints lines without wrapping; `width` is that of the terminal, `None` without one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.width = console.width if console.is_terminal else None

    def __call__(self, text: str) -> None:
        self._console.print(escape(text), soft_wrap=True, highlight=False)


CELLS = {
    (True, True): "ready",
    (False, True): "no data",
    (True, False): "no model",
    (False, False): "neither",
}
"""Cell of a task and a backbone, by whether data and model are available."""

HERE = ("here", "generated", "made here")


def tell(
    found: Forecast, rates: Mapping[Key, Rate], problems: Sequence[str], shape: WorkerLayout, console: Console
) -> None:
    """Print the forecast.

    Args:
        rates: Measured rates; empty without measurement.
        problems: Why something could not be measured.
        shape: Worker groups of this machine.
    """

    line, benchmark = Print(console), found.benchmark
    line(
        f"{some(found.studies, 'study')}: {some(benchmark.tasks, 'task')}, {some(found.models, 'backbone')}, "
        f"{some(benchmark.methods, 'method')}. {some(found.trials, 'trial')} of up to "
        f"{some(benchmark.epochs, 'epoch')} (scope {benchmark.scope}, {benchmark.searcher}, {benchmark.scheduler}), "
        f"then {'at most ' * benchmark.has_front}{some(found.finals, 'final run')} "
        f"({some(benchmark.seeds, 'seed')} per {'chosen point of a front' if benchmark.has_front else 'study'})."
    )
    for note in front_note(benchmark):
        line(note)
    _first_points(found, line)
    _matrix(found, line)
    _backbones(found, line)
    _reading(found, line)
    _work(found, dict(rates), line)
    _totals(found, dict(rates), shape, line)
    _missing(found, [*problems, *found.problems], line)


def tell_audits(audited: Sequence[Mapping[str, Any]], lines: Sequence[str], console: Console) -> None:
    """Print what `harness.pipeline.audit.planned_audits` returns."""
    line = Print(console)
    rows = [
        {
            "task": one["task"],
            "best rule": (one["best_rule"] or "-").removeprefix("rule: "),
            "on dev": "-" if one["score"] is None else f"{one['metric']} {one['score']:.3f}",
            "twins": "-" if one["twins"] is None else f"{one['twins']:.0%}",
            "near duplicates": "-" if one["near_duplicates"] is None else f"{one['near_duplicates']:.0%}",
            "caveats": ", ".join(one["caveats"]) or "-",
        }
        for one in audited
    ]
    if rows:
        _table(rows, line, right=("on dev", "twins", "near duplicates"))
        line(
            "Shortcut audit of train and dev: rules without biology, fitted on train; shares of the dev rows."
        )
    for text in lines:
        line(text)


def summary(
    found: Forecast, rates: Mapping[Key, Rate], problems: Sequence[str], shape: WorkerLayout
) -> dict[str, Any]:
    """The forecast as plain data; arguments as of `tell`. Times are `None` if something could not be measured."""
    trained = [work for work in found.works if METHODS[work.study.method].needs_backbone]
    seconds, unknown = total_seconds(trained, dict(rates))
    known = not unknown and bool(trained)
    pack = max((rate.pack for rate in rates.values()), default=found.benchmark.pack or 1)
    wall = seconds / shape.groups
    price = found.benchmark.price_per_hour
    return {
        "studies": found.studies,
        "trials": found.trials,
        "final_runs": found.finals,
        "steps": sum(work.steps for work in trained),
        "most_steps": sum(work.most_steps for work in trained),
        "flops": sum(work.flops for work in found.works),
        "worker_seconds": seconds if known else None,
        "wall_seconds": wall if known else None,
        "cost": price * wall / 3600 if price and known else None,
        "disk_bytes": disk_bytes(found, shape.groups * pack),
        "tasks": [
            {
                "task": one.task.name,
                "kind": one.task.kind,
                "rows": one.rows,
                "published": one.published,
                "data": one.state,
            }
            for one in found.data
        ],
        "backbones": [
            {"backbone": one.name, "state": one.state, "licence": one.licence, "where": one.where}
            for one in found.models
        ],
        "works": [
            {
                "study": work.study.key,
                "trained_parameters": work.trained,
                "tokens": work.tokens,
                "steps": work.steps,
                "evaluations_per_epoch": work.study.evaluations,
                "flops": work.flops,
            }
            for work in found.works
        ],
        "problems": [*problems, *found.problems],
    }


def _table(rows: Sequence[Mapping[str, str]], line: Print, right: Sequence[str] = (), names: int = 1) -> None:
    """Print rows with the same keys, which are the header; rows are not wrapped.

    Args:
        names: Number of columns, from the left, that name a row.
    """
    ranks = {"where": 3, "licence": 2, "tokens": 5, "trained": 4, "at most": 6, "kind": 2, "classes": 3}
    columns = [
        Column(title=name, right=name in right, name=number < names, rank=ranks.get(name, 0))
        for number, name in enumerate(rows[0])
    ]
    line("")
    for text, _ in fitted(columns, [list(row.values()) for row in rows], line.width):
        line(text)


def _first_points(found: Forecast, line: Print) -> None:
    """What the searches begin with that earlier runs taught, with the backbones and methods."""
    where: dict[str, dict[str, None]] = {}
    for study in (work.study for work in found.works):
        for note in study.space.notes:
            if note.startswith(LEARNED):
                where.setdefault(note, {})[f"{study.backbone} {study.method}"] = None
    for note, names in where.items():
        line(f"{', '.join(names)}: {note}")


def _matrix(found: Forecast, line: Print) -> None:
    """Print which tasks and backbones are available."""
    rows = [
        {
            "task": data.task.name,
            "kind": data.task.kind,
            "classes": str(data.task.num_labels),
            "train rows": _rows(data),
            "data": data.state,
        }
        | {_short(model): CELLS[data.state in HERE, model.state in HERE] for model in found.models}
        for data in found.data
    ]
    _table(rows, line, right=("classes", "train rows"))
    for note in (note for data in found.data for note in data.notes):
        line(note)
    if any(data.published for data in found.data):
        line("~: published number of train rows; ?: unknown until the data is available.")


def _rows(data: Data) -> str:
    if data.rows is None:
        return "?"
    return f"{'~' if data.published else ''}{data.rows:,}"


def _short(model: Model) -> str:
    return model.name.rstrip("/").rsplit("/", 1)[-1]


def _backbones(found: Forecast, line: Print) -> None:
    """Print the size of each backbone, and the memory of a training step of a single trial."""
    rows = [
        {
            "backbone": _short(one),
            "state": one.state,
            "parameters": f"{one.parameters:,}" if one.parameters else "?",
            "context": f"{one.max_length:,}"
            if 0 < one.max_length < UNLIMITED
            else "any"
            if one.max_length
            else "?",
            "GiB": _gib(found, one, full=False),
            "GiB fmft": _gib(found, one, full=True),
            "licence": one.licence or "-",
            "where": one.where or "-",
        }
        for one in found.models
    ]
    if rows:
        _table(rows, line, right=("parameters", "context", "GiB", "GiB fmft"))
        line(
            "GiB: estimated memory of one trial at this batch size and its longest input (adapters, and fmft)."
        )


def _gib(found: Forecast, model: Model, *, full: bool) -> str:
    """Memory of the method that needs the most; `-` without methods of this kind."""
    works = [
        work
        for work in found.works
        if work.study.source == model.name
        and METHODS[work.study.method].needs_backbone
        and METHODS[work.study.method].trains_all == full
    ]
    if not works:
        return "-"
    held = {"fp32": 4.0, "bf16": 2.0, "4bit": 0.5}[frozen_here(found.benchmark)[0]]
    tokens = max(work.tokens for work in works)
    gib = model.gib(tokens=tokens, batch=found.benchmark.batch_size, weight_bytes=held, full=full)
    return f"{gib:.1f}" if gib >= 0.1 else "<0.1" if gib else "?"


def _reading(found: Forecast, line: Print) -> None:
    """Print statistics of tokenised rows for each task and backbone."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for work in found.works:
        if work.lengths is None or work.reading is None:
            continue
        made = work.lengths
        rows[work.study.task.name, f"{work.study.backbone}{' with prompt' * work.prompted}"] = {
            "median": f"{made.median:,}",
            "longest": f"{made.longest:,}",
            "rows cut": f"{made.cut:.0%}",
            "tokens seen": f"{made.seen:.0%}",
            "not read": work.reading.told or "-",
        }
    if rows:
        table = [{"task": task, "backbone": name} | row for (task, name), row in rows.items()]
        _table(table, line, right=("median", "longest", "rows cut", "tokens seen"))
        line("Tokens of an input, from up to 64 rows of train; the run counts all rows.")


def _work(found: Forecast, rates: dict[Key, Rate], line: Print) -> None:
    """Print steps and FLOPs of each backbone and method, over all tasks of known size."""
    groups: dict[tuple[str, str], list[Work]] = {}
    for work in found.works:
        groups.setdefault((work.study.source, work.study.method), []).append(work)
    if not groups:
        return
    rows = []
    for (source, method), works in groups.items():
        seconds, unknown = total_seconds(works, rates)
        flops, trains = sum(work.flops for work in works), source != NO_BACKBONE
        rows.append(
            {
                "backbone": source.rstrip("/").rsplit("/", 1)[-1],
                "method": method,
                "studies": str(len(works)),
                "trained": _spread([work.trained for work in works]) if trains else "-",
                "tokens": _spread([work.tokens for work in works]),
                "steps": f"{sum(work.steps for work in works):,.0f}" if trains else "-",
                "at most": f"{sum(work.most_steps for work in works):,}" if trains else "-",
                "PFLOPs": _peta(flops) if flops else "-",
                "worker hours": "-" if unknown == len(works) else duration(seconds),
            }
        )
    _table(rows, line, right=list(rows[0])[2:], names=2)
    line("trained: parameters that a trial trains; those of fmft without embeddings and norms.")
    _evaluations(found, line)
    frozen, why = frozen_here(found.benchmark)
    line(
        f"Number types: frozen weights {frozen} ({why}); trained weights fp32; full fine-tuning computes in "
        f"{precision_here(found.benchmark)}."
    )


def _evaluations(found: Forecast, line: Print) -> None:
    """Of the tasks whose epochs are divided, how often and after how many steps."""
    divided: dict[int, dict[str, int]] = {}
    for work in found.works:
        parts = work.study.evaluations
        if parts > 1:
            steps = steps_per_epoch(work.study.train_rows, found.benchmark.batch_size)
            divided.setdefault(parts, {})[work.study.task.name] = Grid(steps, parts).most
    for parts, most in divided.items():
        every = _spread(list(most.values()))
        line(f"Evaluated {parts:,} times an epoch, every {every} steps: {', '.join(most)}.")


def _spread(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def _totals(found: Forecast, rates: dict[Key, Rate], shape: WorkerLayout, line: Print) -> None:
    benchmark, works = found.benchmark, found.works
    line("")
    without = [data.task.name for data in found.data if data.rows is None]
    sizes = f"; without {', '.join(without)}, of unknown size" if without else ""
    trained = [work for work in works if work.study.source != NO_BACKBONE]
    line(
        f"Expected: {sum(work.steps for work in trained):,.0f} steps (at most "
        f"{sum(work.most_steps for work in trained):,}), {_peta(sum(work.flops for work in works))} PFLOPs of "
        f"training{sizes}."
    )
    _time(found, rates, shape, line)
    pack = max((rate.pack for rate in rates.values()), default=benchmark.pack or 1)
    disk = disk_bytes(found, shape.groups * pack)
    parts = ", ".join(f"{what} {_size(count)}" for what, count in disk.items())
    line(f"Disk: about {_size(sum(disk.values()))} ({parts}).")


def _time(found: Forecast, rates: dict[Key, Rate], shape: WorkerLayout, line: Print) -> None:
    benchmark = found.benchmark
    trained = [work for work in found.works if METHODS[work.study.method].needs_backbone]
    seconds, unknown = total_seconds(trained, rates)
    if unknown == len(trained):
        line("Time: unknown, since no backbone could be measured on this machine.")
        _cost(benchmark, None, line)
        return
    device = next(iter(rates.values())).device
    types = "/".join(dict.fromkeys(rate.frozen for rate in rates.values()))
    what = "GPU-hours" if device == "cuda" else "hours of one worker"
    wall = seconds / shape.groups
    rest = f", without {unknown:,} studies whose backbone or data is missing" if unknown else ""
    packs = ", ".join(
        f"{name.rsplit('/', 1)[-1]} {rate.pack}" for (name, full), rate in rates.items() if not full
    )
    line(
        f"Time, from a few steps measured on this machine ({device}, backbones in {types}): "
        f"{seconds / 3600:,.2f} {what}, about {duration(wall)} on {shape}{rest}."
    )
    if packs:
        line(f"Trials per worker group (pack size): {packs}.")
    _cost(benchmark, wall if not unknown else None, line)


def _cost(benchmark: Benchmark, wall: float | None, line: Print) -> None:
    price = benchmark.price_per_hour
    limits = []
    if benchmark.max_cost is not None:
        limits.append(benchmark.max_cost)
    if price and benchmark.time_budget:
        limits.append(price * seconds_of(benchmark.time_budget) / 3600)
    if price and wall is not None:
        line(f"Cost: about {price * wall / 3600:,.2f} at {price:g} an hour.")
    if limits:
        line(f"Cost ceiling of the search: {min(limits):,.2f}, plus the final runs.")
    elif price:
        line("Cost ceiling: none; set --max-cost or --time-budget.")


def _peta(flops: float) -> str:
    count = flops / 1e15
    return f"{count:,.0f}" if count >= 100 else f"{count:.3g}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def _missing(found: Forecast, problems: Sequence[str], line: Print) -> None:
    if left_out := [data.task.name for data in found.data if data.state == LEFT_OUT]:
        line(f"Left out by --skip-missing: {', '.join(left_out)}")
    absent = [data for data in found.data if data.state == "missing"]
    models = [model for model in found.models if model.state == "missing"]
    if not (absent or models or problems):
        line("Nothing is missing.")
        return
    line("")
    ways: dict[str, list[str]] = {}
    for data in absent:
        ways.setdefault(data.where.replace(data.task.name, "TASK"), []).append(
            f"{data.task.name} ({splits_text(data.task)})"
        )
    for way, names in ways.items():
        line(f"Missing data ({way}): {', '.join(names)}")
    for model in models:
        line(f"Missing backbone {model.name}{f': {model.where}' if model.where else ''}")
    for problem in problems:
        line(problem)
