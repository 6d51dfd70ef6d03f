"""Resources of this machine or of the nodes of a cluster, and the layout of worker groups on them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from harness.core.host import free_gibibytes, usable_cores
from harness.core.wording import some

GROUP_GIB = 1.7
"""GiB of a group of one worker, without the backbone, including Ray's helper processes (measured: 1.4)."""

DRIVER_GIB = 2.5
"""Memory of the driver, the search and its clients."""


@dataclass(frozen=True, kw_only=True)
class WorkerLayout:
    """Worker groups of the pool.

    Attributes:
        groups: Groups that train concurrently.
        workers: Data-parallel workers of each.
        cpus: Threads of each worker.
        gpus: GPUs of each worker.
    """

    groups: int
    workers: int
    cpus: int
    gpus: int

    def __str__(self) -> str:
        each = some(self.gpus, "GPU") if self.gpus else some(self.cpus, "thread")
        if self.workers > 1:
            return f"{some(self.groups, 'worker group')} of {self.workers} workers, {each} a worker"
        return f"{some(self.groups, 'worker group')}, {each} each"


@dataclass(frozen=True, kw_only=True)
class NodeResources:
    """Resources of one machine of a cluster for worker groups; memory of 0 or less is unknown."""

    cpus: int
    gpus: int
    gibibytes: float = 0.0


def layout_on(nodes: Sequence[NodeResources], *, workers: int, at_most: int | None = None) -> WorkerLayout:
    """Worker groups for the nodes of a cluster. Where one node has GPUs, only GPUs train, a worker on each.

    A small model does not fill several cores with one training step, so machines without GPUs get as many workers of
    one thread as their cores and their memory bear. Every worker has the same number of threads, that of the node with
    the fewest for each; so a cluster of unlike nodes leaves some of the larger ones' cores to Ray.

    Args:
        nodes: Existing machines, and those that the cluster's autoscaler may start.
        workers: Data-parallel workers of each group; they may be on several nodes.
        at_most: Maximum number of useful groups.
    """
    with_gpus = [node for node in nodes if node.gpus]
    if with_gpus:
        seats = [(node.gpus, max(1, node.cpus // node.gpus)) for node in with_gpus]
    else:
        seats = [(_single(node), 1) for node in nodes if node.cpus]
    count = sum(number for number, _ in seats)
    groups = max(1, min(count // workers, at_most or count))
    threads = min((each for _, each in seats), default=1)
    return WorkerLayout(groups=groups, workers=workers, cpus=threads, gpus=1 if with_gpus else 0)


def local_layout(
    *, cores: int, gibibytes: float, gpus: int, workers: int, at_most: int | None = None
) -> WorkerLayout:
    """Worker groups for this one machine, which share its cores out.

    Args:
        cores, gibibytes, gpus: What it has to give; fewer GPUs than workers are not used.
        workers: Data-parallel workers of each group.
        at_most: Maximum number of useful groups: no more trials than this run at the same time.
    """
    memory = max(gibibytes - DRIVER_GIB, GROUP_GIB)
    node = NodeResources(cpus=cores, gpus=gpus if gpus >= workers else 0, gibibytes=memory)
    found = layout_on([node], workers=workers, at_most=at_most)
    return replace(found, cpus=max(1, cores // (found.groups * workers)))


def this_machine(workers: int, at_most: int | None) -> WorkerLayout:
    """Worker groups that this machine currently supports."""
    import torch

    has = {"cores": usable_cores(), "gibibytes": free_gibibytes(), "gpus": torch.cuda.device_count()}
    return local_layout(**has, workers=workers, at_most=at_most)  # type: ignore[arg-type]


def _single(node: NodeResources) -> int:
    """Number of single-threaded workers that a machine without GPUs supports."""
    by_memory = int(node.gibibytes / GROUP_GIB) if node.gibibytes > 0 else node.cpus
    return max(1, min(node.cpus, by_memory))


def present_nodes() -> list[NodeResources]:
    """Nodes that are currently alive. On the driver's node, memory is reserved for the driver and the search."""
    import ray

    mine = ray.get_runtime_context().get_node_id()
    found = []
    for row in ray.nodes():  # type: ignore[no-untyped-call]
        if row["Alive"]:
            found.append(_node(row["Resources"], DRIVER_GIB if row["NodeID"] == mine else 0.0))
    return found


def _node(resources: dict[str, Any], taken: float) -> NodeResources:
    return NodeResources(
        cpus=int(resources.get("CPU", 0)),
        gpus=int(resources.get("GPU", 0)),
        gibibytes=resources.get("memory", 0.0) / 2**30 - taken,
    )


def coming_nodes(present: list[NodeResources], config: Path | None = None) -> list[NodeResources]:
    """Worker nodes that the cluster's autoscaler may still start, from the file that `ray up` left on the head.

    A node type that does not specify its GPUs or CPUs is ignored.
    """
    described = described_cluster(config)
    types, head = described.get("available_node_types", {}), described.get("head_node_type")
    most = described.get("max_workers", 0) - (len(present) - 1)
    workers = [kind for name, kind in types.items() if name != head and kind.get("resources")]
    found: list[NodeResources] = []
    for kind in workers:
        left = min(kind.get("max_workers", 0), most - len(found))
        found += [_node(kind["resources"], 0.0)] * max(0, left)
    return found


def described_cluster(config: Path | None = None) -> dict[str, Any]:
    """The cluster file that `ray up` left on the head; empty if there is none."""
    path = config or Path(os.path.expanduser("~/ray_bootstrap_config.yaml"))  # noqa: PTH111 - never raises
    try:
        described = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    whole = isinstance(described, dict) and {"available_node_types", "head_node_type"} <= described.keys()
    return described if whole else {}


def autoscaled() -> bool:
    """Whether the cluster has an autoscaler."""
    return bool(coming_nodes(present_nodes()))


def check_fit(groups: int, workers: int, cpus: float, gpus: float) -> None:
    """Reject worker groups that exceed the cluster, including machines that may still be started.

    Raises:
        ValueError: With the required and the available resources.
    """
    import ray

    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    ahead = coming_nodes(present_nodes())
    there["CPU"] = there.get("CPU", 0) + sum(node.cpus for node in ahead)
    there["GPU"] = there.get("GPU", 0) + sum(node.gpus for node in ahead)
    for kind, each in (("CPU", cpus), ("GPU", gpus)):
        if groups * workers * each > there.get(kind, 0):
            raise ValueError(
                f"The worker groups must fit the cluster, but {groups} x {workers} workers with {each:g} "
                f"{kind} each need {groups * workers * each:g} and it has {there.get(kind, 0):g}."
            )


NODE_START_S = 3600.0
"""Seconds that the first machine started by an autoscaler may take."""
