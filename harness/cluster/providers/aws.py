"""AWS: requirements of a start, and a security group that allows SSH from this machine only."""

import urllib.request
from collections.abc import Callable
from typing import Any

from harness.core.errors import InputError

GROUP = "lingo-ssh-only"
BY_NAME = "resolve:ssm:"
WHO_AM_I = "https://checkip.amazonaws.com"


def clients(config: dict[str, Any]) -> Callable[..., Any]:
    """Creates boto3 clients of a service, in the region of the file or in `region_name`.

    Raises:
        InputError: If boto3 is not installed, or `AWS_PROFILE` names no profile.
    """
    try:
        import boto3
        from botocore.exceptions import ProfileNotFound
    except ImportError:
        raise InputError("boto3 is required for AWS: pip install 'lingo-bench[aws]'") from None
    try:
        session = boto3.session.Session(region_name=config["provider"].get("region"))
    except ProfileNotFound as error:
        raise InputError(
            f"AWS: {error}: AWS_PROFILE must name one of `aws configure list-profiles`."
        ) from None
    return lambda service, **more: session.client(service, **more)


def image_id(image: str, client: Callable[[str], Any]) -> str:
    """Image id; a name in AWS's parameter store (`resolve:ssm:NAME`) is looked up."""
    if not image.startswith(BY_NAME):
        return image
    return str(client("ssm").get_parameter(Name=image.removeprefix(BY_NAME))["Parameter"]["Value"])


def prepare(config: dict[str, Any], say: Callable[[str], None], ssh_from: str | None = None) -> None:
    """Prepare the configuration for Ray's launcher: image ids, a restricted security group.

    Args:
        ssh_from: Network from which SSH is accepted; `None` for this machine's public address.

    Raises:
        InputError: If AWS refuses.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        settle_images(config)
        close_security_group(config, say, ssh_from)
    except (BotoCoreError, ClientError) as error:
        raise InputError(f"AWS: {' '.join(str(error).split())[:300]}") from None


def disks_of(config: dict[str, Any]) -> list[str]:
    """Ids of the disks of the cluster's machines; empty without permission."""
    from botocore.exceptions import BotoCoreError, ClientError

    filters = [{"Name": "tag:ray-cluster-name", "Values": [config["cluster_name"]]}]
    try:
        rows = clients(config)("ec2").describe_instances(Filters=filters)["Reservations"]
    except (BotoCoreError, ClientError, InputError):
        return []
    disks = [disk for row in rows for one in row["Instances"] for disk in one.get("BlockDeviceMappings", ())]
    return [disk["Ebs"]["VolumeId"] for disk in disks if "Ebs" in disk]


def disks_there(config: dict[str, Any], disks: list[str]) -> list[str]:
    """The disks that still exist."""
    from botocore.exceptions import BotoCoreError, ClientError

    filters = [{"Name": "volume-id", "Values": disks}]
    try:
        rows = clients(config)("ec2").describe_volumes(Filters=filters)["Volumes"]
    except (BotoCoreError, ClientError, InputError):
        return []
    return [row["VolumeId"] for row in rows if row["State"] not in ("deleting", "deleted")]


def settle_images(config: dict[str, Any]) -> None:
    """Replace image names by ids, so that all machines of the cluster have the same image."""
    client = clients(config)
    for kind in config["available_node_types"].values():
        if image := kind["node_config"].get("ImageId"):
            kind["node_config"]["ImageId"] = image_id(image, client)


def my_address() -> str:
    """Public address of this machine.

    Raises:
        InputError: If it cannot be determined.
    """
    try:
        with urllib.request.urlopen(WHO_AM_I, timeout=15) as answer:
            return str(answer.read().decode().strip())
    except OSError as error:
        raise InputError(
            f"the public address of this machine cannot be determined ({WHO_AM_I}: {error}); give it as "
            "--ssh-from."
        ) from None


def close_security_group(
    config: dict[str, Any], say: Callable[[str], None], address: str | None = None
) -> str:
    """Create the cluster's security group before Ray does, whose own allows SSH from anywhere.

    Ray uses an existing group with rules unchanged. This one allows SSH from this machine's address only, and all
    traffic among the machines of the cluster.

    Args:
        config: Of the cluster file; its `security_group` is set.
        address: Network from which SSH is accepted; `None` to determine this machine's public address.

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
    mine = address or my_address()
    mine = mine if "/" in mine else f"{mine}/32"
    for rule in found[0]["IpPermissions"] if found else ():
        if rule.get("IpRanges") or rule.get("Ipv6Ranges"):
            old = {
                key: value for key, value in rule.items() if key not in ("UserIdGroupPairs", "PrefixListIds")
            }
            ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[old])
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": mine}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[ssh])
    say(f"security group {name}: SSH from {mine} only")
    return str(group)


def _create(ec2: Any, name: str, vpc: str) -> str:
    text = "lingo-bench: SSH from its user, everything among its own machines"
    group: str = ec2.create_security_group(GroupName=name, Description=text, VpcId=vpc)["GroupId"]
    among = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[among])
    return group


def _vpc(ec2: Any) -> str:
    """The account's default VPC, used by Ray.

    Raises:
        InputError: If there is none.
    """
    found = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not found:
        raise InputError("AWS: this region has no default VPC: create one with `aws ec2 create-default-vpc`.")
    return str(found[0]["VpcId"])
