"""What a benchmark would take, before anything starts: what is here and what is missing, steps, FLOPs, disk.

Sizes of data that is not here are the published ones; shapes of backbones that are not here are those of their
public configurations. Nothing is written but a scratch folder, and nothing is downloaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.config.benchmark import NO_BACKBONE, TINY_MODEL, Benchmark, build
from harness.config.studies import (
    Study,
    build_studies,
    pairs,
    search_problems_of,
    space_files,
    steps_per_epoch,
)
from harness.core.errors import InputError
from harness.data.find_tasks import find_task
from harness.pipeline.forecast_inputs import Data, Model, find_model, inspect_data
from lingo.flops import PUBLISHED, Shape, step_flops
from lingo.known_models import known_model
from lingo.methods import METHODS
from lingo.nucleotides import reads_language
from lingo.prompts import prompt_for
from lingo.trial import TrialConfig

TINY_BASES = 2.5
"""Bases of one token of the quickstart's tokenizer, which is made at the first run."""

PROMPT_TOKENS = 20
STATE_BYTES = 4 * 5
"""Of a checkpoint, for each trained number: value, two moments of Adam, two averages of importance, in float32."""

TRIAL_BYTES = 60_000
"""Record, table row and MLflow rows of a trial (measured on the quickstart)."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one study would take.

    Attributes:
        tokens: Tokens of an input.
        epochs: Epochs that are expected, of all trials and final runs together.
        steps: Training steps of them.
        most_steps: The same if no trial were stopped early.
        step_flops: Training FLOPs of one step.
        trained: Numbers that a trial trains.
        alone: Part of the steps that is trained without neighbours.
    """

    study: Study
    tokens: int
    epochs: float
    steps: float
    most_steps: int
    step_flops: float
    trained: int
    alone: float

    @property
    def flops(self) -> float:
        """Expected FLOPs."""
        return self.steps * self.step_flops


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Everything that `plan` tells, before it is calibrated."""

    benchmark: Benchmark
    data: tuple[Data, ...]
    models: tuple[Model, ...]
    works: tuple[Work, ...]
    studies: int
    problems: tuple[str, ...]

    @property
    def trials(self) -> int:
        """Trials of all searches."""
        samples, known = self.benchmark.num_samples, [w.study.trials(self.benchmark) for w in self.works]
        return sum(known) + (self.studies - len(known)) * samples


def planned(options: Mapping[str, Any]) -> Benchmark:
    """The benchmark of the given options; where no backbone is named, for those of the paper.

    Raises:
        InputError: see `harness.config.benchmark.build`.
    """
    quick = not options.get("tasks") and options.get("suite") in (None, "quickstart")
    models = options.get("models") or (None if quick else tuple(PUBLISHED))
    return build({**options, "models": models})


def forecast(benchmark: Benchmark) -> Forecast:
    """Look at everything that a benchmark needs. What is missing is told, not refused.

    Raises:
        InputError: when a search space cannot be used.
    """
    refused: list[str] = []
    files = space_files(benchmark, refused)
    if refused:
        raise InputError(refused)
    data = tuple(inspect_data(find_task(name), benchmark) for name in benchmark.tasks)
    models = tuple(find_model(name) for name in benchmark.models if name != NO_BACKBONE)
    problems = [line for found in data for line in found.problems]
    problems += [line for model in models for line in model.problems]
    studies = build_studies(
        benchmark,
        files,
        {name: found.rows for name, found in zip(benchmark.tasks, data, strict=True)},
        problems,
    )
    problems += search_problems_of(studies, benchmark)
    by_task, by_model = {found.task.name: found for found in data}, {model.name: model for model in models}
    works = tuple(
        work
        for study in studies
        if (work := _work(study, by_task[study.task.name], by_model.get(study.source), benchmark)) is not None
    )
    count = len(benchmark.tasks) * len(pairs(benchmark.models, files))
    return Forecast(
        benchmark=benchmark,
        data=data,
        models=models,
        works=works,
        studies=count,
        problems=tuple(dict.fromkeys(problems)),
    )


def _work(study: Study, data: Data, model: Model | None, benchmark: Benchmark) -> Work | None:
    method = METHODS[study.method]
    tokens = _tokens(study, data, model, benchmark)
    trial = typical(study, benchmark)
    steps = steps_per_epoch(study.train_rows, benchmark.batch_size)
    finals = len(benchmark.seeds) * benchmark.epochs
    trials = study.trials(benchmark)
    epochs = trials * _expected_epochs(benchmark) + finals
    flops = trained = 0.0
    if method.needs_backbone and model is not None and model.shape is not None:
        full, rank = method.trains_all, _rank(trial)
        flops = step_flops(
            model.shape,
            length=tokens,
            batch=benchmark.batch_size,
            num_labels=study.task.num_labels,
            full=full,
            targets=() if full else trial.targets,
            rank=0 if full else rank,
            svd=method.has_budget,
            delta_T=trial.delta_T,
        ).total
        trained = _trained(model.shape, trial, full=full, rank=rank)
    return Work(
        study=study,
        tokens=tokens,
        epochs=epochs,
        steps=epochs * steps,
        most_steps=(trials + len(benchmark.seeds)) * benchmark.epochs * steps,
        step_flops=flops,
        alone=1.0 if benchmark.deterministic else finals / epochs,
        trained=int(trained)
        + (model.shape.output + 1 if model and model.shape else 0) * study.task.num_labels,
    )


def typical(study: Study, benchmark: Benchmark) -> TrialConfig:
    """The study's first point, or a configuration of smallest values."""
    space = study.space
    point = dict(space.first_points[0]) if space.first_points else {}
    values = {name: point.get(name, leaf.least()) for name, leaf in space.leaves.items()}
    return space.config(values, **benchmark.of_trials)


def _rank(trial: TrialConfig) -> float:
    return float(trial.b0 if trial.kind.has_budget else trial.rank)


def _trained(shape: Shape, trial: TrialConfig, *, full: bool, rank: float) -> float:
    """Numbers of all adapters, or of all matrices, without embeddings, biases and norms."""
    chosen = [
        (d_in, d_out) for names, d_in, d_out in shape.matrices() if full or set(names) & set(trial.targets)
    ]
    return shape.layers * sum(d_in * d_out if full else rank * (d_in + d_out) for d_in, d_out in chosen)


def _expected_epochs(benchmark: Benchmark) -> float:
    """Epochs of a trial of the search, on average, if half of the trials went on at epochs 1, 2, 4 …: more than do."""
    if benchmark.scheduler in ("none", "median") or benchmark.epochs == 1:
        return float(benchmark.epochs)
    left, rung, total = 1.0, 1, 0.0
    last = 0
    while rung < benchmark.epochs:
        total += left * (rung - last)
        left, last, rung = left / 2, rung, rung * 2
    return total + left * (benchmark.epochs - last)


def _tokens(study: Study, data: Data, model: Model | None, benchmark: Benchmark) -> int:
    """Tokens of the longest of a few inputs, or what the task's length makes by the rule of thumb."""
    bases = max(map(len, data.sample), default=study.task.length)
    if model is None:
        return bases
    prompted = METHODS[study.method].prompt if benchmark.prompt == "auto" else benchmark.prompt == "on"
    known = known_model(study.source)
    language = reads_language(model.tokenizer) if model.tokenizer else not (known and known.dna)
    prompt = prompt_for(study.task.domain) if prompted and language else None
    if benchmark.tokenization != "bbpe":
        count = bases if benchmark.tokenization == "one_hot" else bases // 6 + 1
        count += PROMPT_TOKENS if prompt else 0
    elif model.tokenizer is not None and data.sample:
        texts = [prompt.around(sequence) if prompt else sequence for sequence in data.sample]
        count = max(len(ids) for ids in model.tokenizer(texts, verbose=False)["input_ids"])
    else:
        each = known.bases if known else TINY_BASES if study.source == TINY_MODEL else 1.0
        count = int(bases / each) + 2 + (PROMPT_TOKENS if prompt else 0)
    return min(count, benchmark.max_length or count)


def disk_bytes(found: Forecast, open_trials: int) -> Mapping[str, float]:
    """Bytes on the disk at the end, by what they are; checkpoints at their most.

    Args:
        open_trials: Trials that train at once.
    """
    benchmark, works = found.benchmark, found.works
    tokens = {(w.study.task.name, w.study.source): w.study.train_rows * 1.25 * w.tokens * 2 for w in works}
    adapters = sum(
        4.0 * w.trained * len(benchmark.seeds) for w in works if not METHODS[w.study.method].trains_all
    )
    largest: Sequence[int] = sorted((w.trained for w in works), reverse=True)[:open_trials]
    runs = found.trials + found.studies * len(benchmark.seeds)
    return {
        "prepared data": sum(tokens.values()),
        "adapters": adapters,
        "records and tracking": float(runs * TRIAL_BYTES),
        "checkpoints (at most)": float(sum(largest) * STATE_BYTES * 3),  # the two newest, and the best
    }
