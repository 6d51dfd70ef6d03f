"""Cluster files: reading, checks against Ray's schema and this project's security rules, prices."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.cluster.file_checks import (
    PROVIDERS,
    form_problems,
    mount_problems,
    placeholders,
    schema_problems,
    setting_problems,
    unsafe,
)
from harness.cluster.gpus import listed_prices, resource_problems
from harness.config.benchmark import Benchmark
from harness.core.errors import InputError, typed
from harness.core.paths import ROOT
from lingo.text_files import read_text

MOST_WORKERS = 2
"""Ray's default number of workers."""


@dataclass(frozen=True, kw_only=True)
class NodeKind:
    """One node type of a cluster file.

    Attributes:
        most: Maximum number in the file.
        instance: The provider's name of the machine type; empty for your own machines.
        spot: Whether it is a spot machine, which can be reclaimed at any time.
        price: US dollars per hour; `None` if not in `prices.yaml`.
    """

    name: str
    most: int
    instance: str
    spot: bool
    price: float | None


@dataclass(frozen=True, kw_only=True)
class ClusterFile:
    """A valid cluster file.

    Attributes:
        config: Contents of the file.
        kinds: Its node types, the head's first.
    """

    path: Path
    config: dict[str, Any]
    kinds: tuple[NodeKind, ...]

    @property
    def name(self) -> str:
        return str(self.config["cluster_name"])

    @property
    def provider(self) -> str:
        return str(self.config["provider"]["type"])

    @property
    def workers(self) -> int:
        """Maximum number of workers."""
        if self.provider == "local":
            return len(self.config["provider"].get("worker_ips", ()))
        return int(self.config.get("max_workers", MOST_WORKERS))

    @property
    def always(self) -> int:
        """Machines that run even when idle: the head, and the minimum number of each worker type."""
        if self.provider == "local":
            return self.workers + 1
        types: dict[str, Any] = self.config["available_node_types"]
        return 1 + sum(int(row.get("min_workers", 0)) for row in types.values())

    def unpriced(self) -> list[str]:
        """Machine types without a price in `prices.yaml`, under the names used there."""
        names = [
            f"{kind.instance} spot" if kind.spot else kind.instance
            for kind in self.kinds
            if kind.price is None
        ]
        return list(dict.fromkeys(names))

    def ceiling(self) -> float | None:
        """Maximum cost per hour: the head and the maximum number of the most expensive workers."""
        if self.provider == "local":
            return 0.0
        head, *others = [kind.price for kind in self.kinds]
        if head is None or any(price is None for price in others):
            return None
        dearest = sorted(
            (kind.price or 0.0 for kind in self.kinds[1:] for _ in range(kind.most)), reverse=True
        )
        return head + sum(dearest[: self.workers])


def inspect(path: Path, *, filled_in: bool = True) -> tuple[ClusterFile | None, list[str]]:
    """Read and check a cluster file.

    Args:
        filled_in: Reject a file that still contains placeholders.

    Returns:
        The file, or `None` if its structure does not allow further checks, and all problems found.
    """
    try:
        config = yaml.safe_load(read_text(path))
    except OSError as error:
        return None, [f"`--cluster`: cannot read {path} ({error.strerror})."]
    except UnicodeDecodeError:
        return None, [f"{path}: must be a text file in YAML, but is not."]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return None, [f"{path}{_where(error)}: is not valid YAML ({_why(error)}).{_other(path)}"]
    if not isinstance(config, dict) or not isinstance(config.get("provider"), dict):
        return None, [f"{path}: must be a Ray cluster file with a `provider`.{_other(path)}"]
    problems = list(form_problems(path, config))
    sound = not problems and isinstance(config.get("cluster_name"), str)
    if config["provider"].get("type") in PROVIDERS:
        problems += [
            *setting_problems(path, config),
            *schema_problems(path, config, sound=sound),
            *unsafe(path, config),
        ]
    problems += placeholders(path) if filled_in else ()
    mounts = config.get("file_mounts")
    problems += mount_problems(path, mounts) if isinstance(mounts, dict) else ()
    file = ClusterFile(path=path, config=config, kinds=tuple(node_kinds(config))) if sound else None
    if file is not None and file.provider != "local":
        instances = {kind.name: kind.instance for kind in file.kinds}
        problems += resource_problems(path, file.provider, config["available_node_types"], instances)
    return file, list(dict.fromkeys(problems))


def read_cluster(path: Path, *, filled_in: bool = True) -> ClusterFile:
    """Like `inspect`, for callers that need a file without problems.

    Raises:
        InputError: With all problems of the file.
    """
    file, problems = inspect(path, filled_in=filled_in)
    if file is None or problems:
        raise InputError(problems)
    return file


def _where(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}" if mark else ""


def _why(error: Exception) -> str:
    words = " ".join(str(getattr(error, "problem", None) or error).split())
    return "a tab, where YAML requires spaces" if "'\\t'" in words else words[:200]


def _other(path: Path) -> str:
    """Hint for a file that is not meant for Ray's launcher."""
    if "kuberay" in path.name:
        return " Use kubectl for a RayJob, see clusters/README.md."
    return f" Use sbatch for a Slurm script: {typed('sbatch', path)}" if path.suffix == ".sbatch" else ""


def node_kinds(config: dict[str, Any]) -> Iterator[NodeKind]:
    """Node types of a cluster file's contents, the head's first."""
    types, head = config.get("available_node_types", {}), config.get("head_node_type")
    if config["provider"]["type"] == "local":
        local = config["provider"]
        yield NodeKind(name="head", most=1, instance="", spot=False, price=0.0)
        most = len(local.get("worker_ips", ()))
        yield NodeKind(name="worker", most=most, instance="", spot=False, price=0.0)
        return
    prices = read_prices()
    for name in sorted(types, key=lambda name: name != head):
        node = types[name].get("node_config", {})
        arm = node.get("azure_arm_parameters", {})
        instance = node.get("InstanceType") or node.get("machineType") or arm.get("vmSize") or ""
        spot = (
            "InstanceMarketOptions" in node
            or any(_taken_away(row) for row in _rows(node.get("scheduling")))
            or arm.get("priority") == "Spot"
        )
        most = (
            1
            if name == head
            else int(types[name].get("max_workers", config.get("max_workers", MOST_WORKERS)))
        )
        price = prices.get(f"{instance} spot" if spot else instance)
        yield NodeKind(name=name, most=most, instance=instance, spot=spot, price=price)


def _taken_away(row: dict[str, Any]) -> bool:
    """Whether Google's `scheduling` requests the spot price, by its current or its former name."""
    return row.get("provisioningModel") == "SPOT" or bool(row.get("preemptible"))


def _rows(value: Any) -> list[dict[str, Any]]:
    """A list of blocks, from a list or a single block; Google's files may have either."""
    rows = value if isinstance(value, list) else [value]
    return [row for row in rows if isinstance(row, dict)]


def read_prices(path: Path = ROOT / "clusters" / "prices.yaml") -> dict[str, float]:
    """Prices per hour by machine type, with the suffix ` spot` for spot machines: those of the file, and of
    `gpus.yaml` those that it lacks.

    Raises:
        InputError: If the file is not a mapping of names to numbers.
    """
    listed = listed_prices()
    if not path.is_file():
        return listed
    try:
        read = yaml.safe_load(read_text(path))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]}).") from None
    rows = read.get("dollars_per_hour") if isinstance(read, dict) else None
    if not isinstance(rows, dict):
        raise InputError(f"{path}: must have the block `dollars_per_hour` with a price for each machine.")
    wrong = [
        name for name, price in rows.items() if not isinstance(price, int | float) or not 0 <= price < 1e6
    ]
    if wrong:
        raise InputError(f"{path}: the price of {wrong[0]} must be a number of at least 0.")
    return listed | {str(name): float(price) for name, price in rows.items()}


def with_price(benchmark: Benchmark) -> Benchmark:
    """The benchmark with the maximum cost per hour of its cluster, unless it sets a price itself.

    Raises:
        InputError: If there is a cost limit but no price; other problems of a cluster file are left to its checks.
    """
    if benchmark.price_per_hour is not None or benchmark.cluster is None:
        return benchmark
    try:
        price = read_cluster(Path(benchmark.cluster), filled_in=False).ceiling()
    except (InputError, OSError):
        return benchmark
    if price:
        return benchmark.model_copy(update={"price_per_hour": round(price, 4)})
    if benchmark.max_cost is not None or benchmark.study_max_cost is not None:
        raise InputError(
            f"`--price-per-hour` is required with a cost limit: clusters/prices.yaml lacks prices of machines in "
            f"{benchmark.cluster}."
        )
    return benchmark
