"""Machines up and down: Ray's own launcher, with what it leaves open or behind taken care of."""

import copy
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from harness.cluster.file import ClusterFile
from harness.cluster.file_checks import PLACEHOLDER, source_of
from harness.cluster.session import Session, token_path
from harness.cluster.ssh import Remote, ShellError, quiet, run, stream
from harness.core.errors import InputError
from harness.core.wording import words

Say = Callable[[str], None]

RAY = str(Path(sys.executable).parent / "ray")

NOWHERE = Path("/dev/null")
"""Where a first look at hosts keeps their keys: nothing is written before the user has agreed."""

GONE_S = 180.0
"""How long machines may take to go away before they count as left."""

POLL_S = 5.0
DISKS_S = 60.0
"""How long their disks may."""


def ray_up(cluster: ClusterFile, config: dict[str, Any], session: Session, say: Say) -> Session:
    """Start the cluster, or bring a running one of the same name up to date.

    Args:
        config: Of `resolve`.

    Raises:
        InputError: with the launcher's last words, when it fails; machines may have been started by then.
    """
    folder = session.out / "cluster"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # a cluster file may hold keys, and the launcher's output may quote it
    file = folder / cluster.path.name
    file.write_text(_text(config), encoding="utf-8")
    session = session.save(file=str(file), source=str(cluster.path), name=cluster.name)
    log = folder / "up.log"
    last: list[str] = []

    def on_line(line: str) -> None:
        last.append(line)
        if said := step(line):
            say(said)

    command = [RAY, "up", "--yes", "--no-config-cache", str(file)]
    if stream(command, log, environment(cluster.provider), on_line):
        raise InputError(f"`ray up` failed: {last_words(last)} All that it said is in {log}.")
    return with_head(session)


def started_with(cluster: ClusterFile, config: dict[str, Any], session: Session) -> bool:
    """Whether this very configuration was the last that machines were started with in this session."""
    file = session.out / "cluster" / cluster.path.name
    return file.is_file() and file.read_text(encoding="utf-8") == _text(config)


def _text(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False)


def environment(provider: str) -> dict[str, str]:
    """Variables for Ray's launcher. With its second autoscaler one of two listed hosts never came up (measured)."""
    own = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "CLICOLOR": "0"}
    return own | ({"RAY_UP_enable_autoscaler_v2": "0"} if provider == "local" else {})


def resolve(cluster: ClusterFile, say: Say) -> dict[str, Any]:
    """The file's configuration with paths that mean the same everywhere, and its provider prepared.

    Raises:
        InputError: If the provider refuses; no machine has been asked for by then.
    """
    config = copy.deepcopy(cluster.config)
    base = cluster.path.resolve().parent
    mounts = config.get("file_mounts") or {}
    config["file_mounts"] = {
        there: str(token_path() if there.endswith("/auth_token") else source_of(here, base))
        for there, here in mounts.items()
    }
    if cluster.provider == "aws":
        from harness.cluster.providers.aws import prepare

        prepare(config, say)
    return config


def step(line: str) -> str:
    """One of the launcher's lines in plain words; empty for the many that say nothing to a user."""
    for sign, said in (
        ("Launched a new head node", "the head's machine is started"),
        ("Waiting for SSH to become available", "waiting for SSH on the head"),
        ("Running initialization commands", "the head is prepared"),
        ("Running setup commands", "packages are installed on the head (minutes, the first time)"),
        ("Starting the Ray runtime", "Ray starts on the head"),
        ("Useful commands", "the head is up"),
    ):
        if sign in line:
            return said
    return ""


def last_words(lines: list[str]) -> str:
    """The line of the launcher's output that says what went wrong."""
    told = [line.strip() for line in lines if line.strip()]
    errors = [line for line in told if "rror" in line and "Traceback" not in line]
    return (errors or told or ["it said nothing."])[-1][:400]


def with_head(session: Session) -> Session:
    """The session with how SSH reaches the head, as the provider knows it now."""
    from ray.autoscaler._private.commands import _bootstrap_config, get_head_node_ip

    config = yaml.safe_load(Path(session.file).read_text(encoding="utf-8"))
    try:
        with quiet():
            bootstrapped = _bootstrap_config(config)
            host = get_head_node_ip(session.file)
    except Exception as error:  # every provider's library has kinds of its own
        raise InputError(f"the head cannot be found: {' '.join(str(error).split())[:300]}") from None
    auth = bootstrapped["auth"]
    return session.save(host=host, user=auth["ssh_user"], key=auth.get("ssh_private_key"))


def ray_down(session: Session, say: Say) -> list[str]:
    """Take the cluster down; what is still there afterwards, one line each (nothing is the good answer).

    What `ray down` leaves, because it was cut off or the provider refused, is asked once more to end.
    """
    log = session.out / "cluster" / "down.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    config = yaml.safe_load(Path(session.file).read_text(encoding="utf-8"))
    disks = _disks(config) if session.provider == "aws" else []
    lines: list[str] = []
    command = [RAY, "down", "--yes", session.file]
    code = stream(command, log, environment(session.provider), lines.append)
    if code:
        say(f"`ray down` ended with exit code {code}: {last_words(lines)} All that it said is in {log}.")
    if session.provider == "local":
        return _local_left(session, config)
    return [*_cloud_left(config, say), *_disks_left(config, disks)]


def _disks(config: dict[str, Any]) -> list[str]:
    from harness.cluster.providers.aws import disks_of

    return disks_of(config)


def _disks_left(config: dict[str, Any], disks: list[str]) -> list[str]:
    """Disks of machines that are gone: a file may keep them, and they cost money."""
    if not disks:
        return []
    from harness.cluster.providers.aws import disks_there

    deadline = time.monotonic() + DISKS_S
    while (there := disks_there(config, disks)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return [f"disk {name} is still there and costs money: delete it under EC2, Volumes." for name in there]


def _local_left(session: Session, config: dict[str, Any]) -> list[str]:
    """Stop Ray on the listed workers as well: `ray down` stops it on the head alone."""
    left = []
    for host in (config["provider"]["head_ip"], *config["provider"].get("worker_ips", ())):
        remote = Remote(host=host, user=session.user, key=session.key, known_hosts=session.remote.known_hosts)
        try:
            remote.run(
                "ray stop --grace-period 20 >/dev/null 2>&1; ! pgrep -x raylet >/dev/null", timeout=120
            )
        except ShellError as error:
            left.append(f"{host}: Ray may still run there ({error}).")
    return left


def _cloud_left(config: dict[str, Any], say: Say) -> list[str]:
    """Machines with the cluster's name that the provider still counts as running."""
    try:
        there = _wait_until_gone(config)
        if there:
            say(f"{len(there)} machines are still there; they are asked once more to end.")
            _provider(config).terminate_nodes(there)
            there = _wait_until_gone(config)
    except Exception as error:  # every provider's library has kinds of its own
        name = config["cluster_name"]
        return [
            f"what is left cannot be found out ({words(error)}): look for machines of {name} in the provider's console."
        ]
    return [f"machine {name} is still there: end it in the provider's console." for name in there]


def _wait_until_gone(config: dict[str, Any]) -> list[str]:
    deadline = time.monotonic() + GONE_S
    while (there := running_nodes(config)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return there


def running_nodes(config: dict[str, Any]) -> list[str]:
    """The provider's names of the cluster's machines."""
    with quiet():
        return list(_provider(config).non_terminated_nodes({}))


def _provider(config: dict[str, Any]) -> Any:
    """Ray's own node provider for a configuration."""
    from ray.autoscaler._private.commands import _bootstrap_config
    from ray.autoscaler._private.providers import _get_node_provider

    if config["provider"]["type"] != "aws":  # which needs nothing but its region to list and end machines
        config = _bootstrap_config(copy.deepcopy(config))
    return _get_node_provider(config["provider"], config["cluster_name"])


def reachable(cluster: ClusterFile) -> list[str]:
    """Listed machines that SSH does not reach, or that lack what a cluster needs; one line each, in their order."""
    provider, auth = cluster.config["provider"], cluster.config.get("auth") or {}
    listed = [str(host) for host in (provider.get("head_ip"), *provider.get("worker_ips", ())) if host]
    hosts = [host for host in listed if not PLACEHOLDER.search(host)]
    if PLACEHOLDER.search(str(auth.get("ssh_user") or "CHANGE-ME")):
        return []

    def look(host: str) -> str | None:
        remote = Remote(
            host=host, user=auth["ssh_user"], key=auth.get("ssh_private_key"), known_hosts=NOWHERE
        )
        line = "command -v rsync >/dev/null || { echo rsync is not installed there >&2; exit 1; }"
        try:
            remote.run(line, timeout=40, what="SSH")
        except ShellError as error:
            return f"{cluster.path}: {remote.name} cannot be used: {str(error).removeprefix('SSH: ')}"
        return None

    with ThreadPoolExecutor(16) as at_once:
        return [line for line in at_once.map(look, hosts) if line]


def tools() -> list[str]:
    """Programs of this machine that the launcher needs and does not find."""
    needed = {"ssh": ["ssh", "-V"], "rsync": ["rsync", "--version"], "ray": [RAY, "--version"]}
    problems = []
    for name, command in needed.items():
        try:
            run(command, timeout=60)
        except ShellError:
            problems.append(f"`{name}` is needed on this machine and does not run: install it.")
    return problems
