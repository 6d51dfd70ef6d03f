"""The final runs of each study as one outcome, in the metric in which the paper reports its family."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from harness.core.errors import InputError
from harness.data.tasks import family_of
from harness.report import naming, stats
from harness.report.naming import Key
from harness.report.run_results import RunResults
from harness.runs.controls import RANDOM_INIT, is_control, pretrained_of
from harness.runs.front import leading
from harness.runs.intervals import Interval, constant_level, is_collapsed, is_useful, limits_of, range_of
from harness.runs.record import Record
from harness.runs.shortcuts import SHORTCUT, shortcut_tasks
from lingo.metrics import merit

INCOMPARABLE = ("smoke", RANDOM_INIT, "untrained backbone", "changed split", "generated data", "cut split")
"""Caveats of results that must not be compared with published ones."""

TYPES = ("backbone_type", "trained_type")
"""Facts that name number types, see `harness.pipeline.number_types`."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A study's final runs.

    Attributes:
        key: The study and its tokenisation.
        family: Family of its task.
        metric: The metric reported here: the paper's for its families, else the one that selects.
        scores: Test score by seed of the finished final runs; NaN where undefined.
        finals: The finished final runs by seed.
        expected: Expected seeds.
        failed: Final runs that failed.
        marks: Caveats of its records.
    """

    key: Key
    family: str
    metric: str
    scores: Mapping[int, float]
    finals: Mapping[int, Record]
    expected: frozenset[int] = frozenset()
    failed: int = 0
    marks: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[int, Mapping[str, Any]]:
        """What was measured in the finished final runs, by seed."""
        return {seed: record.facts for seed, record in self.finals.items()}

    @property
    def values(self) -> list[float]:
        """Scores, ordered by seed."""
        return [self.scores[seed] for seed in sorted(self.scores)]

    @cached_property
    def mean(self) -> float:
        """Mean over seeds; NaN if there is none or one is undefined."""
        return stats.mean(self.values)

    @cached_property
    def sd(self) -> float:
        """Sample sd over seeds; NaN for one seed."""
        return stats.sd(self.values)

    @property
    def dev_mean(self) -> float:
        """Mean dev score of the final runs; NaN where one is undefined."""
        return stats.mean([trial.dev.get(self.metric, stats.NAN) for trial in self.finals.values()])

    @property
    def interval(self) -> Interval:
        """95 % interval of the mean over seeds (Student), see `stats.t_interval`."""
        return stats.t_interval(self.values, range_of(self.metric))

    @property
    def bootstrap(self) -> Interval:
        """95 % limits over test rows and seeds, see `harness.runs.intervals.limits_of`; NaN if there are none."""
        finals = [record for seed, record in self.finals.items() if seed in self.scores]
        return limits_of(finals, self.metric) or (stats.NAN, stats.NAN)

    @property
    def parameters(self) -> float:
        """Trained parameters, mean over seeds; NaN where unknown."""
        counts = [t.trained_parameters for t in self.finals.values() if t.trained_parameters is not None]
        return stats.mean(counts)

    @property
    def complete(self) -> bool:
        """Whether every expected seed is finished."""
        return bool(self.scores) and not self.expected - set(self.scores)

    @property
    def collapsed(self) -> list[int]:
        """Seeds whose model predicts the same class for every row."""
        return [
            seed
            for seed, trial in sorted(self.finals.items())
            if trial.facts.get("collapsed") or (trial.test or {}).get("collapsed")
        ]

    @cached_property
    def useful(self) -> bool:
        """Whether it may be called best: see `harness.runs.intervals.is_useful`."""
        return is_useful(self.metric, self.values, collapsed=len(self.collapsed), constants=self._constants)

    @property
    def _constants(self) -> list[Mapping[str, float]]:
        return [facts["constant"] for facts in self.facts.values() if facts.get("constant")]

    @property
    def constant_level(self) -> float:
        """Score of a constant prediction; NaN if unknown."""
        return constant_level(self.metric, self._constants)

    @property
    def is_collapsed(self) -> bool:
        """Whether at least half of its final runs predict the same for every row."""
        return is_collapsed(len(self.collapsed), len(self.finals))

    @property
    def merit(self) -> float:
        """The mean, sign-adjusted so that higher is better."""
        return merit(self.metric, self.mean)

    @property
    def baseline(self) -> bool:
        """Whether it is a simple baseline without a pretrained backbone: without any, or a control."""
        return naming.is_baseline(self.key.method, self.key.backbone)

    @property
    def control(self) -> bool:
        """Whether its backbone has random weights, beside a pretrained one."""
        return is_control(self.key.backbone)

    @property
    def title(self) -> str:
        """Its method; of a control with its backbone."""
        method = naming.method_title(self.key.method)
        return f"{method} on {naming.backbone_title(self.key.backbone)}" if self.control else method

    @property
    def comparable(self) -> bool:
        """Whether its caveats permit a comparison with published numbers."""
        return not set(self.marks) & set(INCOMPARABLE)

    @property
    def types(self) -> list[tuple[str, str]]:
        """Number types of its final runs: of the backbone's weights, and of what is trained; `?` where not recorded."""
        known = [tuple(str(facts.get(name) or "?") for name in TYPES) for facts in self.facts.values()]
        return list(dict.fromkeys((backbone, trained) for backbone, trained in known))

    def total(self, name: str) -> float:
        """Mean over seeds of a fact that is a number; NaN unless every seed has it."""
        found = [facts[name] for facts in self.facts.values() if facts.get(name) is not None]
        return (
            stats.mean([float(x) for x in found]) if found and len(found) == len(self.finals) else stats.NAN
        )


@dataclass(frozen=True)
class Outcomes:
    """All outcomes of one or several runs, in the paper's order where applicable."""

    by_key: Mapping[Key, Outcome]

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self.by_key.values())

    def __len__(self) -> int:
        return len(self.by_key)

    def get(self, task: str, backbone: str, method: str) -> Outcome | None:
        """An outcome with scores, with the backbone's own tokenizer if there are several."""
        for tokenization in ("bbpe", *self.tokenizations):
            found = self.by_key.get(Key(task, backbone, method, tokenization))
            if found is not None and found.scores:
                return found
        return None

    @cached_property
    def scored(self) -> list[Outcome]:
        """Those with a defined mean."""
        return [outcome for outcome in self if outcome.mean == outcome.mean]

    @cached_property
    def main(self) -> list[Outcome]:
        """Scored outcomes of adapted backbones, one tokenisation per study, for tables and tests."""
        return [
            o
            for o in self.scored
            if not o.baseline and self.get(o.key.task, o.key.backbone, o.key.method) is o
        ]

    @cached_property
    def tasks(self) -> list[str]:
        """In the paper's order."""
        return naming.task_order(key.task for key in self.by_key)

    @cached_property
    def families(self) -> list[str]:
        """In the order of their tasks."""
        family = {outcome.key.task: outcome.family for outcome in self}
        return list(dict.fromkeys(family[task] for task in self.tasks))

    @cached_property
    def backbones(self) -> list[str]:
        """Those of adapted studies, in the paper's order."""
        return naming.backbone_order(o.key.backbone for o in self if not o.baseline)

    @cached_property
    def methods(self) -> list[str]:
        """Of adapted studies, in the registry's order."""
        return naming.method_order(o.key.method for o in self if not o.baseline)

    @cached_property
    def tokenizations(self) -> list[str]:
        """Distinct tokenisations."""
        return sorted({key.tokenization for key in self.by_key})

    def tasks_of(self, family: str) -> list[str]:
        """A family's tasks."""
        held = {outcome.key.task for outcome in self if outcome.family == family}
        return [task for task in self.tasks if task in held]

    def controls(self) -> list[tuple[Outcome, Outcome]]:
        """Scored studies with their scored controls."""
        found = []
        for control in (outcome for outcome in self.scored if outcome.control):
            of = self.by_key.get(replace(control.key, backbone=pretrained_of(control.key.backbone)))
            found += [(of, control)] if of is not None and of.mean == of.mean else []
        return found

    def baselines(self, task: str) -> list[Outcome]:
        """Scored simple baselines of a task."""
        return [o for o in self.scored if o.baseline and o.key.task == task]

    def metric_of(self, family: str) -> str:
        """The metric in which a family is reported."""
        return next((o.metric for o in self if o.family == family), "mcc")

    def means(self, tasks: Sequence[str], backbone: str, method: str) -> list[float]:
        """Mean scores of one pair on each task; NaN where there is none."""
        found = [self.get(task, backbone, method) for task in tasks]
        return [o.mean if o is not None else stats.NAN for o in found]


def outcomes_of(runs: Sequence[RunResults]) -> Outcomes:
    """Gather the final runs.

    Raises:
        InputError: If two runs contain the same study with the same tokenisation.
    """
    made: dict[Key, Outcome] = {}
    for run in runs:
        for outcome in _of_run(run):
            if outcome.key in made:
                key = outcome.key
                raise InputError(
                    f"the runs of one report must not contain the same study, but two of them contain "
                    f"{key.task}, {key.backbone}, {key.method} with {key.tokenization}; report them separately."
                )
            made[outcome.key] = outcome
    easy = shortcut_tasks(
        (o.key.task, o.key.method, o.merit) for o in made.values() if o.scores and o.useful and not o.control
    )
    made = {key: replace(o, marks=(*o.marks, SHORTCUT)) if key.task in easy else o for key, o in made.items()}
    tasks = naming.task_order(key.task for key in made)
    backbones = naming.backbone_order(key.backbone for key in made)
    methods = naming.method_order(key.method for key in made)

    def place(key: Key) -> tuple[int, int, int, str]:
        order = tasks.index(key.task), backbones.index(key.backbone), methods.index(key.method)
        return (*order, key.tokenization)

    return Outcomes({key: made[key] for key in sorted(made, key=place)})


def _of_run(run: RunResults) -> Iterable[Outcome]:
    planned = [
        tuple(study["key"].split("|")) for study in run.studies if study.get("key", "").count("|") == 2
    ]
    studies: dict[tuple[str, ...], list[Record]] = {key: [] for key in planned}
    for trial in run.trials:
        studies.setdefault((trial.task, trial.backbone, trial.method), []).append(trial)
    seeds = frozenset(run.settings.get("seeds") or {t.seed for t in run.trials if t.stage == "final"})
    setting = run.settings.get("tokenization") or "bbpe"
    for (task, backbone, method), trials in studies.items():
        yield _outcome((task, backbone, method), trials, seeds, setting)


def _outcome(
    study: tuple[str, str, str], trials: list[Record], seeds: frozenset[int], setting: str
) -> Outcome:
    trials = leading(trials)  # of a front the point with the best dev score; `sections.front` has all
    finals = {t.seed: t for t in trials if (t.stage, t.status) == ("final", "finished")}
    family = trials[0].family if trials else family_of(study[0])
    selecting = trials[0].metric if trials else "mcc"
    metric = naming.PUBLISHED_METRIC.get(family, selecting)
    tests = {seed: t.test or {} for seed, t in sorted(finals.items())}
    if tests and not any(metric in test for test in tests.values()):
        metric = selecting
    tokenization = next(
        (t.facts["tokenization"] for t in finals.values() if t.facts.get("tokenization")), setting
    )
    return Outcome(
        key=Key(*study, tokenization=str(tokenization)),
        family=family,
        metric=metric,
        scores={seed: test[metric] for seed, test in tests.items() if metric in test},
        finals=dict(sorted(finals.items())),
        expected=seeds,
        failed=sum((t.stage, t.status) == ("final", "failed") for t in trials),
        marks=tuple(dict.fromkeys(mark for t in trials for mark in t.marks)),
    )
