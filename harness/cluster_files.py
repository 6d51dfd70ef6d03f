"""Cluster files: read, checked against Ray's own schema and this project's rules of safety, priced."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.errors import InputError, nearest

PROVIDERS = ("aws", "gcp", "azure", "local")
PLACEHOLDER = re.compile(r"\bCHANGE-?ME\b|\b192\.0\.2\.\d+\b")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class NodeKind:
    """One node type of a cluster file.

    Attributes:
        most: How many of them the file allows.
        instance: The provider's name of the machine; empty for machines of one's own.
        spot: Whether it can be taken away at any time, at a lower price.
        price: Of an hour, in US dollars; `None` when it is not in `prices.yaml`.
    """

    name: str
    most: int
    instance: str
    spot: bool
    price: float | None


@dataclass(frozen=True, kw_only=True)
class ClusterFile:
    """A cluster file that Ray takes.

    Attributes:
        config: The file as it is written.
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
        """Most workers at a time."""
        if self.provider == "local":
            return len(self.config["provider"].get("worker_ips", ()))
        return int(self.config.get("max_workers", 0))

    def ceiling(self) -> float | None:
        """Most that an hour can cost: the head and as many of the dearest workers as may run."""
        if self.provider == "local":
            return 0.0
        head, *others = [kind.price for kind in self.kinds]
        if head is None or any(price is None for price in others):
            return None
        dearest = sorted(
            (kind.price or 0.0 for kind in self.kinds[1:] for _ in range(kind.most)), reverse=True
        )
        return head + sum(dearest[: self.workers])


def read_cluster(path: Path, *, filled_in: bool = True) -> ClusterFile:
    """Read and check a cluster file.

    Args:
        filled_in: Refuse a file that still has words which stand for something of the user's.

    Raises:
        InputError: with every problem of the file, each naming it.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"`--cluster`: cannot read {path} ({error.strerror}).") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: is no YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(config, dict) or not isinstance(config.get("provider"), dict):
        other = " A RayJob is for kubectl, see clusters/README.md." if "kuberay" in path.name else ""
        raise InputError(f"{path}: must be a Ray cluster file with a `provider`.{other}")
    problems = [*_problems(path, config), *(placeholders(path) if filled_in else ())]
    if problems:
        raise InputError(problems)
    return ClusterFile(path=path, config=config, kinds=tuple(_kinds(config)))


def _problems(path: Path, config: dict[str, Any]) -> Iterator[str]:
    kind = config["provider"].get("type")
    if kind not in PROVIDERS:
        yield (
            f"{path}: `provider.type` must be one of {', '.join(PROVIDERS)}, but got {kind!r}."
            f"{nearest(str(kind), PROVIDERS)}"
        )
        return
    yield from schema_problems(path, config)
    yield from unsafe(path, config)


def placeholders(path: Path) -> Iterator[str]:
    """Words of the file that stand for something of the user's."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if found := PLACEHOLDER.search(line.split("#")[0]):
            yield f"{path}:{number}: {found[0]} stands for something of yours; put it in."


def schema_problems(path: Path, config: dict[str, Any]) -> Iterator[str]:
    """What Ray itself would refuse."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    from harness.cluster_shell import quiet

    try:
        with quiet():
            validate_config(prepare_config(config))
    except SystemExit:
        yield f"{path}: Ray refuses it; see the lines above."
    except Exception as error:  # jsonschema's, click's and Ray's own kinds
        line = str(getattr(error, "message", error)).strip().splitlines()[0][:300]
        where = "".join(f"{part}." for part in getattr(error, "absolute_path", ()))
        yield f"{path}: {where and f'`{where[:-1]}` '}is not as Ray wants it: {line}"


def unsafe(path: Path, config: dict[str, Any]) -> Iterator[str]:
    """What would let strangers run programs on the cluster."""
    head = " ".join(config.get("head_start_ray_commands") or ())
    workers = " ".join(config.get("worker_start_ray_commands") or ())
    for host in re.findall(r"--dashboard-host[= ]([^\s;]+)", head):
        if host.strip("'\"") not in LOOPBACK:
            yield (
                f"{path}: `--dashboard-host={host}` is refused: whoever reaches Ray's dashboard can run programs on "
                "the cluster. Use 127.0.0.1; it is reached through an SSH tunnel."
            )
    for name, commands in (("head", head), ("worker", workers)):
        if "ray start" not in commands or "RAY_AUTH_MODE=token" not in commands:
            yield f"{path}: `{name}_start_ray_commands` must set RAY_AUTH_MODE=token before `ray start`."
    for rule in config["provider"].get("security_group", {}).get("IpPermissions", ()):
        span = f"{rule.get('FromPort')}-{rule.get('ToPort')}"
        if span != "22-22":
            yield f"{path}: the security group must open port 22 (SSH) alone, but opens {span}."
        for where in rule.get("IpRanges", ()):
            if where.get("CidrIp") == "0.0.0.0/0":
                yield f"{path}: the security group must not be open to the world (0.0.0.0/0)."


def _kinds(config: dict[str, Any]) -> Iterator[NodeKind]:
    types, head = config.get("available_node_types", {}), config.get("head_node_type")
    if not types:
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
            or any(row.get("preemptible") for row in node.get("scheduling", ()))
            or arm.get("priority") == "Spot"
        )
        most = 1 if name == head else int(types[name].get("max_workers", config.get("max_workers", 0)))
        price = prices.get(f"{instance} spot" if spot else instance)
        yield NodeKind(name=name, most=most, instance=instance, spot=spot, price=price)


def read_prices(path: Path = ROOT / "clusters" / "prices.yaml") -> dict[str, float]:
    """Prices of an hour by instance, spot ones with ` spot` behind; none where there is no such file.

    Raises:
        InputError: If the file is not a mapping of names to numbers.
    """
    if not path.is_file():
        return {}
    rows = yaml.safe_load(path.read_text(encoding="utf-8")).get("dollars_per_hour", {})
    wrong = [name for name, price in rows.items() if not isinstance(price, int | float) or price < 0]
    if wrong:
        raise InputError(f"{path}: the price of {wrong[0]} must be a number of at least 0.")
    return {str(name): float(price) for name, price in rows.items()}
