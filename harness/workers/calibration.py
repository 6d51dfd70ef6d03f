"""Calibration of pack size and step time on a device: a few steps at K = 1, 2, 4, 8, 16."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from harness.core.host import free_gibibytes
from harness.data.prepared import open_prepared
from harness.pool.files import Files, LocalFiles
from harness.workers.packs import InputNeeds, Room, build, is_full, load, local_source
from lingo.backbones import Backbone
from lingo.data import Split, TaskData
from lingo.memory import out_of_memory
from lingo.pack import Pack
from lingo.trial import Frozen, Precision, TrialConfig

GAIN = 1.1
"""Factor in samples per second required of a pack of twice the size."""

WARM_UP, STEPS, SECONDS = {"cuda": 5, "cpu": 1}, 3, 3.0
"""Warm-up steps (a GPU chooses kernels and takes memory in its first ones); minimum measured steps and seconds."""

SHARE = {"cuda": 0.85, "cpu": 0.5}
"""Share of the memory that a pack may use, since later batches may be longer than the measured ones."""

EVAL_ROWS = 128


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Measurements for one backbone, task and configuration on one device.

    Attributes:
        pack: Chosen pack size.
        seconds_per_step: K → wall seconds of one step of a pack of K, which takes each trial one step further.
        samples_per_second: K → training samples a second, over all trials of the pack.
        memory: K → peak memory in bytes: of the device, or of this process on a CPU.
        memory_limit: Memory limit of a pack in bytes.
        eval_seconds_per_row: Wall seconds to predict one row of the dev split, for one trial.
        device: Measured device.
        stopped: Reason why no larger pack was tried.
    """

    pack: int
    seconds_per_step: dict[int, float]
    samples_per_second: dict[int, float]
    memory: dict[int, int]
    memory_limit: int
    eval_seconds_per_row: float
    device: str
    stopped: str

    @property
    def seconds_per_trial_step(self) -> float:
        """Wall seconds of the device for one step of one trial, in a pack of the chosen size."""
        return self.seconds_per_step[self.pack] / self.pack


def calibrate(
    backbone_source: str,
    data_folder: str,
    config: Mapping[str, Any] | TrialConfig,
    *,
    device: str,
    most: int = 16,
    frozen: Frozen = "fp32",
    precision: Precision = "fp32",
    max_labels: int = 2,
    files: Files | None = None,
) -> Calibration:
    """Train a few steps in packs of 1, 2, 4 … trials until a larger pack gains less than 10 % or memory is exhausted.

    Args:
        backbone_source: A known name or a folder.
        data_folder: A prepared task, whose sequences are used.
        config: Settings of a trial. A `delta_T` too large for the task is reduced.
        device: `cpu` or `cuda`.
        most: Largest pack to try.
        frozen, precision, max_labels: As in `harness.workers.packs.Room`.
        files: File access for workers on other hosts.

    Raises:
        ValueError: If backbone, data or configuration cannot be used, or a single trial does not fit into memory.
    """
    files = files or LocalFiles()
    folder = str(files.fetch(data_folder))
    data = open_prepared(folder)
    trial = _fitting(config if isinstance(config, TrialConfig) else TrialConfig.from_dict(config), data)
    room = Room(max_labels=max_labels, frozen=frozen, precision=precision)
    source = local_source(backbone_source, files)
    backbone = load(source, room, full=is_full(trial), device=device, needs=InputNeeds.of(Path(folder)))
    return _Runs(backbone, data, trial, room, device).all(most)


def calibrate_remotely(
    backbone_source: str,
    data_folder: str,
    config: Mapping[str, Any],
    *,
    cpus: float = 1,
    gpus: float = 0,
    timeout_s: float = 900.0,
    **options: Any,
) -> Calibration:
    """`calibrate` as a Ray task with the resources of a worker. Ray must be running.

    Raises:
        ValueError: As `calibrate`, and if no node provides the resources within `timeout_s`.
    """
    import ray

    task: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=1)(calibrate)  # type: ignore[arg-type]
    device = "cuda" if gpus else "cpu"
    running = task.remote(backbone_source, data_folder, config, device=device, **options)
    try:
        measured: Calibration = ray.get(running, timeout=timeout_s)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(running, force=True)
        raise ValueError(
            f"the calibration must end within {timeout_s:.0f} s, but no worker with {cpus:g} CPUs and "
            f"{gpus:g} GPUs completed it; set `--pack` explicitly."
        ) from None
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, ValueError) else ValueError(str(error.cause)) from error
    return measured


class _Runs:
    """The measurements, from small packs to large ones."""

    def __init__(
        self, backbone: Backbone, data: TaskData, trial: TrialConfig, room: Room, device: str
    ) -> None:
        self._backbone, self._data, self._trial = backbone, data, trial
        self._room, self._device = room, device
        self._limit = _memory_limit(device)
        self._seconds: dict[int, float] = {}
        self._rates: dict[int, float] = {}
        self._memory: dict[int, int] = {}
        self._per_row = 0.0

    def all(self, most: int) -> Calibration:
        """All sizes up to the first without sufficient gain."""
        size, stopped = 1, f"{most} trials are the maximum to be tried"
        most = 1 if is_full(self._trial) else most
        while size <= most:
            reason = self._too_large(size)
            if reason is None:
                try:
                    self._one(size)
                except RuntimeError as error:
                    if not out_of_memory(error):
                        raise
                    reason = f"{size} trials do not fit into memory"
            if reason is None and size > 1 and self._rates[size] < GAIN * self._rates[size // 2]:
                reason = f"{size} trials train less than 10 % more samples per second than {size // 2}"
            if reason is not None:
                stopped = reason
                break
            size *= 2
        if not self._rates:
            raise ValueError(f"a trial must fit into the memory of {self._device}, but {stopped}.")
        return Calibration(
            pack=max(self._rates, key=lambda count: (self._rates[count] >= self._best(count), count)),
            seconds_per_step=self._seconds,
            samples_per_second=self._rates,
            memory=self._memory,
            memory_limit=self._limit,
            eval_seconds_per_row=self._per_row,
            device=self._device,
            stopped=stopped,
        )

    def _best(self, count: int) -> float:
        """Throughput that a pack of `count` must reach to be preferred to half its size."""
        return GAIN * self._rates[count // 2] if count > 1 else 0.0

    def _too_large(self, size: int) -> str | None:
        """Whether the memory of a pack of `size`, extrapolated from smaller ones, exceeds the limit."""
        if size < 4:
            return None
        last, before = self._memory[size // 2], self._memory[size // 4]
        foreseen = last + 2 * max(0, last - before)
        if foreseen <= self._limit:
            return None
        return (
            f"{size} trials would take about {foreseen / 2**30:.1f} GiB of {self._limit / 2**30:.1f} allowed"
        )

    def _one(self, size: int) -> None:
        pack = build(self._backbone, self._room, self._trial, self._data.num_labels, capacity=max(size, 1))
        try:
            if self._device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            for number in range(size):
                pack.admit(replace(self._trial, seed=self._trial.seed + number), self._data)
            self._seconds[size] = seconds = _time_steps(pack, self._device)
            self._rates[size] = size * self._trial.batch_size / seconds
            if size == 1:
                self._per_row = _time_rows(pack, self._data.dev, self._device)
            self._memory[size] = _peak(self._device)
        finally:
            pack.close()


def _fitting(trial: TrialConfig, data: TaskData) -> TrialConfig:
    """The settings with a ΔT that permits allocations on this task."""
    total = -(-len(data.train) // trial.batch_size) * trial.epochs
    if trial.problems() or not trial.problems(total_steps=total):
        return trial
    return replace(trial, delta_T=1)


def _time_steps(pack: Pack, device: str) -> float:
    """Seconds of a step, the mean over a few."""
    for _ in range(WARM_UP[device]):
        pack.step()
    _wait(device)
    begun, steps = time.perf_counter(), 0
    while pack.running and (steps < STEPS or (time.perf_counter() - begun < SECONDS and steps < 50)):
        pack.step()
        steps += 1
        _wait(device)
    return (time.perf_counter() - begun) / max(1, steps)


def _time_rows(pack: Pack, dev: Split, device: str) -> float:
    rows = min(EVAL_ROWS, len(dev))
    few = Split(dev.ids[: dev.offsets[rows]], dev.offsets[: rows + 1], dev.labels[:rows])
    if device == "cuda":
        pack.predict(pack.slots[0], few)
        _wait(device)
    begun = time.perf_counter()
    pack.predict(pack.slots[0], few)
    _wait(device)
    return (time.perf_counter() - begun) / max(1, rows)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _memory_limit(device: str) -> int:
    if device == "cuda":
        return int(SHARE["cuda"] * torch.cuda.mem_get_info()[1])
    return int(SHARE["cpu"] * free_gibibytes() * 2**30) + _peak("cpu")


def _peak(device: str) -> int:
    """Bytes at the peak so far: allocated on the device, or resident in this process."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    import resource  # Unix has it

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
