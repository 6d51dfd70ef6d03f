"""Google Cloud and Azure: checks before a machine is started. Their libraries are optional."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec

from harness.cluster.file import ClusterFile

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


def cloud_problems(file: ClusterFile, note: Callable[[str], None]) -> Iterator[str]:
    """Libraries, credentials, region, image, machine types and quota: one line for each failed check.

    Args:
        note: Receives limits that do not prevent a run.
    """
    *modules, extra = NEEDED[file.provider]
    absent = [name for name in modules if not _there(name)]
    if absent:
        yield f"{file.path}: {', '.join(absent)} must be installed for {file.provider}: pip install '{extra}'"
    if file.provider == "azure":
        from harness.cluster.providers.azure import azure_problems

        yield from azure_problems(file, note)
    elif not absent:
        from harness.cluster.providers.gcp import google_problems

        yield from google_problems(file, note)


def _there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
