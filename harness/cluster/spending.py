"""Cost of a cluster: an upper bound at any time, and the hours of its machines by the launch times of the provider."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from harness.cluster.file import node_kinds, read_prices
from harness.cluster.jobs_api import NodeRow
from harness.cluster.machines import Machine, machines_of
from harness.cluster.session import Session, connection
from harness.cluster.ssh import ShellError
from harness.core.errors import InputError
from harness.core.wording import duration


def spending(session: Session) -> str:
    """Upper bound of the cost so far."""
    hours = (time.time() - session.started) / 3600
    up = f"Up for {duration(hours * 3600)}"
    if session.provider == "local" or session.hourly is None:
        return f"{up}, {session.nodes} machines at most."
    return f"{up}: at most ${hours * session.hourly:.2f} for machines (all of them all the time, {session.nodes})."


def launched(session: Session) -> float:
    """When the first machine that is up was launched, in seconds since 1970; the session's start if that is unknown."""
    return min((one.started for one in machines(session, time.time()) if one.up), default=session.started)


def machines(session: Session, now: float) -> list[Machine]:
    """Machines that the session's cluster has had since its start, ended ones included, from its provider, from what
    its head has noted, and from what was known before; empty if nothing of it can be asked."""
    known = Path(session.out / "cluster" / "machines.json")
    found: dict[str, Machine] = {}
    if session.provider == "local" or not session.file:
        return []
    with suppress(OSError, ValueError, TypeError):
        rows = json.loads(known.read_text(encoding="utf-8"))
        found = {row["name"]: Machine(**{**row, "runs": tuple(row["runs"])}) for row in rows}
    config: dict[str, Any] = {}
    with suppress(OSError, yaml.YAMLError):
        config = yaml.safe_load(Path(session.file).read_text(encoding="utf-8")) or {}
    there: dict[str, Machine] = {}
    with suppress(Exception):  # every provider's library has its own exceptions
        there = {one.name: one for one in machines_of(config)}
        found = {name: _ended(one, now) for name, one in found.items() if name not in there} | there
    if config and session.host:
        notes = json.loads(_notes(session) or "{}")
        found = {**_noted(config, notes), **found}
    begun = min((one.started for one in there.values() if one.up), default=session.started) - 1
    rows = [one for one in found.values() if one.ended is None or one.ended >= begun]
    with suppress(OSError):
        known.write_text(json.dumps([asdict(one) for one in rows], indent=1) + "\n", encoding="utf-8")
    return rows


def _ended(machine: Machine, now: float) -> Machine:
    """A machine that the provider lists no more."""
    return machine if machine.ended else replace(machine, ended=now, state="terminated")


def _notes(session: Session) -> str:
    with suppress(ShellError):
        return session.remote.run("cat ~/lingo/machines.json 2>/dev/null || true", timeout=60)
    return ""


def _noted(config: Mapping[str, Any], notes: Mapping[str, Mapping[str, Any]]) -> dict[str, Machine]:
    """Machines that the head has seen, by `harness.cluster.head_keeper`."""
    kinds = {kind.name: f"{kind.instance}{' spot' if kind.spot else ''}" for kind in node_kinds(dict(config))}
    return {
        name: Machine(
            cluster=config["cluster_name"],
            provider=config["provider"]["type"],
            place="",
            name=name,
            kind=row["kind"],
            instance=kinds.get(row["kind"], ""),
            state="terminated",
            started=row["first"],
            ended=row["last"],
        )
        for name, row in notes.items()
    }


def counted(rows: Iterable[Machine], now: float, prices: Mapping[str, float]) -> str:
    """Hours of machines by type, and their cost at list prices."""
    rows = list(rows)
    number = Counter(one.instance for one in rows)
    parts = [
        f"{count} x {name} for {sum(one.hours(now) for one in rows if one.instance == name):.1f} h"
        for name, count in number.items()
    ]
    costs = [one.cost(now, prices) for one in rows]
    unknown = " and those without a price" if None in costs else ""
    return (
        f"Used since their launch: {', '.join(parts)}: about ${sum(filter(None, costs)):.2f} at list prices "
        f"(disks{unknown} on top)."
    )


def spent(session: Session) -> str:
    """Usage so far, its cost at list prices, and the upper bound."""
    now = time.time()
    if known := machines(session, now):
        begun = min(one.started for one in known)
        return f"{counted(known, now, read_prices())} {spending(replace(session, started=begun))}"
    rows: list[NodeRow] = []
    with (
        suppress(InputError, ShellError, OSError, RuntimeError, ValueError),
        connection(session) as (jobs, _),
    ):
        rows = jobs.nodes()
    return " ".join(filter(None, (used(session, rows, time.time()), spending(session))))


def used(session: Session, rows: list[NodeRow], now: float) -> str:
    """Actual hours of machines, and their price.

    Args:
        rows: All nodes that the cluster has had.
        now: Seconds since 1970.

    Returns:
        One sentence, empty without nodes.
    """
    workers = [row for row in rows if not row.head]
    if not rows:
        return ""
    head = max(0.0, now - session.started) / 3600
    hours = sum(max(0.0, (row.ended or now) - row.started) for row in workers) / 3600
    count = len({row.address for row in workers})
    text = f"Used: the head for {head:.1f} h, {count} other machine{'' if count == 1 else 's'} for {hours:.1f} h in all"
    if session.head_price is None or session.worker_price is None:
        return f"{text}."
    cost = head * session.head_price + hours * session.worker_price
    return (
        f"{text}, about ${cost:.2f} at list prices (the minutes before a machine joins, and disks, on top)."
    )
