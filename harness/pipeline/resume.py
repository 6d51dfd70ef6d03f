"""Continuing a run: its settings from its folder, and its results in a fork with other search spaces."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.config.benchmark import SETTINGS, Benchmark
from harness.config.build import restore
from harness.config.search_space import Leaf
from harness.config.studies import PreparedStudy
from harness.core.errors import InputError, typed
from harness.core.store_address import default_uri
from harness.runs.layout import RunFolder
from harness.runs.record import Record
from harness.runs.store import ResultStore, frozen_in, load, precision_in
from lingo.text_files import read_object


def stored_benchmark(run: Path, changes: Mapping[str, Any]) -> Benchmark:
    """The settings of the run in the folder `run`, with `changes` (`None` changes nothing).

    It runs on this machine, unless `changes` names a cluster; then paths are those of the machine that started it on a
    cluster before, not of the head, as in its plan.

    Raises:
        InputError: if the folder contains no run, or the changes are invalid.
    """
    asked = run / "cluster" / SETTINGS
    path = asked if changes.get("cluster") and asked.is_file() else RunFolder(run).plan
    try:
        settings = read_object(path)["settings"]
    except FileNotFoundError:
        raise InputError(
            f"`resume` needs the output folder of a run, but {run} "
            f"{'has no plan.json' if run.is_dir() else 'is not a folder'}."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); repeat the original `run` command with its options and "
            f"`{typed('--out', run)}` "
            "instead."
        ) from None
    settings = {**settings, **_at_home(settings, run.resolve())}
    return restore({**settings, "out": str(run), "cluster": None}, changes)


def _at_home(settings: Mapping[str, Any], home: Path) -> dict[str, Any]:
    """Paths below the run's former folder as paths below its present one; the address of the folder's own store is
    removed."""
    was = settings.get("out")
    if not was or was == str(home):
        return {}

    def here(value: Any) -> Any:
        if isinstance(value, list):
            return [here(item) for item in value]
        inside = isinstance(value, str) and value.startswith(f"{was}/")
        return str(home / value[len(was) + 1 :]) if inside else value

    found = {name: here(settings[name]) for name in ("data_dir", "search_spaces") if name in settings}
    own = settings.get("tracking_uri") == default_uri(was)
    return found | ({"tracking_uri": None} if own else {})


def take_over(
    source: Path, store: ResultStore, studies: Sequence[PreparedStudy], benchmark: Benchmark
) -> list[Record]:
    """Copy ended trials of another folder whose configurations are in the new search spaces.

    They get numbers from 0 on in each study, and the fact `taken_from`. A study that has records is not changed.

    Returns:
        The written records.
    """
    begun = {record.study for record in store.load()}
    found = load(source)
    types = {"frozen": (frozen_in(source), frozen_in(store.out))}
    types["precision"] = (precision_in(source), precision_in(store.out))
    store.hold(**{name: held for name, (held, own) in types.items() if held and not own})
    taken = []
    for study in studies:
        if study.key in begun:
            continue
        fitting = [record for record in found if _fits(record, study, benchmark)]
        fitting.sort(key=lambda record: record.trial or 0)
        for number, record in enumerate(fitting[: benchmark.num_samples]):
            facts = {**record.facts, "taken_from": f"{source.name}: {record.id}"}
            name = f"{study.key}/trial-{number:04d}"
            taken.append(replace(record, id=name, trial=number, facts=facts, benchmark=benchmark.suite))
            store.append(taken[-1])
    return taken


def _fits(record: Record, study: PreparedStudy, benchmark: Benchmark) -> bool:
    """Whether a record is a trial that the new study could have proposed, with the same data and backbone."""
    ended = record.stage == "search" and record.status in ("finished", "stopped")
    same = (record.data_digest, record.backbone_digest) == (study.data_digest, study.backbone_digest)
    if not (ended and same and record.study == study.key):
        return False
    space = study.space
    drawn = {name: record.config[name] for name in space.leaves if name in record.config}
    if len(drawn) < len(space.leaves) or not all(_inside(space.leaves[n], v) for n, v in drawn.items()):
        return False
    if drawn.get("b0", math.inf) < drawn.get("bT", -math.inf):
        return False
    wanted = space.config(drawn, **benchmark.of_trials)
    options = {**record.config}
    try:
        return type(wanted).from_dict(options) == wanted
    except ValueError:
        return False


def _inside(leaf: Leaf, value: Any) -> bool:
    if leaf.type == "choice":
        return (tuple(value) if isinstance(value, list) else value) in leaf.choices
    return math.isclose(leaf.clip(value), value, rel_tol=1e-9, abs_tol=1e-12)
