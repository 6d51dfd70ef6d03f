"""Configurations from a file, as `best --format yaml` prints them: what `run --config` tries first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from harness.config.benchmark import TRIAL
from harness.config.search_space import OPTIONS, Leaf, SearchSpace, settings_of
from harness.core.errors import InputError, command, nearest
from lingo.methods import METHODS
from lingo.text_files import read_text
from lingo.trial import TrialConfig

AXES = ("task", "backbone")


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One configuration, and the studies that it is meant for; `None` is any."""

    method: str
    config: Mapping[str, Any]
    task: str | None = None
    backbone: str | None = None

    def fits(self, *, task: str, backbone: str, method: str) -> bool:
        """Whether it is meant for this study."""
        return self.method == method and self.task in (None, task) and self.backbone in (None, backbone)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as a benchmark keeps it."""
        axes = {axis: getattr(self, axis) for axis in AXES if getattr(self, axis) is not None}
        return {**axes, "method": self.method, "config": dict(self.config)}


def read_configurations(path: Path) -> tuple[Configuration, ...]:
    """The configurations of a YAML or JSON file.

    Raises:
        InputError: with every problem of the file.
    """
    try:
        content = yaml.safe_load(read_text(path))
    except OSError as error:
        raise InputError(
            f"`--config` must be a file, but {path} cannot be read ({error.strerror})."
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: must be YAML or JSON ({' '.join(str(error).split())}).") from None
    entries = content.get("configurations") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise InputError(
            f"{path}: must have a list `configurations`, as `{command('best', 'RUN', '--format', 'yaml')}` prints."
        )
    problems: list[str] = []
    read = [_entry(entry, f"{path}: configuration {n}", problems) for n, entry in enumerate(entries, 1)]
    if problems:
        raise InputError(problems)
    return tuple(found for found in read if found is not None)


def from_plain(entries: Sequence[Mapping[str, Any]] | None) -> tuple[Configuration, ...]:
    """Configurations from plain data that were read before."""
    return tuple(Configuration(**entry) for entry in entries or ())


def options_from(configurations: Sequence[Configuration], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that `--config` brings along: its configurations, and epochs, batch size and seed where all
    agree on them and the command line says nothing."""
    found: dict[str, Any] = {"configurations": tuple(one.to_dict() for one in configurations)}
    for name in TRIAL:
        values = {one.config.get(name) for one in configurations}
        if given.get(name) is None and len(values) == 1 and None not in values:
            found[name] = values.pop()
    return found


def put_first(
    space: SearchSpace, configurations: Sequence[Configuration], *, task: str, backbone: str
) -> SearchSpace:
    """The space with every configuration that is meant for its study as a first point.

    Searched settings are widened where they do not reach one; fixed ones take the value of the first.
    """
    fitting = [one for one in configurations if one.fits(task=task, backbone=backbone, method=space.method)]
    for one in reversed(fitting):
        space = _with_first(space, one.config)
    return space


def fit_problems(
    configurations: Sequence[Configuration], studies: Sequence[tuple[str, str, str]]
) -> list[str]:
    """One line when not a single configuration is meant for one of these studies (task, backbone, method)."""
    fitting = any(
        one.fits(task=task, backbone=backbone, method=method)
        for one in configurations
        for task, backbone, method in studies
    )
    if fitting or not configurations or not studies:
        return []
    first = " ".join(
        filter(None, (configurations[0].task, configurations[0].backbone, configurations[0].method))
    )
    return [
        "`--config` must have a configuration for one of the studies, but has none for them; "
        f"its first is for {first}, the first study is {' '.join(studies[0])}."
    ]


def _entry(entry: Any, where: str, problems: list[str]) -> Configuration | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("config"), dict):
        problems.append(f"{where} must have `method` and `config`.")
        return None
    config = entry["config"]
    method = entry.get("method", config.get("method"))
    if not isinstance(method, str) or method not in METHODS:
        problems.append(
            f"{where}: `method` must be a known method, but got {method!r}.{nearest(str(method), METHODS)}"
        )
        return None
    known = {field.name for field in fields(TrialConfig)}
    wrong = [
        f"{where}: unknown setting {name!r}.{nearest(str(name), known)}"
        for name in config
        if name not in known
    ]
    for axis in AXES:
        if not isinstance(entry.get(axis), str | None):
            wrong.append(f"{where}: `{axis}` must be a name, but got {entry[axis]!r}.")
    wrong += [
        f"{where}: `{name}` must be a number, but got {value!r}; YAML reads 1.0e-3 as one, but not 1e-3."
        for name, value in config.items()
        if isinstance(value, str) and isinstance(getattr(TrialConfig, name, None), int | float)
    ]
    if not wrong:
        wrong = [f"{where}: {problem}" for problem in _problems({"seed": 0, **config, "method": method})]
    problems += wrong
    axes = {axis: entry.get(axis) for axis in AXES}
    return None if wrong else Configuration(method=method, config={**config, "method": method}, **axes)


def _problems(config: Mapping[str, Any]) -> list[str]:
    try:
        return TrialConfig.from_dict(config).problems()
    except (TypeError, ValueError) as error:
        return [str(error)]


def _with_first(space: SearchSpace, config: Mapping[str, Any]) -> SearchSpace:
    point = {name: config[name] for name in space.leaves if name in config}
    leaves = {
        name: _reaching(leaf, point[name]) if name in point else leaf for name, leaf in space.leaves.items()
    }
    usable = settings_of(space.method) - set(OPTIONS) - set(leaves)
    fixed = {**space.fixed, **{name: value for name, value in config.items() if name in usable}}
    notes = [
        f"{name} is searched up to and with {point[name]}, as in --config."
        for name, leaf in leaves.items()
        if leaf != space.leaves[name]
    ]
    notes += [
        f"{name} is {value}, as in --config."
        for name, value in fixed.items()
        if name in space.fixed and _plain(space.fixed[name]) != _plain(value)
    ]
    return replace(
        space,
        leaves=leaves,
        fixed=fixed,
        first_points=(point, *space.first_points),
        notes=(*space.notes, *notes),
    )


def _reaching(leaf: Leaf, value: Any) -> Leaf:
    """The leaf with this value in it."""
    if leaf.type == "choice":
        return leaf if value in leaf.choices else replace(leaf, choices=(*leaf.choices, value))
    if not math.isclose(leaf.clip(value), value, rel_tol=1e-12):
        return replace(leaf, low=min(leaf.low, value), high=max(leaf.high, value), step=None)
    return leaf


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
