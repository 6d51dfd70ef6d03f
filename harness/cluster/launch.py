"""Starting and terminating machines with Ray's launcher, and handling of what it leaves open or behind."""

import copy
import hashlib
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from harness.cluster import head_keeper
from harness.cluster.file import ClusterFile
from harness.cluster.file_checks import PLACEHOLDER, source_of
from harness.cluster.machines import mark_head
from harness.cluster.session import Session, token_path
from harness.cluster.ssh import Remote, ShellError, quiet, run, stream
from harness.core.atomic_files import write_whole
from harness.core.errors import InputError
from harness.core.wording import words

Say = Callable[[str], None]

RAY = str(Path(sys.executable).parent / "ray")

COMMAND = re.compile(r"\(\d+/\d+\) (.*)")
"""How the launcher announces a command of the file."""

NOWHERE = Path("/dev/null")
"""Host keys of the first check: nothing is written before confirmation."""

GONE_S = 180.0
"""Seconds that machines may take to terminate before they count as left."""

POLL_S = 5.0
DISKS_S = 60.0
"""The same for their disks."""


def ray_up(cluster: ClusterFile, config: dict[str, Any], session: Session, say: Say) -> Session:
    """Start the cluster, or update a running one of the same name.

    Args:
        config: Of `resolve`.

    Raises:
        InputError: With the last output of the launcher, if it fails; machines may already be running.
    """
    session = with_file(cluster, config, session)
    log = Path(session.file).parent / "up.log"
    last: list[str] = []

    def on_line(line: str) -> None:
        last.append(line)
        if said := step(line):
            say(said)

    command = [RAY, "up", "--yes", "--no-config-cache", session.file]
    if stream(command, log, environment(cluster.provider), on_line):
        raise InputError(f"`ray up` failed: {last_words(last)} Its complete output is in {log}.")
    if cluster.provider == "aws":
        mark_head(config, session.out)
    return with_head(session)


def with_file(cluster: ClusterFile, config: dict[str, Any], session: Session) -> Session:
    """The session with the cluster file as it is used, in its output folder."""
    folder = session.out / "cluster"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # a cluster file may contain keys, and the launcher's output may quote it
    file = folder / cluster.path.name
    write_whole(file, _text(config), mode=0o600)
    return session.save(file=str(file), source=str(cluster.path), name=cluster.name)


def _text(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False)


def environment(provider: str) -> dict[str, str]:
    """Variables for Ray's launcher. With autoscaler v2, one of two listed hosts never started (measured)."""
    own = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "CLICOLOR": "0"}
    return own | ({"RAY_UP_enable_autoscaler_v2": "0"} if provider == "local" else {})


def resolve(cluster: ClusterFile, say: Say, ssh_from: str | None = None) -> dict[str, Any]:
    """The configuration of the file with absolute paths, and its provider prepared.

    Args:
        ssh_from: Network from which the machines accept SSH; `None` for this machine's address.

    Raises:
        InputError: If the provider refuses; no machine has been requested at this point.
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

        prepare(config, say, ssh_from)
    _let_head_decide(config)
    return config


DIGEST = "~/lingo/cluster.sha256"
"""File on the head with the digest of the configuration with which it was started."""

KEEPER = (
    "{ kill $(cat ~/lingo/keep_head.pid) || true; } 2>/dev/null; "
    "nohup setsid bash -c 'echo $$ >~/lingo/keep_head.pid; exec python ~/lingo/keep_head.py' "
    ">>~/lingo/keep_head.log 2>&1 </dev/null & true"
)


def digest_of(config: dict[str, Any]) -> str:
    """Digest of a configuration of `resolve`, as the head knows it."""
    (line,) = (row for row in config["head_start_ray_commands"] if DIGEST in row)
    return str(line.split()[1])


def _let_head_decide(config: dict[str, Any]) -> None:
    """Let the head know its configuration, and end the machines of a cloud when nobody needs them."""
    more = ["mkdir -p ~/lingo", f"echo {hashlib.sha256(_text(config).encode()).hexdigest()} >{DIGEST}"]
    if config["provider"]["type"] != "local":
        config["file_mounts"]["~/lingo/keep_head.py"] = str(Path(head_keeper.__file__).resolve())
        more.append(KEEPER)
    config["head_start_ray_commands"] = [*config.get("head_start_ray_commands", ()), *more]


def step(line: str) -> str:
    """Message for a line of the launcher; empty for the many that are irrelevant to users."""
    for sign, said in (
        ("Launched a new head node", "starting the head"),
        ("Waiting for SSH to become available", "waiting for SSH on the head"),
        ("Running initialization commands", "preparing the head"),
        ("Running setup commands", "installing packages on the head (minutes, the first time)"),
        ("Starting the Ray runtime", "starting Ray on the head"),
        ("Useful commands", "the head is up"),
    ):
        if sign in line:
            return said
    return ""


def last_words(lines: list[str]) -> str:
    """The line of the launcher's output with the error, and the command of the cluster file that it comes from."""
    told = [line.strip() for line in lines if line.strip() and "Shared connection to" not in line]
    if at := next((n for n, line in enumerate(told) if "New status: update-failed" in line), 0):
        commands = [found[1] for line in told[:at] if (found := COMMAND.fullmatch(line))]
        where = f" (in the command `{commands[-1]}`)" if commands else ""
        if not COMMAND.fullmatch(told[at - 1]):
            return f"{told[at - 1]}{where}"[:400]
    errors = [line for line in told if "rror" in line and "Traceback" not in line]
    return (errors or told or ["it printed nothing."])[-1][:400]


def with_head(session: Session) -> Session:
    """The session with the current SSH address of the head."""
    from ray.autoscaler._private.commands import _bootstrap_config, get_head_node_ip

    config = yaml.safe_load(Path(session.file).read_text(encoding="utf-8"))
    try:
        with quiet():
            bootstrapped = _bootstrap_config(config)
            host = get_head_node_ip(session.file)
    except Exception as error:  # every provider's library has its own exceptions
        raise InputError(f"the head was not found: {' '.join(str(error).split())[:300]}") from None
    auth = bootstrapped["auth"]
    return session.save(host=host, user=auth["ssh_user"], key=auth.get("ssh_private_key"))


def head_of(config: dict[str, Any], session: Session) -> Session | None:
    """The session, not saved, on the head of a cluster of this name that is up; `None` if there is none, or SSH does
    not reach it."""
    from ray.autoscaler._private.commands import _bootstrap_config
    from ray.autoscaler.tags import NODE_KIND_HEAD, TAG_RAY_NODE_KIND

    place, auth = config["provider"], config["auth"]
    try:
        if place["type"] == "local":
            host = str(place["head_ip"])
        else:
            with quiet():
                heads = _provider(config).non_terminated_nodes({TAG_RAY_NODE_KIND: NODE_KIND_HEAD})
                if not heads:
                    return None
                auth = _bootstrap_config(copy.deepcopy(config))["auth"]
                provider = _provider(config)
                internal = place.get("use_internal_ips", False)
                host = (provider.internal_ip if internal else provider.external_ip)(heads[0])
        up = replace(session, host=host, user=auth["ssh_user"], key=auth.get("ssh_private_key"))
        (session.out / "cluster").mkdir(parents=True, exist_ok=True)
        up.remote.run("true", timeout=60)
    except Exception:  # every provider's library has its own exceptions; the launcher tells what is wrong
        return None
    return up


def ray_down(session: Session, say: Say) -> list[str]:
    """Terminate the cluster; returns one line for each resource that still exists afterwards.

    Machines left by `ray down`, because it was interrupted or the provider refused, are terminated again.
    """
    log = session.out / "cluster" / "down.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    config = yaml.safe_load(Path(session.file).read_text(encoding="utf-8"))
    disks = _disks(config) if session.provider == "aws" else []
    lines: list[str] = []
    command = [RAY, "down", "--yes", session.file]
    code = stream(command, log, environment(session.provider), lines.append)
    if code:
        say(f"`ray down` ended with exit code {code}: {last_words(lines)} Its complete output is in {log}.")
    if session.provider == "local":
        return _local_left(session, config)
    return [*_cloud_left(config, say), *_disks_left(config, disks)]


def _disks(config: dict[str, Any]) -> list[str]:
    from harness.cluster.providers.aws import disks_of

    return disks_of(config)


def _disks_left(config: dict[str, Any], disks: list[str]) -> list[str]:
    """Disks of terminated machines: a cluster file may keep them, and they cost money."""
    if not disks:
        return []
    from harness.cluster.providers.aws import disks_there

    deadline = time.monotonic() + DISKS_S
    while (there := disks_there(config, disks)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return [f"disk {name} still exists and costs money: delete it under EC2, Volumes." for name in there]


def _local_left(session: Session, config: dict[str, Any]) -> list[str]:
    """Stop Ray on the listed workers as well: `ray down` stops it on the head only."""
    left = []
    for host in (config["provider"]["head_ip"], *config["provider"].get("worker_ips", ())):
        remote = Remote(host=host, user=session.user, key=session.key, known_hosts=session.remote.known_hosts)
        try:
            remote.run(
                "ray stop --grace-period 20 >/dev/null 2>&1; ! pgrep -x raylet >/dev/null", timeout=120
            )
        except ShellError as error:
            left.append(f"{host}: Ray may still be running there ({error}).")
    return left


def _cloud_left(config: dict[str, Any], say: Say) -> list[str]:
    """Machines with the cluster's name that the provider still counts as running."""
    try:
        there = _wait_until_gone(config)
        if there:
            say(f"{len(there)} machines still exist; terminating them again.")
            _provider(config).terminate_nodes(there)
            there = _wait_until_gone(config)
    except Exception as error:  # every provider's library has its own exceptions
        name = config["cluster_name"]
        return [
            f"remaining machines cannot be listed ({words(error)}): look for those of {name} in the console."
        ]
    return [f"machine {name} still exists: terminate it in the provider's console." for name in there]


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

    if config["provider"]["type"] != "aws":  # which needs only its region to list and terminate machines
        config = _bootstrap_config(copy.deepcopy(config))
    return _get_node_provider(config["provider"], config["cluster_name"])


def reachable(cluster: ClusterFile) -> list[str]:
    """One line for each listed machine that SSH cannot reach, or that lacks a requirement, in order."""
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
    """Programs required by the launcher that are missing on this machine."""
    needed = {"ssh": ["ssh", "-V"], "rsync": ["rsync", "--version"], "ray": [RAY, "--version"]}
    problems = []
    for name, command in needed.items():
        try:
            run(command, timeout=60)
        except ShellError:
            problems.append(f"`{name}` is required on this machine and does not run: install it.")
    return problems
