"""Machines of clusters, as their providers list them: what runs, since when, at which price."""

import hashlib
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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
