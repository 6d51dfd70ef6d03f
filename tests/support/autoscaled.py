"""Trials on a cluster that grows and shrinks: Ray's autoscaler with made-up nodes. Writes JSON; see test_autoscaling.

Runs on a host of its own (hosts.py): the end of Ray here would end every other Ray on the machine.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

WORKERS, TRIALS = 2, 5
LISTS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
)


def configuration():
    """Ray's fake provider: nodes are raylets on this machine. The head trains nothing."""
    return {
        "cluster_name": "made-up",
        "max_workers": WORKERS,
        "idle_timeout_minutes": 0.2,
        "provider": {
            "type": "fake_multinode",
            "head_node_id": "fffffffffffffffffffffffffffffffffffffffffffffffffff00000",
            "use_node_id_as_ip": True,  # all nodes have one address
            "disable_node_updaters": True,  # nobody reaches them over SSH
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {
                "resources": {"CPU": 1, "object_store_memory": 80 * 2**20},
                "node_config": {},
                "min_workers": 0,
                "max_workers": WORKERS,
            },
        },
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "file_mounts_sync_continuously": False,
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{name: [] for name in LISTS},
    }


def start(file):
    """Ray's head with the autoscaler."""
    environment = {
        **os.environ,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "0",
        "RAY_prestart_worker_first_driver": "0",  # processes that nobody has asked for
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": configuration()["provider"]["head_node_id"],
    }
    command = ["ray", "start", "--head", f"--autoscaling-config={file}", "--num-cpus=0"]
    command += ["--object-store-memory=80000000", "--include-dashboard=false"]
    subprocess.run(command, env=environment, check=True, stdout=sys.stderr)


def workers():
    """Nodes that are alive beside the head."""
    import ray

    return sum(row["Alive"] and row["Resources"].get("CPU", 0) >= 1 for row in ray.nodes())


def main():
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
        json.dump(configuration(), file)  # JSON is YAML
    start(file.name)
    (Path.home() / "ray_bootstrap_config.yaml").write_text(
        json.dumps(configuration())
    )  # where `ray up` leaves it

    import ray

    from harness.config.search_space import Leaf, SearchSpace
    from harness.pool import pool as pools
    from harness.pool.pool import Pool
    from harness.pool.ray_session import ray_for
    from harness.search.driver import run_search
    from tests.support import toy_engine
    from tests.support.studies import search_study

    ray.cloudpickle.register_pickle_by_value(toy_engine)
    space = SearchSpace(method="lora", leaves={"quality": Leaf(type="float", low=0, high=1)})
    options = {"epochs": 2, "fixed": {"seconds": 3.0}, "scheduler": "none"}
    plan, second = (search_study(f"{name}|none|lora", space, TRIALS, **options) for name in ("toy", "again"))
    told = {}
    pools.IDLE_GROUP_S = 5.0
    with ray_for("auto") as resources:
        told |= {"shape": str(resources.layout), "where": resources.where, "before": workers()}
        most = 0

        def on_event(event):
            nonlocal most
            status = event.status
            most = max(most, workers()) if status == "finished" else most

        lay = resources.layout
        with Pool.start(
            partial(toy_engine.make, 1), groups=lay.groups, cpus_per_worker=lay.cpus, start_s=300
        ) as pool:
            found = run_search([plan], pool, on_event=on_event)
            told["ended"] = [outcome.status for outcome in found[plan.key]]
            told["most"] = most
            begun = time.monotonic()
            while workers() > 1 and time.monotonic() - begun < 120:
                time.sleep(1)
            told["idle"] = workers()  # the pool is still open
            again = run_search([second], pool, on_event=on_event)
            told["again"] = [outcome.status for outcome in again["again|none|lora"]]
        begun = time.monotonic()
        while workers() and time.monotonic() - begun < 120:
            time.sleep(1)
        told["after"], told["gone_s"] = workers(), round(time.monotonic() - begun)
    Path(sys.argv[1]).write_text(json.dumps(told))


if __name__ == "__main__":
    main()
