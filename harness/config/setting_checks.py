"""Checks of settings that need neither data nor a loaded model."""

import os
from collections.abc import Mapping
from pathlib import Path

from harness.config.benchmark import METRICS, NO_BACKBONE, TINY_MODEL, Benchmark
from harness.config.initial_points import fit_problems, from_plain
from harness.config.search_space_file import SpaceFile, method_of, read_space
from harness.config.studies import pairs, short_names
from harness.core.cluster_address import joins
from harness.core.errors import InputError, nearest
from harness.core.notify_target import usable_target
from harness.core.store_address import opened
from harness.data.find_tasks import find_task
from lingo.methods import METHODS
from lingo.metrics import NAMES


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


def _notify_problems(benchmark: Benchmark) -> list[str]:
    """Why this machine cannot send messages; on a cluster, whose head sends them, a run warns instead."""
    if benchmark.notify is None or benchmark.cluster is not None:
        return []
    try:
        usable_target(benchmark.notify, os.environ)
    except ValueError as error:
        return [f"`--notify` {error}"]
    return []


def store_problems(benchmark: Benchmark) -> list[str]:
    """Why the MLflow store cannot be named by the process that writes to it: its secret is not at hand."""
    if benchmark.tracking_uri is None or not joins(benchmark.cluster):
        return []
    try:
        opened(benchmark.tracking_uri)
    except ValueError as error:
        return [f"`--tracking-uri` {error}"]
    return []
