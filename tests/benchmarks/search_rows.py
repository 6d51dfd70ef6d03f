"""What the benchmarks of the service share: rows and their table, a quiet driver, small studies."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from harness.config.search_space import Leaf, SearchSpace
from harness.runs.jobs import Event
from harness.search.study import SearchStudy
from tests.support.studies import search_study

Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One figure of this run. `reach` is the bound that was set, `holds` whether it is kept."""

    name: str
    value: float
    unit: str
    reach: str = ""
    holds: bool | None = None


def tell(rows: Sequence[Row], file: Path | None) -> None:
    """Print the table, and write it as JSON if a file is given."""
    table = Table("figure", "value", "reach", "holds")
    for row in rows:
        holds = "" if row.holds is None else "yes" if row.holds else "NO"
        table.add_row(row.name, f"{row.value:.3f} {row.unit}", row.reach, holds)
    Console().print(table)
    if file:
        file.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def toy_study(key: str, trials: int, *, epochs: int = 1, seconds: float = 0.0, **more: Any) -> SearchStudy:
    """Trials of `epochs` reports, each after so many seconds without any work."""
    space = SearchSpace(method="lora", leaves={"quality": Leaf(type="float", low=0, high=1)})
    return search_study(f"{key}|none|lora", space, trials, epochs=epochs, fixed={"seconds": seconds}, **more)


def quiet(event: Event) -> None:
    """Nothing to tell."""


def resident(pid: int) -> float:
    """Resident set in MiB."""
    return float(psutil.Process(pid).memory_info().rss) / 2**20


def child(title: str) -> int | None:
    """The process of this benchmark's Ray whose title contains `title`, `None` if there is none."""
    for process in psutil.Process(os.getpid()).children(recursive=True):
        try:
            if title in " ".join(process.cmdline()):
                return int(process.pid)
        except psutil.Error:
            continue
    return None
