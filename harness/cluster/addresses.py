"""Addresses in settings that mean something else on a cluster than on this machine: its loopback, its files."""

import ipaddress
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.cluster.file import ClusterFile
from harness.core.cluster_address import JOBS
from harness.core.store_address import ADDRESS, shown
from harness.runs.mirror import address_problems

HOST = re.compile(r"\w[\w+.-]*://(?:[^/?#@]*@)?(\[[^]/]*\]|[^:/?#]*)")
CLOUDS = {"aws": "s3://BUCKET/FOLDER", "gcp": "gs://BUCKET/FOLDER", "azure": "a bucket, s3:// or gs://"}
"""Storage that the machines of a cloud can reach."""

MOUNT = re.compile(r"\b(mount|mount\.\w+|gcsfuse|blobfuse2?|mount-s3|s3fs|goofys)\b")
"""Commands of a cluster file that make a shared folder on its machines."""


def loopback(address: str) -> bool:
    """Whether the host of an address is the machine that reads it."""
    found = HOST.match(address)
    host = found[1].strip("[]").lower() if found else ""
    if host in ("localhost", "localhost.localdomain", "ip6-localhost"):
        return True
    try:
        place = ipaddress.ip_address(host)
    except ValueError:
        return False
    return place.is_loopback or place.is_unspecified


def elsewhere(file: ClusterFile | None, cluster: str) -> bool:
    """Whether the head is another machine, as far as addresses say; a Jobs API on loopback may be a tunnel."""
    if file is None:
        return JOBS.fullmatch(cluster) is not None and not loopback(cluster)
    return file.provider != "local" or not loopback(f"ssh://{file.config['provider'].get('head_ip')}")


def tracking_problems(uri: str | None, file: ClusterFile | None, cluster: str) -> Iterator[str]:
    """Reason why a tracking address cannot mean the same store on the head, with what would work."""
    if uri is None or not elsewhere(file, cluster):
        return
    files = uri.startswith("sqlite:")
    if not files and not loopback(uri):
        return
    origin = f" (from {ADDRESS})" if os.environ.get(ADDRESS) == uri else ""
    what = "a file of this machine" if files else "this machine"
    leave = f"unset {ADDRESS}" if origin else "leave it out"
    yield (
        f"`--tracking-uri` must be an address that the cluster's machines reach, but {shown(uri)}{origin} means "
        f"{what}, and on the cluster's head another: {leave} (the store then comes home with the results, and "
        "`ui RUN` shows it), or name a server that they reach."
    )


def storage_place_problems(
    uri: str | None, file: ClusterFile | None, cluster: str, note: Callable[[str], None]
) -> Iterator[str]:
    """Reason why a storage path cannot mean the same place on the head, with what would work.

    Args:
        note: Receives what a folder means there.
    """
    if uri is None or address_problems(uri) or not folder_of(uri) or tried_here(uri, file, cluster):
        return
    folder = folder_of(uri)
    works = CLOUDS.get(file.provider if file else "", "a bucket (s3://…, gs://…)")
    if not folder.startswith(("/", "~")):
        yield (
            f"`--storage-path` must be a bucket or an absolute path on a cluster, but got {uri}, which would lie in a "
            f"folder of the job that is deleted with it: use {works}."
        )
    elif file is None or file.provider == "local":
        note(f"--storage-path {uri} is a folder of the cluster's head, not of this machine.")
    elif not _mounted(file, folder):
        yield (
            f"`--storage-path` must be a place that outlasts the cluster's machines, but {uri} would lie on the head's "
            f"disk, which is deleted with it: use {works}. (A shared file system goes too, if a command of {file.path} "
            "mounts it at this path or above it.)"
        )


def folder_of(uri: str) -> str:
    """The folder that a storage path names; empty for a bucket."""
    return uri.removeprefix("file://") if uri.startswith("file://") or "://" not in uri else ""


def _mounted(file: ClusterFile, folder: str) -> bool:
    """Whether a command of the file mounts a file system at a folder or above it."""
    names = ("initialization_commands", "setup_commands", "head_setup_commands")
    commands = [str(line) for name in names for line in file.config.get(name) or ()]
    places = {str(place) for place in (Path(folder), *Path(folder).parents)} - {"/", "~", "."}
    return any(
        MOUNT.search(line) and places & set(re.split(r"[\s'\";=]+", line.replace("/ ", " ").rstrip("/")))
        for line in commands
    )


def tried_here(uri: str, file: ClusterFile | None, cluster: str) -> bool:
    """Whether a storage path can be tried from here: a bucket, or a folder where the head is this machine."""
    return not folder_of(uri) or (file is not None and not elsewhere(file, cluster))


def head_folder_problems(uri: str, file: ClusterFile) -> Iterator[str]:
    """Reason why the head, one of your own machines, cannot write into the folder of a storage path."""
    from harness.cluster.launch import NOWHERE
    from harness.cluster.ssh import Remote, ShellError, quoted

    auth, folder = file.config["auth"], quoted(folder_of(uri))
    head = Remote(
        host=str(file.config["provider"]["head_ip"]),
        user=auth["ssh_user"],
        key=auth.get("ssh_private_key"),
        known_hosts=NOWHERE,
    )
    try:
        head.run(
            f'mkdir -p {folder} && probe=$(mktemp {folder}/.lingo-probe-XXXXXX) && rm "$probe"', timeout=60
        )
    except ShellError as error:
        yield f"`--storage-path` {uri}: {head.name} cannot write there: {str(error).rpartition(': ')[2]}"
