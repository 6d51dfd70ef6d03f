"""From settings to checked studies; every problem is found before anything is written."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.config.benchmark import Benchmark
from harness.config.search_space_file import SpaceFile
from harness.config.setting_checks import check_settings, store_problems
from harness.config.studies import Study, build_studies, search_problems_of, type_of
from harness.core.atomic_files import write_whole
from harness.core.errors import InputError
from harness.data.find_tasks import find_task
from harness.data.tasks import TaskRow, strands_of
from harness.runs.layout import RunFolder
from harness.runs.record import config_hash
from harness.runs.store import frozen_in, precision_in, refuse_foreign
from lingo.text_files import read_object


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A checked benchmark.

    Attributes:
        benchmark: What was asked for.
        identity: Everything that says what is measured, the search spaces included.
        studies: In the order task, backbone, method.
        out: Output folder.
        warnings: What the labels of the data tell before anything is trained.
        frozen: Number type of frozen weights, asked for or that of the output folder; `None` until it is known.
        precision: How full fine-tuning computes, likewise.
    """

    benchmark: Benchmark
    identity: Mapping[str, Any]
    studies: tuple[Study, ...]
    out: Path
    warnings: tuple[str, ...] = ()
    frozen: str | None = None
    precision: str | None = None

    def holding(self, frozen: str | None, precision: str | None) -> "Plan":
        """This plan with frozen weights of a number type; full fine-tuning has none, and all of its are fp32."""
        studies = tuple(
            replace(study, backbone_type=type_of(study.method, frozen, precision)) for study in self.studies
        )
        return replace(self, frozen=frozen, precision=precision, studies=studies)

    @property
    def notes(self) -> list[str]:
        """What the data's labels tell, and what was changed from the search-space files, with the studies."""
        where: dict[tuple[str, str], list[str]] = {}
        for study in self.studies:
            if study.space.notes:
                where.setdefault((study.task.name, " ".join(study.space.notes)), []).append(study.method)
        changed = [
            f"{task} {', '.join(dict.fromkeys(methods))}: {note}" for (task, note), methods in where.items()
        ]
        return [*self.warnings, *changed]

    def write(self) -> None:
        """Write `plan.json` into the output folder."""
        write_whole(RunFolder(self.out).plan, json.dumps(self.to_dict(), indent=1) + "\n", mode=0o600)

    def to_dict(self) -> dict[str, Any]:
        """The settings, paths absolute, and the studies: their sizes, and their search spaces as they are used."""
        studies = [{**asdict(study), "task": study.task.name, "key": study.key} for study in self.studies]
        asked = self.benchmark.stored(self.out)
        weights = {"frozen": self.frozen, "trained": "fp32", "precision": self.precision}
        return {"settings": asked, "weights": weights, "studies": studies, "notes": self.notes}


def plan(benchmark: Benchmark) -> Plan:
    """Check everything that can be checked without loading a model and lay out the studies.

    Raises:
        InputError: with every problem of search spaces, data, backbones and the output folder.
    """
    problems: list[str] = []
    files = check_settings(benchmark, problems)
    here, skipped = present(benchmark)
    rows = {
        name: train_rows(find_task(name), benchmark, problems) if name in here else None
        for name in benchmark.tasks
    }
    problems += store_problems(benchmark)
    studies = build_studies(benchmark, files, rows, problems)
    problems += search_problems_of(studies, benchmark)
    identity = _identity(benchmark, files)
    out = (
        benchmark.out or Path("results") / f"{benchmark.name or benchmark.suite}-{config_hash(identity)[:8]}"
    )
    try:
        refuse_foreign(out, identity)
        benchmark = _with_its_name(benchmark, out)
    except InputError as error:
        problems += error.problems
    if problems:
        raise InputError(dict.fromkeys(problems))
    notes = [line for name in here for line in _label_notes(find_task(name), benchmark)]
    warnings = (*front_note(benchmark), *skipped, *notes)
    found = Plan(benchmark=benchmark, identity=identity, studies=tuple(studies), out=out, warnings=warnings)
    asked = None if benchmark.precision == "auto" else benchmark.precision
    return found.holding(benchmark.frozen or frozen_in(out), asked or precision_in(out))


def front_note(benchmark: Benchmark) -> list[str]:
    """What is different where a front is searched."""
    if not benchmark.has_front:
        return []
    return [
        f"--objectives {','.join(benchmark.objectives)}: trials are not stopped early (--scheduler none), and the "
        f"final stage trains up to {benchmark.most_winners} points along each study's Pareto front of dev score and "
        "trained parameters."
    ]


def _with_its_name(benchmark: Benchmark, out: Path) -> Benchmark:
    """The benchmark with the name that its output folder has already.

    Raises:
        InputError: If it is given another one: its runs in MLflow would lie in two experiments.
    """
    if not RunFolder(out).benchmark.exists():
        return benchmark
    try:
        held = read_object(RunFolder(out).plan)["settings"].get("name")
    except (OSError, ValueError, KeyError, AttributeError):
        return benchmark
    if benchmark.name not in (None, held):
        named = f"named {held!r}" if held else f"without a name, in the experiment {benchmark.suite!r}"
        raise InputError(f"`--name` must stay as it is, but {out} is {named}, and got {benchmark.name!r}.")
    return benchmark.model_copy(update={"name": held})


def _identity(benchmark: Benchmark, files: Mapping[str, SpaceFile]) -> dict[str, Any]:
    spaces = {method: asdict(replace(file, source="")) for method, file in files.items()}
    return {**benchmark.identity(), "spaces": spaces}


def present(benchmark: Benchmark) -> tuple[list[str], list[str]]:
    """The tasks to run, and with `--skip-missing` a line for each whose data is not here.

    Raises:
        InputError: If none is here.
    """
    if not benchmark.skip_missing:
        return list(benchmark.tasks), []
    from harness.data.sources import missing_data

    why = {name: missing_data(find_task(name), benchmark.data_dir) for name in benchmark.tasks}
    here, skipped = [name for name in why if not why[name]], [line for line in why.values() if line]
    if not here:
        raise InputError(f"`--skip-missing` leaves no task: {skipped[0]}")
    return here, [f"--skip-missing leaves out {line}" for line in skipped]


def train_rows(task: TaskRow, benchmark: Benchmark, problems: list[str]) -> int | None:
    """Sequences of the task's training split; `None` when its files have problems."""
    from harness.data.hub import task_folder
    from harness.data.sources import training_rows

    strands = strands_of(task, benchmark.reverse_complement)
    if task.generated:
        from harness.data.quickstart import ROWS

        rows: int = min(ROWS["train"], benchmark.limit or ROWS["train"])
        return rows * 2 if strands in ("train", "both") else rows
    try:
        folder = task_folder(task, benchmark.data_dir)
        options: dict[str, Any] = {"drop_leaks": benchmark.drop_leaks, "limit": benchmark.limit}
        return training_rows(task, folder, **options, strands=strands)
    except InputError as error:
        problems += [line for line in error.problems if line not in problems]
        return None


def _label_notes(task: TaskRow, benchmark: Benchmark) -> list[str]:
    from harness.data.hub import task_folder
    from harness.data.sources import label_notes

    return [] if task.generated else label_notes(task, task_folder(task, benchmark.data_dir))
