"""Values of `--cluster`: which of them this process drives, and which name a Jobs API."""

import re

JOINED = re.compile(r"auto|ray://[^/\s]+:\d+")
"""Values of `--cluster` with which this process is the driver; all others send the benchmark elsewhere."""

JOBS = re.compile(r"https?://\S+")
"""Address of a Jobs API."""


def joins(cluster: str | None) -> bool:
    """Whether a benchmark with this `--cluster` is driven by the process that reads it."""
    return cluster is None or JOINED.fullmatch(cluster) is not None
