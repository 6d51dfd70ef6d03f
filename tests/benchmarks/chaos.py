"""At least 30 kills over driver, job source, worker groups, a node of a cluster and the tracking server: every trial
ends, none is lost or doubled, and the table equals that of a run that nobody disturbed.

`python -m tests.benchmarks.chaos [--kills 31] [--seed 0] [--json FILE]`, about a quarter of an hour. The cluster is
`ray.cluster_utils.Cluster` on this machine: a head and two worker nodes. Random search without early stopping, with
an engine whose score is a chain of digests over its steps (`tests/support/chaos_engine.py`), so that a step that
is lost, repeated or taken from another trial's state shows in the table.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ray.cluster_utils import Cluster

from tests.support.chaos_rig import (
    OPTIONS,
    ROOT,
    Rig,
    Tracking,
    differences,
    environment,
    expected_ids,
    runs_of,
    table,
    tracking_problems,
    undisturbed,
)

SHARES = {"driver": 6, "worker group": 9, "job source": 6, "node": 5, "tracking server": 5}
"""Kills of each kind of 31."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it and print the record; 0 when all held."""
    options = _options(arguments)
    study = {**OPTIONS, "num_samples": options.trials, "seeds": [0, 1, 2], "epochs": 4}
    kills = {
        kind: max(1, round(count * options.kills / sum(SHARES.values()))) for kind, count in SHARES.items()
    }
    with tempfile.TemporaryDirectory(prefix="lingo-chaos-") as scratch:
        record = _run(Path(scratch), study, kills, options)
    print(json.dumps(record, indent=1))
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if record["held"] else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=sum(SHARES.values()))
    parser.add_argument("--trials", type=int, default=18, help="trials of each of two studies")
    parser.add_argument("--seconds", type=float, default=0.4, help="of a step; a trial has 16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-s", type=float, default=1500.0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def _run(scratch: Path, study: dict, kills: dict[str, int], options: argparse.Namespace) -> dict:
    calm = undisturbed(scratch / "calm", study)
    tracking = Tracking(scratch / "tracking")
    os.environ.setdefault(
        "RAY_worker_register_timeout_seconds", "300"
    )  # as the harness sets it for its own Ray
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    rig = Rig(scratch, study, seconds=options.seconds, seed=options.seed, cluster=cluster, tracking=tracking)
    begun, problem = time.monotonic(), ""
    try:
        rig.run(kills, seconds=options.limit_s)
    except (TimeoutError, AssertionError) as error:
        problem = str(error)
    finally:
        seconds = time.monotonic() - begun
        cluster.shutdown()
    tracking.wait()
    sync = [sys.executable, "run_benchmark.py", "sync", str(rig.out)]
    subprocess.run(sync, cwd=ROOT, env=environment(), capture_output=True, timeout=300, check=False)
    found, ids = table(rig.out), expected_ids(study)
    mirrored = tracking_problems(runs_of(tracking.uri), ids)
    tracking.kill()
    different = differences(calm, found)
    return {
        "kills": dict(rig.kills),
        "kills_in_all": rig.kills.total(),
        "trials": len(ids),
        "lost": sorted(ids - set(found)),
        "unexpected": sorted(set(found) - ids),
        "rows_that_differ": different,
        "table_equals_undisturbed": not different and set(calm) == ids,
        "tracking_problems": mirrored,
        "drivers_that_ended_by_themselves": rig.own_ends,
        "seconds": round(seconds, 1),
        "problem": problem,
        "held": not (different or mirrored or problem)
        and set(found) == ids
        and rig.kills.total() >= options.kills,
    }


if __name__ == "__main__":
    sys.exit(main())
