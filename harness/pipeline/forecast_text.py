"""The words and tables of `plan`."""

from collections.abc import Callable, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.config.benchmark import NO_BACKBONE, Benchmark, seconds_of
from harness.core.wording import duration
from harness.pipeline.forecast import Forecast, Work, disk_bytes
from harness.pipeline.forecast_inputs import Data, Model, splits_text
from harness.pipeline.forecast_time import Key, Rate, frozen_here, total_seconds
from harness.pool.resources import WorkerLayout
from lingo.methods import METHODS

Print = Callable[[str], None]
CELLS = {
    (True, True): "ready",
    (False, True): "no data",
    (True, False): "no model",
    (False, False): "neither",
}
"""What is said of a task with a backbone: whether the data is here, whether the model is."""

HERE = ("here", "generated", "made here")


def tell(
    found: Forecast, rates: Mapping[Key, Rate], problems: Sequence[str], shape: WorkerLayout, console: Console
) -> None:
    """Print the forecast.

    Args:
        rates: What was measured here; empty when nothing was.
        problems: Why something could not be measured.
        shape: Worker groups that this machine bears.
    """

    def line(text: str) -> None:
        console.print(escape(text), soft_wrap=True, highlight=False)

    benchmark = found.benchmark
    line(
        f"{found.studies:,} studies: {_some(benchmark.tasks, 'task')}, {_some(found.models, 'backbone')}, "
        f"{_some(benchmark.methods, 'method')}. {found.trials:,} trials of up to {benchmark.epochs} epochs "
        f"(scope {benchmark.scope}, {benchmark.searcher}, {benchmark.scheduler}), then "
        f"{found.studies * len(benchmark.seeds):,} final runs ({len(benchmark.seeds)} seeds per study)."
    )
    _matrix(found, line)
    _backbones(found, line)
    _work(found, dict(rates), line)
    _totals(found, dict(rates), shape, line)
    _missing(found, [*problems, *found.problems], line)


def _some(values: Sequence[object], what: str) -> str:
    return f"{len(values)} {what}{'' if len(values) == 1 else 's'}"


def _table(rows: Sequence[Mapping[str, str]], line: Print, right: Sequence[str] = ()) -> None:
    """Rows with the same keys, which are the header; a row is never folded."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in rows[0]:
        table.add_column(escape(name), justify="right" if name in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row.values()))
    console = Console(width=10_000, color_system=None)
    with console.capture() as made:
        console.print(table)
    line("")
    for text in made.get().splitlines():
        line(text.rstrip())


def _matrix(found: Forecast, line: Print) -> None:
    """Each task with each backbone: what is here."""
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
    rows = [
        {
            "backbone": _short(one),
            "state": one.state,
            "licence": one.licence or "-",
            "where": one.where or "-",
        }
        for one in found.models
    ]
    if rows:
        _table(rows, line)


def _work(found: Forecast, rates: dict[Key, Rate], line: Print) -> None:
    """Steps and FLOPs of each backbone and method, over all tasks of known size."""
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
    _table(rows, line, right=list(rows[0])[2:])
    line("trained: parameters that a trial trains; those of fmft without embeddings and norms.")
    frozen, why = frozen_here(found.benchmark)
    line(f"Number types: frozen weights {frozen} ({why}); trained weights fp32, also with full fine-tuning.")


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
