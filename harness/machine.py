"""What this machine has, and how the pool's worker groups best lie on it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

GROUP_GIB = 1.7
"""Memory of a group of one worker beside a small backbone, and of what Ray puts around it (measured: 1.4)."""

DRIVER_GIB = 2.5
"""Memory of the driver, the search and its clients."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Worker groups of the pool.

    Attributes:
        groups: Groups that train side by side.
        workers: Data-parallel workers of each.
        cpus: Threads of each worker.
        gpus: GPUs of each worker.
    """

    groups: int
    workers: int
    cpus: int
    gpus: int

    def __str__(self) -> str:
        def some(count: int, what: str) -> str:
            return f"{count} {what}{'s' if count > 1 else ''}"

        each = some(self.gpus, "GPU") if self.gpus else some(self.cpus, "thread")
        if self.workers > 1:
            return f"{some(self.groups, 'worker group')} of {self.workers} workers, {each} a worker"
        return f"{some(self.groups, 'worker group')}, {each} each"


def shape(*, cores: int, gibibytes: float, gpus: int, workers: int, at_most: int | None = None) -> Shape:
    """Worker groups for a machine.

    A small model does not fill several cores with one training step, so a machine without GPUs gets as many
    groups of single-threaded workers as its cores and its memory bear; with GPUs each worker has one.

    Args:
        cores, gibibytes, gpus: What the machine has to give.
        workers: Data-parallel workers of each group.
        at_most: Most groups of use: no more trials than this will run at the same time.
    """
    if gpus >= workers:
        groups = gpus // workers
    else:
        gpus, groups = 0, min(cores // workers, int((gibibytes - DRIVER_GIB) / (GROUP_GIB * workers)))
    groups = max(1, min(groups, at_most or groups))
    return Shape(
        groups=groups, workers=workers, cpus=max(1, cores // (groups * workers)), gpus=1 if gpus else 0
    )


@dataclass(frozen=True, kw_only=True)
class Node:
    """What one machine of a cluster has to give to worker groups; memory of 0 or less is unknown."""

    cpus: int
    gpus: int
    gibibytes: float = 0.0


def lay_out(nodes: Sequence[Node], *, workers: int, at_most: int | None = None) -> Shape:
    """Worker groups for the nodes of a cluster. Where one node has GPUs, only GPUs train.

    Every worker has the same number of threads, that of the node with the fewest for each; so a cluster of
    unlike nodes leaves some of the larger ones' cores to Ray.

    Args:
        nodes: Machines that are there or that the cluster's autoscaler may start.
        workers: Data-parallel workers of each group; they may lie on several nodes.
        at_most: Most groups of use.
    """
    with_gpus = [node for node in nodes if node.gpus]
    if with_gpus:
        seats = [(node.gpus, max(1, node.cpus // node.gpus)) for node in with_gpus]
    else:
        seats = [(_single(node), 1) for node in nodes if node.cpus]
    count = sum(number for number, _ in seats)
    groups = max(1, min(count // workers, at_most or count))
    threads = min((each for _, each in seats), default=1)
    return Shape(groups=groups, workers=workers, cpus=threads, gpus=1 if with_gpus else 0)


def _single(node: Node) -> int:
    """Single-threaded workers that a machine without GPUs bears."""
    by_memory = int(node.gibibytes / GROUP_GIB) if node.gibibytes > 0 else node.cpus
    return max(1, min(node.cpus, by_memory))


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its control group."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        return count if quota == "max" else max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):
        return count


def free_gibibytes() -> float:
    """Memory that is available now, in GiB; 8 where it cannot be told."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return 8.0
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8"))
        free = min(free, limit - int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        pass
    return free / 2**30
