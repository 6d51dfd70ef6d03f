"""From what was asked for to the studies to run, with every problem found before anything is written."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.config.benchmark import METRICS, NO_BACKBONE, TINY_MODEL, Benchmark
from harness.config.initial_points import fit_problems, from_plain, put_first
from harness.config.scopes import merge, search_problems, trials_of
from harness.config.search_space import SearchSpace
from harness.config.search_space_file import SpaceFile, method_of, read_space
from harness.config.values import DEFAULT_TARGETS
from harness.core.atomic_files import write_whole
from harness.core.cluster_address import joins
from harness.core.errors import InputError, nearest
from harness.core.notify_target import usable_target
from harness.core.store_address import opened
from harness.data.find_tasks import find_task
from harness.data.tasks import TaskRow, strands_of
from harness.data.variants import parted_variant
from harness.runs.controls import control_name, is_control
from harness.runs.layout import RunFolder
from harness.runs.record import config_hash
from harness.runs.selection import group_of
from harness.runs.store import frozen_in, precision_in, refuse_foreign
from lingo.methods import METHODS
from lingo.metrics import NAMES
from lingo.text_files import read_object


@dataclass(frozen=True, kw_only=True)
class Study:
    """One study of the benchmark: a task, a backbone, a method, and its search space.

    Attributes:
        backbone: The backbone's name in results: of a folder its last part.
        source: What to load: a known name, a hub id or a folder.
        train_rows: Sequences of the training split that are used.
        total_steps: T_total of each of its trials.
        space: The search space, with `delta_T` restricted to `total_steps`.
        backbone_type: Number type of the backbone's weights: `fp32`, `bf16` or `4bit`, of full fine-tuning also `fp32,
            bf16 autocast`; `None` without a backbone, and until a worker has been asked, see
            `harness.pipeline.number_types`. What is trained is always in fp32.
    """

    task: TaskRow
    backbone: str
    source: str
    method: str
    train_rows: int
    total_steps: int
    space: SearchSpace
    backbone_type: str | None = None

    @property
    def key(self) -> str:
        """`task|backbone|method`."""
        return f"{self.task.name}|{self.backbone}|{self.method}"

    @property
    def is_control(self) -> bool:
        """Whether its backbone has fresh weights."""
        return is_control(self.backbone)

    def trials(self, benchmark: Benchmark) -> int:
        """Trials of its search; a control has the configuration of its pretrained study."""
        if self.is_control:
            return 0
        return trials_of(self.space, searcher=benchmark.searcher, num_samples=benchmark.num_samples)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A checked benchmark.

    Attributes:
        benchmark: What was asked for.
        identity: Everything that says what is measured, the search spaces included.
        studies: In the order task, backbone, method.
        out: Output folder.
        warnings: What the labels of the data tell before anything is trained.
        frozen: Number type of frozen weights, asked for or that of the output folder; `None` until it is known.
        precision: How full fine-tuning computes, likewise.
    """

    benchmark: Benchmark
    identity: Mapping[str, Any]
    studies: tuple[Study, ...]
    out: Path
    warnings: tuple[str, ...] = ()
    frozen: str | None = None
    precision: str | None = None

    def holding(self, frozen: str | None, precision: str | None) -> "Plan":
        """This plan with frozen weights of a number type; full fine-tuning has none, and all of its are fp32."""
        studies = tuple(
            replace(study, backbone_type=type_of(study.method, frozen, precision)) for study in self.studies
        )
        return replace(self, frozen=frozen, precision=precision, studies=studies)

    @property
    def notes(self) -> list[str]:
        """What the data's labels tell, and what was changed from the search-space files, with the studies."""
        where: dict[tuple[str, str], list[str]] = {}
        for study in self.studies:
            if study.space.notes:
                where.setdefault((study.task.name, " ".join(study.space.notes)), []).append(study.method)
        changed = [
            f"{task} {', '.join(dict.fromkeys(methods))}: {note}" for (task, note), methods in where.items()
        ]
        return [*self.warnings, *changed]

    def write(self) -> None:
        """Write `plan.json` into the output folder."""
        write_whole(RunFolder(self.out).plan, json.dumps(self.to_dict(), indent=1) + "\n", mode=0o600)

    def to_dict(self) -> dict[str, Any]:
        """The settings, paths absolute, and the studies: their sizes, and their search spaces as they are used."""
        studies = [{**asdict(study), "task": study.task.name, "key": study.key} for study in self.studies]
        asked = self.benchmark.stored(self.out)
        weights = {"frozen": self.frozen, "trained": "fp32", "precision": self.precision}
        return {"settings": asked, "weights": weights, "studies": studies, "notes": self.notes}


def plan(benchmark: Benchmark) -> Plan:
    """Check everything that can be checked without loading a model and lay out the studies.

    Raises:
        InputError: with every problem of search spaces, data, backbones and the output folder.
    """
    problems: list[str] = []
    files = check_settings(benchmark, problems)
    here, skipped = present(benchmark)
    rows = {
        name: train_rows(find_task(name), benchmark, problems) if name in here else None
        for name in benchmark.tasks
    }
    problems += _store_problems(benchmark)
    studies = build_studies(benchmark, files, rows, problems)
    problems += search_problems_of(studies, benchmark)
    identity = _identity(benchmark, files)
    out = (
        benchmark.out or Path("results") / f"{benchmark.name or benchmark.suite}-{config_hash(identity)[:8]}"
    )
    try:
        refuse_foreign(out, identity)
        benchmark = _with_its_name(benchmark, out)
    except InputError as error:
        problems += error.problems
    if problems:
        raise InputError(dict.fromkeys(problems))
    notes = [line for name in here for line in _label_notes(find_task(name), benchmark)]
    warnings = (*skipped, *notes)
    found = Plan(benchmark=benchmark, identity=identity, studies=tuple(studies), out=out, warnings=warnings)
    asked = None if benchmark.precision == "auto" else benchmark.precision
    return found.holding(benchmark.frozen or frozen_in(out), asked or precision_in(out))


def _with_its_name(benchmark: Benchmark, out: Path) -> Benchmark:
    """The benchmark with the name that its output folder has already.

    Raises:
        InputError: If it is given another one: its runs in MLflow would lie in two experiments.
    """
    if not RunFolder(out).benchmark.exists():
        return benchmark
    try:
        held = read_object(RunFolder(out).plan)["settings"].get("name")
    except (OSError, ValueError, KeyError, AttributeError):
        return benchmark
    if benchmark.name not in (None, held):
        named = f"named {held!r}" if held else f"without a name, in the experiment {benchmark.suite!r}"
        raise InputError(f"`--name` must stay as it is, but {out} is {named}, and got {benchmark.name!r}.")
    return benchmark.model_copy(update={"name": held})


def check_settings(benchmark: Benchmark, problems: list[str]) -> dict[str, SpaceFile]:
    """The search-space file of each method; `problems` gets a line for all that can be told without the data."""
    files = space_files(benchmark, problems)
    problems += _backbone_problems(benchmark.models)
    problems += setting_problems(benchmark, files)
    return files


def setting_problems(benchmark: Benchmark, files: Mapping[str, SpaceFile]) -> list[str]:
    """What speaks against settings, without data and backbones; `plan` tells it, and a run is refused for it."""
    names = {**short_names(benchmark.models), NO_BACKBONE: NO_BACKBONE}
    studies = [
        (find_task(task).name, names[model], method)
        for task in benchmark.tasks
        for model, method in pairs(benchmark.models, files)
    ]
    return [
        *_worker_problems(benchmark),
        *_library_problems(benchmark),
        *_label_problems(benchmark),
        *_notify_problems(benchmark),
        *fit_problems(from_plain(benchmark.configurations), studies),
    ]


def _measured(task: TaskRow, benchmark: Benchmark) -> TaskRow:
    """The task with the metric that is asked for."""
    return task if benchmark.metric == "default" else replace(task, metric=benchmark.metric)


def _label_problems(benchmark: Benchmark) -> list[str]:
    """Rules for rare labels where no task has labels that they are for, and a metric that does not fit a task."""
    tasks = [find_task(name) for name in benchmark.tasks]
    binary = any(
        task.kind == "multilabel" or (task.kind, task.num_labels) == ("classification", 2) for task in tasks
    )
    problems = [
        f"`--metric {benchmark.metric}` is no metric of {task.name} ({task.kind}); it has "
        f"{', '.join(name for name in METRICS if name in NAMES[task.kind])}. Run such tasks by themselves."
        for task in tasks
        if benchmark.metric not in ("default", *NAMES[task.kind])
    ]
    if benchmark.threshold == "dev" and not binary:
        problems.append("`--threshold dev` is for two classes or several labels, which no task has.")
    if benchmark.class_weights == "balanced" and all(task.kind == "regression" for task in tasks):
        problems.append(
            "`--class-weights balanced` is for classes or labels, but every task is a regression."
        )
    return problems


def type_of(method: str, frozen: str | None, precision: str | None) -> str | None:
    """Number type of the backbone's weights in a method's studies, where frozen weights are of type `frozen` and full
    fine-tuning computes in `precision`."""
    row = METHODS[method]
    if not row.needs_backbone or not row.trains_all:
        return frozen if row.needs_backbone else None
    return "fp32, bf16 autocast" if precision == "bf16" else "fp32"


def _identity(benchmark: Benchmark, files: Mapping[str, SpaceFile]) -> dict[str, Any]:
    spaces = {method: asdict(replace(file, source="")) for method, file in files.items()}
    return {**benchmark.identity(), "spaces": spaces}


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Steps of one pass over `rows` sequences; the last batch may be smaller."""
    return -(-rows // batch_size)


def space_files(benchmark: Benchmark, problems: list[str]) -> dict[str, SpaceFile]:
    """The search-space file of each method."""
    files: dict[str, Path | None] = dict.fromkeys(benchmark.methods)
    for path in benchmark.search_spaces:
        if not path.is_file():
            problems.append(f"`--search-space` must be a file, but there is none at {path}.")
            continue
        try:
            method = method_of(path)
        except InputError as error:
            problems += error.problems
            continue
        if method is not None and method in files:
            if files[method] is not None:
                problems.append(f"{path}: is a second search space of {method}, beside {files[method]}.")
            files[method] = path
        elif method in METHODS:
            problems.append(f"{path}: is a search space of {method}, which `--methods` does not name.")
        else:
            near = nearest(str(method), METHODS)
            problems.append(f"{path}: `method` must be a known method, but got {method!r}.{near}")
    read: dict[str, SpaceFile] = {}
    for method, file in files.items():
        try:
            read[method] = read_space(method, file)
        except InputError as error:
            problems += error.problems
    return read


def present(benchmark: Benchmark) -> tuple[list[str], list[str]]:
    """The tasks to run, and with `--skip-missing` a line for each whose data is not here.

    Raises:
        InputError: If none is here.
    """
    if not benchmark.skip_missing:
        return list(benchmark.tasks), []
    from harness.data.sources import missing_data

    why = {name: missing_data(find_task(name), benchmark.data_dir) for name in benchmark.tasks}
    here, skipped = [name for name in why if not why[name]], [line for line in why.values() if line]
    if not here:
        raise InputError(f"`--skip-missing` leaves no task: {skipped[0]}")
    return here, [f"--skip-missing leaves out {line}" for line in skipped]


def train_rows(task: TaskRow, benchmark: Benchmark, problems: list[str]) -> int | None:
    """Sequences of the task's training split; `None` when its files have problems."""
    from harness.data.hub import task_folder
    from harness.data.sources import training_rows

    strands = strands_of(task, benchmark.reverse_complement)
    if task.generated:
        from harness.data.quickstart import ROWS

        rows: int = min(ROWS["train"], benchmark.limit or ROWS["train"])
        return rows * 2 if strands in ("train", "both") else rows
    try:
        folder = task_folder(task, benchmark.data_dir)
        options: dict[str, Any] = {"drop_leaks": benchmark.drop_leaks, "limit": benchmark.limit}
        return training_rows(task, folder, **options, strands=strands)
    except InputError as error:
        problems += [line for line in error.problems if line not in problems]
        return None


def _label_notes(task: TaskRow, benchmark: Benchmark) -> list[str]:
    from harness.data.hub import task_folder
    from harness.data.sources import label_notes

    return [] if task.generated else label_notes(task, task_folder(task, benchmark.data_dir))


def _backbone_problems(models: tuple[str, ...]) -> list[str]:
    given = [model for model in models if model not in (TINY_MODEL, NO_BACKBONE)]
    if not given:
        return []
    from lingo.backbone_folder import inspect_backbone

    return [f"`--models`: {problem}" for model in given for problem in inspect_backbone(model)]


def _worker_problems(benchmark: Benchmark) -> list[str]:
    workers, batch = benchmark.workers_per_trial, benchmark.batch_size
    if workers > batch:
        return [f"`--workers-per-trial` must be at most `--batch-size`, but got {workers} and {batch}."]
    return []


def _library_problems(benchmark: Benchmark) -> list[str]:
    """What methods and settings need and this machine lacks; a cluster's machines are their own matter."""
    found: list[str] = []
    if benchmark.cluster is not None:
        return found
    if foreign := [name for name in benchmark.methods if METHODS[name].engine == "peft"]:
        from lingo.foreign import peft_problem

        if problem := peft_problem():
            found.append(f"`--methods` {', '.join(foreign)} {problem}")
    if benchmark.frozen == "4bit":
        from lingo.quantized import four_bit_problem

        if problem := four_bit_problem():
            found.append(f"`--frozen 4bit` {problem}")
    return found


def _store_problems(benchmark: Benchmark) -> list[str]:
    """Why the MLflow store cannot be named by the process that writes to it: its secret is not at hand."""
    if benchmark.tracking_uri is None or not joins(benchmark.cluster):
        return []
    try:
        opened(benchmark.tracking_uri)
    except ValueError as error:
        return [f"`--tracking-uri` {error}"]
    return []


def _notify_problems(benchmark: Benchmark) -> list[str]:
    """Why this machine cannot send messages; on a cluster, whose head sends them, a run warns instead."""
    if benchmark.notify is None or benchmark.cluster is not None:
        return []
    try:
        usable_target(benchmark.notify, os.environ)
    except ValueError as error:
        return [f"`--notify` {error}"]
    return []


def search_problems_of(studies: Iterable[Study], benchmark: Benchmark) -> list[str]:
    """What speaks against searching these studies with this searcher, scope and number of siblings."""
    found: list[str] = []
    groups: dict[str, list[SearchSpace]] = {}
    for study in studies:
        names = {"task": study.task.name, "backbone": study.backbone, "method": study.method}
        key = group_of(benchmark.scope, family=study.task.family, **names)
        groups.setdefault(key, []).append(study.space)
    for spaces in groups.values():
        try:
            merge(spaces)
        except InputError as error:
            found += error.problems
        found += search_problems(spaces[0], searcher=benchmark.searcher, siblings=benchmark.siblings)
    return list(dict.fromkeys(found))


def short_names(models: tuple[str, ...]) -> dict[str, str]:
    """Folders by their last part, unless two would be the same."""
    short = {model: Path(model).name if Path(model).is_dir() else model for model in models}
    return short if len(set(short.values())) == len(models) else {model: model for model in models}


def pairs(models: tuple[str, ...], methods: Iterable[str]) -> list[tuple[str, str]]:
    """(backbone, method) of each study of a task; methods without a backbone come once, after the others."""
    adapting = [name for name in methods if METHODS[name].needs_backbone]
    pairs = [(model, method) for model in models if model != NO_BACKBONE for method in adapting]
    return pairs + [(NO_BACKBONE, name) for name in methods if not METHODS[name].needs_backbone]


def build_studies(
    benchmark: Benchmark,
    files: Mapping[str, SpaceFile],
    rows: Mapping[str, int | None],
    problems: list[str],
) -> list[Study]:
    """The studies of every task whose training rows are known, in the order task, backbone, method; controls stand
    behind the others of their task.

    Args:
        files: The search-space file of each method.
        rows: Training rows of each task; a task with `None` is left out.
        problems: Gets a line for each study whose space cannot be used at its length.
    """
    names = {**short_names(benchmark.models), NO_BACKBONE: NO_BACKBONE}
    configured = from_plain(benchmark.configurations)
    studies: list[Study] = []
    for task in benchmark.tasks:
        count, begun = rows[task], len(studies)
        for model, method in pairs(benchmark.models, files):
            file = files[method]
            if count is None:
                continue
            total_steps = steps_per_epoch(count, benchmark.batch_size) * benchmark.epochs
            try:
                space = put_first(
                    file.for_task(parted_variant(task)[0]), configured, task=task, backbone=names[model]
                )
                if benchmark.target_modules != DEFAULT_TARGETS:
                    space = space.adapting(benchmark.target_modules)
                if benchmark.head_pooling != "auto":
                    space = space.pooling(benchmark.head_pooling)
                space = space.restrict(total_steps, **benchmark.of_trials)
            except InputError as error:
                size = f"{task}: {count} rows, batch size {benchmark.batch_size}, epochs {benchmark.epochs}"
                problems += [f"{line} ({size})" for line in error.problems]
                continue
            studies.append(
                Study(
                    task=_measured(find_task(task), benchmark),
                    backbone=names[model],
                    source=model,
                    method=method,
                    train_rows=count,
                    total_steps=total_steps,
                    space=space,
                )
            )
        if benchmark.controls != "none":
            adapting = [study for study in studies[begun:] if study.source != NO_BACKBONE]
            studies += [replace(study, backbone=control_name(study.backbone)) for study in adapting]
    return studies


@dataclass(frozen=True, kw_only=True)
class PreparedStudy(Study):
    """A study with its prepared data.

    Attributes:
        data: Folder of the prepared task.
        data_digest, backbone_digest: What its records carry.
        marks: What a reader of its results must know.
        tokens: Tokens of the longest training sequence.
        source: What workers load; of a backbone that is made on this machine its folder.
        facts: What was measured of the data, for the records' `facts`.
    """

    data: Path
    data_digest: str
    backbone_digest: str
    marks: Sequence[str]
    tokens: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cost(self) -> float:
        """Work of one epoch, in a unit that is the same for all studies of one backbone."""
        return float(self.train_rows * self.tokens)
