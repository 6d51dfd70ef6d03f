"""States of runs, from their folders only."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.core.errors import InputError
from harness.progress.board import Board
from harness.runs.controls import is_control
from harness.runs.front import by_study, final_points
from harness.runs.info import Setting
from harness.runs.layout import RunFolder
from harness.runs.lock import driver_of
from harness.runs.store import counts, load
from lingo.text_files import read_object

State = Literal["running", "complete", "incomplete"]


@dataclass(frozen=True, kw_only=True)
class RunState:
    """The state of a run.

    Attributes:
        folder: Its output folder.
        experiment: Its experiment in MLflow: its name or suite.
        state: `running` while a driver holds the folder, else `complete` or `incomplete`.
        driver: Process that runs it, `process 12 on host since …`; empty without one.
        tasks, backbones, methods: What it compares.
        trials, trials_wanted: Ended trials of the search, and the total.
        finals, finals_wanted: Finished final runs, and the total.
        failed: Failed trials and final runs.
        updated: Time of the last record, ISO 8601, UTC; empty before the first.
    """

    folder: Path
    experiment: str
    state: State
    driver: str
    tasks: Sequence[str]
    backbones: Sequence[str]
    methods: Sequence[str]
    trials: int
    trials_wanted: int
    finals: int
    finals_wanted: int
    failed: int
    updated: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "folder": str(self.folder)}


def state_of(out: Path) -> RunState:
    """The state of a run.

    Raises:
        InputError: If `out` is not an output folder of a benchmark.
    """
    folder = RunFolder(out)
    try:
        setting = Setting.read(out)
        planned = read_object(folder.plan)
        settings: Mapping[str, Any] = planned["settings"]
        keys = [str(study["key"]).split("|") for study in planned["studies"]]
        trials, seeds = int(settings["num_samples"]), list(settings["seeds"])
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"RUN must be the output folder of a benchmark, but {out} has no readable benchmark.json and plan.json."
        ) from None
    held, updated = counts(out)
    finals = sum(n for (stage, status, seed), n in held.items() if _finished(stage, status) and seed in seeds)
    ended = sum(n for (stage, status, _), n in held.items() if stage == "search" and status != "killed")
    driver = driver_of(out)
    wanted = len(seeds) * (_points(out, keys) if len(setting.objectives) > 1 else len(keys))
    return RunState(
        folder=out,
        experiment=setting.experiment,
        state="running" if driver else "complete" if finals >= wanted else "incomplete",
        driver=driver,
        tasks=_distinct(keys, 0),
        backbones=_distinct(keys, 1),
        methods=_distinct(keys, 2),
        trials=ended,
        trials_wanted=max(ended, trials * sum(not is_control(key[1]) for key in keys)),
        finals=finals,
        finals_wanted=wanted,
        failed=sum(n for (_, status, _), n in held.items() if status == "failed"),
        updated=updated,
    )


def _points(out: Path, keys: Sequence[Sequence[str]]) -> int:
    """Points of the fronts of all studies that the final stage trains; one of a control, and of a study without any."""
    held = by_study(load(out))
    return sum(len(final_points(held.get("|".join(key), []))) or 1 for key in keys)


def _finished(stage: str, status: str) -> bool:
    return (stage, status) == ("final", "finished")


def _distinct(keys: Sequence[Sequence[str]], place: int) -> list[str]:
    return list(dict.fromkeys(key[place] for key in keys))


def runs_below(folder: Path, depth: int = 3) -> list[Path]:
    """Output folders of benchmarks in a folder, itself included, sorted by last change.

    Args:
        depth: Maximum depth of subfolders.

    Raises:
        InputError: If there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"FOLDER must be a folder with runs, but {folder} is not a folder.")
    found = list(_runs(folder, depth))
    return sorted(found, key=lambda out: RunFolder(out).benchmark.stat().st_mtime)


def _runs(folder: Path, depth: int) -> Iterator[Path]:
    if RunFolder(folder).benchmark.is_file():
        yield folder
        return  # folders inside belong to it
    if depth <= 0:
        return
    try:
        inside = sorted(one.path for one in os.scandir(folder) if one.is_dir(follow_symlinks=False))
    except PermissionError:
        return
    for path in inside:
        if not Path(path).name.startswith("."):
            yield from _runs(Path(path), depth - 1)


def board_of(out: Path) -> Board | None:
    """The latest progress of a run; `None` if there is none."""
    try:
        news = json.loads(RunFolder(out).progress.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    board = Board()
    board.update(news)
    return board


__all__ = ["RunState", "board_of", "runs_below", "state_of"]
