"""Google Cloud and Azure: what can be known before a machine is started. Their own libraries are optional."""

import shutil
from collections.abc import Iterator
from importlib.util import find_spec

from harness.cluster_files import ClusterFile
from harness.cluster_shell import ShellError, run

NEEDED = {
    "gcp": ("googleapiclient", "google.auth", "google_auth_httplib2", "lingo-bench[gcp]"),
    "azure": (
        "azure.common",
        "azure.identity",
        "azure.mgmt.compute",
        "azure.mgmt.resource",
        "lingo-bench[azure]",
    ),
}


def cloud_problems(file: ClusterFile) -> Iterator[str]:
    """Libraries and credentials; quota and images are the launcher's to find out there."""
    *modules, extra = NEEDED[file.provider]
    absent = [name for name in modules if not _there(name)]
    if absent:
        yield f"{file.path}: {', '.join(absent)} must be installed for {file.provider}: pip install '{extra}'"
        return
    yield from _google(file) if file.provider == "gcp" else _azure()


def _there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _google(file: ClusterFile) -> Iterator[str]:
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    try:
        google.auth.default()
    except DefaultCredentialsError:
        yield "Google Cloud: no credentials on this machine: run `gcloud auth application-default login`."
    if not file.config["provider"].get("project_id"):
        yield f"{file.path}: `provider.project_id` must name your project."


def _azure() -> Iterator[str]:
    """Ray asks the command line of Azure who you are."""
    if shutil.which("az") is None:
        yield "Azure: its command line is needed: install `az`, then run `az login`."
        return
    try:
        run(["az", "account", "show"], timeout=60)
    except ShellError:
        yield "Azure: no credentials on this machine: run `az login`."
