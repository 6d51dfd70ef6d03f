"""Checks of the requirements of a benchmark on this machine, with advice for each failure."""

import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape

from harness.core import home
from harness.core.disk_space import out_place, scratch_place, shortages
from harness.core.errors import InputError, typed
from harness.core.host import free_gibibytes, usable_cores
from harness.core.paths import ROOT
from harness.core.wording import last_line, words
from harness.data import hub, sources
from harness.data.find_tasks import find_tasks
from harness.data.tasks import TASKS, TaskRow
from harness.runs.environment import capture
from lingo.methods import METHODS

HEALTHY, SICK = 0, 1

ENOUGH_GIB = 4.0
"""GiB of a driver and one worker group with a small backbone, see `harness.pool.resources`."""

ENOUGH_DISK_GB = 2.0
RAY_PROGRAM = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); import harness, lingo; sys.path.append(sys.path.pop(0)); "
    "from harness.pool.local_ray import tell_trial; tell_trial()"
)
"""Run in a separate process, whose crash or timeout is a finding; only this program is imported from its folder."""

RAY_S = 400.0
"""Longer than two aborted starts."""

State = Literal["ok", "note", "fail"]
COLOURS: dict[State, str] = {"ok": "green", "note": "yellow", "fail": "bold red"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Result of one check.

    Attributes:
        state: `ok`; `note` for a limit that does not prevent a run; `fail` for a problem that does.
        about: Subject, one word.
        text: Finding.
        advice: What to do; empty for `ok`.
    """

    state: State
    about: str
    text: str
    advice: str = ""


Findings = Iterator[Finding]


def examine(
    console: Console,
    *,
    models: Sequence[str] = (),
    data_dir: Path | None = None,
    tasks: Sequence[str] = (),
    out: Path = Path("results"),
    ray: bool = True,
) -> int:
    """Run all checks and print each finding immediately.

    Args:
        models: Backbones as in `--models`; folders are loaded and verified tensor by tensor.
        data_dir: Data folder; `None` for the hub cache.
        tasks: Required tasks; if empty, all available tasks are checked.
        out: Output folder.
        ray: Whether to start Ray briefly.

    Returns:
        0 if no check fails, 1 otherwise.

    Raises:
        InputError: If `tasks` has an unknown name.
    """
    failed = 0
    for finding in findings(models=models, data_dir=data_dir, tasks=tasks, out=out, ray=ray):
        failed += finding.state == "fail"
        _show(finding, console)
    word = f"{failed} problem{'s' if failed != 1 else ''} found." if failed else "All requirements are met."
    console.print(word)
    return SICK if failed else HEALTHY


def findings(
    *, models: Sequence[str], data_dir: Path | None, tasks: Sequence[str], out: Path, ray: bool
) -> Findings:
    """The result of each check as it is made; arguments as of `examine`."""
    wanted = find_tasks(tasks)
    checks: list[Callable[[], Findings]] = [
        versions,
        devices,
        extras,
        lambda: backbones(models),
        lambda: data(data_dir, wanted),
        lambda: reading(models, wanted, data_dir),
        lambda: folders(out),
    ]
    checks += [ray_starts] if ray else []
    for check in checks:
        yield from check()


def _show(finding: Finding, console: Console) -> None:
    colour = COLOURS[finding.state]
    label = f"[{colour}]{finding.state:4}[/] {finding.about:9}"
    console.print(f"{label} {escape(finding.text)}", soft_wrap=True)
    if finding.advice:
        console.print(f"{'':15}{escape(finding.advice)}", soft_wrap=True)


# --- versions and devices ----------------------------------------------------------------------------------


def versions() -> Findings:
    """Python and all dependencies, compared with the versions that this project requires."""
    from packaging.specifiers import SpecifierSet

    python, asked = ".".join(map(str, sys.version_info[:3])), SpecifierSet(">=3.11,<3.13")
    good = python in asked
    yield Finding(
        state="ok" if good else "fail",
        about="python",
        text=f"{python} in {sys.prefix}",
        advice="" if good else f"use a Python {asked}.",
    )
    found, wrong = [], []
    for name, wanted in _requirements():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{name} (missing, {wanted})")
            continue
        if SpecifierSet(wanted).contains(version, prereleases=True):
            found.append(f"{name} {version}")
        else:
            wrong.append(f"{name} {version} ({wanted})")
    yield Finding(state="ok", about="packages", text=", ".join(found))
    if wrong:
        advice = typed(sys.executable, "-m", "pip", "install", ROOT)
        yield Finding(state="fail", about="packages", text=", ".join(wrong), advice=advice)


def _requirements() -> list[tuple[str, str]]:
    """(name, versions) of each dependency, from the checkout or the installed package."""
    from packaging.requirements import Requirement

    file = ROOT / "pyproject.toml"
    if file.is_file():
        lines = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        lines = [line for line in metadata.requires("lingo-bench") or [] if "extra ==" not in line]
    parsed = [Requirement(line) for line in lines]
    return [(each.name, str(each.specifier)) for each in parsed]


def devices() -> Findings:
    """Processor, memory and accelerators."""
    import torch

    here = capture(ROOT)
    memory, cores = free_gibibytes(), usable_cores()
    enough = memory >= ENOUGH_GIB
    yield Finding(
        state="ok" if enough else "note",
        about="machine",
        text=f"{here.device['processor'] or here.device['machine']}, {cores} cores, {memory:.1f} GiB of memory free",
        advice="" if enough else f"a run needs at least {ENOUGH_GIB:.0f} GiB: close other programs.",
    )
    names = here.device["accelerators"]
    if names:
        yield Finding(state="ok", about="device", text=f"{', '.join(names)} (CUDA {torch.version.cuda})")
    else:
        text, advice = "no CUDA device: training runs on the CPU", "fine for small backbones."
        if shutil.which("nvidia-smi"):
            advice = "nvidia-smi is present: install a torch build that matches the driver."
        yield Finding(state="note", about="device", text=text, advice=advice)


def extras() -> Findings:
    """Optional dependencies of some methods and settings."""
    from lingo.foreign import peft_problem
    from lingo.quantized import four_bit_problem

    foreign = ", ".join(name for name, row in METHODS.items() if row.engine == "peft")
    for what, problem in ((f"methods {foreign}", peft_problem()), ("--frozen 4bit", four_bit_problem())):
        if problem is None:
            yield Finding(state="ok", about="extra", text=f"{what}: available")
        else:
            advice = "only needed for these."
            yield Finding(state="note", about="extra", text=f"{what}: {problem}", advice=advice)


# --- backbones ---------------------------------------------------------------------------------------------


def backbones(models: Sequence[str]) -> Findings:
    """Each backbone: complete files, all tensors verified; for hub names, availability."""
    if not models:
        text = "none given: only the quickstart, which generates its own, can run"
        yield Finding(state="note", about="backbone", text=text, advice="choose some with --models.")
    for model in models:
        yield _backbone(model)


def _backbone(model: str) -> Finding:
    from lingo.architectures import UNLIMITED
    from lingo.backbone_folder import inspect_backbone
    from lingo.backbones import load_backbone
    from lingo.checkpoint import BackboneError
    from lingo.known_models import KNOWN

    problems = inspect_backbone(model)
    if problems:
        advice = "download it again, or choose another folder in the hub's layout."
        return Finding(state="fail", about="backbone", text=" ".join(problems), advice=advice)
    hub_id = KNOWN[model].hub_id if model in KNOWN else model
    if not home.path_of(model).is_dir() and not _kept(hub_id):
        return _at_the_hub(model, hub_id)
    try:
        loaded = load_backbone(model)
    except BackboneError as error:
        advice = "the checkpoint does not match its config.json: download it again."
        return Finding(state="fail", about="backbone", text=" ".join(error.problems), advice=advice)
    count = sum(parameter.numel() for parameter in loaded.model.parameters())
    length = f"up to {loaded.max_length:,} tokens" if loaded.max_length < UNLIMITED else "no limit of tokens"
    text = f"{model}: {count:,} parameters, all tensors verified; {length}"
    return Finding(state="ok", about="backbone", text=text + ("" if loaded.trained else "; untrained"))


def _kept(hub_id: str) -> bool:
    """Whether the hub's cache on this machine has the model."""
    from huggingface_hub import try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(hub_id, "config.json"), str)
    except ValueError:  # not a hub id
        return False


def _at_the_hub(model: str, hub_id: str) -> Finding:
    from huggingface_hub import HfApi, constants

    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        HfApi().model_info(hub_id, timeout=hub.TIMEOUT_S)
    except Exception as error:  # the client raises many types, all with the same meaning here
        return Finding(
            state="fail",
            about="backbone",
            text=f"{model}: {hub_id} not found: neither on this machine nor on the hub ({words(error, 120)})",
            advice="copy its folder from a machine with network access, and pass the folder to --models.",
        )
    text = f"{model}: {hub_id} is on the hub and is downloaded at first use"
    return Finding(state="ok", about="backbone", text=text)


# --- data --------------------------------------------------------------------------------------------------


def data(data_dir: Path | None, wanted: Sequence[TaskRow]) -> Findings:
    """Every required task, or every available one: files, letters, labels, row counts."""
    rows = wanted or [row for row in TASKS.values() if not row.generated]
    missing: list[str] = []
    for row in rows:
        finding = _task(row, data_dir, bool(wanted), missing)
        if finding is not None:
            yield finding
    if missing and not wanted:
        where = f"in {data_dir}" if data_dir is not None else "in the hub cache (--data-dir not given)"
        yield Finding(
            state="fail" if len(missing) == len(rows) and data_dir is not None else "note",
            about="data",
            text=f"{len(rows) - len(missing)} of {len(rows)} tasks are {where}",
            advice="expected FOLDER/TASK/train.csv, dev.csv and test.csv (or .parquet), TASK being one of "
            + ", ".join(missing),
        )


def _task(row: TaskRow, data_dir: Path | None, wanted: bool, missing: list[str]) -> Finding | None:
    """`None`, and the name in `missing`, for an absent task that was not requested."""
    if row.generated:
        return Finding(state="ok", about="data", text=f"{row.name} is generated on this machine")
    folder = data_dir if data_dir is not None else hub.kept(row)
    there = folder is not None and any((folder / name).is_dir() for name in sources.folder_names(row))
    if not there and not wanted:
        missing.append(row.name)
        return None
    try:
        folder = folder if folder is not None else hub.task_folder(row, None)
        problems = sources.check_task(row, folder)
    except InputError as error:
        problems = error.problems
    if problems:
        advice = "correct or replace these files, or choose other tasks."
        return Finding(state="fail", about="data", text="; ".join(problems), advice=advice)
    return Finding(state="ok", about="data", text=f"{row.name} in {folder}")


def reading(models: Sequence[str], wanted: Sequence[TaskRow], data_dir: Path | None) -> Findings:
    """What becomes of each required task with each backbone: tokens, cut rows, memory, time."""
    from harness.doctor.readings import readings

    for told in readings(models, wanted, data_dir):
        advice = "the rest of a row is lost, or not read: choose --max-length, --long or another backbone."
        yield Finding(
            state="note" if told.noticed else "ok",
            about="reading",
            text=told.text,
            advice=advice if told.noticed else "",
        )


# --- folders and Ray ---------------------------------------------------------------------------------------


def folders(out: Path) -> Findings:
    """Folders that a run writes to, and their free space."""
    from huggingface_hub import constants

    if line := home.provide() or home.trouble():
        advice = "optional: set HOME to a writable folder; a run does not need it."
        yield Finding(state="note", about="folder", text=f"home: {line}", advice=advice)
    try:
        scratch = Path(home.temporary_folders()[0])
    except OSError as error:
        yield Finding(
            state="fail", about="folder", text=f"scratch: {error}", advice="required for every run."
        )
        return
    for name, folder, option in (
        ("results", out, "--out"),
        ("scratch", scratch, "TMPDIR"),
        ("hub cache", Path(constants.HF_HUB_CACHE), "HF_HOME"),
    ):
        yield _folder(name, folder, option)
    for line in shortages([out_place(out), scratch_place(scratch)]):
        yield Finding(
            state="fail", about="folder", text=line.partition("; ")[0], advice=line.partition("; ")[2]
        )


def _folder(name: str, folder: Path, option: str) -> Finding:
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        text = f"{name}: {folder} is not writable ({error.strerror})"
        return Finding(state="fail", about="folder", text=text, advice=f"choose another with {option}.")
    free = shutil.disk_usage(there).free / 1e9
    enough = free >= ENOUGH_DISK_GB
    return Finding(
        state="ok" if enough else "note",
        about="folder",
        text=f"{name}: {folder}, {free:,.0f} GB free",
        advice="" if enough else f"free some space, or choose another with {option}.",
    )


def ray_starts() -> Findings:
    """Start Ray on this machine and run a task, in a separate process, which may hang or crash."""
    what, advice = "", "docs/troubleshooting.md lists known reasons why Ray does not start."
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", RAY_PROGRAM],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=RAY_S,
        )
        if done.returncode:
            try:
                what, advice = json.loads(done.stdout.splitlines()[-1])
            except (ValueError, IndexError):
                what = f"does not start: {last_line(done.stderr or f'exit code {done.returncode}')}"
    except subprocess.TimeoutExpired:
        what = f"does not start: no answer within {RAY_S:.0f} s"
    if what:
        yield Finding(state="fail", about="ray", text=what, advice=advice)
    else:
        yield Finding(state="ok", about="ray", text="starts on this machine and runs a task")
