"""Ends the machines of a cluster when nobody needs its head any more. Runs on the head, as a program of its own.

The machine that started the cluster may be switched off, so the head decides by itself. It is not needed when no job
runs and nobody is connected by SSH: for `keep_s` seconds, or for a few minutes if all results are in the storage path.
`ray up` copies this file to the head and starts it with Ray; the submission writes `~/lingo/keep_head.json`.
"""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HOME = Path.home()
SETTINGS, RUNS = HOME / "lingo" / "keep_head.json", HOME / "lingo" / "runs"
JOBS = "http://127.0.0.1:8265/api/jobs/"
COPIED = ".copied"
"""File of an output folder, written when its last copy to the storage path is complete."""

POLL_S = 20.0
AT_ONCE_S = 300.0
"""Seconds before a head with nothing left to lose ends: time to reconnect, or to submit another benchmark."""

KEEP_S = 7200.0
GONE_S = 180.0


def limit(settings: Mapping[str, Any], stored: bool) -> float:
    """Seconds that a head without work stays.

    Args:
        settings: `keep_s`; and `wait`, whether it stays that long although all results are in the storage path.
        stored: Whether they are.
    """
    keep = float(settings.get("keep_s", KEEP_S))
    return min(keep, AT_ONCE_S) if stored and not settings.get("wait") else keep


def settings() -> dict[str, Any]:
    """What the last submission has said."""
    try:
        found = json.loads(SETTINGS.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def busy() -> bool:
    """Whether a job runs or waits; `False` if Ray does not answer."""
    try:
        token = (HOME / ".ray" / "auth_token").read_text(encoding="utf-8").strip()
        asked = urllib.request.Request(JOBS, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asked, timeout=20) as answer:
            rows = json.loads(answer.read())
    except (OSError, ValueError):
        return False
    return any(
        row.get("type") == "SUBMISSION" and row.get("status") in ("PENDING", "RUNNING") for row in rows
    )


def connected(tables: str | None = None) -> bool:
    """Whether somebody is connected by SSH: an established connection to port 22.

    Args:
        tables: Contents of /proc/net/tcp and tcp6.
    """
    if tables is None:
        files = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
        tables = "\n".join(file.read_text(encoding="ascii") for file in files if file.is_file())
    rows = (line.split() for line in tables.splitlines())
    return any(len(row) > 3 and row[1].endswith(":0016") and row[3] == "01" for row in rows)


def stored(runs: Path = RUNS) -> bool:
    """Whether the last copy of every output folder is complete; `False` without any."""
    folders = [each for each in runs.iterdir() if each.is_dir()] if runs.is_dir() else []
    return bool(folders) and all(_stored(each) for each in folders)


def _stored(folder: Path) -> bool:
    try:
        copied = (folder / COPIED).stat().st_mtime
        files = (
            folder / "benchmark.json",
            folder / "search.json",
            folder / "results.parquet",
            folder / "records",
        )
        return all(file.stat().st_mtime <= copied for file in files if file.exists())
    except OSError:
        return False


def terminate(config: Mapping[str, Any]) -> None:
    """End all machines of the cluster, this one last. Raises what the provider's library raises."""
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler.tags import NODE_KIND_HEAD, TAG_RAY_NODE_KIND

    provider = _get_node_provider(dict(config["provider"]), config["cluster_name"])
    heads = provider.non_terminated_nodes({TAG_RAY_NODE_KIND: NODE_KIND_HEAD})
    deadline = time.monotonic() + GONE_S
    while (others := set(provider.non_terminated_nodes({})) - set(heads)) and time.monotonic() < deadline:
        provider.terminate_nodes(sorted(others))
        time.sleep(5)
    provider.terminate_nodes(heads)


def note(config: Mapping[str, Any], file: Path) -> None:
    """Note the machines that are up, with the times at which they were first and last seen, for the cost: providers
    list ended ones for an hour or not at all."""
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE

    provider, now = _get_node_provider(dict(config["provider"]), config["cluster_name"]), time.time()
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    for name in provider.non_terminated_nodes({}):
        row = known.setdefault(name, {"kind": provider.node_tags(name).get(TAG_RAY_USER_NODE_TYPE, "")})
        row["first"], row["last"] = row.get("first", now), now
    part = file.with_suffix(".part")
    part.write_text(json.dumps(known), encoding="utf-8")
    part.replace(file)


def main() -> None:
    import yaml

    config = yaml.safe_load((HOME / "ray_bootstrap_config.yaml").read_text(encoding="utf-8"))
    since = time.monotonic()
    while True:
        time.sleep(POLL_S)
        try:
            note(config, HOME / "lingo" / "machines.json")
        except Exception as error:  # every provider's library has its own exceptions
            print(f"{time.ctime()}: {type(error).__name__}: {error}", flush=True)
        if busy() or connected():
            since = time.monotonic()
            continue
        if time.monotonic() - since < limit(settings(), stored()):
            continue
        print(f"{time.ctime()}: nobody needs this head; its machines are terminated", flush=True)
        ray = str(Path(sys.executable).parent / "ray")
        subprocess.run([ray, "stop"], check=False)  # its autoscaler would start machines again
        try:
            terminate(config)
        except Exception as error:  # every provider's library has its own exceptions; tried again
            print(f"{time.ctime()}: {type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main()
