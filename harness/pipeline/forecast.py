"""Forecast of a benchmark before anything starts: available and missing inputs, steps, FLOPs, disk space.

Missing data has its published size, and missing backbones the shape of their public configuration. Nothing is written
except a scratch folder, and nothing is downloaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from harness.config.benchmark import NO_BACKBONE, TINY_MODEL, Benchmark
from harness.config.build import build
from harness.config.setting_checks import setting_problems, space_files
from harness.config.studies import Study, build_studies, pairs, search_problems_of, steps_per_epoch
from harness.core.errors import InputError
from harness.data.find_tasks import find_task
from harness.data.token_checks import Lengths, Reading, sample_reading
from harness.pipeline.backbone_checks import BARE, Tokens, misfits
from harness.pipeline.forecast_inputs import LEFT_OUT, Data, Model, find_model, inspect_data
from lingo.architectures import UNLIMITED
from lingo.flops import PUBLISHED, Shape, step_flops
from lingo.known_models import known_model
from lingo.methods import METHODS
from lingo.nucleotides import units_for
from lingo.prompts import Prompt, prompt_for
from lingo.trial import PAPER_MATRICES, TrialConfig
from lingo.vocabulary import reads_language

TINY_BASES = 2.5
"""Bases per token of the quickstart's tokenizer, which is made in the first run."""

PROMPT_TOKENS = 20
STATE_BYTES = 4 * 5
"""Bytes of a checkpoint per trained parameter: value, two moments of Adam, two averages of importance, in float32."""

TRIAL_BYTES = 60_000
"""Bytes of the record, table row and MLflow rows of a trial (measured on the quickstart)."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Forecast of one study.

    Attributes:
        tokens: Tokens of an input.
        epochs: Expected number of epochs of all trials and final runs.
        steps: Expected number of training steps.
        most_steps: Number of training steps without early stopping.
        step_flops: Training FLOPs of one step.
        trained: Parameters that a trial trains.
        alone: Share of the steps that is trained alone.
        lengths, reading: Statistics of a few rows, if data and tokenizer are available.
        prompted: Whether sequences have the language prefix.
    """

    study: Study
    tokens: int
    epochs: float
    steps: float
    most_steps: int
    step_flops: float
    trained: int
    alone: float
    lengths: Lengths | None = None
    reading: Reading | None = None
    prompted: bool = False

    @property
    def flops(self) -> float:
        """Expected FLOPs."""
        return self.steps * self.step_flops


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Everything that `plan` prints, before calibration."""

    benchmark: Benchmark
    data: tuple[Data, ...]
    models: tuple[Model, ...]
    works: tuple[Work, ...]
    studies: int
    problems: tuple[str, ...]

    @property
    def finals(self) -> int:
        """Final runs of all studies; of a front the most that there can be."""
        return self.studies * len(self.benchmark.seeds) * self.benchmark.most_winners

    @property
    def trials(self) -> int:
        """Trials of all searches."""
        samples, known = self.benchmark.num_samples, [w.study.trials(self.benchmark) for w in self.works]
        return sum(known) + (self.studies - len(known)) * samples


def planned(options: Mapping[str, Any]) -> Benchmark:
    """The benchmark of the given options; without backbones, for those of the paper.

    Raises:
        InputError: see `harness.config.build.build`.
    """
    quick = not options.get("tasks") and options.get("suite") in (None, "quickstart")
    models = options.get("models") or (None if quick else tuple(PUBLISHED))
    return build({**options, "models": models})


def forecast(benchmark: Benchmark) -> Forecast:
    """Inspect everything that a benchmark needs. Missing inputs are reported, not refused.

    Raises:
        InputError: if a search space cannot be used.
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
    problems += [*search_problems_of(studies, benchmark), *setting_problems(benchmark, files)]
    read = {model.name: tokens for model in models if (tokens := _tokens_of(model)) is not None}
    problems += misfits(studies, benchmark, read)
    by_task, by_model = {found.task.name: found for found in data}, {model.name: model for model in models}
    works = tuple(
        work
        for study in studies
        if (work := _work(study, by_task[study.task.name], by_model.get(study.source), benchmark)) is not None
    )
    each = pairs(benchmark.models, files)
    controls = sum(model != NO_BACKBONE for model, _ in each) if benchmark.controls != "none" else 0
    count = sum(found.state != LEFT_OUT for found in data) * (len(each) + controls)
    return Forecast(
        benchmark=benchmark,
        data=data,
        models=models,
        works=works,
        studies=count,
        problems=tuple(dict.fromkeys(problems)),
    )


def _tokens_of(model: Model) -> Tokens | None:
    """What checks need of a backbone that is available, or of the quickstart's."""
    if model.name == TINY_MODEL:
        return replace(BARE, source=model.name, language=True, causal=True, pooling="last")
    return Tokens.of(model.outline.backbone, model.name) if model.outline else None


def _work(study: Study, data: Data, model: Model | None, benchmark: Benchmark) -> Work | None:
    method = METHODS[study.method]
    lengths, reading = _reading(study, data, model, benchmark)
    tokens = _cut(lengths.longest if lengths else _tokens(study, data, model, benchmark), model, benchmark)
    trial = typical(study, benchmark)
    steps = steps_per_epoch(study.train_rows, benchmark.batch_size)
    runs = len(benchmark.seeds) * (1 if study.is_control else benchmark.most_winners)
    finals = runs * benchmark.epochs
    trials = study.trials(benchmark)
    epochs = trials * _expected_epochs(benchmark) + finals
    flops = trained = 0.0
    if method.needs_backbone and model is not None:
        flops, trained = _costs(study, trial, model, tokens, benchmark)
    return Work(
        study=study,
        tokens=tokens,
        epochs=epochs,
        steps=epochs * steps,
        most_steps=(trials + runs) * benchmark.epochs * steps,
        step_flops=flops,
        alone=1.0 if benchmark.deterministic else finals / epochs,
        trained=int(trained)
        + (model.shape.output + 1 if model and model.shape else 0) * study.task.num_labels,
        lengths=lengths,
        reading=reading,
        prompted=model is not None and _prompt(study, model, benchmark) is not None,
    )


def _costs(
    study: Study, trial: TrialConfig, model: Model, tokens: int, benchmark: Benchmark
) -> tuple[float, float]:
    """(FLOPs of a training step, number of trained parameters), 0 if they cannot be determined before loading."""
    method = METHODS[study.method]
    full, rank = method.trains_all, _rank(trial)
    chunks = -(-tokens // _window(model, benchmark))
    options: dict[str, Any] = {
        "length": -(-tokens // chunks),
        "batch": benchmark.batch_size * chunks,
        "num_labels": study.task.num_labels,
        "full": full,
        "rank": 0 if full else rank,
        "svd": method.has_budget,
        "delta_T": trial.delta_T,
        "more": None if full else partial(method.products, trial),
    }
    if model.shape is not None and (full or set(trial.targets) <= set(PAPER_MATRICES)):
        found = step_flops(model.shape, targets=() if full else trial.targets, **options)
        return found.total, _trained(model.shape, trial, full=full, rank=rank)
    if model.outline is None:
        return 0.0, 0.0
    try:
        found = model.outline.step(trial.targets, **options)
        return found.total, model.outline.trained(trial, full=full)
    except (
        ValueError
    ):  # a target that is not there, which preparation refuses, or a class that cannot be counted
        return 0.0, 0.0


def typical(study: Study, benchmark: Benchmark) -> TrialConfig:
    """The study's first point, or the configuration of the smallest values."""
    space = study.space
    point = dict(space.first_points[0]) if space.first_points else {}
    values = {name: point.get(name, leaf.least()) for name, leaf in space.leaves.items()}
    return space.config(values, **benchmark.of_trials)


def _rank(trial: TrialConfig) -> float:
    return float(trial.b0 if trial.kind.has_budget else trial.rank)


def _trained(shape: Shape, trial: TrialConfig, *, full: bool, rank: float) -> float:
    """Number of parameters of all adapters, or of all matrices, without embeddings, biases and norms."""
    chosen = [
        (d_in, d_out) for names, d_in, d_out in shape.matrices() if full or set(names) & set(trial.targets)
    ]
    return shape.layers * sum(
        d_in * d_out if full else trial.kind.size(int(rank), d_in, d_out) for d_in, d_out in chosen
    )


def _expected_epochs(benchmark: Benchmark) -> float:
    """Mean number of epochs of a trial in the search, if half of the trials continued after epochs 1, 2, 4 …: an upper
    estimate."""
    if benchmark.scheduler in ("none", "median") or benchmark.epochs == 1:
        return float(benchmark.epochs)
    left, rung, total = 1.0, 1, 0.0
    last = 0
    while rung < benchmark.epochs:
        total += left * (rung - last)
        left, last, rung = left / 2, rung, rung * 2
    return total + left * (benchmark.epochs - last)


def _prompt(study: Study, model: Model, benchmark: Benchmark) -> Prompt | None:
    prompted = METHODS[study.method].prompt if benchmark.prompt == "auto" else benchmark.prompt == "on"
    known = known_model(study.source)
    language = reads_language(model.tokenizer) if model.tokenizer else not (known and known.dna)
    return prompt_for(study.task.domain) if prompted and language else None


def _reading(
    study: Study, data: Data, model: Model | None, benchmark: Benchmark
) -> tuple[Lengths | None, Reading | None]:
    """Statistics of a few tokenised rows, if data and tokenizer are available."""
    if model is None or model.tokenizer is None or not data.sample:
        return None, None
    tokenizer = model.tokenizer
    if benchmark.tokenization != "bbpe":
        tokenizer = units_for(benchmark.tokenization, tokenizer, 1 << 20)
    most = None if benchmark.long == "chunk" else _window(model, benchmark)
    reading, lengths = sample_reading(data.sample, tokenizer, _prompt(study, model, benchmark), most)
    return lengths, reading


def _window(model: Model | None, benchmark: Benchmark) -> int:
    """Maximum number of tokens of an input, or of a chunk."""
    return min(benchmark.max_length or UNLIMITED, (model.max_length if model else 0) or UNLIMITED)


def _cut(count: int, model: Model | None, benchmark: Benchmark) -> int:
    """Number of tokens after truncation; chunks keep all."""
    return count if benchmark.long == "chunk" else min(count, _window(model, benchmark))


def _tokens(study: Study, data: Data, model: Model | None, benchmark: Benchmark) -> int:
    """Estimated number of tokens from the task's sequence length."""
    bases = max(map(len, data.sample), default=study.task.length)
    if model is None:
        return bases
    known, prompt = known_model(study.source), _prompt(study, model, benchmark)
    if benchmark.tokenization != "bbpe":
        count = bases if benchmark.tokenization == "one_hot" else bases // 6 + 1
        return count + (PROMPT_TOKENS if prompt else 0)
    each = known.bases if known else TINY_BASES if study.source == TINY_MODEL else 1.0
    return int(bases / each) + 2 + (PROMPT_TOKENS if prompt else 0)


def disk_bytes(found: Forecast, open_trials: int) -> Mapping[str, float]:
    """Bytes on disk at the end, by type; checkpoints at their maximum.

    Args:
        open_trials: Number of trials that train at once.
    """
    benchmark, works = found.benchmark, found.works
    tokens = {(w.study.task.name, w.study.source): w.study.train_rows * 1.25 * w.tokens * 2 for w in works}
    adapters = sum(
        4.0 * w.trained * len(benchmark.seeds) * benchmark.most_winners
        for w in works
        if not METHODS[w.study.method].trains_all
    )
    largest: Sequence[int] = sorted((w.trained for w in works), reverse=True)[:open_trials]
    runs = found.trials + found.finals
    return {
        "prepared data": sum(tokens.values()),
        "adapters": adapters,
        "records and tracking": float(runs * TRIAL_BYTES),
        "checkpoints (at most)": float(sum(largest) * STATE_BYTES * 3),  # the two newest, and the best
    }
