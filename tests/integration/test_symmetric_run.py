"""What clusters/slurm.sbatch does on each machine of an allocation, on two hosts without Slurm."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.hosts import ROOT, Hosts, skip_unless_possible

SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "1" * 64,
    "RAY_TMPDIR": "/tmp/ray-me-1",  # as the script sets it, and the next one
    "RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT": "300",
    "HF_HUB_OFFLINE": "1",
}


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_one_command_on_every_machine_is_a_cluster_for_one_benchmark():
    skip_unless_possible()
    script = (ROOT / "clusters" / "slurm.sbatch").read_text().replace("\\\n", " ")
    line = re.search(r"ray symmetric-run .*", script)[0]
    options = "--tasks quickstart/promoter --models quickstart-opt --methods lora --num-samples 2 --epochs 1"
    line = re.sub(r"-- bash -c '.*' lingo *", "-- ", line).removesuffix(" &")
    for word, value in {
        "$SLURM_JOB_NUM_NODES": "2",
        "${SLURM_CPUS_PER_TASK:-1}": "1",
        '"$@"': f"{options} --seeds 0 --limit 64 --out ~/out",
        "python run_benchmark.py": f"python {ROOT}/run_benchmark.py",
    }.items():
        assert word in line, word
        line = line.replace(word, value)
    with Hosts(2, SETTINGS) as hosts, ThreadPoolExecutor(2) as both:
        line = line.replace("${address:-$head}:$port", f"{hosts.addresses[0]}:6379")
        runs = [both.submit(hosts.ssh, number, f"{line} 2>&1", 600) for number in range(2)]
        printed = runs[0].result()
        runs[1].result()
        assert "a cluster of 2 nodes: 2 worker groups" in printed, printed
        assert "1 of 1 searches and 1 of 1 final runs are complete" in printed, printed
        assert hosts.ssh(0, "ls ~/out/records | wc -l").strip() == "3"
        assert hosts.ssh(1, "pgrep -x raylet || true").strip() == ""
