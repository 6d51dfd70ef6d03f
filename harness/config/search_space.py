"""Search spaces: what a study may vary, what it fixes, and which configurations it tries first."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from harness.config.benchmark import TRIAL, flag_of
from harness.core.errors import InputError
from lingo.methods import METHODS
from lingo.trial import TrialConfig

OPTIONS = {name: flag_of(name) for name in TRIAL} | {"method": "--methods", "seed": "--seeds"}
"""Trial settings that belong to the command line and not to a search space."""


def settings_of(method: str) -> frozenset[str]:
    """The trial settings that mean something for `method` and may stand in its search space."""
    return METHODS[method].settings


class Suggester(Protocol):
    """The part of an Optuna trial that a search space needs."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One searched setting: a closed range of numbers, or a list of choices.

    Attributes:
        type: `int`, `float` or `choice`.
        low, high: The ends of a range, both included.
        log: Whether the range is searched in the logarithm; needs `low` above 0 and no `step`.
        step: Distance of the values of a range from `low` on.
        choices: The values of a `choice`.
    """

    type: Literal["int", "float", "choice"]
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()

    def suggest(self, name: str, trial: Suggester) -> Any:
        """Draw a value through `trial`."""
        if self.type == "choice":
            return trial.suggest_categorical(name, list(self.choices))
        if self.type == "int":
            step = int(self.step or 1)
            high = int(self.low) + (int(self.high) - int(self.low)) // step * step
            return trial.suggest_int(name, int(self.low), high, step=step, log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def least(self) -> Any:
        """The smallest value."""
        return min(self.choices) if self.type == "choice" else self.low

    def capped(self, limit: float) -> "Leaf":
        """The same leaf without the values above `limit`, which must not be below `least()`."""
        if self.type == "choice":
            return replace(self, choices=tuple(choice for choice in self.choices if choice <= limit))
        return replace(self, high=min(self.high, limit))

    def raised(self, limit: float) -> "Leaf":
        """The same leaf without the values below `limit`; unchanged where it has no others."""
        if self.type == "choice":
            return replace(self, choices=tuple(c for c in self.choices if c >= limit) or self.choices)
        low = self.low
        if low < limit <= self.high:
            low = limit if not self.step else self.low + math.ceil((limit - self.low) / self.step) * self.step
        return replace(self, low=low) if low <= self.high else self

    def clip(self, value: Any) -> Any:
        """The value of this leaf that is nearest to `value`; a choice that is not known becomes the first."""
        if self.type == "choice":
            return value if value in self.choices else self.choices[0]
        value = min(max(value, self.low), self.high)
        if self.step:
            value = self.low + round((value - self.low) / self.step) * self.step
            value = value - self.step if value > self.high else value
        return int(value) if self.type == "int" else float(value)


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The search space of one method for one task.

    Attributes:
        method: A name in `lingo.methods.METHODS`.
        leaves: Searched settings by their name in `TrialConfig`.
        fixed: Settings with one value.
        first_points: Configurations of the leaves to evaluate first, in this order.
        notes: What was changed from the file, for the people who read the results.
        source: File and, for messages, where it came from.
        total_steps: T_total for which the space was restricted; `None` before.
    """

    method: str
    leaves: Mapping[str, Leaf]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    first_points: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    source: str = ""
    total_steps: int | None = None

    def suggest(self, trial: Suggester) -> dict[str, Any]:
        """Draw one configuration of the leaves with `b0` at least `bT`: `b0` reaches down to the smallest `bT`,
        which is drawn last, from what does not exceed `b0`."""
        drawn: dict[str, Any] = {}
        for name in sorted(self.leaves, key=lambda name: (name == "bT", list(self.leaves).index(name))):
            leaf = self.leaves[name]
            if name == "b0":
                leaf = leaf.raised(self._least("bT"))
            b0 = drawn.get("b0", self.fixed.get("b0", TrialConfig.b0)) if name == "bT" else None
            if b0 is not None and leaf.type != "choice":
                leaf = replace(leaf, high=max(leaf.low, min(leaf.high, b0)))
            drawn[name] = leaf.suggest(name, trial)
            if b0 is not None and drawn[name] > b0:  # a choice: Optuna's must be the same in every trial
                drawn[name] = max(leaf.capped(b0).choices)
        return drawn

    def _least(self, name: str) -> Any:
        """The smallest value that a setting can have."""
        leaf = self.leaves.get(name)
        return leaf.least() if leaf else self.fixed.get(name, getattr(TrialConfig, name))

    def config(self, values: Mapping[str, Any], **options: Any) -> TrialConfig:
        """The trial that `values` of the leaves and the command line's `options` (seed, epochs, …) make."""
        return TrialConfig.from_dict({"method": self.method, **options, **self.fixed, **values})

    def adapting(self, targets: Sequence[str]) -> "SearchSpace":
        """The same space with these matrices adapted, where the method adapts any; `notes` says so."""
        note = f"{', '.join(targets)} are adapted, as in --targets."
        return self._fixing("targets", tuple(targets), note)

    def pooling(self, how: str) -> "SearchSpace":
        """The same space with heads that read this, where the method puts one on the backbone; `notes` says so."""
        if METHODS[self.method].engine == "probe":
            return self
        return self._fixing("pooling", how, f"heads read the {how} state, as in --pooling.")

    def _fixing(self, name: str, value: Any, note: str) -> "SearchSpace":
        if name not in settings_of(self.method):
            return self
        return replace(
            self,
            leaves={other: leaf for other, leaf in self.leaves.items() if other != name},
            fixed={**self.fixed, name: value},
            notes=(*self.notes, note),
        )

    def restrict(self, total_steps: int, **options: Any) -> "SearchSpace":
        """The same space with `delta_T` capped to what can fire in `total_steps` (T_total).

        First points outside the ranges are clipped, equal ones dropped, and `notes` says so.

        Raises:
            InputError: when no configuration of the space can allocate, with the numbers to change.
        """
        space, options = replace(self, total_steps=total_steps), {"seed": 0, **options}
        if METHODS[self.method].has_budget:
            space = space._capped(total_steps, options)
        space = space._with_clipped_points()
        problems = [
            f"{self.source}: first point {dict(point)}: {problem}"
            for point in space.first_points
            for problem in space.config(point, **options).problems(total_steps=total_steps)
        ]
        if problems:
            raise InputError(dict.fromkeys(problems))
        return space

    def _capped(self, total_steps: int, options: Mapping[str, Any]) -> "SearchSpace":
        leaf = self.leaves.get("delta_T")
        values: dict[str, Any] = {"delta_T": leaf.least()} if leaf else {}
        for name in ("initial_warmup_ratio", "final_finetune_ratio"):
            if name in self.leaves:
                values[name] = self.leaves[name].clip(1.0)
        trial = replace(self.config(values, **options), b0=1, bT=1)  # their order is checked on reading
        problems = trial.problems(total_steps=total_steps)
        if problems:
            raise InputError(f"{self.source}: {problem}" for problem in problems)
        limit = always_fires(*trial.budget_phase(total_steps))
        capped = leaf.capped(limit) if leaf else None
        if capped is None or capped == leaf:
            return self
        note = f"delta_T is searched up to {limit}, the largest that always fires in {total_steps} steps."
        return replace(self, leaves={**self.leaves, "delta_T": capped}, notes=(*self.notes, note))

    def _with_clipped_points(self) -> "SearchSpace":
        points: list[dict[str, Any]] = []
        notes = list(self.notes)
        for point in self.first_points:
            clipped = {
                name: self.leaves[name].clip(value) for name, value in point.items() if name in self.leaves
            }
            for name, value in clipped.items():
                note = f"{name} {point[name]} of the first points became {value}, the nearest in the space."
                if value != point[name] and note not in notes:
                    notes.append(note)
            if clipped not in points:
                points.append(clipped)
        return replace(self, first_points=tuple(points), notes=tuple(notes))


def always_fires(first: int, last: int) -> int:
    """The largest ΔT such that it and every smaller one has a multiple strictly between `first` and `last`.

    Below `last` lies a multiple above (last - 1)/2 for every ΔT up to last - 1, and one above last - 1 - ΔT.
    """
    return last - 1 if 2 * first <= last - 1 else last - 1 - first


def largest(spaces: Iterable[SearchSpace], labels: Iterable[int]) -> dict[str, int]:
    """`max_rank`, `max_labels` and `outputs` for the trials of these search spaces on tasks of so many outputs, so that
    no pack is built anew for a trial that needs more of any."""
    ranks, outputs = [1], False
    for space in spaces:
        method = METHODS.get(space.method)
        name = method.rank_setting if method else ""
        outputs |= method is not None and method.outputs != "none"
        if not name:
            continue
        ranks += [int(point[name]) for point in space.first_points if name in point]
        leaf = space.leaves.get(name)
        if leaf is None:
            ranks.append(int(space.fixed.get(name, getattr(TrialConfig, name))))
        else:
            ranks.append(int(max(leaf.choices) if leaf.type == "choice" else leaf.high))
    return {"max_rank": max(ranks), "max_labels": max(labels, default=2), "outputs": outputs}
