"""Where a benchmark trains: this machine, or the running Ray cluster of which this process is a part.

`ray_for` is the only door. What starts clusters and sends a benchmark there are the modules `cluster_*`: they
submit this same program with `--cluster auto` to the head.
"""

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.config import Benchmark
from harness.errors import InputError
from harness.files import Files, LocalFiles
from harness.machine import DRIVER_GIB, Node, Shape, free_gibibytes, lay_out, shape, usable_cores

ROOT = Path(__file__).resolve().parents[1]
JOINED = re.compile(r"auto|ray://[^/\s]+:\d+")
"""Values of `--cluster` with which this process is the driver; all others send the benchmark elsewhere."""

JOBS = re.compile(r"https?://\S+")
"""Address of a Jobs API."""

NODE_START_S = "3600"
"""How long a worker group may wait for machines that an autoscaler has yet to start."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What a benchmark stands on while `ray_for` lasts.

    Attributes:
        shape: Worker groups that lie on it.
        files: How workers get at the driver's files.
        where: A few words for the user.
        scratch: Folder for Ray's own files, where Ray was started here.
    """

    shape: Shape
    files: Files
    where: str
    scratch: Path | None = None


def joins(cluster: str | None) -> bool:
    """Whether a benchmark with this `--cluster` is driven by the process that reads it."""
    return cluster is None or JOINED.fullmatch(cluster) is not None


@contextmanager
def ray_for(benchmark: Benchmark) -> Iterator[Ground]:
    """Ray for a benchmark, for as long as the block lasts: started here, or joined where it runs.

    Raises:
        InputError: If `cluster` names a Ray cluster that cannot be joined.
        RayTrouble: If Ray does not start here.
    """
    if not joins(benchmark.cluster):
        raise InputError(f"`--cluster` must be auto or ray://HOST:PORT here, but got {benchmark.cluster}.")
    if benchmark.cluster is not None:
        with _joined(benchmark, benchmark.cluster) as ground:
            yield ground
        return
    from harness.ray_here import local_ray

    lay = _here(benchmark)
    count = lay.groups * lay.workers
    with local_ray(count * lay.cpus, count * lay.gpus or None) as scratch:
        yield Ground(shape=lay, files=LocalFiles(), where="this machine", scratch=scratch)


def _here(benchmark: Benchmark) -> Shape:
    import torch

    return shape(
        cores=usable_cores(),
        gibibytes=free_gibibytes(),
        gpus=torch.cuda.device_count(),
        workers=benchmark.workers_per_trial,
        at_most=benchmark.max_concurrent,
    )


@contextmanager
def _joined(benchmark: Benchmark, address: str) -> Iterator[Ground]:
    import ray

    from harness.ray_here import PACKAGES, OwnModulesFirst, own_modules

    remote = address.startswith("ray://")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", NODE_START_S)
    try:
        program: dict[str, Any] = {"job_config": OwnModulesFirst(own_modules())}
        if remote:
            program = {"runtime_env": {"py_modules": [str(ROOT / part) for part in PACKAGES]}}
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **program)
    except Exception as error:  # Ray raises a dozen kinds here; all of them mean the same
        line = " ".join(str(error).split())[:200]
        raise InputError(f"`--cluster {address}`: no Ray cluster can be joined there ({line}).") from None
    try:
        nodes, mine = present_nodes(), ray.get_runtime_context().get_node_id()
        ahead = coming_nodes(nodes)
        lay = lay_out([*nodes, *ahead], workers=benchmark.workers_per_trial, at_most=benchmark.max_concurrent)
        many = len(nodes) + len(ahead) > 1
        if remote and (many or not _is_here()):
            raise InputError(
                f"`--cluster {address}` must be a cluster of one node on this machine, since others do not see its "
                "files: give the head's Jobs address instead (http://HOST:8265)."
            )
        where = f"a cluster of {len(nodes)} node{'s' if len(nodes) > 1 else ''}"
        if ahead:
            where += f", up to {len(nodes) + len(ahead)}"
        yield Ground(shape=lay, files=_files(mine) if many else LocalFiles(), where=where)
    finally:
        ray.shutdown()


def _is_here() -> bool:
    """Whether the one node of the cluster is this machine."""
    import ray

    names = [row["NodeManagerHostname"] for row in ray.nodes() if row["Alive"]]  # type: ignore[no-untyped-call]
    return names == [socket.gethostname()]


def _files(node: str) -> Files:
    from harness.shipping import serve_files

    return serve_files(node)


def present_nodes() -> list[Node]:
    """Nodes that are alive now. The driver's own gives up memory for the driver and the search."""
    import ray

    mine = ray.get_runtime_context().get_node_id()
    found = []
    for row in ray.nodes():  # type: ignore[no-untyped-call]
        if row["Alive"]:
            found.append(_node(row["Resources"], DRIVER_GIB if row["NodeID"] == mine else 0.0))
    return found


def _node(resources: dict[str, Any], taken: float) -> Node:
    return Node(
        cpus=int(resources.get("CPU", 0)),
        gpus=int(resources.get("GPU", 0)),
        gibibytes=resources.get("memory", 0.0) / 2**30 - taken,
    )


def coming_nodes(present: list[Node], config: Path | None = None) -> list[Node]:
    """Worker nodes that the cluster's autoscaler may still start, from the file that `ray up` left on the head.

    A node type that says nothing of its GPUs or CPUs is left out: nothing can be planned on it.
    """
    path = config or Path(os.path.expanduser("~/ray_bootstrap_config.yaml"))  # noqa: PTH111 - never raises
    try:
        described = yaml.safe_load(path.read_text(encoding="utf-8"))
        types, head = described["available_node_types"], described["head_node_type"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return []
    most = described.get("max_workers", 0) - (len(present) - 1)
    workers = [kind for name, kind in types.items() if name != head and kind.get("resources")]
    found: list[Node] = []
    for kind in workers:
        room = min(kind.get("max_workers", 0), most - len(found))
        found += [_node(kind["resources"], 0.0)] * max(0, room)
    return found


def autoscaled() -> bool:
    """Whether machines come with work and go without it."""
    return bool(coming_nodes(present_nodes()))


def check_fit(groups: int, workers: int, cpus: float, gpus: float) -> None:
    """Refuse worker groups that the cluster cannot hold, machines counted that may still come.

    Raises:
        ValueError: with what they need and what there is.
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
