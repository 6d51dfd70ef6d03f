"""Resources of this machine: cores and memory."""

import os
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit


def usable_cores() -> int:
    """Cores that this process may use, by its affinity and the quota of its control group."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        return count if quota == "max" else max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):
        return count


def free_gibibytes() -> float:
    """Available memory in GiB; 8 if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return 8.0
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8"))
        free = min(free, limit - int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        pass
    return free / 2**30


def cpu_stands_in() -> bool:
    """Whether this is a machine of the tests' cloud, whose CPUs stand in for GPUs: `LINGO_CPU_FOR_GPU=1`, and only if
    AWS's API is at a private address."""
    if os.environ.get("LINGO_CPU_FOR_GPU") != "1":
        return False
    try:
        return ip_address(urlsplit(os.environ.get("AWS_ENDPOINT_URL", "")).hostname or "").is_private
    except ValueError:
        return False
