"""On-demand machines: requested after a time without spot machines, returned when these are available again."""

import pytest
import yaml

from harness.core.errors import RunStopped
from harness.core.paths import ROOT
from harness.pool.machines import PROBE_S, FullPrice, Machines, Types, describe, refusals, types_of
from harness.pool.pool import Pool
from harness.pool.ray_causes import PoolError

TYPES = Types(full=("gpu-on-demand",), usual=("gpu-spot",))
REFUSED = {"gpu-spot": "InsufficientInstanceCapacity"}


@pytest.fixture
def rig():
    return Rig()


class Rig:
    """The decisions over made-up looks at a cluster."""

    def __init__(self, wait_s=600.0):
        self.asked, self.left, self.said = [], [], []
        self.now = 0.0
        self.fallback = FullPrice(
            TYPES, wait_s, lambda *counts: self.asked.append(counts), self.left.append, self.said.append
        )

    def see(self, *, after=0.0, spot=(), full=(), coming=None, wanted=0, refused=REFUSED):
        self.now += after
        there = {"gpu-spot": spot, "gpu-on-demand": full}
        self.fallback.step(
            Machines(there=there, coming=coming or {}, wanted=wanted, refused=refused), self.now
        )


@pytest.mark.parametrize("name", ["aws", "gcp", "azure"])
def test_the_types_of_the_cluster_files(name, tmp_path):
    path = ROOT / "clusters" / f"{name}.yaml"
    assert types_of(path) == TYPES
    config = yaml.safe_load(path.read_text())
    for kind in config["available_node_types"].values():
        kind["resources"].pop("full_price", None)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    assert types_of(tmp_path / "own.yaml") == Types() == types_of(tmp_path / "none.yaml")


def test_they_are_asked_for_after_the_wait_and_no_longer_once_they_serve(rig):
    rig.see(wanted=2)
    rig.see(after=599, wanted=2)
    assert rig.asked == []
    rig.see(after=1, wanted=2)
    assert rig.asked == [(2, 0)]
    assert (
        "10 min (InsufficientInstanceCapacity): requesting 2 on-demand machines (gpu-on-demand)"
        in rig.said[0]
    )
    rig.see(after=60, full=("a",), wanted=1)
    assert rig.asked == [(2, 0)]
    rig.see(after=60, full=("a", "b"))
    assert rig.asked == [(2, 0), (0, 0)]


def test_not_while_spot_machines_come(rig):
    rig.see(wanted=4)
    rig.see(after=590, spot=("s",), wanted=3)
    rig.see(after=590, spot=("s",), wanted=3)
    rig.see(after=5, spot=("s",), coming={"gpu-spot": 3}, wanted=3)
    rig.see(after=3600, spot=("s",), coming={"gpu-spot": 3}, wanted=3)
    assert rig.asked == [] and rig.said == []


def test_a_lost_spot_machine_begins_the_wait_anew(rig):
    rig.see(spot=("s",))
    rig.see(after=3600, wanted=1)
    rig.see(after=599, wanted=1)
    assert rig.asked == []
    rig.see(after=1, wanted=1)
    assert rig.asked == [(1, 0)]


def test_they_are_given_back_one_for_each_spot_machine_that_comes(rig):
    rig.see(wanted=2)
    rig.see(after=600, wanted=2)
    rig.see(after=60, full=("a", "b"))
    rig.see(after=60, spot=("s",), full=("a", "b"))
    assert rig.left == ["a"] and "1 on-demand machine returned" in rig.said[-1]
    rig.see(after=2, spot=("s",), full=("a", "b"))
    assert rig.left == ["a"]
    rig.see(after=60, spot=("s", "t"), full=("b",))
    assert rig.left == ["a", "b"]


def test_while_they_do_all_the_work_a_spot_machine_is_asked_for_at_times(rig):
    rig.see(full=("a",))
    rig.see(after=600, full=("a",))
    assert rig.asked == [(0, 1)]
    rig.see(after=PROBE_S - 1, full=("a",))
    assert rig.asked == [(0, 1)]
    rig.see(after=1, full=("a",))
    assert rig.asked == [(0, 1), (0, 0)]
    rig.see(after=600, full=("a",))
    rig.see(after=10, full=("a",), spot=("s",))
    assert rig.asked[2:] == [(0, 1), (0, 0)] and rig.left == ["a"]


def test_the_answer_of_the_cloud_is_in_the_autoscalers_log():
    line = "INFO node_provider.py:491 -- Failed to launch 1 nodes of type gpu-spot"
    log = (
        f"{line}: Node Launch Exception (RequestLimitExceeded): later\n"
        f"{line}: Node Launch Exception (InsufficientInstanceCapacity): There is no Spot capacity.\n"
        f"{line} with request id 1-2: \n"
    )
    assert refusals(log) == {"gpu-spot": "InsufficientInstanceCapacity: There is no Spot capacity"}
    assert refusals("") == {}


@pytest.mark.parametrize(
    "grows,error,says",
    [
        (
            True,
            RunStopped,
            r"No machine joined within 0 s \(machines: none yet; .*InsufficientInstanceCapacity\)",
        ),
        (False, PoolError, "No worker group started within 0 s"),
    ],
)
def test_a_first_machine_that_does_not_come_is_one_line_with_a_cure(monkeypatch, grows, error, says):
    pool = Pool.__new__(Pool)
    pool._groups, pool._supervisors = ["group-0"], []
    monkeypatch.setattr(pool, "_call", lambda method, *_: {"up": [], "broken": {}})
    monkeypatch.setattr("harness.pool.pool.autoscaled", lambda: grows)
    monkeypatch.setattr("harness.pool.machines.look", lambda: Machines(wanted=1, refused=REFUSED))
    with pytest.raises(error, match=says) as raised:
        pool._up(0.0)
    assert "\n" not in str(raised.value) and ("--machine-wait" in str(raised.value)) is grows


def test_one_line_says_what_is_there_asked_for_and_refused():
    seen = Machines(there={"gpu-spot": ("a",)}, coming={"gpu-on-demand": 1}, wanted=2, refused=REFUSED)
    assert describe(seen) == (
        "machines: 1 x gpu-spot; being set up: 1 x gpu-on-demand; requested, for 2 workers; "
        "the cloud refuses gpu-spot: InsufficientInstanceCapacity"
    )
    assert describe(Machines()) == "machines: none yet"
