"""Settings as they come, on a command line, in a file or from a run's folder, made into a checked `Benchmark`."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from harness.config.benchmark import CLUSTER_MODELS, NO_BACKBONE, PRESETS, TINY_MODEL, Benchmark, flag_of
from harness.core.errors import InputError, nearest
from harness.core.home import path_of
from harness.core.store_address import masked
from harness.core.wording import one_line
from harness.data.find_tasks import find_tasks
from harness.data.suites import OUTSIDE, named, suite_tasks
from harness.data.tasks import FORMER, SUITES
from harness.data.variants import IDENTITY, Variant, parted_variant, without_variants
from lingo.methods import DEFAULT_METHODS, GROUPS, METHODS
from lingo.text_files import parse_json


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
    elif suite not in {*SUITES, *OUTSIDE, "custom"}:
        known = (*SUITES, *OUTSIDE)
        problems.append(f"`--suite` must be a known suite, but got {suite!r}.{nearest(suite, known)}")
        suite = "custom"
    elif suite in OUTSIDE:
        given |= _outside(suite, given, problems)
        suite = "custom"
    values = {**PRESETS.get(suite, {}), **given, "suite": suite}
    values["tasks"] = _task_names(suite, given, problems)
    if "methods" in values:
        values["methods"] = tuple(
            dict.fromkeys(one for name in values["methods"] for one in GROUPS.get(name, (name,)))
        )
    problems += _method_problems(values.get("methods", ()))
    if _without_backbone(values):
        values["models"] = (NO_BACKBONE,)
        if values.get("controls", "none") != "none":
            problems.append(
                f"`--controls {values['controls']}` is for methods with a backbone, but `--methods` names none."
            )
    elif not values.get("models"):
        values["models"] = ("-",)
        problems.append(
            "`--models` is needed: name at least one backbone (a known name, a hub id or a folder)."
        )
    problems += address_problems(values)
    values["models"] = tuple(dict.fromkeys(map(_resolved, values["models"])))
    problems += _budget_problems(values)
    if len(set(values.get("objectives", ()))) > 1:
        values.setdefault("scheduler", "none")
    problems += objective_problems(values)
    if values.get("deterministic") and values.get("scheduler") == "median":
        problems.append(
            "`--deterministic` goes with `--scheduler` asha, hyperband or none, but got median, which compares a "
            "trial with whatever others have reported by then."
        )
    try:
        benchmark = Benchmark(**values)
    except ValidationError as error:
        raise InputError(problems + [_line(detail) for detail in error.errors()]) from None
    benchmark = benchmark.model_copy(update={"tasks": _with_variants(benchmark, problems)})
    if problems:
        raise InputError(problems)
    return benchmark


def _data_dir(given: Mapping[str, Any]) -> Path | None:
    return None if given.get("data_dir") is None else Path(given["data_dir"])


def _outside(suite: str, given: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """A suite whose tasks are read as tables of one's own: these, under its name."""
    try:
        tasks = suite_tasks(suite, _data_dir(given), skip_missing=bool(given.get("skip_missing")))
    except InputError as error:
        problems += error.problems
        tasks = ["-"]
    return {"tasks": tuple(tasks), "name": given.get("name", suite)}


def _with_variants(benchmark: Benchmark, problems: list[str]) -> tuple[str, ...]:
    """The names of the tasks with what `--split` and `--shots` make of each; a name that says it itself stays."""
    if benchmark.split != "homology" and benchmark.similarity != IDENTITY:
        problems.append("`--similarity` is for `--split homology`, which is not given.")
    if (benchmark.split, benchmark.shots, benchmark.data_seed != 0) == ("published", ("all",), True):
        problems.append("`--data-seed` is for `--split` and `--shots`, of which none is given.")
    if benchmark.drop_leaks and benchmark.shots != ("all",):
        problems.append("`--drop-leaks` would take drawn rows away; leave it out, or `--shots`.")
    asked = [
        Variant(
            benchmark.split, benchmark.similarity, None if k == "all" else int(k), benchmark.data_seed
        ).text
        for k in benchmark.shots
    ]
    if benchmark.tasks == ("-",):
        return benchmark.tasks
    others = [name for name in benchmark.tasks if (own := parted_variant(name)[1].text) and own not in asked]
    if others and asked != [""]:
        problems.append(
            "`--split` and `--shots` must not be given with a task whose name says something else, but got "
            f"{others[0]}."
        )
    if asked == [""]:
        return benchmark.tasks
    names = [
        name
        for task in benchmark.tasks
        for name in ([task] if parted_variant(task)[1].text else [f"{task}{text}" for text in asked])
    ]
    try:
        return tuple(row.given for row in find_tasks(names))
    except InputError as error:
        problems += error.problems
        return benchmark.tasks


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
    """Settings from JSON or YAML, as options for `build`: a mapping, or a run's plan.json, which has it as `settings`.

    Paths are those of the process that reads them; `~/` stands for its account's home folder.

    Args:
        where: What the text is called in complaints.

    Raises:
        InputError: with every problem.
    """
    try:
        read = _parsed(text)
        read = read.get("settings", read)
        given = {name: _at_home(value) for name, value in read.items() if value is not None}
    except (ValueError, AttributeError, yaml.YAMLError, RecursionError) as error:
        why = "is something else" if isinstance(error, AttributeError) else f"is neither ({one_line(error)})"
        raise InputError(
            f"{where}: must be settings in JSON or YAML, as `settings` in a run's plan.json, but {why}."
        ) from None
    try:  # the three that have no default may be missing here as on the command line
        usual = {"suite": "custom", "tasks": ["-"], "models": ["-"]}
        stored = Benchmark.model_validate_json(json.dumps({**usual, **given}, default=str))
    except ValidationError as error:
        raise InputError([f"{where}: {_line(detail)}" for detail in error.errors()]) from None
    options = {name: getattr(stored, name) for name in given}
    if options.get("suite") == "custom":
        del options["suite"]
    elif "tasks" in options and options.get("suite") in SUITES:
        suite = options["suite"]
        tasks = without_variants(options["tasks"])
        if tasks in (SUITES[suite], SUITES.get(FORMER.get(suite, ""))):
            options["suite"] = suite if tasks == SUITES[suite] else FORMER[suite]
            del options["tasks"]
    return options


def _parsed(text: str) -> Any:
    """JSON, or else YAML, which reads 1e-3 as text."""
    try:
        return parse_json(text)
    except ValueError:
        if text.lstrip().startswith("{"):  # its own complaint is of more use
            raise
        return yaml.safe_load(text)


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
    problems = [*_budget_problems({**settings, **given}), *objective_problems({**settings, **given})]
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
        if names is None or names == ("-",):
            return ("-",)
        if suite == "custom":
            names = [named(name, _data_dir(given)) for name in names]
        return tuple(row.given for row in find_tasks(names))
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


def objective_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """What several objectives do not go with."""
    objectives = values.get("objectives", ())
    if len(set(objectives)) < 2:
        return
    wanted = {
        "scheduler": ("none", "early stopping compares trials by one score"),
        "scope": ("task", "a front belongs to one study"),
        "siblings": (1, "it trains variants of the one best configuration"),
    }
    for name, (must, why) in wanted.items():
        if (got := values.get(name, must)) != must:
            yield f"`--objectives {','.join(objectives)}` needs `{flag_of(name)} {must}`, but got {got}: {why}."


def _line(detail: Any) -> str:
    """One line for one of pydantic's errors."""
    name = str(detail["loc"][0])
    option = f"`{flag_of(name)}`"
    context = detail.get("ctx", {})
    rules = {
        "greater_than_equal": f"must be at least {context.get('ge')}",
        "greater_than": f"must be above {context.get('gt'):g}" if "gt" in context else "",
        "less_than": f"must be below {context.get('lt')}",
        "less_than_equal": f"must be at most {context.get('le')}",
        "too_short": "must name at least one value",
        "literal_error": f"must be {context.get('expected', '').replace(chr(39), '')}",
    }
    if detail["type"] == "extra_forbidden":
        return f"unknown setting `{name}`.{nearest(name, Benchmark.model_fields)}"
    if detail["type"] == "value_error":
        return f"{option} {context['error']}"
    rule = rules.get(detail["type"], f"must be valid ({detail['msg'].lower()})")
    return f"{option} {rule}, but got {masked(repr(detail['input']))}."
