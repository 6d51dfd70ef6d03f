"""What a person asks for: one frozen, strict `Benchmark`. All defaults of the command line stand here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from harness.errors import InputError, nearest
from harness.tasks import SUITES, Strands, find_tasks
from lingo.methods import METHODS

RULES = 1
"""Version of the rules by which results compare; see CHANGELOG."""

TINY_MODEL = "quickstart-opt"
"""The tiny, randomly initialised OPT that the quickstart makes on this machine."""

PRESETS: dict[str, dict[str, Any]] = {
    "quickstart": {
        "models": (TINY_MODEL,),
        "methods": ("lora", "adalora", "ars"),
        "num_samples": 4,
        "epochs": 4,
        "seeds": (0, 1),
    },
}
"""Defaults of single suites, before those of `Benchmark`."""

MACHINE = {"data_dir", "search_spaces", "max_concurrent", "workers_per_trial", "out", "tracking_uri"}
"""Settings that say where things are and how fast they go; what is in those files is compared elsewhere."""


LATER = ("drop_leaks", "tokenization", "reverse_complement")
"""Settings that came after the first results: left out of a benchmark's identity while they are off."""


def _seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    wrong = [seed for seed in seeds if not 0 <= seed < 2**31]
    if wrong:
        raise ValueError(f"must be at least 0 and below 2147483648, but got {wrong[0]}.")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"must differ from each other, but got {','.join(map(str, seeds))}.")
    return seeds


Positive = Annotated[int, Field(ge=1)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]


class Benchmark(BaseModel):
    """One benchmark: every (task x backbone x method) study, its search and its final seeds.

    Attributes:
        suite: Name in `harness.tasks.SUITES`, or `custom` for tasks named one by one.
        tasks: Names of tasks, in the order of the leaderboard.
        models: Backbones: known names, hub ids or folders.
        methods: Names in `lingo.methods.METHODS`.
        data_dir: Folder with `<task>/{train,dev,test}.csv` (or `.parquet`); `None` takes the hub's copies.
        num_samples: Trials of each study's search.
        epochs: Passes over the training split, in the search and in the final stage.
        seeds: Seeds on which each study's winner is trained again.
        seed: Seed of the search: of its sampler and of its trials.
        limit: Rows of each split to use; `None` for all. A limited benchmark is marked `smoke`.
        tokenization: `bbpe` (the backbone's own tokenizer), `one_hot` or `kmer`, see `lingo.nucleotides`.
        drop_leaks: Whether training rows that dev or test has as well are left out.
        reverse_complement: Where both strands are used; `None` for each task's own way, see `harness.tasks.Strands`.
        batch_size: Sequences a step, over all workers of a trial.
        max_length: Tokens of an input, prompt included; `None` for whole sequences.
        search_spaces: Files that replace the methods' own search spaces.
        max_concurrent: Trials at the same time; `None` chooses by the machine.
        workers_per_trial: Data-parallel workers of each trial.
        out: Output folder; `None` makes one below `results/`, named after the suite and what is measured.
        tracking_uri: MLflow tracking address; `None` keeps it in the output folder.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    suite: str
    tasks: Names
    models: Names
    methods: Names = tuple(METHODS)
    data_dir: Path | None = None
    num_samples: Positive = 16
    epochs: Positive = 5
    seeds: Annotated[tuple[int, ...], Field(min_length=1), AfterValidator(_seeds)] = (0, 1, 2)
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    limit: Positive | None = None
    tokenization: Literal["bbpe", "one_hot", "kmer"] = "bbpe"
    drop_leaks: bool = False
    reverse_complement: Strands | None = None
    batch_size: Positive = 8
    max_length: Annotated[int, Field(ge=8)] | None = None
    search_spaces: tuple[Path, ...] = ()
    max_concurrent: Positive | None = None
    workers_per_trial: Positive = 1
    out: Path | None = None
    tracking_uri: str | None = None

    @property
    def marks(self) -> list[str]:
        """What a reader of every result must know: `smoke` for a limited benchmark."""
        return ["smoke"] if self.limit is not None else []

    def identity(self) -> dict[str, Any]:
        """Every setting that says what is measured, as plain data."""
        settings = self.model_dump(mode="json", exclude=MACHINE)
        unused = {name for name in LATER if settings[name] == type(self).model_fields[name].default}
        return {"rules": RULES, **{name: value for name, value in settings.items() if name not in unused}}


def build(options: Mapping[str, Any]) -> Benchmark:
    """The benchmark of the given options (`None`: not given), with suite, names and defaults filled in.

    Raises:
        InputError: with every problem, each naming its option.
    """
    given = {name: value for name, value in options.items() if value is not None}
    problems: list[str] = []
    suite = given.get("suite") or ("custom" if given.get("tasks") else "quickstart")
    if given.get("suite") and given.get("tasks"):
        problems.append("`--suite` and `--tasks` exclude each other: a suite is a list of tasks.")
    elif suite not in {*SUITES, "custom"}:
        problems.append(f"`--suite` must be a known suite, but got {suite!r}.{nearest(suite, SUITES)}")
        suite = "custom"
    values = {**PRESETS.get(suite, {}), **given, "suite": suite}
    values["tasks"] = _task_names(suite, given, problems)
    problems += _method_problems(values.get("methods", ()))
    if not values.get("models"):
        values["models"] = ("-",)
        problems.append(
            "`--models` is needed: name at least one backbone (a known name, a hub id or a folder)."
        )
    values["models"] = tuple(dict.fromkeys(map(_resolved, values["models"])))
    try:
        benchmark = Benchmark(**values)
    except ValidationError as error:
        raise InputError(problems + [_line(detail) for detail in error.errors()]) from None
    if problems:
        raise InputError(problems)
    return benchmark


def _resolved(model: str) -> str:
    """A folder's absolute path, so that it means the same in every process; other names as they are."""
    folder = Path(model).expanduser()
    return str(folder.resolve()) if model != TINY_MODEL and folder.is_dir() else model


def _task_names(suite: str, given: Mapping[str, Any], problems: list[str]) -> tuple[str, ...]:
    try:
        names = given.get("tasks") or SUITES.get(suite, ())
        return tuple(row.source or row.name for row in find_tasks(names)) or ("-",)
    except InputError as error:
        problems += error.problems
        return ("-",)


def _method_problems(methods: tuple[str, ...]) -> list[str]:
    return [
        f"`--methods` must name known methods, but got {name!r}.{nearest(name, METHODS)}"
        for name in methods
        if name not in METHODS
    ]


def _line(detail: Any) -> str:
    """One line for one of pydantic's errors."""
    name = str(detail["loc"][0])
    option = f"`--{name.replace('_', '-')}`"
    context = detail.get("ctx", {})
    rules = {
        "greater_than_equal": f"must be at least {context.get('ge')}",
        "less_than": f"must be below {context.get('lt')}",
        "too_short": "must name at least one value",
        "literal_error": f"must be {context.get('expected', '').replace(chr(39), '')}",
    }
    if detail["type"] == "extra_forbidden":
        return f"unknown setting `{name}`.{nearest(name, Benchmark.model_fields)}"
    if detail["type"] == "value_error":
        return f"{option} {context['error']}"
    rule = rules.get(detail["type"], f"must be valid ({detail['msg'].lower()})")
    return f"{option} {rule}, but got {detail['input']!r}."
