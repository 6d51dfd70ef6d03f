"""What a cluster has cost: by the launch times of its machines, ended ones too."""

import json
from dataclasses import replace

import pytest
import yaml

from harness.cluster import head_keeper, spending
from harness.cluster.machines import Machine
from harness.cluster.session import Session
from harness.cluster.ssh import Remote

HOUR = 3600.0
PLACE = {"type": "aws", "region": "us-west-2"}
TYPES = {
    "head": {"node_config": {"InstanceType": "m6i.2xlarge"}},
    "gpu-spot": {
        "node_config": {"InstanceType": "g6.2xlarge", "InstanceMarketOptions": {"MarketType": "spot"}}
    },
    "gpu-on-demand": {"node_config": {"InstanceType": "g6.2xlarge"}},
}
CONFIG = {"cluster_name": "c", "provider": PLACE, "head_node_type": "head", "available_node_types": TYPES}
PRICES = {"m6i.2xlarge": 0.4, "g6.2xlarge": 1.0, "g6.2xlarge spot": 0.5}


def machine(name, instance, started, ended=None):
    return Machine(
        cluster="c",
        provider="aws",
        place="us-west-2",
        name=name,
        kind="",
        instance=instance,
        state="terminated" if ended else "running",
        started=started,
        ended=ended,
    )


class Cloud:
    """A provider's list, and what the head has noted."""

    def __init__(self, monkeypatch, tmp_path):
        self.rows, self.notes = [], {}
        self.session = Session(out=tmp_path / "run", provider="aws", host="h", user="u", hourly=9.0, nodes=9)
        (self.session.out / "cluster").mkdir(parents=True)
        file = self.session.out / "cluster" / "c.yaml"
        file.write_text(yaml.safe_dump(CONFIG))
        self.session = replace(self.session, file=str(file), started=10 * HOUR)
        monkeypatch.setattr(spending, "machines_of", lambda config: list(self.rows))
        monkeypatch.setattr(Remote, "run", lambda *_, **__: json.dumps(self.notes))

    def names(self, now):
        return {one.name: one.hours(now) for one in spending.machines(self.session, now)}


@pytest.fixture
def cloud(monkeypatch, tmp_path):
    return Cloud(monkeypatch, tmp_path)


def test_the_cluster_counts_since_the_launch_of_its_head_not_since_this_folder(cloud):
    cloud.rows = [machine("i-head", "m6i.2xlarge", 8 * HOUR), machine("i-old", "m6i.2xlarge", 1.0, 5 * HOUR)]
    assert cloud.names(12 * HOUR) == {"i-head": 4.0}
    assert spending.launched(cloud.session) == 8 * HOUR


def test_each_machine_has_its_own_price(cloud, monkeypatch):
    cloud.rows = [
        machine("i-head", "m6i.2xlarge", 10 * HOUR),
        machine("i-1", "g6.2xlarge spot", 10.5 * HOUR, 11.5 * HOUR),
        machine("i-2", "g6.2xlarge spot", 11 * HOUR, 12 * HOUR),
        machine("i-3", "g6.2xlarge", 11 * HOUR),
    ]
    rows = spending.machines(cloud.session, 12 * HOUR)
    text = spending.counted(rows, 12 * HOUR, PRICES)
    assert "1 x m6i.2xlarge for 2.0 h, 2 x g6.2xlarge spot for 2.0 h, 1 x g6.2xlarge for 1.0 h" in text
    assert "about $2.80 at list prices" in text
    assert "and those without a price" in spending.counted(rows, 12 * HOUR, {"m6i.2xlarge": 0.4})
    monkeypatch.setattr("time.time", lambda: 12 * HOUR)
    assert "Up for 2 h 00 min: at most $18.00" in spending.spent(cloud.session)


def test_machines_that_the_provider_has_forgotten_are_kept(cloud):
    head = machine("i-head", "m6i.2xlarge", 10 * HOUR)
    cloud.rows = [head, machine("i-1", "g6.2xlarge spot", 11 * HOUR, 12 * HOUR)]
    assert cloud.names(12 * HOUR)["i-1"] == 1.0
    cloud.rows = [head]
    cloud.notes = {"i-2": {"kind": "gpu-spot", "first": 11 * HOUR, "last": 11.5 * HOUR}}
    assert cloud.names(15 * HOUR) == {"i-head": 5.0, "i-1": 1.0, "i-2": 0.5}
    found = {one.name: one.instance for one in spending.machines(cloud.session, 15 * HOUR)}
    assert found["i-2"] == "g6.2xlarge spot"


def test_the_head_notes_who_was_there_and_when(tmp_path, monkeypatch):
    class Provider:
        there = ("i-1",)

        def non_terminated_nodes(self, _):
            return list(self.there)

        def node_tags(self, name):
            return {"ray-user-node-type": "gpu-spot"}

    provider, file = Provider(), tmp_path / "machines.json"
    monkeypatch.setattr("ray.autoscaler._private.providers._get_node_provider", lambda *_: provider)
    for now, there in ((100.0, ("i-1",)), (200.0, ("i-1", "i-2")), (300.0, ("i-2",))):
        monkeypatch.setattr("time.time", lambda now=now: now)
        provider.there = there
        head_keeper.note(CONFIG, file)
    assert json.loads(file.read_text()) == {
        "i-1": {"kind": "gpu-spot", "first": 100.0, "last": 200.0},
        "i-2": {"kind": "gpu-spot", "first": 200.0, "last": 300.0},
    }
