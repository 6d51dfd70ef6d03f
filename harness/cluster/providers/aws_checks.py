"""AWS checks before a machine is started: account, region, image, machine types, network and quota."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from harness.cluster.file import ClusterFile
from harness.cluster.file_checks import rule_problems
from harness.cluster.providers.aws import BY_NAME, clients, image_id
from harness.core.errors import InputError, nearest
from harness.core.wording import words

ORDINARY = ("a", "c", "d", "h", "i", "m", "r", "t", "z")
QUOTAS = {  # vCPU quotas: (on demand, spot), by the first letters of the instance type
    ("p",): ("L-417A185B", "L-7212CCBC"),
    ("g", "vt"): ("L-DB2E81BA", "L-3819A6DF"),
    ORDINARY: ("L-1216C47A", "L-34B43A08"),
}
P5_SPOT = "L-C4BD4855"
RAYS_OWN = ("SubnetIds",)
"""Machine settings of Ray that replace those of EC2."""

EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired")

Client = Callable[[str], Any]


def aws_form_problems(file: ClusterFile) -> Iterator[str]:
    """Offline checks: unknown region, unknown machine settings."""
    try:
        from botocore.validate import ParamValidator
    except ImportError:
        return
    session, region, known = _library(), file.config["provider"].get("region"), regions()
    if region and region not in known:
        yield f"{file.path}: `provider.region` {region} is not an AWS region.{nearest(str(region), known)}"
    shape = session.get_service_model("ec2").operation_model("RunInstances").input_shape
    for name, row in file.config["available_node_types"].items():
        node = row["node_config"]
        for key in node:
            if key not in shape.members and key not in RAYS_OWN:
                where = f"`available_node_types.{name}.node_config.{key}`"
                yield f"{file.path}: {where} is not a setting of EC2 instances.{nearest(str(key), shape.members)}"
        given = {key: value for key, value in node.items() if key in shape.members}
        report = ParamValidator().validate({**given, "MinCount": 1, "MaxCount": 1}, shape)
        if report.has_errors():
            line = " ".join(report.generate_report().split(", must be one of")[0].split())
            yield f"{file.path}: `available_node_types.{name}.node_config`: {line}"


def _library() -> Any:
    """AWS data contained in the library, independent of AWS_PROFILE and without an account."""
    import botocore.session

    return botocore.session.Session(session_vars={"profile": (None, None, None, None)})


def regions() -> list[str]:
    """All regions known to the installed library."""
    session = _library()
    parts = session.get_available_partitions()
    return [name for part in parts for name in session.get_available_regions("ec2", part)]


def aws_problems(file: ClusterFile, note: Callable[[str], None] = lambda line: None) -> Iterator[str]:
    """Credentials, image, machine types, network and quota: one line for each failed check.

    Args:
        note: Receives limits that do not prevent a run.
    """
    try:
        client = clients(file.config)
        if file.config["provider"].get("region") not in regions():
            return
        refused = next(_account(file, client), None)
    except InputError as error:
        yield from error.problems
        return
    if refused:
        yield refused
        return
    for look in (_zones, _network, _images, _instances):
        yield from _answered(file, look(file, client))
    yield from _quota(file, client, note)


def _account(file: ClusterFile, client: Client) -> Iterator[str]:
    """Check whether AWS accepts the credentials."""
    import botocore.exceptions as failures
    from botocore.parsers import ResponseParserError

    region = file.config["provider"]["region"]
    try:
        client("sts").get_caller_identity()
        client("ec2").describe_availability_zones()
    except (failures.NoCredentialsError, failures.PartialCredentialsError):
        yield "AWS: no credentials on this machine: run `aws configure`, or set AWS_PROFILE."
    except failures.ClientError as error:
        code, told = _told(error)
        cure = "log in again (`aws sso login`)" if code in EXPIRED else "check `aws sts get-caller-identity`"
        yield f"AWS: these credentials are {'expired' if code in EXPIRED else 'refused'} ({code}: {told}): {cure}."
    except (failures.BotoCoreError, ResponseParserError) as error:
        yield f"AWS: {region} does not answer ({words(error)}): check the network and the name of the region."


def _answered(file: ClusterFile, problems: Iterator[str]) -> Iterator[str]:
    """A request rejected by AWS is a separate problem: the account lacks a permission."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield from problems
    except ClientError as error:
        code, told = _told(error)
        yield f"AWS: {error.operation_name} is refused ({code}: {told}): see the permissions in clusters/README.md."
    except BotoCoreError as error:
        yield f"AWS: {file.config['provider']['region']} does not answer ({' '.join(str(error).split())[:160]})."


def _told(error: Any) -> tuple[str, str]:
    detail = error.response.get("Error", {})
    return detail.get("Code", "unknown"), " ".join(detail.get("Message", "").split())[:160]


def _zones(file: ClusterFile, client: Client) -> Iterator[str]:
    given = file.config["provider"].get("availability_zone") or ""
    rows = client("ec2").describe_availability_zones()["AvailabilityZones"]
    known = [row["ZoneName"] for row in rows]
    for zone in filter(None, (part.strip() for part in str(given).split(","))):
        if zone not in known:
            region = file.config["provider"]["region"]
            yield f"{file.path}: `provider.availability_zone`: {region} has no zone {zone}.{nearest(zone, known)}"


def _network(file: ClusterFile, client: Client) -> Iterator[str]:
    """A network for the machines, and no open ports in security groups that the file lists by id."""
    ec2, types = client("ec2"), file.config["available_node_types"].values()
    if not any("SubnetId" in str(row["node_config"]) for row in types):
        found = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
        if not found:
            yield "AWS: this region has no default VPC: create one with `aws ec2 create-default-vpc`."
    named = {name for row in types for name in row["node_config"].get("SecurityGroupIds", ())}
    for group in ec2.describe_security_groups(GroupIds=sorted(named))["SecurityGroups"] if named else ():
        for rule in group["IpPermissions"]:
            yield from rule_problems(f"AWS: security group {group['GroupId']}", rule)


def _images(file: ClusterFile, client: Client) -> Iterator[str]:
    from botocore.exceptions import ClientError

    types, region = file.config["available_node_types"], file.config["provider"]["region"]
    for image in dict.fromkeys(kind["node_config"].get("ImageId") for kind in types.values()):
        if not image:
            continue
        try:
            client("ec2").describe_images(ImageIds=[image_id(image, client)])["Images"][0]
        except (ClientError, IndexError) as error:
            if isinstance(error, ClientError) and "Denied" in _told(error)[0] + _told(error)[1]:
                raise
            name = image.removeprefix(BY_NAME)
            why = (
                "AWS lists no image under this name"
                if name != image
                else "images have another id in each region"
            )
            yield f"{file.path}: image {name} does not exist in {region}: {why}."


def _instances(file: ClusterFile, client: Client) -> Iterator[str]:
    wanted = sorted({kind.instance for kind in file.kinds if kind.instance})
    filters = [{"Name": "instance-type", "Values": wanted}]
    rows = client("ec2").describe_instance_type_offerings(Filters=filters)
    offered = {row["InstanceType"] for row in rows["InstanceTypeOfferings"]}
    for name in wanted:
        if name not in offered:
            yield f"{file.path}: {file.config['provider']['region']} does not offer machine type {name}."


def _quota(file: ClusterFile, client: Client, note: Callable[[str], None]) -> Iterator[str]:
    """vCPU quota of the account, on demand and spot, compared with one machine and with all."""
    from botocore.exceptions import BotoCoreError, ClientError

    for kind in file.kinds:
        code = quota_code(kind.instance, kind.spot)
        sort = "spot" if kind.spot else "on-demand"
        try:
            detail = client("ec2").describe_instance_types(InstanceTypes=[kind.instance])["InstanceTypes"][0]
            quota = client("service-quotas").get_service_quota(ServiceCode="ec2", QuotaCode=code)
        except (ClientError, BotoCoreError, LookupError):
            note(
                f"the {sort} quota of {kind.instance} ({code}) could not be read; machines over it do not start."
            )
            continue
        needed, allowed = detail["VCpuInfo"]["DefaultVCpus"], quota["Quota"]["Value"]
        if allowed < needed:
            yield (
                f"{file.path}: {kind.name} needs {needed} vCPUs of {kind.instance}, but the account's {sort} quota "
                f"({code}) is {allowed:g}: request more under Service Quotas, EC2."
            )
        elif allowed < needed * kind.most:
            room = int(allowed // needed)
            note(
                f"the account's {sort} quota ({code}) is {allowed:g} vCPUs: {room} of {kind.most} {kind.name} at most."
            )


def quota_code(instance: str, spot: bool) -> str:
    """AWS code of the vCPU quota of an instance type."""
    if spot and instance.startswith("p5"):
        return P5_SPOT
    letters = re.split(r"\d", instance, maxsplit=1)[0]
    for names, codes in QUOTAS.items():
        if letters in names:
            return codes[spot]
    return QUOTAS[ORDINARY][spot]
