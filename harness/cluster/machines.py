"""Machines of clusters, as their providers list them: what runs, since when, at which price."""

import hashlib
import json
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.cluster.ssh import run

RAY_NAME, RAY_KIND = "ray-cluster-name", "ray-user-node-type"
"""Tags of Ray's launcher: cluster, node type."""

RUN_TAG = "lingo-run-"
"""Beginning of the tags of a head that name the output folders of its benchmarks, as HOST:FOLDER."""

ENDED_AT = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)")
ENDED = ("terminated", "shutting-down", "stopped", "stopping", "suspended", "deallocated")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One machine of a cluster.

    Attributes:
        cluster: Name of its cluster.
        place: Region, zone or location.
        name: The provider's id.
        kind: Node type of the cluster file.
        instance: The provider's machine type, with ` spot` at the spot price, as in `prices.yaml`.
        state: The provider's word for it.
        started, ended: Seconds since 1970; `ended` is `None` while it costs money, or if the provider does not say.
        runs: Output folders of its benchmarks, as HOST:FOLDER.
    """

    cluster: str
    provider: str
    place: str
    name: str
    kind: str
    instance: str
    state: str
    started: float
    ended: float | None = None
    runs: tuple[str, ...] = ()

    @property
    def up(self) -> bool:
        """Whether it costs money for its time."""
        return self.state.lower() not in ENDED

    def hours(self, now: float) -> float:
        """Hours since its start, or until its end."""
        return max(0.0, (now if self.ended is None else self.ended) - self.started) / 3600

    def cost(self, now: float, prices: Mapping[str, float]) -> float | None:
        """Cost in US dollars at list prices, without disks and traffic; `None` without a price."""
        price = prices.get(self.instance)
        return None if price is None else price * self.hours(now)


def run_tag(out: Path) -> dict[str, str]:
    """The tag with which a head names an output folder: at most 256 characters that AWS allows."""
    value = re.sub(r"[^\w .:/=+@-]", "_", f"{socket.gethostname()}:{out.resolve()}")
    return {
        "Key": f"{RUN_TAG}{hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:8]}",
        "Value": value[:256],
    }


def mark_head(config: Mapping[str, Any], out: Path) -> None:
    """Tag the head with the output folder, so that `clusters` names it; without permission it has no tag."""
    from botocore.exceptions import BotoCoreError, ClientError

    from harness.cluster.providers.aws import clients

    filters = [{"Name": f"tag:{RAY_NAME}", "Values": [config["cluster_name"]]}]
    filters += [{"Name": "tag:ray-node-type", "Values": ["head"]}]
    filters += [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    with suppress(BotoCoreError, ClientError):
        ec2 = clients(dict(config))("ec2")
        rows = ec2.describe_instances(Filters=filters)["Reservations"]
        heads = [one["InstanceId"] for row in rows for one in row["Instances"]]
        if heads:
            ec2.create_tags(Resources=heads, Tags=[run_tag(out)])


def aws_machines(clients: Callable[[str], Any], regions: Iterable[str]) -> list[Machine]:
    """Machines of Ray's clusters in all regions that the account may list, at least in `regions`.

    Args:
        clients: Makes a client of EC2 in a region.

    Raises:
        ClientError, BotoCoreError: If AWS refuses.
    """
    from botocore.exceptions import ClientError

    known = set(regions)
    with suppress(ClientError):  # without permission to list regions
        asked = clients(next(iter(known))).describe_regions()["Regions"]
        known |= {row["RegionName"] for row in asked}
    made = [(region, clients(region)) for region in sorted(known)]  # not in threads: boto3 forbids it
    with ThreadPoolExecutor(8) as at_once:
        found = at_once.map(lambda pair: list(_aws_region(pair[1], pair[0])), made)
        return [machine for rows in found for machine in rows]


def _aws_region(ec2: Any, region: str) -> Iterator[Machine]:
    pages = ec2.get_paginator("describe_instances").paginate(
        Filters=[{"Name": "tag-key", "Values": [RAY_NAME]}]
    )
    for one in (one for page in pages for row in page["Reservations"] for one in row["Instances"]):
        tags = {tag["Key"]: tag["Value"] for tag in one.get("Tags", ())}
        ended = ENDED_AT.search(one.get("StateTransitionReason") or "")
        spot = one.get("InstanceLifecycle") == "spot"
        yield Machine(
            cluster=tags[RAY_NAME],
            provider="aws",
            place=region,
            name=one["InstanceId"],
            kind=tags.get(RAY_KIND, ""),
            instance=f"{one['InstanceType']}{' spot' if spot else ''}",
            state=one["State"]["Name"],
            started=one["LaunchTime"].timestamp(),
            ended=_when(ended[1]) if ended and one["State"]["Name"] in ENDED else None,
            runs=tuple(sorted(value for key, value in tags.items() if key.startswith(RUN_TAG))),
        )


def google_machines(compute: Any, project: str) -> list[Machine]:
    """Machines of Ray's clusters in a project, in every zone.

    Args:
        compute: Client of Compute Engine's API, version 1.
    """
    found: list[Machine] = []
    request = compute.instances().aggregatedList(project=project, filter=f"labels.{RAY_NAME}:*")
    while request is not None:
        answer = request.execute()
        for zone, rows in (answer.get("items") or {}).items():
            found += [_google(row, zone.rpartition("/")[2]) for row in rows.get("instances", ())]
        request = compute.instances().aggregatedList_next(request, answer)
    return found


def _google(row: Mapping[str, Any], zone: str) -> Machine:
    scheduling = row.get("scheduling") or {}
    spot = scheduling.get("provisioningModel") == "SPOT" or bool(scheduling.get("preemptible"))
    stopped = row.get("lastStopTimestamp") if row["status"].lower() in ENDED else None
    return Machine(
        cluster=row["labels"][RAY_NAME],
        provider="gcp",
        place=zone,
        name=row["name"],
        kind=row["labels"].get(RAY_KIND, ""),
        instance=f"{row['machineType'].rpartition('/')[2]}{' spot' if spot else ''}",
        state=row["status"].lower(),
        started=_when(row.get("lastStartTimestamp") or row["creationTimestamp"]),
        ended=_when(stopped) if stopped else None,
    )


def azure_machines(rows: Iterable[Mapping[str, Any]]) -> list[Machine]:
    """Machines of Ray's clusters in the output of `az vm list --show-details`."""
    return [
        Machine(
            cluster=row["tags"][RAY_NAME],
            provider="azure",
            place=row["location"],
            name=row["name"],
            kind=row["tags"].get(RAY_KIND, ""),
            instance=row["hardwareProfile"]["vmSize"] + (" spot" if row.get("priority") == "Spot" else ""),
            state=str(row.get("powerState") or "unknown").removeprefix("VM "),
            started=_when(row["timeCreated"]),
        )
        for row in rows
        if RAY_NAME in (row.get("tags") or {})
    ]


def _when(text: str) -> float:
    """Seconds since 1970; times without a zone are UTC. Azure gives seven decimals, of which six are read."""
    time = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text.replace("Z", "+00:00")))
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _ask_aws(providers: Sequence[Mapping[str, Any]]) -> list[Machine]:
    from harness.cluster.providers.aws import clients

    make = clients({"provider": {}})
    regions = dict.fromkeys(str(one["region"]) for one in providers)
    return aws_machines(lambda region: make("ec2", region_name=region), regions)


def _ask_google(providers: Sequence[Mapping[str, Any]]) -> list[Machine]:
    import google.auth
    from googleapiclient import discovery

    credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/compute.readonly"])
    compute = discovery.build("compute", "v1", credentials=credentials, cache_discovery=False)
    projects = dict.fromkeys(str(one["project_id"]) for one in providers)
    return [machine for project in projects for machine in google_machines(compute, project)]


def _ask_azure(providers: Sequence[Mapping[str, Any]]) -> list[Machine]:
    found: list[Machine] = []
    for name in dict.fromkeys(str(one["subscription_id"]) for one in providers):
        line = ["az", "vm", "list", "--show-details", "--subscription", name, "--output", "json"]
        found += azure_machines(json.loads(run(line, timeout=120, what="az vm list") or "[]"))
    return found


ASK = {"aws": _ask_aws, "gcp": _ask_google, "azure": _ask_azure}
"""Machines of all clusters in the accounts of some `provider` blocks, by the provider's type."""


def machines_of(config: Mapping[str, Any]) -> list[Machine]:
    """Machines of one cluster, including ended ones as long as the provider lists them.

    Raises:
        Exception: Of the provider's library.
    """
    place = config["provider"]
    if place["type"] == "aws":
        from harness.cluster.providers.aws import clients

        rows: Iterable[Machine] = _aws_region(clients(dict(config))("ec2"), str(place["region"]))
    else:
        rows = ASK[place["type"]]([place])
    return [one for one in rows if one.cluster == config["cluster_name"]]
