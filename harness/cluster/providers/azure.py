"""Azure checks before a machine is started, through the Azure CLI: account, image, machine types and quota."""

import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from harness.cluster.file import ClusterFile
from harness.cluster.ssh import ShellError, run
from harness.core.errors import nearest

ASK_S = 120.0


def azure_problems(file: ClusterFile, note: Callable[[str], None]) -> Iterator[str]:
    """One line for each problem for which Azure would reject the cluster.

    Args:
        note: Receives limits that do not prevent a run.
    """
    if shutil.which("az") is None:
        yield "Azure: the Azure CLI is required: install `az`, then run `az login`."
        return
    provider = file.config["provider"]
    subscription, location = provider.get("subscription_id"), provider.get("location")
    if not subscription or not location or "CHANGE" in subscription:
        return
    try:
        _az("account", "show", "--subscription", subscription)
    except ShellError as error:
        yield f"Azure: subscription {subscription} is not accessible ({error}): run `az login`."
        return
    places = [str(row["name"]) for row in _az("account", "list-locations", "--subscription", subscription)]
    if location not in places:
        yield f"{file.path}: `provider.location` {location} is not an Azure location.{nearest(location, places)}"
        return
    where = ("--location", location, "--subscription", subscription)
    yield from _images(file, where)
    yield from _machines(file, where, note)


def _az(*words: str) -> Any:
    """Answer of the CLI; raises `ShellError` with the last line of its output."""
    return json.loads(
        run(["az", *words, "--output", "json"], timeout=ASK_S, what=f"az {words[0]} {words[1]}") or "null"
    )


def _images(file: ClusterFile, where: tuple[str, ...]) -> Iterator[str]:
    rows = [
        row["node_config"]["azure_arm_parameters"] for row in file.config["available_node_types"].values()
    ]
    names = ("imagePublisher", "imageOffer", "imageSku", "imageVersion")
    for urn in dict.fromkeys(":".join(str(row.get(name, "")) for name in names) for row in rows):
        try:
            _az("vm", "image", "show", "--urn", urn, *where)
        except ShellError as error:
            yield f"{file.path}: {where[1]} shows no image {urn} ({error})."


def _machines(file: ClusterFile, where: tuple[str, ...], note: Callable[[str], None]) -> Iterator[str]:
    """Machine types of the location, and the subscription's vCPU quota of their families."""
    try:
        types = {
            row["name"]: row for row in _az("vm", "list-skus", "--resource-type", "virtualMachines", *where)
        }
        used = {row["name"]["value"].lower(): row for row in _az("vm", "list-usage", *where)}
    except ShellError as error:
        yield f"Azure: machine types and quota cannot be read ({error}); see the role in clusters/README.md."
        return
    for kind in file.kinds:
        row = types.get(kind.instance)
        if row is None:
            yield f"{file.path}: {where[1]} does not offer machine type {kind.instance}."
            continue
        cpus = next((int(each["value"]) for each in row["capabilities"] if each["name"] == "vCPUs"), 0)
        family = "lowPriorityCores" if kind.spot else str(row["family"])
        quota = used.get(family.lower())
        if quota is None or not cpus:
            note(f"the quota {family} of {kind.instance} could not be read; machines over it do not start.")
            continue
        free = int(quota["limit"]) - int(quota["currentValue"])
        if free < cpus:
            yield (
                f"{file.path}: {kind.name} needs {cpus} vCPUs of {kind.instance}, but of the quota {family} {free} are "
                "free: request more under Subscriptions, Usage + quotas."
            )
        elif free < cpus * kind.most:
            note(
                f"of the quota {family} {free} vCPUs are free: {free // cpus} of {kind.most} {kind.name} at most."
            )
