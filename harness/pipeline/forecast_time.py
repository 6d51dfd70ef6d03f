"""Time of a benchmark on this machine: a few steps are measured with each available backbone, and scaled by FLOPs."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config.benchmark import TINY_MODEL, Benchmark
from harness.core.errors import InputError
from harness.pipeline.forecast import Forecast, Work, typical
from harness.pipeline.forecast_inputs import Data, Model
from harness.pool.resources import this_machine
from harness.runs.store import frozen_in, precision_in
from harness.workers.calibration import Calibration, calibrate
from lingo.methods import METHODS
from lingo.quantized import usual_type
from lingo.trial import Frozen, Precision

ROWS = 64
"""Rows of each split that are prepared for the measurement."""

DEV_SHARE = 1 / 8
"""Ratio of dev to train rows (GUE: 1 to 8)."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Measured rates of one backbone.

    Attributes:
        model: The backbone.
        full: Whether every weight was trained.
        seconds_per_flop: Seconds per FLOP of training in packs of `pack`.
        alone_per_flop: The same for trials that train alone, as final runs do.
        eval_seconds: Seconds for the prediction of one row of `tokens` tokens.
        pack: Best pack size.
        device: `cpu` or `cuda`.
        frozen: Number type of the frozen weights.
    """

    model: str
    full: bool
    seconds_per_flop: float
    alone_per_flop: float
    eval_seconds: float
    tokens: int
    pack: int
    device: str
    frozen: str = "fp32"

    def seconds(self, work: Work) -> float:
        """Seconds of one worker for all of a study's expected steps, evaluations included."""
        evaluated = work.epochs * work.study.evaluations * work.study.train_rows * DEV_SHARE
        rate = work.alone * self.alone_per_flop + (1 - work.alone) * self.seconds_per_flop
        return work.flops * rate + evaluated * self.eval_seconds * work.tokens / self.tokens


Key = tuple[str, bool]


def measure(found: Forecast) -> tuple[dict[Key, Rate], list[str]]:
    """Measure a few steps with every available backbone on available data; returns also a line for each failure.

    Full fine-tuning has a rate of its own. All files are written to a scratch folder.
    """
    rates: dict[Key, Rate] = {}
    problems: list[str] = []
    for model in (model for model in found.models if model.state != "missing"):
        for full in (False, True):
            work, data = _measurable(found, model, full)
            if work is None or data is None:
                continue
            try:
                rates[model.name, full] = _measured(found.benchmark, model, data, work, full)
            except (InputError, ValueError, OSError) as error:
                problems.append(f"{model.name}: could not be measured ({str(error).splitlines()[0]})")
    return rates, problems


def _measurable(found: Forecast, model: Model, full: bool) -> tuple[Work | None, Data | None]:
    """The study of this backbone with the most FLOPs per step among those with available data."""
    here = {data.task.name: data for data in found.data if data.state in ("here", "generated")}
    fitting = [
        work
        for work in found.works
        if work.study.source == model.name
        and work.study.task.name in here
        and METHODS[work.study.method].engine == "pack"
        and METHODS[work.study.method].trains_all == full
        and work.step_flops  # rates are per FLOP
    ]
    work = max(fitting, key=lambda work: work.step_flops, default=None)
    return work, here[work.study.task.name] if work else None


def _measured(benchmark: Benchmark, model: Model, data: Data, work: Work, full: bool) -> Rate:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = this_machine(benchmark.workers_per_trial, benchmark.max_concurrent)
    torch.set_num_threads(shape.cpus)  # as in a worker
    with tempfile.TemporaryDirectory(prefix="lingo-plan-") as scratch:
        source, folder = _prepared(benchmark, model, data, work, Path(scratch))
        calibration = calibrate(
            source,
            str(folder),
            typical(work.study, benchmark),
            device=device,
            most=benchmark.pack or 16,
            max_labels=work.study.task.num_labels,
            frozen=frozen_here(benchmark)[0],
            precision=precision_here(benchmark),
        )
    frozen = precision_here(benchmark) if full else frozen_here(benchmark)[0]
    return _rate(calibration, model, work, full, frozen)


def precision_here(benchmark: Benchmark) -> Precision:
    """Precision of full fine-tuning, as far as it is known without a worker."""
    if benchmark.precision != "auto":
        return benchmark.precision
    import torch

    held = precision_in(benchmark.out) if benchmark.out else None
    usual = usual_type("cuda" if torch.cuda.is_available() else "cpu")
    return "bf16" if (held or usual) == "bf16" else "fp32"


def frozen_here(benchmark: Benchmark) -> tuple[Frozen, str]:
    """Number type of the frozen weights and its reason, as far as they are known without a worker."""
    held: Any = frozen_in(benchmark.out) if benchmark.out else None
    if benchmark.frozen:
        return benchmark.frozen, "--frozen"
    if held:
        return held, f"as in {benchmark.out}"
    import torch

    usual = usual_type("cuda" if torch.cuda.is_available() else "cpu")
    return usual, "for the device of this machine; a run determines it once, on a worker"


def _rate(calibration: Calibration, model: Model, work: Work, full: bool, frozen: str) -> Rate:
    return Rate(
        model=model.name,
        full=full,
        seconds_per_flop=calibration.seconds_per_trial_step / work.step_flops,
        alone_per_flop=calibration.seconds_per_step[1] / work.step_flops,
        eval_seconds=calibration.eval_seconds_per_row,
        tokens=work.tokens,
        pack=calibration.pack,
        device=calibration.device,
        frozen=frozen,
    )


def _prepared(benchmark: Benchmark, model: Model, data: Data, work: Work, scratch: Path) -> tuple[str, Path]:
    """(backbone to load, prepared folder) of a few rows."""
    from harness.config.plan import Plan
    from harness.pipeline.prepare import prepare_studies, read_backbones

    source = model.name
    small = benchmark.model_copy(update={"limit": max(ROWS, benchmark.batch_size), "drop_leaks": False})
    if model.name == TINY_MODEL:
        from harness.data.quickstart import make_backbone

        source = str(make_backbone(scratch / "model"))
    tokens = read_backbones([source])[source]
    checked = Plan(benchmark=small, identity={}, studies=(work.study,), out=scratch)
    (study,) = prepare_studies(checked, {work.study.source: tokens}, lambda _: None)
    return source, study.data


def total_seconds(works: Sequence[Work], rates: dict[Key, Rate]) -> tuple[float, int]:
    """Seconds of one worker for all measured studies, and the number of other studies."""
    seconds, unknown = 0.0, 0
    for work in works:
        method = METHODS[work.study.method]
        rate = rates.get((work.study.source, method.trains_all))
        if rate is None:
            unknown += 1
        else:
            seconds += rate.seconds(work)
    return seconds, unknown
