"""The studies of a benchmark: a task, a backbone, a method and its search space each."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from harness.config.benchmark import NO_BACKBONE, Benchmark
from harness.config.initial_points import from_plain, put_first
from harness.config.learned_points import with_learned
from harness.config.scopes import merge, search_problems, trials_of
from harness.config.search_space import SearchSpace
from harness.config.search_space_file import SpaceFile
from harness.config.values import DEFAULT_TARGETS
from harness.core.errors import InputError
from harness.data.find_tasks import find_task
from harness.data.tasks import TaskRow
from harness.data.variants import parted_variant
from harness.runs.controls import control_name, is_control
from harness.runs.evaluations import parts_of
from harness.runs.requests import Added, Request, added_to, samples_of
from harness.runs.selection import group_of
from lingo.methods import METHODS


@dataclass(frozen=True, kw_only=True)
class Study:
    """One study of the benchmark: a task, a backbone, a method, and its search space.

    Attributes:
        backbone: The backbone's name in results: of a folder its last part.
        source: What to load: a known name, a hub id or a folder.
        train_rows: Sequences of the training split that are used.
        total_steps: T_total of each of its trials.
        space: The search space, with `delta_T` restricted to `total_steps`.
        evaluations: Evaluations of a trial in an epoch.
        backbone_type: Number type of the backbone's weights: `fp32`, `bf16` or `4bit`, of full fine-tuning also `fp32,
            bf16 autocast`; `None` without a backbone, and until a worker has been asked, see
            `harness.pipeline.number_types`. What is trained is always in fp32.
    """

    task: TaskRow
    backbone: str
    source: str
    method: str
    train_rows: int
    total_steps: int
    space: SearchSpace
    evaluations: int = 1
    backbone_type: str | None = None

    @property
    def key(self) -> str:
        """`task|backbone|method`."""
        return f"{self.task.name}|{self.backbone}|{self.method}"

    @property
    def is_control(self) -> bool:
        """Whether its backbone has fresh weights."""
        return is_control(self.backbone)

    def trials(self, benchmark: Benchmark) -> int:
        """Trials of its search; a control has the configuration of its pretrained study."""
        if self.is_control:
            return 0
        return trials_of(self.space, searcher=benchmark.searcher, num_samples=benchmark.num_samples)


@dataclass(frozen=True, kw_only=True)
class PreparedStudy(Study):
    """A study with its prepared data.

    Attributes:
        data: Folder of the prepared task.
        data_digest, backbone_digest: What its records carry.
        marks: What a reader of its results must know.
        tokens: Tokens of the longest training sequence.
        source: What workers load; of a backbone that is made on this machine its folder.
        facts: What was measured of the data, for the records' `facts`.
        samples: Trials of its search, where a user has asked for another number than the benchmark's.
        added: Trials that users added to its search.
    """

    data: Path
    data_digest: str
    backbone_digest: str
    marks: Sequence[str]
    tokens: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    samples: int | None = None
    added: tuple[Added, ...] = ()

    def drawn(self, benchmark: Benchmark) -> int:
        """Trials of its search but those that users added."""
        samples = max(self.samples or 0, benchmark.num_samples)
        return super().trials(benchmark.model_copy(update={"num_samples": samples}))

    def trials(self, benchmark: Benchmark) -> int:
        """Trials of its search; a control has the configuration of its pretrained study."""
        return self.drawn(benchmark) + len(self.added)

    @property
    def cost(self) -> float:
        """Work of one epoch, in a unit that is the same for all studies of one backbone."""
        return float(self.train_rows * self.tokens)


S = TypeVar("S", bound=PreparedStudy)


def with_requests(members: Sequence[S], requests: Sequence[Request]) -> list[S]:
    """The studies of a search group with the trials that users asked for, and those that they added."""
    keys = [study.key for study in members]
    samples, added = samples_of(requests, keys), added_to(requests, keys)
    return [replace(study, samples=samples, added=added) for study in members]


def build_studies(
    benchmark: Benchmark,
    files: Mapping[str, SpaceFile],
    rows: Mapping[str, int | None],
    problems: list[str],
) -> list[Study]:
    """The studies of every task whose training rows are known, in the order task, backbone, method; controls stand
    behind the others of their task.

    Args:
        files: The search-space file of each method.
        rows: Training rows of each task; a task with `None` is left out.
        problems: Gets a line for each study whose space cannot be used at its length.
    """
    names = {**short_names(benchmark.models), NO_BACKBONE: NO_BACKBONE}
    configured = from_plain(benchmark.configurations)
    studies: list[Study] = []
    for task in benchmark.tasks:
        count, begun = rows[task], len(studies)
        for model, method in pairs(benchmark.models, files):
            file = files[method]
            if count is None:
                continue
            steps = steps_per_epoch(count, benchmark.batch_size)
            total_steps = steps * benchmark.epochs
            try:
                space = file.for_task(parted_variant(task)[0])
                space = with_learned(space, benchmark.learn_from, backbone=names[model])
                space = put_first(space, configured, task=task, backbone=names[model])
                if benchmark.target_modules != DEFAULT_TARGETS:
                    space = space.adapting(benchmark.target_modules)
                if benchmark.head_pooling != "auto":
                    space = space.pooling(benchmark.head_pooling)
                space = space.restrict(total_steps, **benchmark.of_trials)
            except InputError as error:
                size = f"{task}: {count} rows, batch size {benchmark.batch_size}, epochs {benchmark.epochs}"
                problems += [f"{line} ({size})" for line in error.problems]
                continue
            studies.append(
                Study(
                    task=_measured(find_task(task), benchmark),
                    backbone=names[model],
                    source=model,
                    method=method,
                    train_rows=count,
                    total_steps=total_steps,
                    space=space,
                    evaluations=parts_of(steps, benchmark.eval_steps) if METHODS[method].in_steps else 1,
                )
            )
        if benchmark.controls != "none":
            adapting = [study for study in studies[begun:] if study.source != NO_BACKBONE]
            studies += [replace(study, backbone=control_name(study.backbone)) for study in adapting]
    return studies


def _measured(task: TaskRow, benchmark: Benchmark) -> TaskRow:
    """The task with the metric that is asked for."""
    return task if benchmark.metric == "default" else replace(task, metric=benchmark.metric)


def pairs(models: tuple[str, ...], methods: Iterable[str]) -> list[tuple[str, str]]:
    """(backbone, method) of each study of a task; methods without a backbone come once, after the others."""
    adapting = [name for name in methods if METHODS[name].needs_backbone]
    pairs = [(model, method) for model in models if model != NO_BACKBONE for method in adapting]
    return pairs + [(NO_BACKBONE, name) for name in methods if not METHODS[name].needs_backbone]


def short_names(models: tuple[str, ...]) -> dict[str, str]:
    """Folders by their last part, unless two would be the same."""
    short = {model: Path(model).name if Path(model).is_dir() else model for model in models}
    return short if len(set(short.values())) == len(models) else {model: model for model in models}


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Steps of one pass over `rows` sequences; the last batch may be smaller."""
    return -(-rows // batch_size)


def type_of(method: str, frozen: str | None, precision: str | None) -> str | None:
    """Number type of the backbone's weights in a method's studies, where frozen weights are of type `frozen` and full
    fine-tuning computes in `precision`."""
    row = METHODS[method]
    if not row.needs_backbone or not row.trains_all:
        return frozen if row.needs_backbone else None
    return "fp32, bf16 autocast" if precision == "bf16" else "fp32"


def search_problems_of(studies: Iterable[Study], benchmark: Benchmark) -> list[str]:
    """What speaks against searching these studies with this searcher, scope and number of siblings."""
    found: list[str] = []
    groups: dict[str, list[SearchSpace]] = {}
    for study in studies:
        names = {"task": study.task.name, "backbone": study.backbone, "method": study.method}
        key = group_of(benchmark.scope, family=study.task.family, **names)
        groups.setdefault(key, []).append(study.space)
    for spaces in groups.values():
        try:
            merge(spaces)
        except InputError as error:
            found += error.problems
        found += search_problems(spaces[0], searcher=benchmark.searcher, siblings=benchmark.siblings)
    return list(dict.fromkeys(found))
