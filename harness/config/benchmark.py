"""What a person asks for: one frozen, strict `Benchmark`. All defaults of the command line stand here."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from harness.core.errors import InputError, nearest
from harness.core.home import path_of
from harness.core.store_address import kept, masked, place_without_secret
from harness.data.find_tasks import find_tasks
from harness.data.tasks import SUITES, Strands
from lingo.methods import DEFAULT_METHODS, METHODS
from lingo.text_files import parse_json

RULES = 2
"""Version of the rules by which results compare; see CHANGELOG."""

TINY_MODEL = "quickstart-opt"
"""The tiny, randomly initialised OPT that the quickstart makes on this machine."""

NO_BACKBONE = "none"
"""Stands in study keys where a backbone's name would, for methods that need none."""

PRESETS: dict[str, dict[str, Any]] = {
    "quickstart": {
        "models": (TINY_MODEL,),
        "methods": ("lora", "adalora", "ars"),
        "num_samples": 4,
        "epochs": 4,
        "seeds": (0, 1),
        "deterministic": True,
    },
}
"""Defaults of single suites, before those of `Benchmark`."""

CLUSTER_MODELS = ("opt-125m",)
"""Backbone of the paper's tasks on a cluster where none is named."""

MACHINE = {
    "data_dir",
    "search_spaces",
    "max_concurrent",
    "workers_per_trial",
    "pack",
    "max_failures",
    "cluster",
    "storage_path",
    "out",
    "tracking_uri",
}
"""Settings that say where things are and how fast they go; what is in those files is compared elsewhere."""

BUDGETS = {
    "time_budget",
    "max_gpu_hours",
    "max_cost",
    "price_per_hour",
    "study_time_budget",
    "study_max_gpu_hours",
    "study_max_cost",
}
"""Limits of what a run may use: another run may have others."""

AMOUNT = {"num_samples", "seeds"} | BUDGETS
"""Settings that say how much is done of the same thing: more of it is added to what is there."""

LATER = (
    "configurations",
    "drop_leaks",
    "tokenization",
    "reverse_complement",
    "scope",
    "searcher",
    "scheduler",
    "siblings",
    "prompt",
    "frozen",
    "deterministic",
)
"""Settings that came after the first results: left out of a benchmark's identity while they are off."""

OPTION_OF = {"siblings": "--share-prefix", "search_spaces": "--search-space"}
"""Options of the command line that are not named like their setting."""

SETTINGS = "settings.json"
"""File of all settings, beside the program that is sent to a cluster and in the output folder of who sent it."""

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds_of(text: str) -> float:
    """Seconds of a span of time like `45s`, `90m`, `12h`, `1.5d` or `1h30m`.

    Raises:
        ValueError: for anything else, or nothing.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"must be a span of time like 45s, 90m, 12h or 1h30m, but got {text!r}.")
    total = sum(float(number) * UNITS[unit] for number, unit in parts)
    if total <= 0:
        raise ValueError(f"must be above 0, but got {text!r}.")
    return total


def _span(text: str) -> str:
    seconds_of(text)
    return text


def _seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    wrong = [seed for seed in seeds if not 0 <= seed < 2**31]
    if wrong:
        raise ValueError(f"must be at least 0 and below 2147483648, but got {wrong[0]}.")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"must differ from each other, but got {','.join(map(str, seeds))}.")
    return seeds


Positive = Annotated[int, Field(ge=1, lt=2**31)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]
Amount = Annotated[float, Field(gt=0)]
Span = Annotated[str, AfterValidator(_span)]


class Benchmark(BaseModel):
    """One benchmark: every (task x backbone x method) study, its search and its final seeds.

    Attributes:
        suite: Name in `harness.data.tasks.SUITES`, or `custom` for tasks named one by one.
        tasks: Names of tasks, in the order of the leaderboard.
        models: Backbones: known names, hub ids or folders. Baselines need none, and are studied once per task.
        methods: Names in `lingo.methods.METHODS`.
        data_dir: Folder with `<task>/{train,dev,test}.csv` (or `.parquet`); `None` takes the hub's copies.
        num_samples: Trials of each study's search; raised later, only the difference is run.
        epochs: Passes over the training split, in the search and in the final stage.
        seeds: Seeds on which each study's winner is trained again.
        seed: Seed of the search: of its sampler and of its trials.
        limit: Rows of each split to use; `None` for all. A limited benchmark is marked `smoke`.
        tokenization: `bbpe` (the backbone's own tokenizer), `one_hot` or `kmer`, see `lingo.nucleotides`.
        drop_leaks: Whether training rows that dev or test has as well are left out.
        reverse_complement: Where both strands are used; `None` for each task's own, see `harness.data.tasks.Strands`.
        batch_size: Sequences a step, over all workers of a trial.
        max_length: Tokens of an input, prompt included; `None` for whole sequences.
        prompt: Whether sequences stand in the language prefix and suffix; `auto` as each method has it.
        frozen: Type of the frozen weights, `fp32`, `bf16` or `4bit`; `None` chooses once, by the workers' device, see
            `harness.pipeline.number_types`.
        search_spaces: Files that replace the methods' own search spaces.
        configurations: What the studies try first, from `--config`, see `harness.config.initial_points`; or `None`.
        scope: Whether each task has its own configuration, each family of tasks one, or all tasks one.
        searcher: How configurations are proposed: `tpe`, `random` or `grid`.
        scheduler: How trials that fall behind are stopped early: `asha`, `hyperband`, `median` or `none`.
        siblings: Trials of the best configuration so far, which differ only in p, bT and delta_T and share the
            training up to their first rank allocation; 1 for none.
        deterministic: Whether the search repeats, whatever the load: its trials train alone, and proposals and early
            stopping do not depend on which trial reports first (`harness.search.ordered_halving`).
        patience: Evaluations of a final run none of which is better than the best before, after which it stops.
            The best evaluation's weights are tested, by the dev metric of the study, of methods with a budget
            among those from the last allocation on, see `harness.workers.best_epoch`. 0: all epochs are trained, and
            the last evaluation's weights are tested.
        max_failures: How often a trial is tried again after a failure that is not its configuration's.
        time_budget: Wall time after which the search stops, like `90m` or `12h`.
        max_gpu_hours: Hours of GPUs in training after which it stops.
        max_cost: Money, at `price_per_hour`, after which it stops.
        study_time_budget: As `time_budget`, for each study.
        study_max_gpu_hours: As `max_gpu_hours`, for each study.
        study_max_cost: As `max_cost`, for each study.
        price_per_hour: Price of an hour of the machine, or of the whole cluster, in any currency.
        pack: Trials that a worker group trains at once; `None` chooses by a short calibration.
        max_concurrent: Trials at the same time; `None` chooses by the machine.
        workers_per_trial: Data-parallel workers of each trial.
        cluster: Cluster file or address of a running cluster; `None` is this machine.
        storage_path: Folder or bucket (`s3://…`) to which the output folder is copied.
        out: Output folder; `None` makes one below `results/`, named after the suite and what is measured.
        tracking_uri: MLflow tracking address without its secret, see `harness.core.store_address`; `None` keeps it in
            the output folder.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    suite: str
    tasks: Names
    models: Names
    methods: Names = DEFAULT_METHODS
    data_dir: Path | None = None
    num_samples: Positive = 16
    epochs: Positive = 5
    seeds: Annotated[tuple[int, ...], Field(min_length=1), AfterValidator(_seeds)] = (0, 1, 2, 3, 4)
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    limit: Positive | None = None
    tokenization: Literal["bbpe", "one_hot", "kmer"] = "bbpe"
    drop_leaks: bool = False
    reverse_complement: Strands | None = None
    batch_size: Positive = 8
    max_length: Annotated[int, Field(ge=8, lt=2**31)] | None = None
    prompt: Literal["auto", "on", "off"] = "auto"
    frozen: Literal["fp32", "bf16", "4bit"] | None = None
    search_spaces: tuple[Path, ...] = ()
    configurations: tuple[dict[str, Any], ...] | None = None
    scope: Literal["task", "family", "suite"] = "task"
    searcher: Literal["tpe", "random", "grid"] = "tpe"
    scheduler: Literal["asha", "hyperband", "median", "none"] = "asha"
    siblings: Positive = 1
    deterministic: bool = False
    patience: Annotated[int, Field(ge=0, lt=2**31)] = 10
    max_failures: Annotated[int, Field(ge=0, lt=2**31)] = 2
    time_budget: Span | None = None
    max_gpu_hours: Amount | None = None
    max_cost: Amount | None = None
    study_time_budget: Span | None = None
    study_max_gpu_hours: Amount | None = None
    study_max_cost: Amount | None = None
    price_per_hour: Amount | None = None
    pack: Positive | None = None
    max_concurrent: Positive | None = None
    workers_per_trial: Positive = 1
    cluster: Annotated[str, AfterValidator(place_without_secret)] | None = None
    storage_path: Annotated[str, AfterValidator(place_without_secret)] | None = None
    out: Path | None = None
    tracking_uri: Annotated[str, AfterValidator(kept)] | None = None

    @property
    def marks(self) -> list[str]:
        """What a reader of every result must know: `smoke` for a limited benchmark."""
        return ["smoke"] if self.limit is not None else []

    @property
    def stops_early(self) -> int | None:
        """Patience of the final runs; `None` where all epochs are trained and the last evaluation counts."""
        return self.patience or None

    def stored(self, out: Path) -> dict[str, Any]:
        """Every setting as plain data, paths absolute, with this output folder."""
        where: dict[str, Any] = {"out": out.resolve()}
        if self.data_dir is not None:
            where["data_dir"] = self.data_dir.resolve()
        where["search_spaces"] = tuple(path.resolve() for path in self.search_spaces)
        return self.model_copy(update=where).model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """Every setting that says what is measured, as plain data."""
        settings = self.model_dump(mode="json", exclude=MACHINE | AMOUNT)
        settings["patience"] = min(self.patience, self.epochs)  # there are no more evaluations than that
        unused = {name for name in LATER if settings[name] == type(self).model_fields[name].default}
        return {"rules": RULES, **{name: value for name, value in settings.items() if name not in unused}}


def build(options: Mapping[str, Any]) -> Benchmark:
    """The benchmark of the given options (`None`: not given), with suite, names and defaults filled in.

    Raises:
        InputError: with every problem, each naming its option.
    """
    given = {name: value for name, value in options.items() if value is not None}
    problems: list[str] = []
    suite = given["suite"] if "suite" in given else "custom" if "tasks" in given else _usual_suite(given)
    if given.get("cluster") and suite.startswith("paper"):
        given.setdefault("models", CLUSTER_MODELS)
    if "suite" in given and "tasks" in given:
        problems.append("`--suite` and `--tasks` exclude each other: a suite is a list of tasks.")
    elif suite not in {*SUITES, "custom"}:
        problems.append(f"`--suite` must be a known suite, but got {suite!r}.{nearest(suite, SUITES)}")
        suite = "custom"
    values = {**PRESETS.get(suite, {}), **given, "suite": suite}
    values["tasks"] = _task_names(suite, given, problems)
    problems += _method_problems(values.get("methods", ()))
    if _without_backbone(values):
        values["models"] = (NO_BACKBONE,)
    elif not values.get("models"):
        values["models"] = ("-",)
        problems.append(
            "`--models` is needed: name at least one backbone (a known name, a hub id or a folder)."
        )
    problems += address_problems(values)
    values["models"] = tuple(dict.fromkeys(map(_resolved, values["models"])))
    problems += _budget_problems(values)
    if values.get("deterministic") and values.get("scheduler") == "median":
        problems.append(
            "`--deterministic` goes with `--scheduler` asha, hyperband or none, but got median, which compares a "
            "trial with whatever others have reported by then."
        )
    try:
        benchmark = Benchmark(**values)
    except ValidationError as error:
        raise InputError(problems + [_line(detail) for detail in error.errors()]) from None
    if problems:
        raise InputError(problems)
    return benchmark


def address_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with addresses where only folders can be, without what may be a password in them.

    Args:
        values: Settings by name, of `models`, `data_dir` and `out` those that there are.
    """
    for name, kind in (("models", "a name or a folder"), ("data_dir", "a folder"), ("out", "a folder")):
        given = values.get(name) or ()
        if any(re.match(r"[A-Za-z][\w+.-]+:/", str(one)) for one in (given if name == "models" else [given])):
            cure = " A bucket is for `--storage-path`." if name == "out" else ""
            yield f"`--{name.replace('_', '-')}` must be {kind} of this machine, but got an address.{cure}"


def _usual_suite(given: Mapping[str, Any]) -> str:
    """What runs where nothing is named: a minute's work here, the paper's tasks on a cluster.

    DeepSEA is on no hub: it belongs to them where the data folder has it.
    """
    if not given.get("cluster"):
        return "quickstart"
    data = given.get("data_dir")
    return "paper" if data is not None and (Path(data) / "deepsea").is_dir() else "paper-gue"


def read_settings(text: str, where: str) -> dict[str, Any]:
    """Settings from JSON, as options for `build`: an object of them, or a run's plan.json, which has it as `settings`.

    Paths are those of the process that reads them; `~/` stands for its account's home folder.

    Args:
        where: What the text is called in complaints.

    Raises:
        InputError: with every problem.
    """
    try:
        read = parse_json(text)
        read = read.get("settings", read)
        given = {name: _at_home(value) for name, value in read.items() if value is not None}
    except (ValueError, AttributeError) as error:
        why = f"is no JSON ({error})" if isinstance(error, ValueError) else "is something else"
        raise InputError(
            f"{where}: must be a JSON object of settings, as `settings` in a run's plan.json, but {why}."
        ) from None
    try:  # the three that have no default may be missing here as on the command line
        stored = Benchmark.model_validate_json(
            json.dumps({"suite": "custom", "tasks": ["-"], "models": ["-"], **given})
        )
    except ValidationError as error:
        raise InputError([f"{where}: {_line(detail)}" for detail in error.errors()]) from None
    options = {name: getattr(stored, name) for name in given}
    if options.get("suite") == "custom":
        del options["suite"]
    elif "tasks" in options and options["tasks"] == SUITES.get(options.get("suite", "")):
        del options["tasks"]
    return options


def _at_home(value: Any) -> Any:
    if isinstance(value, list):
        return [_at_home(one) for one in value]
    return str(path_of(value)) if isinstance(value, str) and value.startswith("~/") else value


def restore(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> Benchmark:
    """A benchmark from the settings that a run has stored, with changes.

    Args:
        settings: Plain data, as `Benchmark.model_dump(mode="json")` gives it.
        changes: Other values of some of them; `None` leaves one as it is.

    Raises:
        InputError: with every problem.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    problems = _budget_problems({**settings, **given})
    try:
        others = {name: value for name, value in settings.items() if name not in given}
        stored = Benchmark.model_validate_json(json.dumps(others))
        benchmark = Benchmark(**{**dict(stored), **given})
    except ValidationError as error:
        raise InputError(problems + [_line(detail) for detail in error.errors()]) from None
    if problems:
        raise InputError(problems)
    return benchmark


def _resolved(model: str) -> str:
    """A folder's absolute path, so that it means the same in every process; other names as they are."""
    folder = path_of(model)
    return str(folder.resolve()) if model != TINY_MODEL and folder.is_dir() else model


def _task_names(suite: str, given: Mapping[str, Any], problems: list[str]) -> tuple[str, ...]:
    try:
        names = given.get("tasks", SUITES.get(suite))
        return ("-",) if names is None else tuple(row.source or row.name for row in find_tasks(names))
    except InputError as error:
        problems += error.problems
        return ("-",)


def _method_problems(methods: tuple[str, ...]) -> list[str]:
    return [
        f"`--methods` must name known methods, but got {name!r}.{nearest(name, METHODS)}"
        for name in methods
        if name not in METHODS
    ]


def _without_backbone(values: Mapping[str, Any]) -> bool:
    """Whether only baselines are asked for, so that no backbone needs a name."""
    rows = [METHODS[name] for name in values.get("methods") or DEFAULT_METHODS if name in METHODS]
    return bool(rows) and not any(row.needs_backbone for row in rows)


def _budget_problems(values: Mapping[str, Any]) -> list[str]:
    if values.get("price_per_hour") is not None:
        return []
    return [
        f"`--price-per-hour` is needed with `--{name.replace('_', '-')}`: what an hour of the machine, or of the "
        "whole cluster, costs."
        for name in ("max_cost", "study_max_cost")
        if values.get(name) is not None and not str(values.get("cluster")).endswith((".yaml", ".yml"))
    ]


def _line(detail: Any) -> str:
    """One line for one of pydantic's errors."""
    name = str(detail["loc"][0])
    option = f"`{OPTION_OF.get(name, '--' + name.replace('_', '-'))}`"
    context = detail.get("ctx", {})
    rules = {
        "greater_than_equal": f"must be at least {context.get('ge')}",
        "greater_than": f"must be above {context.get('gt'):g}" if "gt" in context else "",
        "less_than": f"must be below {context.get('lt')}",
        "too_short": "must name at least one value",
        "literal_error": f"must be {context.get('expected', '').replace(chr(39), '')}",
    }
    if detail["type"] == "extra_forbidden":
        return f"unknown setting `{name}`.{nearest(name, Benchmark.model_fields)}"
    if detail["type"] == "value_error":
        return f"{option} {context['error']}"
    rule = rules.get(detail["type"], f"must be valid ({detail['msg'].lower()})")
    return f"{option} {rule}, but got {masked(repr(detail['input']))}."
