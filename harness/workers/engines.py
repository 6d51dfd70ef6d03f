"""The engine of a worker: delegates each job to the engine of its method, one kind at a time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from harness.core.host import cpu_stands_in
from harness.pool.engine import Engine
from harness.pool.files import Files, LocalFiles
from harness.runs.jobs import Job, Report
from harness.workers.determinism import Exact, prepare
from lingo.methods import METHODS
from lingo.quantized import usual_type
from lingo.trial import Frozen, Precision

HEAVY = frozenset({"pack", "peft", "probe"})
"""Kinds that load a backbone: two at once would need its memory twice."""


def make_engine(
    rank: int,
    world: int,
    *,
    pack: int = 1,
    files: Files | None = None,
    frozen: Frozen | None = None,
    precision: Precision = "fp32",
    gpus: int = 0,
    **room: Any,
) -> "Dispatch":
    """The engine of one worker of a group of `world`.

    Args:
        pack: Maximum number of trials at once, for methods that train in packs.
        files: Access to the driver's files; by default the local file system.
        frozen: Type of the frozen weights; `None` for that of the device.
        precision: How full fine-tuning computes. With `bf16` a GPU also takes TF32 for products of float32 numbers.
        gpus: Number of GPUs of this worker.
        room: `max_rank`, `max_labels` and `outputs` of a pack, see `harness.workers.packs.Room`.

    Raises:
        ValueError: If torch cannot use the assigned GPU; otherwise training would silently run on the CPU of an
            expensive GPU machine.
    """
    refuse_unusable(gpus)
    prepare()
    files = files or LocalFiles()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.set_float32_matmul_precision("high" if precision == "bf16" else "highest")
    held = frozen or usual_type(device)

    def packed() -> Engine:
        from harness.workers.packed_engine import make_engine as packed_engine

        return packed_engine(rank, world, pack=pack, files=files, frozen=held, precision=precision, **room)

    def simple() -> Engine:
        from harness.workers.single_engine import SimpleEngine

        return SimpleEngine(rank=rank, world=world, device=device, files=files)

    def peft() -> Engine:
        from harness.workers.peft_engine import PeftEngine

        return PeftEngine(rank=rank, world=world, device=device, files=files, frozen=held)

    def probe() -> Engine:
        from harness.workers.probe_engine import ProbeEngine

        return ProbeEngine(rank=rank, world=world, device=device, files=files, frozen=held)

    return Dispatch({"pack": packed, "simple": simple, "peft": peft, "probe": probe})


def refuse_unusable(gpus: float) -> None:
    """Raise `ValueError` if torch cannot use the GPUs assigned to this process."""
    if gpus and not torch.cuda.is_available() and not cpu_stands_in():
        raise ValueError(
            f"This machine's GPU must be usable by torch {torch.__version__} (CUDA {torch.version.cuda}), but is not: "
            "the driver is missing or too old (see `nvidia-smi` there); use a newer image in the cluster file."
        )


class Dispatch:
    """Delegates each job to the engine of its method's kind. An engine is created for its first job, and released
    when another one that loads a backbone replaces it.

    Args:
        makers: Factory of the engine of each kind in `lingo.methods.base.Engine`.
    """

    def __init__(self, makers: Mapping[str, Callable[[], Engine]]) -> None:
        self._makers = makers
        self._engines: dict[str, Engine] = {}
        self._exact = Exact()
        self._jobs: dict[str, str] = {}
        """Kind of each held job."""

    def free_slots(self, job: Job) -> int:
        """Number of jobs of this kind that fit now; none next to jobs of another kind."""
        kind = _kind(job)
        if any(other != kind for other in self._jobs.values()):
            return 0
        if self._jobs and (job.alone or self._exact.on):
            return 0
        return self._engine(kind).free_slots(job)

    def admit(self, job: Job) -> None:
        """Admit a job. Raises `ValueError` with a one-line message if it cannot be trained."""
        kind = _kind(job)
        self._exact.set(job.alone)
        self._engine(kind).admit(job)
        self._jobs[job.id] = kind

    def release(self, job_id: str) -> None:
        """Drop a job; unknown ids are ignored."""
        kind = self._jobs.pop(job_id, None)
        for name in [kind] if kind else list(self._engines):
            self._engines[name].release(job_id)

    def advance(self) -> Sequence[Report]:
        """Train the held jobs for a few steps."""
        kinds = set(self._jobs.values())
        reports = [report for kind in kinds for report in self._engines[kind].advance()]
        reports = [self._exact.noted(report) for report in reports]
        for report in reports:
            if report.status != "running":
                self._jobs.pop(report.job, None)
        return reports

    def save(self) -> None:
        """Write checkpoints of all jobs that keep any."""
        for kind in set(self._jobs.values()):
            self._engines[kind].save()

    def close(self) -> None:
        """Free memory and files."""
        self._exact.set(False)
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()
        self._jobs.clear()

    def _engine(self, kind: str) -> Engine:
        if kind not in self._engines:
            for other in HEAVY & set(self._engines) if kind in HEAVY else ():
                self._engines.pop(other).close()
            self._engines[kind] = self._makers[kind]()
        return self._engines[kind]


def _kind(job: Job) -> str:
    """The kind of engine of a job's method; unknown methods are rejected by that of packs."""
    method = METHODS.get(str(job.config.get("method")))
    return method.engine if method else "pack"
