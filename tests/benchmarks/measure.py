"""Counting, timing and weighing, and the rows that come of it."""

import gc
import math
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# fmt: off
VIEWS = frozenset([
    "alias", "as_strided", "chunk", "detach", "diagonal", "expand", "lift_fresh", "narrow",
    "permute", "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind",
    "unsqueeze", "view", "view_as_real", "_reshape_alias", "_unsafe_view",
])
# fmt: on
"""Operators that make a tensor without touching its numbers."""


@dataclass(frozen=True)
class Row:
    """One line of a benchmark's table; `holds` is None where nothing is to be reached or measured."""

    name: str
    value: float | None
    unit: str
    reach: str = ""
    holds: bool | None = None

    @classmethod
    def at_least(cls, name: str, value: float, unit: str, reach: float) -> "Row":
        """A value that should be `reach` or more."""
        return cls(name, value, unit, f">= {reach:g}", value >= reach)

    @classmethod
    def at_most(cls, name: str, value: float, unit: str, reach: float) -> "Row":
        """A value that should be `reach` or less."""
        return cls(name, value, unit, f"<= {reach:g}", value <= reach)


def table(rows: Iterable[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| name | value | unit | reach | holds |", "| --- | ---: | --- | --- | --- |"]
    for row in rows:
        value = "" if row.value is None else f"{row.value:,.4g}" if row.value < 1000 else f"{row.value:,.0f}"
        holds = {None: "", True: "yes", False: "NO"}[row.holds]
        lines.append(f"| {row.name} | {value} | {row.unit} | {row.reach} | {holds} |")
    return "\n".join(lines)


class Operators(TorchDispatchMode):
    """Counts the operators that reach a kernel, forward and backward, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))

    @classmethod
    def of(cls, work: Callable[[], object], *, before: int = 3) -> Counter[str]:
        """Operators of one call, after a few that are not counted."""
        for _ in range(before):
            work()
        with cls() as mode:
            work()
        return mode.counts


class Traffic(TorchDispatchMode):
    """Counts the bytes that operators read and write, each tensor once for every operator that has it; views, fresh
    memory and what a broadcast repeats are free."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        if self.paused or name in VIEWS or name.startswith(("empty", "new_empty")):
            return result
        given = [
            (
                (kwargs or {}).get(one.name) if i >= len(args) else args[i],
                None if one.is_out else one.alias_info,
            )
            for i, one in enumerate(func._schema.arguments)
        ]
        for value, alias in given:
            both = alias is not None and alias.is_write and name not in ("zero_", "fill_", "copy_")
            self.counts[name] += _bytes(value) * (1 + both)
        if not func._schema.is_mutable:
            self.counts[name] += _bytes(result)
        return result

    @contextmanager
    def resting(self) -> Iterator[None]:
        """What is inside does not count."""
        self.paused = True
        try:
            yield
        finally:
            self.paused = False


def _bytes(value: Any) -> int:
    """Bytes of the tensors in an operator's argument or result."""
    if isinstance(value, list | tuple):
        return sum(map(_bytes, value))
    if not isinstance(value, Tensor):
        return 0
    shape = [size for size, stride in zip(value.shape, value.stride(), strict=True) if stride]
    return math.prod(shape) * value.element_size()


def clock_of(device: str) -> Callable[[], float]:
    """CPU seconds of this process where it has one thread, which busy neighbours disturb less than the time
    on the wall (nothing measured waits for anything but the CPU); else wall seconds, after a GPU's work."""
    if device == "cpu":
        return time.process_time if torch.get_num_threads() == 1 else time.perf_counter

    def wall() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return wall


def side_by_side(
    works: Sequence[Callable[[], object]],
    *,
    repetitions: int,
    calls: Sequence[int],
    clock: Callable[[], float],
) -> list[float]:
    """Median seconds of one call of each work. Each repetition times `calls[i]` of every work in turn."""
    times: list[list[float]] = [[] for _ in works]
    for repetition in range(repetitions + 1):
        for own, work, count in zip(times, works, calls, strict=True):
            start = clock()
            for _ in range(count):
                work()
            if repetition:  # the first one warms up
                own.append((clock() - start) / count)
    return [statistics.median(own) for own in times]


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages behind some tensors."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def live_tensors() -> list[Tensor]:
    """Every tensor that Python holds."""
    gc.collect()
    return [found for found in gc.get_objects() if type(found) in (Tensor, torch.nn.Parameter)]


def say(text: str) -> None:
    """Progress, beside the table."""
    print(text, file=sys.stderr, flush=True)
