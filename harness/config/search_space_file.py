"""Reading and checking search-space files. Every problem is found at once and names file and line."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from harness.config.search_space import OPTIONS, Leaf, SearchSpace, settings_of
from harness.core.errors import InputError, nearest
from harness.core.paths import ROOT
from lingo.methods import METHODS
from lingo.text_files import read_text
from lingo.trial import TrialConfig

FOLDER = ROOT / "search_spaces"
TOP_KEYS = {"method", "space", "first_learning_rates", "rows"}
ROW_KEYS = {"tasks", "first_point", "first_learning_rates", "fixed"}
LEAF_KEYS = {
    "int": {"low", "high", "log", "step"},
    "float": {"low", "high", "log", "step"},
    "choice": {"choices"},
}
DEFAULTS = {spec.name: spec.default for spec in fields(TrialConfig) if spec.default is not MISSING}
WHOLE = {name for name, value in DEFAULTS.items() if isinstance(value, int) and not isinstance(value, bool)}
REAL = {name for name, value in DEFAULTS.items() if isinstance(value, float)}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a group of tasks starts from: a row of the paper's table S1.

    Attributes:
        tasks: Patterns of task names (`EMP/*`); the first row with a fitting pattern is used.
        first_point: The configuration to evaluate first.
        first_learning_rates: The learning rates to evaluate it at, in this order; the file's when empty.
        fixed: Settings that are fixed for these tasks.
    """

    tasks: tuple[str, ...]
    first_point: Mapping[str, Any] = field(default_factory=dict)
    first_learning_rates: tuple[float, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SpaceFile:
    """One checked search-space file.

    Attributes:
        leaves, fixed: See `SearchSpace`.
        first_learning_rates: The row's first point is evaluated at each of these, unless it has its own.
        rows: See `Row`.
        source: The file, as messages name it.
    """

    method: str
    leaves: Mapping[str, Leaf]
    fixed: Mapping[str, Any]
    first_learning_rates: tuple[float, ...] = ()
    rows: tuple[Row, ...] = ()
    source: str = ""

    def for_task(self, task: str) -> SearchSpace:
        """The search space of one task, with the row of table S1 that fits it."""
        fitting = (row for row in self.rows if any(fnmatchcase(task, pattern) for pattern in row.tasks))
        row = next(fitting, Row(tasks=()))
        rates = row.first_learning_rates or self.first_learning_rates
        points = [{**row.first_point, "learning_rate": rate} for rate in rates]
        if not points and row.first_point:
            points = [dict(row.first_point)]
        return SearchSpace(
            method=self.method,
            leaves=self.leaves,
            fixed={**row.fixed, **self.fixed},
            first_points=tuple(
                {name: value for name, value in point.items() if name in self.leaves} for point in points
            ),
            source=self.source,
        )


def read_space(method: str, path: Path | None = None) -> SpaceFile:
    """Read and check `path`, or the method's own file.

    Raises:
        InputError: with every problem, each naming file and line.
    """
    path = path or FOLDER / f"{method}.yaml"
    node, data = _parsed(path)
    return _Reader(path, method, dict(_line_numbers(node))).read(data)


def method_of(path: Path) -> str | None:
    """The `method` that a search-space file names, `None` when it names none.

    Raises:
        InputError: when it cannot be read, or is no YAML.
    """
    _, data = _parsed(path)
    method = data.get("method") if isinstance(data, dict) else None
    return method if isinstance(method, str) else None


def _parsed(path: Path) -> tuple[Any, Any]:
    """(nodes with their lines, data) of a YAML file in which no key stands twice."""
    try:
        text = read_text(path)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"{path}: the search space cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: the search space must be UTF-8 text: {error.reason}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise InputError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}.") from error
    places = list(_line_numbers(node))
    keys = [at for at, _ in places]
    twice = [(at, line) for number, (at, line) in enumerate(places) if at in keys[:number]]
    if twice:
        raise InputError(
            f"{path}, line {line}: `{at[-1]}` must occur once, but occurs twice." for at, line in twice
        )
    return node, data


def _line_numbers(node: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], int]]:
    """Pairs of a path of keys and the line on which it stands, from 1."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*at, key.value), key.start_mark.line + 1
            yield from _line_numbers(value, (*at, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*at, index), value.start_mark.line + 1
            yield from _line_numbers(value, (*at, index))


class _Reader:
    """Checks one file's data and gathers its problems."""

    def __init__(self, path: Path, method: str, lines: Mapping[tuple[Any, ...], int]) -> None:
        self.path, self.method, self.lines = path, method, lines
        self.settings = settings_of(method)
        self.problems: list[str] = []

    def read(self, data: Any) -> SpaceFile:
        if not isinstance(data, dict) or not isinstance(data.get("space"), dict):
            raise InputError(f"{self.path}: a search space needs the keys `method` and `space`.")
        self._known_keys(data, TOP_KEYS, ())
        if data.get("method") != self.method:
            self._problem(("method",), f"`method` must be {self.method}, but got {data.get('method')!r}.")
        leaves: dict[str, Leaf] = {}
        fixed: dict[str, Any] = {}
        for name, value in data["space"].items():
            at = ("space", name)
            if self._setting(name, at):
                if isinstance(value, dict):
                    leaf = self._leaf(name, value, at)
                    if leaf:
                        leaves[name] = leaf
                else:
                    fixed[name] = self._value(name, value, at)
        rows = tuple(self._row(row, index) for index, row in enumerate(self._list(data, "rows")))
        rates = self._rates(data, ())
        if not self.problems:
            self._rules(leaves, fixed, rows)
        if self.problems:
            raise InputError(self.problems)
        return SpaceFile(
            method=self.method,
            leaves=leaves,
            fixed=fixed,
            first_learning_rates=rates,
            rows=rows,
            source=str(self.path),
        )

    def _problem(self, at: tuple[Any, ...], text: str) -> None:
        line = self.lines.get(at) or self.lines.get(at[:-1])
        self.problems.append(f"{self.path}{f', line {line}' if line else ''}: {text}")

    def _known_keys(self, data: Mapping[str, Any], known: set[str], at: tuple[Any, ...]) -> None:
        for key in data:
            if key not in known:
                self._problem((*at, key), f"unknown key `{key}`.{nearest(str(key), known)}")

    def _list(self, data: Mapping[str, Any], key: str, at: tuple[Any, ...] = ()) -> list[Any]:
        value = data.get(key) or []
        if not isinstance(value, list):
            self._problem((*at, key), f"`{key}` must be a list, but got {value!r}.")
            return []
        return value

    def _rates(self, data: Mapping[str, Any], at: tuple[Any, ...]) -> tuple[float, ...]:
        key = "first_learning_rates"
        return tuple(
            self._value("learning_rate", rate, (*at, key, index))
            for index, rate in enumerate(self._list(data, key, at))
        )

    def _setting(self, name: Any, at: tuple[Any, ...]) -> bool:
        if name in self.settings:
            return True
        if name in OPTIONS:
            self._problem(
                at, f"`{name}` is given on the command line with {OPTIONS[name]}, not in a search space."
            )
        elif name in DEFAULTS:
            self._problem(at, f"`{name}` has no effect in {self.method}; remove it.")
        else:
            self._problem(at, f"unknown search-space key `{name}`.{nearest(str(name), self.settings)}")
        return False

    def _leaf(self, name: str, data: Mapping[str, Any], at: tuple[Any, ...]) -> Leaf | None:
        before = len(self.problems)
        kind = data.get("type")
        if kind not in LEAF_KEYS:
            self._problem(at, f"`type` of `{name}` must be int, float or choice, but got {kind!r}.")
            return None
        self._known_keys(data, LEAF_KEYS[kind] | {"type"}, at)
        if kind == "choice":
            choices = data.get("choices")
            if not isinstance(choices, list) or not choices:
                self._problem(at, f"`choices` of `{name}` must be a list of values, but got {choices!r}.")
                return None
            values = tuple(self._value(name, choice, at) for choice in choices)
            return Leaf(type="choice", choices=values) if len(self.problems) == before else None
        if (kind == "int") != (name in WHOLE):
            self._problem(
                at, f"`type` of `{name}` must be {'int' if name in WHOLE else 'float'}, but got {kind}."
            )
            return None
        for end in ("low", "high"):
            if end not in data and len(self.problems) == before:
                self._problem(at, f"`{name}` needs `{end}`.")
        if len(self.problems) > before:
            return None
        low, high = (self._value(name, data[end], (*at, end)) for end in ("low", "high"))
        step = data.get("step")
        if len(self.problems) == before:
            self._range(name, low, high, step, data.get("log", False), at)
        if len(self.problems) > before:
            return None
        return Leaf(type=kind, low=low, high=high, log=data.get("log", False), step=step)

    def _range(self, name: str, low: float, high: float, step: Any, log: Any, at: tuple[Any, ...]) -> None:
        if low > high:
            self._problem(at, f"`low` of `{name}` must be at most `high`, but got low={low}, high={high}.")
        if not isinstance(log, bool):
            self._problem((*at, "log"), f"`log` of `{name}` must be true or false, but got {log!r}.")
        elif log and low <= 0:
            self._problem(
                at, f"`low` of `{name}` must be above 0 for a logarithmic range, but got low={low}."
            )
        if step is not None:
            if isinstance(step, bool) or not isinstance(step, int | float) or step <= 0:
                self._problem(
                    (*at, "step"), f"`step` of `{name}` must be a number above 0, but got {step!r}."
                )
            elif name in WHOLE and step != int(step):
                self._problem((*at, "step"), f"`step` of `{name}` must be a whole number, but got {step!r}.")
            if log is True:
                self._problem((*at, "step"), f"`step` of `{name}` cannot be combined with `log`.")

    def _value(self, name: str, value: Any, at: tuple[Any, ...]) -> Any:
        """`value` in the type of the setting; YAML reads 3e-5 as text, so numbers in text are accepted."""
        if name == "targets" and isinstance(value, list):
            value = tuple(value)
        elif name in REAL | WHOLE | {"max_grad_norm"} and isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = float(value)
        if isinstance(value, bool) or (name in REAL | WHOLE and not isinstance(value, int | float)):
            self._problem(at, f"`{name}` must be a number, but got {value!r}.")
            return DEFAULTS[name]
        if name in WHOLE and value != int(value):
            self._problem(at, f"`{name}` must be a whole number, but got {value!r}.")
            return DEFAULTS[name]
        value = int(value) if name in WHOLE else float(value) if name in REAL else value
        for problem in self._trial({name: value}).problems():
            self._problem(at, problem)
        return value

    def _trial(self, values: Mapping[str, Any]) -> TrialConfig:
        """A valid trial with `values`; b0 and bT agree unless both are given."""
        budget = {"b0", "bT"} & set(values)
        same = (
            {name: max(1, *(values[key] for key in budget)) for name in ("b0", "bT")}
            if len(budget) == 1
            else {}
        )
        return TrialConfig.from_dict({"method": self.method, "seed": 0, **same, **values})

    def _row(self, row: Any, index: int) -> Row:
        at = ("rows", index)
        if not isinstance(row, dict) or not isinstance(row.get("tasks"), list):
            self._problem(at, "a row needs the key `tasks`, a list of task names or patterns.")
            return Row(tasks=())
        self._known_keys(row, ROW_KEYS, at)
        parts: dict[str, dict[str, Any]] = {"first_point": {}, "fixed": {}}
        for part, values in parts.items():
            given = row.get(part) or {}
            if not isinstance(given, dict):
                self._problem((*at, part), f"`{part}` must be a mapping of settings, but got {given!r}.")
                continue
            for name, value in given.items():
                if self._setting(name, (*at, part, name)):
                    values[name] = self._value(name, value, (*at, part, name))
        rates = self._rates(row, at)
        return Row(tasks=tuple(map(str, row["tasks"])), first_learning_rates=rates, **parts)

    def _rules(self, leaves: Mapping[str, Leaf], fixed: Mapping[str, Any], rows: tuple[Row, ...]) -> None:
        """Rules between settings: a setting has one place, and b0 can reach bT."""
        for index, row in enumerate(rows):
            for name in sorted(set(row.fixed) & set(leaves)):
                self._problem(
                    ("rows", index, "fixed", name), f"`{name}` is searched and cannot be fixed by a row."
                )
            for config in ({**row.first_point, **row.fixed, **fixed},):
                if METHODS[self.method].has_budget and {"b0", "bT"} <= set(config):
                    self._order(config["b0"], config["bT"], ("rows", index, "first_point", "b0"))
        if METHODS[self.method].has_budget:
            highest = self._end(leaves, fixed, "b0", most=True)
            lowest = self._end(leaves, fixed, "bT", most=False)
            self._order(highest, lowest, ("space", "b0"))

    def _order(self, b0: int, bT: int, at: tuple[Any, ...]) -> None:
        if b0 < bT:
            self._problem(at, f"`b0` must be at least `bT`, but got b0={b0}, bT={bT}.")

    @staticmethod
    def _end(leaves: Mapping[str, Leaf], fixed: Mapping[str, Any], name: str, *, most: bool) -> Any:
        leaf = leaves.get(name)
        if leaf is None:
            return fixed.get(name, DEFAULTS[name])
        if leaf.type == "choice":
            return (max if most else min)(leaf.choices)
        return leaf.clip(leaf.high) if most else leaf.low
