"""clusters/aws.yaml through Ray's own provider against moto's AWS on loopback; and what is said when AWS refuses."""

import copy
import json
from collections import Counter

import pytest

from harness.cluster import head_keeper
from harness.cluster.file import ClusterFile, read_prices
from harness.cluster.launch import running_nodes
from harness.cluster.machines import machines_of
from harness.cluster.providers.aws import GROUP, close_security_group, settle_images
from harness.cluster.providers.aws_checks import aws_problems
from harness.cluster.spending import counted
from harness.pool.machines import FULL_PRICE, SPOT

pytest.importorskip("moto", reason="moto is not installed (pip install 'lingo-bench[test]')")
boto3 = pytest.importorskip("boto3")
pytestmark = pytest.mark.slow
REGION, ME = "us-west-2", "203.0.113.7"


@pytest.fixture(scope="module")
def machines(aws, file):
    """The head and three workers, started by Ray's provider; the cluster's configuration as Ray completes it."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config
    from ray.autoscaler.tags import (
        NODE_KIND_HEAD,
        NODE_KIND_WORKER,
        TAG_RAY_NODE_KIND,
        TAG_RAY_USER_NODE_TYPE,
    )

    config = copy.deepcopy(file.config)
    said = []
    close_security_group(config, said.append, ME)
    config = bootstrap_aws(prepare_config(config))
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for kind, name, count in (
        (NODE_KIND_HEAD, "head", 1),
        (NODE_KIND_WORKER, "gpu-spot", 2),
        (NODE_KIND_WORKER, "gpu-on-demand", 1),
    ):
        tags = {TAG_RAY_NODE_KIND: kind, TAG_RAY_USER_NODE_TYPE: name, "ray-node-name": f"ray-{name}"}
        for _ in range(count):  # moto starts the least number where Ray asks for a range
            provider.create_node(config["available_node_types"][name]["node_config"], tags, 1)
    return provider, config, said


def instances(aws):
    rows = aws("ec2").describe_instances()["Reservations"]
    return [one for row in rows for one in row["Instances"] if one["State"]["Name"] == "running"]


def test_the_right_number_and_kind_of_machines(aws, machines):
    found = Counter(
        (one["InstanceType"], one.get("InstanceLifecycle", "on demand")) for one in instances(aws)
    )
    assert found == {
        ("m6i.2xlarge", "on demand"): 1,
        ("g6.2xlarge", "spot"): 2,
        ("g6.2xlarge", "on demand"): 1,
    }
    for one in instances(aws):
        tags = {tag["Key"]: tag["Value"] for tag in one["Tags"]}
        assert tags["ray-cluster-name"] == "lingo"
        assert [group["GroupName"] for group in one["SecurityGroups"]] == [GROUP]


def test_ssh_alone_from_the_callers_address_alone(aws, machines):
    _, _, said = machines
    assert said == [f"security group {GROUP}: SSH from {ME}/32 only"]
    filters = [{"Name": "group-name", "Values": [GROUP]}]
    (group,) = aws("ec2").describe_security_groups(Filters=filters)["SecurityGroups"]
    from_outside = [rule for rule in group["IpPermissions"] if rule["IpRanges"] or rule.get("Ipv6Ranges")]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in from_outside] == [(22, 22)]
    assert [row["CidrIp"] for rule in from_outside for row in rule["IpRanges"]] == [f"{ME}/32"]
    inside = [rule for rule in group["IpPermissions"] if rule["UserIdGroupPairs"]]
    assert [pair["GroupId"] for rule in inside for pair in rule["UserIdGroupPairs"]] == [group["GroupId"]]


def test_another_address_takes_the_place_of_the_last(aws, machines, file):
    close_security_group(copy.deepcopy(file.config), lambda line: None, "198.51.100.9")
    filters = [{"Name": "group-name", "Values": [GROUP]}]
    (group,) = aws("ec2").describe_security_groups(Filters=filters)["SecurityGroups"]
    ranges = [row["CidrIp"] for rule in group["IpPermissions"] for row in rule["IpRanges"]]
    assert ranges == ["198.51.100.9/32"]


def test_ray_alone_asks_for_spot_and_for_full_price_what_is_asked_by_that_name(file):
    """Ray's second autoscaler, which `ray up` starts: a refused type keeps its place; `full_price` names the other."""
    from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.autoscaler_pb2 import ClusterResourceConstraint

    types = file.config["available_node_types"]
    kinds = {
        name: NodeTypeConfig(
            name=name,
            min_worker_nodes=kind.get("min_workers", 0),
            max_worker_nodes=kind.get("max_workers", 0),
            priority=kind.get("priority", 0),
            resources=kind["resources"],
        )
        for name, kind in types.items()
    }

    def launched(*constraint):
        demand = [ResourceRequestUtil.make({"GPU": 1, "CPU": 7.6})] * 3
        asked = [ResourceRequestUtil.make(bundle) for bundle in constraint]
        request = SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=kinds,
            max_num_nodes=file.workers,
            resource_requests=ResourceRequestUtil.group_by_count(demand),
            cluster_resource_constraints=[
                ClusterResourceConstraint(resource_requests=ResourceRequestUtil.group_by_count(asked))
            ],
        )
        reply = ResourceDemandScheduler(None).schedule(request)
        return {row.instance_type: row.count for row in reply.to_launch}

    assert launched() == {"gpu-spot": 3}
    assert launched({FULL_PRICE: 1}, {FULL_PRICE: 1}) == {"gpu-on-demand": 2, "gpu-spot": 1}
    assert launched({SPOT: 1}) == {"gpu-spot": 3}


def test_the_costs_of_a_cluster_are_those_of_its_tag(aws, machines, file):
    found = machines_of(file.config)
    assert Counter(one.instance for one in found if one.up) == {
        "m6i.2xlarge": 1,
        "g6.2xlarge spot": 2,
        "g6.2xlarge": 1,
    }
    now = max(one.started for one in found) + 3600
    assert "2 x g6.2xlarge spot for 2.0 h" in counted(found, now, read_prices())


def test_a_head_that_nobody_needs_ends_all_machines_itself_last(aws, machines, file, tmp_path):
    provider, config, _ = machines
    there = provider.non_terminated_nodes({})
    assert len(there) == 4 and sorted(running_nodes(file.config)) == sorted(there)
    head_keeper.note(config, tmp_path / "machines.json")
    kinds = Counter(row["kind"] for row in json.loads((tmp_path / "machines.json").read_text()).values())
    assert kinds == {"head": 1, "gpu-spot": 2, "gpu-on-demand": 1}
    head_keeper.terminate(config)
    assert instances(aws) == [] and running_nodes(file.config) == []


def changed(file, change):
    config = copy.deepcopy(file.config)
    change(config)
    return ClusterFile(path=file.path, config=config, kinds=file.kinds)


def test_a_good_account_has_no_problems(file):
    assert [line for line in aws_problems(file) if "quota" not in line] == []


def test_an_image_that_is_not_there(file):
    def spoil(config):
        config["available_node_types"]["head"]["node_config"]["ImageId"] = "ami-00000000000000000"

    lines = [line for line in aws_problems(changed(file, spoil)) if "quota" not in line]
    assert len(lines) == 1 and "ami-00000000000000000 does not exist in us-west-2" in lines[0]


def test_a_name_of_an_image_becomes_its_id(aws, file):
    name = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
    config = copy.deepcopy(file.config)
    config["available_node_types"]["head"]["node_config"]["ImageId"] = f"resolve:ssm:{name}"
    settle_images(config)
    assert config["available_node_types"]["head"]["node_config"]["ImageId"].startswith("ami-")


def test_no_credentials(file, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (line,) = aws_problems(file)
    assert line.startswith("AWS: no credentials on this machine: run `aws configure`")


def test_wrong_credentials_and_missing_quota(file, monkeypatch):
    """moto accepts everybody and allows everything: AWS's own answers are put in its place."""
    from botocore.exceptions import ClientError

    refusal = {"Error": {"Code": "InvalidClientTokenId", "Message": "The security token is invalid."}}

    class Client:
        def __init__(self, service):
            self._real = boto3.client(service, region_name=REGION)

        def __getattr__(self, name):
            return getattr(self._real, name)

        def get_service_quota(self, **_):
            return {"Quota": {"Value": 0.0}}

        def describe_instance_types(self, **_):
            return {"InstanceTypes": [{"VCpuInfo": {"DefaultVCpus": 8}}]}

    monkeypatch.setattr("harness.cluster.providers.aws_checks.clients", lambda config: Client)
    lines = list(aws_problems(file))
    assert any("8 vCPUs of g6.2xlarge" in line and "spot quota (L-3819A6DF) is 0" in line for line in lines)

    def refuse(self, **_):
        raise ClientError(refusal, "GetCallerIdentity")

    monkeypatch.setattr(Client, "get_caller_identity", refuse, raising=False)
    (line,) = aws_problems(file)
    assert line.startswith("AWS: these credentials are refused (InvalidClientTokenId")
