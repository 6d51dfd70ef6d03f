"""Values of `--cluster`: those driven by this process, and addresses of a Jobs API."""

import re

JOINED = re.compile(r"auto|ray://[^/\s]+:\d+")
"""Values of `--cluster` with which this process is the driver; all others submit the benchmark."""

JOBS = re.compile(r"https?://\S+")
"""Address of a Jobs API."""


def joins(cluster: str | None) -> bool:
    """Whether this process is the driver of a benchmark with this `--cluster`."""
    return cluster is None or JOINED.fullmatch(cluster) is not None
