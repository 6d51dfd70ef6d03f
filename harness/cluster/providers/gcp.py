"""Google Cloud checks before a machine is started: project, zone, image, machine types and quota."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from harness.cluster.file import ClusterFile
from harness.core.wording import words

IMAGE = re.compile(r"projects/([^/]+)/global/images/(?:family/)?([^/]+)$")
GPUS = {
    "n1-": "NVIDIA_T4_GPUS",
    "g2-": "NVIDIA_L4_GPUS",
    "a2-highgpu": "NVIDIA_A100_GPUS",
    "a2-ultragpu": "NVIDIA_A100_80GB_GPUS",
    "a3-": "NVIDIA_H100_GPUS",
}
"""Google's name of the GPU quota, by the beginning of the machine type; that of spot machines has the prefix
`PREEMPTIBLE_`."""


def google_problems(file: ClusterFile, note: Callable[[str], None]) -> Iterator[str]:
    """Check the credentials, then everything that Compute Engine can report without creating resources."""
    import google.auth
    from google.auth.exceptions import GoogleAuthError
    from googleapiclient import discovery
    from httplib2 import HttpLib2Error

    try:
        credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/compute.readonly"])
        compute = discovery.build("compute", "v1", credentials=credentials, cache_discovery=False)
        yield from compute_problems(file, compute, note)
    except GoogleAuthError as error:
        yield f"Google Cloud: no credentials that work ({words(error)}): run `gcloud auth application-default login`."
    except (OSError, HttpLib2Error) as error:
        yield f"Google Cloud does not answer ({words(error)}): is this machine online?"


def compute_problems(file: ClusterFile, compute: Any, note: Callable[[str], None]) -> Iterator[str]:
    """One line for each problem for which Compute Engine would reject the cluster.

    Args:
        compute: Client of its API, version 1.
        note: Receives limits that do not prevent a run.
    """
    provider = file.config["provider"]
    project, zone, region = (provider.get(name) for name in ("project_id", "availability_zone", "region"))
    if not (project and zone and region):
        return
    answer, status = _asked(compute.regions().get(project=project, region=region))
    if answer is None:
        yield _refused(file, f"region {region} of project {project}", status)
        return
    if not str(zone).startswith(f"{region}-"):
        yield f"{file.path}: `provider.availability_zone` must be a zone of {region}, but got {zone}."
        return
    for kept in dict.fromkeys(disk.get("diskType", "") for disk in _disks(file)):
        if kept and f"zones/{zone}/" not in kept:
            yield f"{file.path}: `diskType` must be in {zone}, as the machines are, but got {kept}."
    for name in dict.fromkeys(kind.instance for kind in file.kinds):
        found, status = _asked(compute.machineTypes().get(project=project, zone=zone, machineType=name))
        if found is None:
            yield _refused(file, f"machine type {name} in {zone}", status)
    for image in _images(file):
        yield from _image(file, compute, image)
    yield from _quota(file, answer.get("quotas", []), note)


def _asked(request: Any) -> tuple[dict[str, Any] | None, int]:
    """The response, or the status code of an error."""
    try:
        return request.execute(), 200
    except Exception as error:  # HttpError of googleapiclient, identified by its response
        status = getattr(getattr(error, "resp", None), "status", None)
        if status is None:
            raise
        return None, int(status)


def _refused(file: ClusterFile, what: str, status: int) -> str:
    if status == 404:
        return f"{file.path}: Google Cloud has no {what}."
    why = "access denied" if status in (401, 403) else f"HTTP {status}"
    return f"{file.path}: Google Cloud does not show {what}: {why}; see the roles in clusters/README.md."


def _disks(file: ClusterFile) -> list[dict[str, Any]]:
    """Initial contents of the machines' disks."""
    nodes = [row["node_config"] for row in file.config["available_node_types"].values()]
    disks = [disk for node in nodes for disk in node.get("disks", ()) if isinstance(disk, dict)]
    return [disk.get("initializeParams") or {} for disk in disks]


def _images(file: ClusterFile) -> list[str]:
    return list(dict.fromkeys(str(disk.get("sourceImage", "")) for disk in _disks(file)))


def _image(file: ClusterFile, compute: Any, image: str) -> Iterator[str]:
    named = IMAGE.search(image)
    if named is None:
        if image:
            yield f"{file.path}: `sourceImage` must be projects/PROJECT/global/images/…, but got {image}."
        return
    project, name = named.groups()
    if "/family/" in image:
        found, status = _asked(compute.images().getFromFamily(project=project, family=name))
    else:
        found, status = _asked(compute.images().get(project=project, image=name))
    if found is None:
        yield _refused(file, f"image {image}", status)


def _quota(file: ClusterFile, rows: list[dict[str, Any]], note: Callable[[str], None]) -> Iterator[str]:
    """GPU quota of the project in the region, compared with one machine and all of a type."""
    limits = {row["metric"]: row["limit"] for row in rows}
    for kind in file.kinds[1:]:
        metric = next((name for start, name in GPUS.items() if kind.instance.startswith(start)), None)
        gpus = file.config["available_node_types"][kind.name]["resources"].get("GPU", 0)
        name = f"PREEMPTIBLE_{metric}" if kind.spot else str(metric)
        if not metric or not gpus or name not in limits:
            continue
        if limits[name] < gpus:
            yield (
                f"{file.path}: {kind.name} needs {gpus} GPU of {kind.instance}, but the quota {name} is "
                f"{limits[name]:g}: request more under IAM & Admin, Quotas."
            )
        elif limits[name] < gpus * kind.most:
            note(
                f"the quota {name} is {limits[name]:g}: {int(limits[name] // gpus)} of {kind.most} {kind.name} at most."
            )
