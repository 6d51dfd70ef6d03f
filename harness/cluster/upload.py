"""Files sent to a cluster: the program, and the folders named by options."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.config.benchmark import SETTINGS, TINY_MODEL, Benchmark
from harness.config.build import build, read_settings
from harness.core.errors import InputError
from harness.core.home import path_of
from harness.core.paths import ROOT
from harness.core.store_address import cluster_problems
from harness.data.find_tasks import find_tasks
from harness.data.reading import parted
from harness.data.sources import folder_names
from harness.runs.environment import COMMIT, git_state

HEAD = "what the cluster's head would run"
"""What the settings sent to it are called in errors."""

PROGRAM = ("run_benchmark.py", "lingo", "harness", "search_spaces", "pyproject.toml")
"""Parts of the checkout that the head needs: no results, data, environments or history."""

INPUTS = "~/lingo/inputs"
"""Folder on the head for the files sent to it."""

WITH_THE_JOB = "inputs"
"""The same in the job's own working directory, on a cluster to which nothing but jobs can be sent. The job puts it into
`INPUTS`: a working directory goes with its job and has another name after each change, and names make identities."""

UNPACK = f"mkdir -p {INPUTS} && cp -R --remove-destination {WITH_THE_JOB}/. {INPUTS}/ && exec "
"""How it does so; files that another job still reads are not overwritten but replaced."""

MOST_WITH_A_JOB = 200_000_000
"""Bytes; Ray itself refuses working directories of more than 500 MiB."""


@dataclass(frozen=True)
class Sent:
    """A local folder or file and its target folder on the head."""

    local: Path
    folder: str


@dataclass(frozen=True)
class Shipment:
    """The files sent to the head, and the settings of the benchmark to be run there."""

    sent: tuple[Sent, ...]
    settings: Mapping[str, Any]

    @property
    def arguments(self) -> tuple[str, ...]:
        """The command line of the head."""
        return ("run_benchmark.py", "run", "--settings", SETTINGS)


def shipment(benchmark: Benchmark, inputs: str, out: str) -> Shipment:
    """Determine the files to be sent for a benchmark.

    Args:
        inputs: Folder on the head for the files named by options.
        out: Output folder there.

    Raises:
        InputError: If a setting contains a password, which others could read there, or would be rejected by the
            head, which runs the same program.
    """
    _refuse_passwords(benchmark)
    there = benchmark.model_copy(update={"cluster": "auto", "out": Path(out)})
    build(read_settings(there.model_dump_json(), HEAD))
    sent: list[Sent] = []
    settings = there.model_dump(mode="json")
    settings["tasks"], settings["data_dir"] = _tasks(benchmark, inputs, sent)
    settings["models"] = [_model(model, inputs, sent) for model in benchmark.models]
    settings["search_spaces"] = [_file(file, inputs, sent) for file in benchmark.search_spaces]
    read_settings(json.dumps(settings), HEAD)
    return Shipment(tuple(dict.fromkeys(sent)), settings)


def _tasks(benchmark: Benchmark, inputs: str, sent: list[Sent]) -> tuple[list[str], str | None]:
    """Tasks by their names or, of one's own, their paths there; and the data folder there."""
    rows = find_tasks(benchmark.tasks)
    named = []
    for row in rows:
        if row.source:
            path, reading = parted(row.source)
            if reading.labels:
                reading = replace(reading, labels=_file(Path(reading.labels), inputs, sent))
            folder = f"{inputs}/{_short(path)}"
            sent.append(Sent(path, f"{folder}/{path.name}" if path.is_dir() else folder))
            named.append(reading.told_of(f"{folder}/{path.name}") + row.variant.text)
        else:
            named.append(row.name)
    if benchmark.data_dir is None:
        return named, None
    data = f"{inputs}/{_short(benchmark.data_dir)}/data"
    for row in rows:
        for name in folder_names(row):
            if (benchmark.data_dir / name).is_dir():
                sent.append(Sent(benchmark.data_dir / name, f"{data}/{name}"))
    return named, data


def _file(file: Path, inputs: str, sent: list[Sent]) -> str:
    folder = f"{inputs}/{_short(file)}"
    sent.append(Sent(file.absolute(), folder))
    return f"{folder}/{file.name}"


def _model(model: str, inputs: str, sent: list[Sent]) -> str:
    """A folder under its own name, which identifies results; other names unchanged."""
    path = path_of(model)
    if model == TINY_MODEL or not path.is_dir():
        return model
    folder = f"{inputs}/{_short(path)}/{path.name}"
    sent.append(Sent(path.resolve(), folder))
    return folder


def _short(path: Path) -> str:
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:10]


def _refuse_passwords(benchmark: Benchmark) -> None:
    if problems := cluster_problems(benchmark.tracking_uri):
        raise InputError(problems)


def link_problems(sent: Sequence[Sent]) -> list[str]:
    """Symbolic links that cannot be sent by what they point to: to nowhere, or to a folder that contains them."""
    return [line for item in sent for line in _links(item.local, {item.local.resolve()})][:20]


def _links(folder: Path, above: set[Path]) -> Iterator[str]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_symlink() and not path.exists():
            yield f"{path}: points to {path.readlink()}, which does not exist: it cannot be sent to the cluster."
        elif path.is_dir() and any(path.resolve() in (one, *one.parents) for one in above):
            yield f"{path}: points to a folder that contains it, and cannot be sent to the cluster: remove the link."
        elif path.is_dir():
            yield from _links(path, above | {path.resolve()})


def size_problems(sent: Sequence[Sent]) -> list[str]:
    """Files too large to be sent with a job to an existing cluster, to which there is no SSH access."""
    sizes = {item.local: _size(item.local) for item in sent}
    if sum(sizes.values()) <= MOST_WITH_A_JOB:
        return []
    largest = max(sizes, key=lambda path: sizes[path])
    return [
        f"What goes with a job must be at most {MOST_WITH_A_JOB / 1e6:.0f} MB, but models and data are "
        f"{sum(sizes.values()) / 1e6:.0f} MB, {largest} most of it: take them from the hub by their names, or run on "
        "the head itself with --cluster auto."
    ]


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    found = os.walk(path, followlinks=True)
    return sum((Path(folder) / name).stat().st_size for folder, _, names in found for name in names)


def add_inputs(folder: Path, sent: Sequence[Sent]) -> None:
    """Add the files sent with a job to its copy of the program, for `UNPACK`."""
    for item in sent:
        there = folder / WITH_THE_JOB / Path(item.folder).relative_to(INPUTS)
        if item.local.is_dir():
            shutil.copytree(item.local, there, dirs_exist_ok=True)
        else:
            there.mkdir(parents=True, exist_ok=True)
            shutil.copy2(item.local, there)


def program_problems(root: Path = ROOT, parts: Sequence[str] = PROGRAM) -> list[str]:
    """Parts of the program to be sent that are missing: an installed package does not contain all of them."""
    if not (lacking := [part for part in parts if not (root / part).exists()]):
        return []
    return [
        f"`--cluster` must be used from the program's own folder, which is sent to the cluster, but {root} lacks "
        f"{', '.join(lacking)}: run it in a checkout, or install that with `pip install -e`."
    ]


def program(folder: Path, parts: Sequence[str] = PROGRAM) -> Path:
    """A copy of only the program, small enough to be sent with every job."""
    skip = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
    for part in parts:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=skip)
        else:
            shutil.copy2(ROOT / part, folder / part)
    sha, dirty = git_state(ROOT)
    (folder / COMMIT).write_text(json.dumps({"sha": sha, "dirty": dirty}) + "\n")
    return folder
