"""`clusters` against moto's AWS on loopback, and against recorded answers of Google Cloud and Azure."""

import io
import json
from types import SimpleNamespace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from harness.cli.main import app
from harness.cluster import overview
from harness.cluster.machines import azure_machines, google_machines, mark_head
from harness.cluster.overview import Found, show_clusters, terminate
from harness.cluster.session import Session
from harness.core.errors import InputError

pytestmark = pytest.mark.slow
REGION, OTHER = "us-west-2", "eu-north-1"


def started(aws, cluster, kind, instance, *, spot=False, region=None):
    """A machine as Ray's launcher requests it."""
    import boto3

    ec2 = boto3.client("ec2", region_name=region) if region else aws("ec2")
    tags = {
        "ray-cluster-name": cluster,
        "ray-user-node-type": kind,
        "ray-node-type": "head" if kind == "head" else "w",
    }
    specs = [{"ResourceType": "instance", "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}]
    image = ec2.describe_images()["Images"][0]["ImageId"]
    market = {"InstanceMarketOptions": {"MarketType": "spot"}} if spot else {}
    made = ec2.run_instances(
        ImageId=image, InstanceType=instance, MinCount=1, MaxCount=1, TagSpecifications=specs, **market
    )
    return made["Instances"][0]["InstanceId"]


@pytest.fixture(scope="module")
def cloud(aws, tmp_path_factory):
    """A cluster whose output folder is here, one whose folder is gone in another region, and a stranger's."""
    here = tmp_path_factory.mktemp("place")
    mine = here / "results" / "mine"
    machines = {
        "head": started(aws, "lingo", "head", "m6i.2xlarge"),
        "spot": started(aws, "lingo", "gpu-spot", "g6.2xlarge", spot=True),
    }
    config = {"cluster_name": "lingo", "provider": {"type": "aws", "region": REGION}}
    Session(out=mine, name="lingo", provider="aws", file="c.yaml", host="10.0.0.1", job="j-1").save()
    mark_head(config, mine)
    aws("ec2").terminate_instances(InstanceIds=[machines["spot"]])
    machines["lost"] = started(aws, "lost", "head", "m6i.2xlarge", region=OTHER)
    mark_head({"cluster_name": "lost", "provider": {"type": "aws", "region": OTHER}}, here / "gone")
    machines["other"] = started(aws, "theirs", "head", "t3.micro")
    return here, machines


def command(*words):
    ended = CliRunner().invoke(app, ["clusters", *words])
    return ended.exit_code, ended.output


def test_what_runs_since_when_and_what_it_costs(cloud, monkeypatch):
    here, machines = cloud
    monkeypatch.chdir(here)
    code, text = command("--json")
    rows = {row["name"]: row for row in json.loads(text)["clusters"]}
    assert code == 0 and set(rows) == {"lingo", "lost", "theirs"}
    lingo = rows["lingo"]
    assert (lingo["up"], lingo["place"], lingo["ours"], lingo["unpriced"]) == (1, REGION, True, [])
    assert lingo["runs"] == [{"folder": str(here / "results" / "mine"), "here": True, "job": "j-1"}]
    states = {one["name"]: (one["instance"], one["state"]) for one in lingo["machines"]}
    assert states[machines["head"]] == ("m6i.2xlarge", "running")
    assert states[machines["spot"]] == ("g6.2xlarge spot", "terminated")
    assert (rows["lost"]["place"], rows["lost"]["runs"][0]["here"]) == (OTHER, False)
    assert not rows["theirs"]["ours"] and rows["theirs"]["unpriced"] == ["t3.micro"]
    code, text = command()
    for part in (
        "lingo (aws, us-west-2): 1 machine, up for",
        "job j-1",
        "this output folder is not on this machine",
    ):
        assert part in text, text
    assert (
        "clusters --terminate lost" in text
        and "--terminate lingo" not in text
        and "--terminate theirs" not in text
    )


def test_hours_are_counted_to_the_end_of_a_machine(cloud, monkeypatch):
    here, machines = cloud
    monkeypatch.chdir(here)
    found = overview.overview([], [])
    now = max(one.started for one in found.machines) + 7200
    text = io.StringIO()
    assert show_clusters(found, Console(file=text, width=300), as_json=True, now=now) == 0
    rows = {row["name"]: row for row in json.loads(text.getvalue())["clusters"]}
    prices = {one["name"]: one["cost"] for one in rows["lingo"]["machines"]}
    assert prices[machines["head"]] == pytest.approx(2 * 0.384, rel=0.05)
    assert prices[machines["spot"]] < 0.1 and rows["lingo"]["cost"] == pytest.approx(
        sum(prices.values()), abs=0.01
    )


def test_a_cluster_without_its_folder_can_be_ended(cloud, monkeypatch):
    import boto3

    here, machines = cloud
    monkeypatch.chdir(here)
    code, text = command("--terminate", "lingo", "--yes")
    assert (
        code == 2 and "nothing was changed" in text and f"stop {here}/results/mine" in text.replace("\n", "")
    )
    code, text = command("--terminate", "lost")
    assert code == 1 and "Nothing was changed" in text
    code, text = command("--terminate", "lost", "--yes")
    assert code == 0 and "1 machine in eu-north-1 terminated" in text
    (one,) = boto3.client("ec2", region_name=OTHER).describe_instances(InstanceIds=[machines["lost"]])[
        "Reservations"
    ]
    assert one["Instances"][0]["State"]["Name"] == "terminated"
    code, text = command("--terminate", "lost", "--yes")
    assert code == 2 and "no machine of a cluster 'lost' runs" in text


def test_a_provider_that_does_not_answer_is_said(cloud, monkeypatch):
    monkeypatch.chdir(cloud[0])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    code, text = command()
    assert code == 1 and "aws cannot be asked" in text and "No machine was found" in text


GOOGLE = {
    "name": "ray-lingo-gcp-head",
    "machineType": "https://x/zones/us-central1-a/machineTypes/g2-standard-8",
    "labels": {"ray-cluster-name": "lingo-gcp", "ray-user-node-type": "gpu-spot"},
    "status": "RUNNING",
    "scheduling": {"provisioningModel": "SPOT"},
    "creationTimestamp": "2026-12-01T01:00:00.000-07:00",
}
AZURE = {
    "name": "ray-head",
    "tags": {"ray-cluster-name": "lingo-azure", "ray-user-node-type": "head"},
    "hardwareProfile": {"vmSize": "Standard_D8s_v5"},
    "location": "westus2",
    "powerState": "VM running",
    "timeCreated": "2026-12-01T08:00:00.1234567+00:00",
}


class Compute:
    """Compute Engine's client with one page."""

    def instances(self):
        return SimpleNamespace(aggregatedList=self.page, aggregatedList_next=lambda *_: None)

    def page(self, project, filter):
        assert (project, filter) == ("p", "labels.ray-cluster-name:*")
        items = {"zones/us-central1-a": {"instances": [GOOGLE]}, "zones/b": {"warning": {}}}
        return SimpleNamespace(execute=lambda: {"items": items})


def test_machines_of_google_and_azure():
    (google,) = google_machines(Compute(), "p")
    assert (google.cluster, google.place, google.instance) == (
        "lingo-gcp",
        "us-central1-a",
        "g2-standard-8 spot",
    )
    (azure,) = azure_machines([AZURE, {"name": "x", "tags": None}])
    assert (azure.instance, azure.state, azure.up) == ("Standard_D8s_v5", "running", True)
    assert google.started == int(azure.started) == 1796112000
    stopped = azure_machines([{**AZURE, "powerState": "VM deallocated"}])[0]
    assert not stopped.up
    found = Found(
        machines=(google, azure), sessions=(), names=frozenset({"lingo-gcp", "lingo-azure"}), notes=()
    )
    text = io.StringIO()
    console = Console(file=text, width=300)
    assert show_clusters(found, console, as_json=False, now=azure.started + 3600) == 0
    assert "lingo-gcp (gcp, us-central1): 1 machine, up for 60 min, $0.85 so far" in text.getvalue()
    assert terminate(found, "lingo-gcp", console, yes=True) == 1
    assert "gcloud compute instances delete ray-lingo-gcp-head --zone=us-central1-a" in text.getvalue()
    assert terminate(found, "lingo-azure", console, yes=True) == 1
    assert "az vm delete --ids $(az vm list --query" in text.getvalue()


def test_a_file_that_is_no_cluster_file_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_text("a: 1\n")
    with pytest.raises(InputError, match="must be a Ray cluster file"):
        overview.overview([tmp_path / "c.yaml"], [])
