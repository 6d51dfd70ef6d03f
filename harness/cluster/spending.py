"""Cost of a cluster: an upper bound at any time, and the hours of its machines while it can be queried."""

import time
from contextlib import suppress

from harness.cluster.jobs_api import NodeRow
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


def spent(session: Session) -> str:
    """Summary at the end: usage, its cost at list prices, and the upper bound."""
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
