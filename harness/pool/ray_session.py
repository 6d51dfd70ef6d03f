"""The place where a benchmark trains: this machine, or the running Ray cluster of which this process is a part.

`ray_for` is the only row point. `harness.cluster` starts clusters and sends a benchmark there: it submits this same
program with `--cluster auto` to the head.
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.cluster_address import joins
from harness.core.errors import InputError
from harness.core.paths import ROOT
from harness.core.wording import words
from harness.pool.files import Files, LocalFiles
from harness.pool.resources import (
    NODE_START_S,
    WorkerLayout,
    coming_nodes,
    layout_on,
    present_nodes,
    this_machine,
)


@dataclass(frozen=True, kw_only=True)
class ClusterResources:
    """Resources of a benchmark for the duration of `ray_for`.

    Attributes:
        layout: Worker groups that lie on it.
        files: Workers' access to the driver's files.
        where: Description for the user.
        scratch: Folder for Ray's files, if Ray was started here.
        grows: Whether the cluster's autoscaler may start machines.
    """

    layout: WorkerLayout
    files: Files
    where: str
    scratch: Path | None = None
    grows: bool = False


@contextmanager
def ray_for(
    cluster: str | None, *, workers: int = 1, at_most: int | None = None, wait_s: float = NODE_START_S
) -> Iterator[ClusterResources]:
    """Ray for a benchmark, for the duration of the block: started here, or joined.

    Args:
        cluster: Value of `--cluster`; `None` for this machine.
        workers: Data-parallel workers of each group.
        at_most: Maximum number of useful groups.
        wait_s: Seconds that a group may wait for a machine of a cluster.

    Raises:
        InputError: If the Ray cluster `cluster` cannot be joined.
        RayTrouble: If Ray does not start here.
    """
    if not joins(cluster):
        raise InputError(f"`--cluster` must be auto or ray://HOST:PORT here, but got {cluster}.")
    if cluster is not None:
        with _joined(cluster, workers, at_most, wait_s) as resources:
            yield resources
        return
    from harness.pool.local_ray import local_ray

    lay = this_machine(workers, at_most)
    count = lay.groups * lay.workers
    with local_ray(count * lay.cpus, count * lay.gpus or None) as scratch:
        yield ClusterResources(layout=lay, files=LocalFiles(), where="this machine", scratch=scratch)


@contextmanager
def _joined(address: str, workers: int, at_most: int | None, wait_s: float) -> Iterator[ClusterResources]:
    import ray

    from harness.pool.local_ray import PACKAGES, OwnModulesFirst, own_modules

    remote = address.startswith("ray://")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(wait_s))
    try:
        program: dict[str, Any] = {"job_config": OwnModulesFirst(own_modules())}
        if remote:
            program = {"runtime_env": {"py_modules": [str(ROOT / part) for part in PACKAGES]}}
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **program)
    except Exception as error:  # Ray raises many types here; all of them mean the same
        raise InputError(
            f"`--cluster {address}`: no Ray cluster can be joined there ({words(error)})."
        ) from None
    try:
        nodes, mine = present_nodes(), ray.get_runtime_context().get_node_id()
        ahead = coming_nodes(nodes)
        lay = layout_on([*nodes, *ahead], workers=workers, at_most=at_most)
        many = len(nodes) + len(ahead) > 1
        if remote and (many or not _is_here()):
            raise InputError(
                f"`--cluster {address}` must be a cluster of one node on this machine, because other nodes cannot "
                "read its files: use the address of the head's Jobs API instead (http://HOST:8265)."
            )
        where = f"a cluster of {len(nodes)} node{'s' if len(nodes) > 1 else ''}"
        if ahead:
            where += f", up to {len(nodes) + len(ahead)}"
        files = _files(mine) if many else LocalFiles()
        yield ClusterResources(layout=lay, files=files, where=where, grows=bool(ahead))
    finally:
        ray.shutdown()


def _is_here() -> bool:
    """Whether the only node of the cluster is this machine."""
    import ray

    names = [row["NodeManagerHostname"] for row in ray.nodes() if row["Alive"]]  # type: ignore[no-untyped-call]
    return names == [socket.gethostname()]


def _files(node: str) -> Files:
    from harness.pool.remote_files import serve_files

    return serve_files(node)
