"""Local checks of a cluster file: structure, Ray's schema, security."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.core.errors import nearest
from harness.core.home import path_of
from harness.core.paths import ROOT

PROVIDERS = ("aws", "gcp", "azure", "local")
NEEDED = {
    "aws": ("region",),
    "gcp": ("region", "availability_zone", "project_id"),
    "azure": ("location", "resource_group", "subscription_id"),
    "local": ("head_ip",),
}
"""Settings of `provider` without which Ray's launcher, or the cluster, fails midway."""

INSTANCE = {"aws": ("InstanceType",), "gcp": ("machineType",), "azure": ("azure_arm_parameters", "vmSize")}
"""Setting with the machine type of a node type."""

FURTHER = (
    "aws_credentials",
    "external_head_ip",
    "key_pair",
    "msi_name",
    "msi_resource_group",
    "nsg",
    "subnet",
)
"""Settings of `provider` that Ray reads but that are missing in its schema."""

KINDS = {"string": "text", "integer": "a whole number", "array": "a list", "object": "a block of settings"}
PLACEHOLDER = re.compile(r"\bCHANGE-?ME\b|\b192\.0\.2\.\d+\b")

LOOPBACK = ("127.0.0.1", "localhost", "::1")
WORLD = ("0.0.0.0/0", "::/0")


def form_problems(path: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """Problems that make further checks of a file impossible."""
    provider = config["provider"]
    kind = provider.get("type")
    if kind not in PROVIDERS:
        yield (
            f"{path}: `provider.type` must be one of {', '.join(PROVIDERS)}, but got {kind!r}."
            f"{nearest(str(kind), PROVIDERS)}"
        )
        return
    if kind == "local":
        if not isinstance(provider.get("worker_ips", []), list):
            yield f"{path}: `provider.worker_ips` must be a list of addresses, [] for none."
        return
    types, head = config.get("available_node_types"), config.get("head_node_type")
    if not isinstance(types, dict) or not types:
        yield f"{path}: `available_node_types` must list the machine types of head and workers."
        return
    if head not in types:
        yield f"{path}: `head_node_type` must be one of {', '.join(map(str, types))}, but got {head!r}."
    if not _count(config.get("max_workers", 0)):
        yield f"{path}: `max_workers` must be a whole number, but got {config['max_workers']!r}."
    for name, row in types.items():
        node = row.get("node_config") if isinstance(row, dict) else None
        for part in INSTANCE[kind]:
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, str):
            where = ".".join(("node_config", *INSTANCE[kind]))
            yield f"{path}: `available_node_types.{name}.{where}` must be a machine type."
        most = row.get("max_workers", 0) if isinstance(row, dict) else 0
        if not _count(most):
            yield f"{path}: `available_node_types.{name}.max_workers` must be a whole number, but got {most!r}."


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def setting_problems(path: Path, config: dict[str, Any]) -> Iterator[str]:
    """Missing and misspelt settings; Ray ignores unknown ones."""
    provider = config["provider"]
    kind = provider["type"]
    for name in NEEDED[kind]:
        if not provider.get(name):
            yield f"{path}: `provider.{name}` is required."
    if kind == "local" and not (config.get("auth") or {}).get("ssh_user"):
        yield f"{path}: `auth.ssh_user` is required: the SSH account on every machine."
    known = (*ray_schema()["properties"]["provider"]["properties"], *FURTHER)
    for name in provider:
        close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.75)
        if name not in known and close:
            yield f"{path}: `provider.{name}` is not a setting of Ray. Nearest known: {close[0]}."


def ray_schema() -> dict[str, Any]:
    """Ray's schema of cluster files."""
    spec = find_spec(
        "ray"
    )  # not imported, because Ray reads its settings at import, when they may not be set yet
    assert spec is not None and spec.origin is not None
    text = (Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def schema_problems(path: Path, config: dict[str, Any], *, sound: bool = True) -> list[str]:
    """All problems for which Ray itself would reject the file.

    Args:
        sound: Whether the structure of the file permits Ray's own checks, which continue after a first error.
    """
    from jsonschema import Draft7Validator

    found = sorted(
        Draft7Validator(ray_schema()).iter_errors(config), key=lambda error: list(map(str, error.path))
    )
    lines = [line for error in found for line in _told(path, error)]
    return lines or (_refused(path, config) if sound else [])


def _told(path: Path, error: Any) -> Iterator[str]:
    """Message for an error of the schema."""
    where = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = error.schema.get("properties", {})
        for name in error.instance:
            if name not in known:
                full = f"{where}.{name}" if where else str(name)
                yield f"{path}: `{full}` is not a setting of Ray.{nearest(str(name), known)}"
    elif error.validator == "required":
        for name in error.validator_value:
            if name not in error.instance:
                yield f"{path}: `{where}.{name}` is required." if where else f"{path}: `{name}` is required."
    elif error.validator == "type":
        wanted = KINDS.get(str(error.validator_value), f"a {error.validator_value}")
        yield f"{path}: `{where}` must be {wanted}, but got {str(error.instance)[:60]!r}."
    else:
        yield f"{path}: `{where}` is invalid for Ray: {error.message[:200]}"


def _refused(path: Path, config: dict[str, Any]) -> list[str]:
    """Errors of Ray's own checks beyond its schema."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    from harness.cluster.ssh import quiet

    try:
        with quiet():
            validate_config(prepare_config(config))
    except SystemExit:
        return [f"{path}: Ray rejects it without a reason; compare it with the files in clusters/."]
    except Exception as error:  # exceptions of jsonschema, click and Ray
        line = (str(getattr(error, "message", error)).strip().splitlines() or ["no reason given"])[0][:300]
        return [f"{path}: is invalid for Ray: {line}"]
    return []


def placeholders(path: Path) -> Iterator[str]:
    """Placeholders in the file."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for found in PLACEHOLDER.findall(line.split("#")[0]):
            yield f"{path}:{number}: replace the placeholder {found}."


def mount_problems(path: Path, mounts: Mapping[str, str]) -> Iterator[str]:
    """Missing files to be copied to the machines. The token is created when needed."""
    for there, here in mounts.items():
        if not there.endswith("/auth_token") and not source_of(here, path.resolve().parent).exists():
            yield f"{path}: `file_mounts` must name files of this machine, but {here} does not exist (for {there})."


def source_of(name: str, base: Path) -> Path:
    """A mounted file as an absolute path; relative ones are looked up in the working directory, next to the file,
    and in this project."""
    given = path_of(name)
    for place in (given, base / given, ROOT / given):
        if place.exists():
            return place.resolve()
    return given


def unsafe(path: Path, config: dict[str, Any]) -> Iterator[str]:
    """Settings that would let strangers run programs on the cluster."""
    head = " ".join(map(str, config.get("head_start_ray_commands") or ()))
    workers = " ".join(map(str, config.get("worker_start_ray_commands") or ()))
    for host in re.findall(r"--dashboard-host[= ]([^\s;]+)", head):
        if host.strip("'\"") not in LOOPBACK:
            yield (
                f"{path}: `--dashboard-host={host}` is rejected: anyone who can reach Ray's dashboard can run programs "
                "on the cluster. Use 127.0.0.1, reached through an SSH tunnel."
            )
    for name, commands in (("head", head), ("worker", workers)):
        if "ray start" not in commands or "RAY_AUTH_MODE=token" not in commands:
            yield f"{path}: `{name}_start_ray_commands` must set RAY_AUTH_MODE=token before `ray start`."
    group = config["provider"].get("security_group")
    for rule in group.get("IpPermissions") or () if isinstance(group, dict) else ():
        yield from rule_problems(f"{path}: the security group", rule)


def rule_problems(what: str, rule: Mapping[str, Any]) -> Iterator[str]:
    """Access granted by a security group rule, beyond SSH from one address."""
    ranges = [row.get("CidrIp") for row in rule.get("IpRanges") or ()]
    ranges += [row.get("CidrIpv6") for row in rule.get("Ipv6Ranges") or ()]
    if not ranges:
        return
    ports = (rule.get("FromPort"), rule.get("ToPort"))
    if ports != (22, 22):
        span = "every port" if None in ports or -1 in ports else f"{ports[0]}-{ports[1]}"
        yield f"{what} must open port 22 (SSH) only, but opens {span}."
    for where in ranges:
        if where in WORLD:
            yield f"{what} must not be open to the world ({where})."
