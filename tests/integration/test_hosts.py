"""A benchmark on several hosts with the real `ray up`, Jobs API and SSH: network namespaces, see hosts.py."""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from harness.runs.store import load
from tests.support.hosts import Hosts, skip_unless_possible
from tests.support.laptop import Laptop, Story, until

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]
SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_health_check_period_ms": "1000",  # a lost host is noticed in seconds instead of a minute
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_prestart_worker_first_driver": "0",  # processes that nobody has asked for
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "AUTOSCALER_NODE_SSH_INTERVAL_S": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
}
BENCHMARK = ["--tasks", "quickstart/promoter", "--models", "quickstart-opt", "--methods", "lora,ars"]
SIZE = ["--epochs", "12", "--scheduler", "none", "--num-samples", "4", "--seeds", "0,5", "--limit", "400"]
"""Long enough that a host and the driver are lost in the middle of it."""


def cluster_file(folder, hosts):
    """clusters/on-premises.yaml with these hosts in it; their Python is there already."""
    config = yaml.safe_load((ROOT / "clusters" / "on-premises.yaml").read_text())
    config["cluster_name"] = f"hosts-{os.getpid()}"
    config["provider"].update(head_ip=hosts.addresses[0], worker_ips=hosts.addresses[1:])
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.key)}
    config["file_mounts"] = {"~/.ray/auth_token": str(folder / "home/.ray/auth_token")}
    config["setup_commands"] = ["chmod 600 ~/.ray/auth_token"]
    for kind, cpus in (("head", 0), ("worker", 1)):
        name = f"{kind}_start_ray_commands"
        size = f" --num-cpus={cpus} --object-store-memory=100000000"
        config[name] = [line + size if "ray start" in line else line for line in config[name]]
    path = folder / "on-premises.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """One benchmark's life: left by Ctrl-C, a host lost, its driver killed, begun again, home, taken down."""
    skip_unless_possible()
    folder = tmp_path_factory.mktemp("hosts")
    laptop = Laptop(folder, "on-premises.yaml", *BENCHMARK, *SIZE)
    told = Story()
    with Hosts(3, SETTINGS) as hosts:
        process = None
        try:
            cluster_file(folder, hosts)
            process = laptop.begin("--no-teardown")
            until(lambda: (laptop.out / "cluster.json").is_file() and laptop.session()["job"], 600, process)
            told["submitted"] = True
            records = f"ls {laptop.session()['folder']}/records 2>/dev/null | wc -l"
            until(lambda: int(hosts.ssh(0, records)) >= 1, 500, process)
            process.send_signal(signal.SIGINT)
            told["left"] = process.communicate(timeout=60)[0], process.returncode
            hosts.cut_off(2)
            told["before"] = before = int(hosts.ssh(0, records))
            process = laptop.start("attach", laptop.out, "--no-teardown")
            told["listening"] = hosts.ssh(0, "ss -Hltn")
            told["status"] = laptop.do("status", laptop.out)
            until(lambda: int(hosts.ssh(0, records)) >= max(3, before + 1), 500, process)
            hosts.plug_in(2)
            told["killed"] = hosts.kill(0, "run_benchmark.py run --settings")
            told["attached"] = process.communicate(timeout=300)[0], process.returncode
            told["kept"] = [record.id for record in load(laptop.out)]
            process = laptop.begin("--teardown")
            told["finished"] = process.communicate(timeout=600)[0], process.returncode
            told["processes"] = [hosts.ssh(n, "pgrep -x raylet || true").strip() for n in range(3)]
        finally:
            if process is not None:
                process.kill()
                with suppress(ValueError):  # its output was taken already
                    told["rest"] = process.communicate()[0]
            (folder / "told.json").write_text(json.dumps({**told, "times": told.times}, indent=1))
            print("seconds until", told.times)
    return laptop, told


def test_ctrl_c_leaves_the_benchmark_running(story):
    _, told = story
    printed, code = told["left"]
    assert code == 130 and "Traceback" not in printed
    for text in ("Submitted as", "MLflow", "attach", "cost money"):
        assert text in printed, printed
    code, printed = told["status"]
    assert code == 0 and printed.startswith("RUNNING"), printed


def test_only_ssh_and_the_cluster_itself_are_open(story):
    _, told = story
    assert "127.0.0.1:8265" in told["listening"] and "0.0.0.0:8265" not in told["listening"]
    assert "0.0.0.0:5000" not in told["listening"]


def test_a_killed_driver_is_told_and_what_had_ended_is_home(story):
    _, told = story
    printed, code = told["attached"]
    assert told["killed"] >= 1 and code not in (0, 2, 130), printed
    assert "FAILED" in printed and "digests verified" in printed, printed
    assert len(told["kept"]) >= 3


def test_begun_again_it_ends_whole_and_keeps_what_was_done(story):
    laptop, told = story
    printed, code = told["finished"]
    assert code == 0, printed
    records = load(laptop.out)
    assert {record.id for record in records} >= set(told["kept"])
    finals = [record for record in records if record.stage == "final"]
    assert sorted((r.method, r.seed) for r in finals if r.status == "finished") == [
        (method, seed) for method in ("ars", "lora") for seed in (0, 5)
    ]
    searched = [(r.method, r.trial) for r in records if r.stage == "search"]
    assert sorted(searched) == [(method, trial) for method in ("ars", "lora") for trial in range(4)]
    assert (laptop.out / "results.parquet").is_file() and (laptop.out / "mlflow.db").is_file()


def test_neither_a_lost_host_nor_a_killed_driver_counts_as_a_failure(story):
    laptop, _ = story
    for record in load(laptop.out):
        assert record.status in ("finished", "stopped") and "failures" not in record.facts, record.id
        assert [entry["epoch"] for entry in record.history] == list(range(1, len(record.history) + 1))


def test_adapters_come_home_from_workers_that_share_no_files(story):
    laptop, _ = story
    for record in load(laptop.out):
        if record.stage == "final":
            assert (laptop.out / "adapters").is_dir() and list(
                (laptop.out / "adapters").rglob("*.safetensors")
            )


def test_nothing_is_left(story):
    _, told = story
    assert "nothing is left" in told["finished"][0], told["finished"][0]
    assert told["processes"] == ["", "", ""]


def test_the_token_is_nowhere_but_in_its_file(story):
    laptop, told = story
    token = (Path(laptop.environment["HOME"]) / ".ray" / "auth_token").read_text().strip()
    assert len(token) >= 32
    for file in (file for file in laptop.out.rglob("*") if file.is_file()):
        assert token.encode() not in file.read_bytes(), file
    assert token not in json.dumps(told)
