"""The environment of a result: versions, commit and its state, device."""

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.core.paths import ROOT

COMMIT = "commit.json"
"""File beside a program that was sent to a cluster: commit and state of its checkout."""

PACKAGES = (
    "lingo-bench",
    "torch",
    "transformers",
    "tokenizers",
    "ray",
    "optuna",
    "mlflow",
    "pyarrow",
    "numpy",
    "scikit-learn",
)


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The environment stored in every record.

    Attributes:
        versions: Versions of Python and of relevant packages that are installed.
        git_sha: Commit of the checkout; `None` outside one.
        git_dirty: Whether tracked files differ from the commit; `None` outside a checkout.
        device: Operating system, processor, cores, memory in GiB, and accelerators by name.
    """

    versions: dict[str, str]
    git_sha: str | None
    git_dirty: bool | None
    device: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `Record.environment`."""
        return asdict(self)


def capture(root: Path | str | None = None) -> Environment:
    """The environment of this process; `root` is the checkout (default: that of this file)."""
    sha, dirty = git_state(Path(root) if root is not None else ROOT)
    return Environment(versions=versions(), git_sha=sha, git_dirty=dirty, device=device())


def versions() -> dict[str, str]:
    """Versions of Python and of those of `PACKAGES` that are installed; nothing is imported."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state(root: Path) -> tuple[str | None, bool | None]:
    """Commit of the checkout at `root`, and whether tracked files differ; `(None, None)` without a checkout.

    A copy that was sent to a cluster has them in a file.
    """
    if not (root / ".git").exists():
        try:
            told = json.loads((root / COMMIT).read_text(encoding="utf-8"))
            return told["sha"], told["dirty"]
        except (OSError, ValueError, KeyError, TypeError):
            return None, None
    sha = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain", "--untracked-files=no")
    return sha, None if status is None else bool(status)


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def device() -> dict[str, Any]:
    """Facts about this machine, without its name or anything else that identifies it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "accelerators": _accelerators(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _accelerators() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
