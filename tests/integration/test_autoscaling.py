"""Queued trials start nodes, idle nodes go, no trial is lost: Ray's autoscaler with made-up nodes."""

import json

import pytest

from tests.support.autoscaled import TRIALS, WORKERS
from tests.support.hosts import ROOT, Hosts, skip_unless_possible


@pytest.mark.cluster
@pytest.mark.flaky(reruns=1)  # Ray's autoscaler of version 1 decides by its own clock
@pytest.mark.timeout(900)
def test_queued_trials_start_nodes_and_idle_ones_go():
    skip_unless_possible()
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0" * 64,
        "PYTHONPATH": str(ROOT),
    }
    with Hosts(1, settings) as hosts:
        script = ROOT / "tests" / "support" / "autoscaled.py"
        log = hosts.ssh(0, f"python {script} /tmp/told.json 2>&1 || true", 800)
        told = json.loads(hosts.ssh(0, "cat /tmp/told.json 2>/dev/null || echo null"))
        assert told is not None, log
    assert told["before"] == 0 and told["shape"].startswith(f"{WORKERS} worker groups"), told
    assert told["ended"] == ["finished"] * TRIALS, told
    assert told["most"] == WORKERS, told
    assert told["idle"] == 1, told  # idle groups went and their nodes with them, while the pool was open
    assert told["again"] == ["finished"] * TRIALS, told
    assert told["after"] == 0, told
