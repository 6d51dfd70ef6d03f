"""`doctor` on every node of a running cluster: run on its head, as a job (`python -m harness.doctor.nodes`)."""

import argparse
import json
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.core.wording import words

NODE_S = 120.0


def findings() -> list[dict[str, Any]]:
    """Findings of `doctor` on this node: versions, devices, folders."""
    from harness.doctor import checks as doctor

    checks = (doctor.versions, doctor.devices, lambda: doctor.folders(Path.home() / "lingo"))
    return [asdict(finding) for check in checks for finding in check()]


def examine(expected: int, wait_s: float) -> dict[str, Any]:
    """Wait for nodes, then check each of them.

    Args:
        expected: Number of nodes to wait for.
        wait_s: Seconds after which only the available nodes are checked.

    Returns:
        `expected`, and `nodes`: address, findings or an error, of each.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    deadline = time.monotonic() + wait_s
    while len(alive := [row for row in ray.nodes() if row["Alive"]]) < expected:  # type: ignore[no-untyped-call]
        if time.monotonic() > deadline:
            break
        time.sleep(1)
    task = ray.remote(num_cpus=0, max_retries=0)(findings)
    asked = {
        row["NodeManagerAddress"]: task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(row["NodeID"], soft=False)
        ).remote()
        for row in alive
    }
    nodes = []
    for address, question in asked.items():
        try:
            nodes.append({"address": address, "findings": ray.get(question, timeout=NODE_S)})
        except Exception as error:  # a node that cannot answer is a finding
            line = words(error, 300)
            nodes.append({"address": address, "findings": [], "error": line})
    ray.shutdown()
    return {"expected": expected, "nodes": nodes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--wait", type=float, default=300.0)
    given = parser.parse_args()
    print(json.dumps(examine(given.nodes, given.wait)))


if __name__ == "__main__":
    main()
