"""AWS: what can be known before a machine is started, and a security group that lets in SSH from here alone."""

import re
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

from harness.cluster_files import ClusterFile
from harness.errors import InputError

GROUP = "lingo-ssh-only"
BY_NAME = "resolve:ssm:"
WHO_AM_I = "https://checkip.amazonaws.com"
QUOTAS = {  # of vCPUs: (on demand, spot), by the first letters of the instance
    ("p",): ("L-417A185B", "L-7212CCBC"),
    ("g", "vt"): ("L-DB2E81BA", "L-3819A6DF"),
    ("a", "c", "d", "h", "i", "m", "r", "t", "z"): ("L-1216C47A", "L-34B43A08"),
}


def clients(config: dict[str, Any]) -> Callable[[str], Any]:
    """Makes boto3 clients in the file's region.

    Raises:
        InputError: If boto3 is not installed.
    """
    try:
        import boto3
    except ImportError:
        raise InputError("boto3 is needed for AWS: pip install 'lingo-bench[aws]'") from None
    session = boto3.session.Session(region_name=config["provider"]["region"])
    return lambda service: session.client(service)


def aws_problems(file: ClusterFile) -> Iterator[str]:
    """Credentials, region, image, instance types and quota: one clear line for each that fails."""
    import botocore.exceptions as failures

    try:
        client = clients(file.config)
    except InputError as error:
        yield from error.problems
        return
    try:
        client("sts").get_caller_identity()
        client("ec2").describe_availability_zones()
    except (failures.NoCredentialsError, failures.PartialCredentialsError, failures.ProfileNotFound):
        yield "AWS: no credentials on this machine: run `aws configure`, or set AWS_PROFILE."
        return
    except failures.ClientError as error:
        code, told = _told(error)
        yield f"AWS: these credentials are refused ({code}: {told}): check `aws sts get-caller-identity`."
        return
    except failures.BotoCoreError as error:
        yield f"AWS: {file.config['provider']['region']} does not answer ({error}): is the region's name right?"
        return
    yield from _images(file, client)
    yield from _instances(file, client("ec2"))
    yield from _quota(file, client)


def _told(error: Any) -> tuple[str, str]:
    detail = error.response.get("Error", {})
    return detail.get("Code", "unknown"), " ".join(detail.get("Message", "").split())[:160]


def _images(file: ClusterFile, client: Callable[[str], Any]) -> Iterator[str]:
    from botocore.exceptions import ClientError

    ec2, types = client("ec2"), file.config["available_node_types"]
    images = dict.fromkeys(kind["node_config"].get("ImageId") for kind in types.values())
    region = file.config["provider"]["region"]
    for image in filter(None, images):
        try:
            ec2.describe_images(ImageIds=[image_id(image, client)])["Images"][0]
        except (ClientError, IndexError):
            yield f"{file.path}: there is no image {image} in {region}: images have another id in each region."


def image_id(image: str, client: Callable[[str], Any]) -> str:
    """An image's id; a name in AWS's list of parameters (`resolve:ssm:NAME`) is looked up."""
    if not image.startswith(BY_NAME):
        return image
    return str(client("ssm").get_parameter(Name=image.removeprefix(BY_NAME))["Parameter"]["Value"])


def settle_images(config: dict[str, Any]) -> None:
    """Put ids in place of names, so that every machine of the cluster has the same image to its end."""
    client = clients(config)
    for kind in config["available_node_types"].values():
        if image := kind["node_config"].get("ImageId"):
            kind["node_config"]["ImageId"] = image_id(image, client)


def _instances(file: ClusterFile, ec2: Any) -> Iterator[str]:
    wanted = sorted({kind.instance for kind in file.kinds if kind.instance})
    rows = ec2.describe_instance_type_offerings(Filters=[{"Name": "instance-type", "Values": wanted}])
    offered = {row["InstanceType"] for row in rows["InstanceTypeOfferings"]}
    for name in wanted:
        if name not in offered:
            region = file.config["provider"]["region"]
            yield f"{file.path}: {region} has no machines of type {name}."


def _quota(file: ClusterFile, client: Callable[[str], Any]) -> Iterator[str]:
    """vCPUs that the account may have, for each kind of price, against those of one worker."""
    from botocore.exceptions import BotoCoreError, ClientError

    for kind in file.kinds:
        code = quota_code(kind.instance, kind.spot)
        try:
            detail = client("ec2").describe_instance_types(InstanceTypes=[kind.instance])["InstanceTypes"][0]
            quota = client("service-quotas").get_service_quota(ServiceCode="ec2", QuotaCode=code)
        except (ClientError, BotoCoreError, LookupError):
            continue  # the right to read quotas is not needed for anything else
        needed, allowed = detail["VCpuInfo"]["DefaultVCpus"], quota["Quota"]["Value"]
        if allowed < needed:
            sort = "spot" if kind.spot else "on-demand"
            yield (
                f"{file.path}: {kind.name} needs {needed} vCPUs of {kind.instance}, but the account's {sort} quota "
                f"({code}) is {allowed:g}: ask for more under Service Quotas, EC2."
            )


def quota_code(instance: str, spot: bool) -> str:
    """AWS's code of the vCPU quota that an instance counts against."""
    letters = re.split(r"\d", instance, maxsplit=1)[0]
    for names, codes in QUOTAS.items():
        if letters in names:
            return codes[spot]
    return QUOTAS[("a", "c", "d", "h", "i", "m", "r", "t", "z")][spot]


def my_address() -> str:
    """This machine's address as AWS sees it.

    Raises:
        InputError: If it cannot be found out.
    """
    try:
        with urllib.request.urlopen(WHO_AM_I, timeout=15) as answer:
            return str(answer.read().decode().strip())
    except OSError as error:
        raise InputError(
            f"this machine's public address cannot be found out ({WHO_AM_I}: {error}); make the security group by "
            "hand, see clusters/README.md."
        ) from None


def close_security_group(
    config: dict[str, Any], say: Callable[[str], None], address: str | None = None
) -> str:
    """Make the cluster's security group before Ray does, whose own lets in SSH from the whole world.

    Ray takes a group of the given name as it is when it has rules. This one lets in SSH from this machine's
    address alone, and everything among the cluster's own machines.

    Args:
        config: Of the cluster file; its `security_group` is set.
        address: This machine's; asked for when `None`.

    Returns:
        The group's id.
    """
    ec2 = clients(config)("ec2")
    name = config["provider"].setdefault("security_group", {}).setdefault("GroupName", GROUP)
    config["provider"]["security_group"].pop("IpPermissions", None)
    vpc = _vpc(ec2)
    filters = [{"Name": "group-name", "Values": [name]}, {"Name": "vpc-id", "Values": [vpc]}]
    found = ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
    group = found[0]["GroupId"] if found else _create(ec2, name, vpc)
    mine = f"{address or my_address()}/32"
    for rule in found[0]["IpPermissions"] if found else ():
        if rule.get("IpRanges") or rule.get("Ipv6Ranges"):
            old = {
                key: value for key, value in rule.items() if key not in ("UserIdGroupPairs", "PrefixListIds")
            }
            ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[old])
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": mine}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[ssh])
    say(f"security group {name}: SSH from {mine} alone")
    return str(group)


def _create(ec2: Any, name: str, vpc: str) -> str:
    text = "lingo-bench: SSH from its user, everything among its own machines"
    group: str = ec2.create_security_group(GroupName=name, Description=text, VpcId=vpc)["GroupId"]
    among = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[among])
    return group


def _vpc(ec2: Any) -> str:
    """The account's default network, in which Ray puts its machines.

    Raises:
        InputError: If there is none.
    """
    found = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not found:
        raise InputError("AWS: this region has no default VPC: make one with `aws ec2 create-default-vpc`.")
    return str(found[0]["VpcId"])
