"""`plan --cluster`: type and number of machines that suit the chosen models, by calculation only."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from harness.cluster.file import ClusterFile
from harness.cluster.gpus import GpuMachine, as_of, gpu_machines
from harness.config.values import seconds_of
from harness.core.wording import duration
from harness.pipeline.forecast import Forecast, Work
from harness.pipeline.forecast_inputs import Model
from lingo.known_models import known_model, training_gib
from lingo.methods import METHODS

SHARE = 0.3
"""Assumed share of a GPU's peak performance in training. Backbones below a few hundred million parameters reach
less."""

USABLE = 0.85
"""Share of a GPU's memory that training may use, as in `harness.workers.calibration`."""

CUDA_GIB = 0.5
"""Memory used by CUDA itself."""

TARGET_HOURS = 12.0
"""Time limit for the proposal without `--time-budget`."""

GBIT = 10
"""Bandwidth of an ordinary network between two machines, in 10^9 bits per second; many are faster."""

WEIGHT_BYTES = {"fp32": 4.0, "bf16": 2.0, "4bit": 0.5}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One machine type for a benchmark.

    Attributes:
        gib: Memory of one trial of the largest study.
        trials: Number of trials of that study that fit on a GPU; 0 if none fits.
        hours: GPU-hours of the whole benchmark.
        machines: Number of machines that finish within the time limit.
    """

    machine: GpuMachine
    gib: float
    trials: int
    hours: float
    machines: int

    @property
    def cost(self) -> float:
        """US dollars of all machines, at list prices."""
        return self.hours / self.machine.gpus * self.machine.price


def choices(found: Forecast, provider: str, most: int) -> list[Choice]:
    """Every machine type of a provider, the cheapest that fits first, then those that do not fit.

    Args:
        most: Maximum number of machines.
    """
    works = [work for work in found.works if METHODS[work.study.method].needs_backbone]
    rows = [_choice(found, works, machine, most) for machine in gpu_machines(provider)]
    return sorted(rows, key=lambda row: (row.trials == 0, row.cost, row.machine.price))


def _choice(found: Forecast, works: list[Work], machine: GpuMachine, most: int) -> Choice:
    benchmark = found.benchmark
    models = {model.name: model for model in found.models}
    room = USABLE * machine.gigabytes * 1e9 / 2**30 - CUDA_GIB
    needs = [_gib(work, models.get(work.study.source), found, machine.bf16) for work in works]
    gib, held = max(needs, default=(0.0, 0.0))
    trials = int((room - held) / (gib - held)) if gib > held and room > gib else int(room >= gib)
    hours = sum(work.flops for work in works) / (SHARE * machine.tflops * 1e12) / 3600
    limit = seconds_of(benchmark.time_budget) / 3600 if benchmark.time_budget else TARGET_HOURS
    wanted = math.ceil(hours / machine.gpus / limit)
    useful = math.ceil(found.trials * benchmark.workers_per_trial / machine.gpus)
    return Choice(
        machine=machine, gib=gib, trials=trials, hours=hours, machines=max(1, min(wanted, useful, most))
    )


def _gib(work: Work, model: Model | None, found: Forecast, bf16: bool) -> tuple[float, float]:
    """GiB of one trial of a study, and of the frozen weights shared by the trials of a pack."""
    benchmark = found.benchmark
    count, layers, width = _size(work.study.source, model)
    full = METHODS[work.study.method].trains_all
    each = WEIGHT_BYTES[benchmark.frozen or ("bf16" if bf16 else "fp32")]
    batch = math.ceil(benchmark.batch_size / benchmark.workers_per_trial)
    whole = training_gib(count, layers, width, tokens=work.tokens, batch=batch, weight_bytes=each, full=full)
    return whole, 0.0 if full else each * count / 2**30


def _size(source: str, model: Model | None) -> tuple[float, int, int]:
    """Parameters, layers and width of a backbone; for an unknown one estimated from its matrices."""
    known = known_model(source)
    if known is not None and known.millions:
        return known.millions * 1e6, known.layers, known.width
    shape = model.shape if model is not None else None
    if shape is None:
        return 0.0, 0, 0
    matrices = sum(d_in * d_out for _, d_in, d_out in shape.matrices())
    return float(shape.layers * matrices), shape.layers, shape.hidden


def machine_lines(found: Forecast, file: ClusterFile) -> Iterator[str]:
    """The lines of `plan` on the machines of a cluster file."""
    works = [work for work in found.works if METHODS[work.study.method].needs_backbone]
    if not works:
        return
    rows = choices(found, file.provider, file.workers)
    yield ""
    if not rows:
        gib = _choice(found, works, EXAMPLE, 1).gib
        yield f"GPU memory: about {gib:.1f} GiB for one trial of the largest study, frozen weights in bf16."
        return
    yield (
        f"Machines for {file.provider}, by arithmetic (memory of one trial of the largest study; {SHARE:.0%} of the "
        f"GPU's peak, which small backbones do not reach; list prices of {as_of()}, on demand):"
    )
    for row in rows:
        yield _row(row)
    best = rows[0]
    if not best.trials:
        yield (
            f"No machine of clusters/gpus.yaml for {file.provider} holds a trial: --frozen 4bit or a smaller "
            "--max-length needs less memory."
        )
        return
    if any(METHODS[work.study.method].trains_all for work in works):
        yield "Full fine-tuning computes in fp32, in several times the hours of this table."
    yield _proposal(best, file, found)
    used = {kind.instance for kind in file.kinds[1:]}
    for row in rows:
        if row.machine.name in used and not row.trials:
            yield f"{row.machine.name} of {file.path} does not hold a trial of the largest study ({row.gib:.1f} GiB)."
    if any(not row.machine.bf16 and row.machine.name in {*used, best.machine.name} for row in rows):
        yield (
            "T4 has no bf16: backbones are trained in fp32 there, in twice the memory (never in fp16, whose results "
            "would not compare with those of bf16 and fp32)."
        )
    yield from _network(found, file, {row.machine.name: row.machine for row in rows}, used)


EXAMPLE = GpuMachine(name="", gpu="", gpus=1, cpus=1, gigabytes=80, bf16=True, tflops=300, price=0.0)
"""Example for machines that are in no table."""


def _row(row: Choice) -> str:
    machine = row.machine
    start = f"  {machine.name:25} {machine.text:30} {row.gib:6.1f} GiB  "
    if not row.trials:
        return f"{start}does not hold a trial"
    types = "bf16" if machine.bf16 else "fp32"
    return (
        f"{start}{types}, up to {row.trials} at once a GPU  {row.hours:8.1f} GPU-hours  ${machine.price:.2f} an hour  "
        f"about ${row.cost:,.2f}"
    )


def _proposal(best: Choice, file: ClusterFile, found: Forecast) -> str:
    machine, wall = best.machine, best.hours / best.machine.gpus / best.machines
    given = "--time-budget" if found.benchmark.time_budget else f"{TARGET_HOURS:g} hours"
    setting = {"aws": "InstanceType", "gcp": "machineType", "azure": "vmSize"}[file.provider]
    attached = " and guestAccelerators for its GPU" if machine.attached else ""
    fewer = "" if wall <= _limit(found) else f" (more than {given}: the file allows {file.workers} machines)"
    return (
        f"Proposal, the cheapest: {best.machines} x {machine.name} ({machine.text}), about "
        f"{duration(wall * 3600)}{fewer} and ${best.cost:,.2f}, plus the head. In {file.path}, in each GPU type: "
        f"`{setting}: {machine.name}`{attached} and `resources: {machine.resources}`; `max_workers: {best.machines}`."
    )


def _limit(found: Forecast) -> float:
    budget = found.benchmark.time_budget
    return seconds_of(budget) / 3600 if budget else TARGET_HOURS


def _network(
    found: Forecast, file: ClusterFile, known: dict[str, GpuMachine], used: set[str]
) -> Iterator[str]:
    """Data that workers of one trial exchange between machines, and the network for it."""
    workers = found.benchmark.workers_per_trial
    mine = [known[name] for name in sorted(used) if name in known]
    fewest = min((machine.gpus for machine in mine), default=1)
    if workers <= fewest:
        return
    numbers = max(work.trained for work in found.works)
    milliseconds = 2 * 4 * numbers * 8 / (GBIT * 1e9) * 1000
    efa = "EFA" in str(file.config) or "efa" in str(file.config.get("available_node_types"))
    way = "EFA, as the file requests it" if efa else "plain TCP (NCCL's sockets)"
    more = (
        f" {', '.join(one.name for one in mine if one.efa)} can have EFA, which needs a NetworkInterfaces entry with "
        "`InterfaceType: efa` and an image with the aws-ofi-nccl plug-in."
        if not efa and any(one.efa for one in mine)
        else ""
    )
    yield (
        f"--workers-per-trial {workers} spreads a trial over {math.ceil(workers / fewest)} machines of {fewest} GPU"
        f"{'' if fewest == 1 else 's'}: at each step {4 * numbers / 1e6:,.1f} MB of gradients go over {way}, about "
        f"{milliseconds:,.1f} ms at {GBIT} Gbit/s.{more}"
    )
