"""The machines of an autoscaled cluster, as the driver on its head sees them: which are there, which are asked for,
what the cloud answers; and on-demand machines while there is no spot capacity.

Ray's autoscaler alone asks for the node type of the highest `priority` for ever: it gives way to another type after
requests that nobody answered, not after those that the cloud refused (InsufficientInstanceCapacity). So on-demand
node types of a cluster file have the resource `full_price: 1`, which the driver asks for by itself.
"""

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core.wording import duration, some, words
from harness.pool.resources import described_cluster

log = logging.getLogger(__name__)

FULL_PRICE, SPOT = "full_price", "spot"
"""Resources of on-demand and of spot node types, of which every machine has 1."""

LOOK_S = 2.0
TELL_S = 60.0
PROBE_S = 60.0
"""Seconds for which a spot machine is requested beside the on-demand ones, to learn whether there are any, and at
least until the next such request."""


@dataclass(frozen=True, kw_only=True)
class Types:
    """Worker node types of a cluster file: the on-demand ones, in files that have others too, and the others."""

    full: tuple[str, ...] = ()
    usual: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Machines:
    """One look at a cluster.

    Attributes:
        there: Ray's ids of the machines that serve, by node type.
        coming: Number of machines that the cloud has granted and that are being set up, by node type.
        wanted: Number of workers for which there is no machine.
        refused: The cloud's last answer, by node type, as far as it has refused.
    """

    there: Mapping[str, Sequence[str]] = field(default_factory=dict)
    coming: Mapping[str, int] = field(default_factory=dict)
    wanted: int = 0
    refused: Mapping[str, str] = field(default_factory=dict)

    def count(self, names: Sequence[str]) -> int:
        """Machines of these types that serve."""
        return sum(len(self.there.get(name, ())) for name in names)


def describe(seen: Machines) -> str:
    """One line: what serves, what is coming, what is asked for, and what the cloud answers."""

    def some(counts: Mapping[str, int]) -> str:
        return ", ".join(f"{count} x {name}" for name, count in counts.items() if count)

    parts = [f"machines: {some({name: len(rows) for name, rows in seen.there.items()}) or 'none yet'}"]
    if coming := some(seen.coming):
        parts.append(f"being set up: {coming}")
    if seen.wanted:
        parts.append(f"requested, for {seen.wanted} worker{'s' if seen.wanted > 1 else ''}")
        parts += [f"the cloud refuses {name}: {why}" for name, why in seen.refused.items()]
    return "; ".join(parts)


class FullPrice:
    """Decides when on-demand machines are requested and returned.

    Args:
        wait_s: Seconds without a spot machine after which they are requested.
        ask: Requests this many on-demand machines, and this many spot machines in all, until its next call.
        leave: Returns a machine; its jobs continue elsewhere from their checkpoints.
        say: Takes one line for the user.
    """

    def __init__(
        self,
        types: Types,
        wait_s: float,
        ask: Callable[[int, int], None],
        leave: Callable[[str], None],
        say: Callable[[str], None],
    ) -> None:
        self._types, self._wait_s, self._ask, self._leave, self._say = types, wait_s, ask, leave, say
        self._since: float | None = None
        self._look_at: float | None = None
        self._look_until = 0.0
        self._spot: frozenset[str] = frozenset()
        self._asked = False

    def step(self, seen: Machines, now: float) -> None:
        """Act on a look at the cluster.

        Args:
            now: Seconds, monotonic.
        """
        spot = frozenset(one for name in self._types.usual for one in seen.there.get(name, ()))
        fresh, self._spot = spot - self._spot, spot
        lacking = seen.wanted - sum(seen.coming.values())
        if fresh:
            self._give_back(seen, len(fresh))
        if lacking <= 0 or fresh:
            self._since = None
        elif self._since is None:
            self._since = now
        elif now - self._since >= self._wait_s and not self._asked:
            self._fall_back(seen, lacking)
        if self._asked and not seen.wanted:  # they have come, and stay for as long as they have work
            self._request(0, 0)
        if not self._asked:
            self._look_for_spot(seen, now)

    def _fall_back(self, seen: Machines, lacking: int) -> None:
        self._request(seen.count(self._types.full) + lacking, 0)
        why = next((seen.refused[name] for name in self._types.usual if name in seen.refused), "")
        self._say(
            f"no spot machine for {duration(self._wait_s)}{f' ({why})' if why else ''}: requesting "
            f"{some(lacking, 'on-demand machine')} ({', '.join(self._types.full)}) until spot "
            "machines are available again"
        )

    def _give_back(self, seen: Machines, count: int) -> None:
        full = [one for name in self._types.full for one in seen.there.get(name, ())][:count]
        if self._asked or self._look_until:
            self._request(0, 0)
        self._look_at = None
        for one in full:
            self._leave(one)
        if full:
            self._say(f"spot machines are available again: {some(len(full), 'on-demand machine')} returned")

    def _look_for_spot(self, seen: Machines, now: float) -> None:
        """While on-demand machines do all the work, Ray requests no spot machine: request one now and then."""
        if self._look_until:
            if now >= self._look_until:
                self._request(0, 0)
                self._look_at = now + max(self._wait_s, PROBE_S)
        elif self._look_at is None or not seen.count(self._types.full) or seen.wanted:
            self._look_at = now + max(self._wait_s, PROBE_S)
        elif now >= self._look_at:
            self._request(0, len(self._spot) + 1)
            self._look_until = now + PROBE_S

    def _request(self, full: int, spot: int) -> None:
        self._asked, self._look_until = full > 0, 0.0
        self._ask(full, spot)


def types_of(config: Path | None = None) -> Types:
    """Worker node types of the file that `ray up` left on the head; none where there is no such file, or no on-demand
    type beside others."""
    described = described_cluster(config)
    rows = {
        name: kind.get("resources") or {}
        for name, kind in described.get("available_node_types", {}).items()
        if name != described.get("head_node_type")
    }
    full = tuple(name for name, resources in rows.items() if FULL_PRICE in resources)
    usual = tuple(name for name in rows if name not in full)
    return Types(full=full, usual=usual) if full and usual else Types()


def look() -> Machines:
    """The cluster's machines now.

    Raises:
        RuntimeError: If the autoscaler does not answer, or is not one of Ray's second version.
    """
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status

    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    head = described_cluster().get("head_node_type")
    there: dict[str, list[str]] = {}
    for node in (*status.active_nodes, *status.idle_nodes):
        if node.ray_node_type_name != head and node.node_id:
            there.setdefault(node.ray_node_type_name, []).append(node.node_id)
    coming = Counter(node.ray_node_type_name for node in status.pending_nodes)
    asked = status.resource_demands
    rows = [
        row
        for demand in (*asked.placement_group_demand, *asked.ray_task_actor_demand)
        for row in demand.bundles_by_count
    ]
    # search clients reserve a thousandth of a CPU
    wanted = sum(row.count for row in rows if row.bundle.get("GPU") or row.bundle.get("CPU", 0) > 0.1)
    answers = refusals(_log()) if status.failed_launches else {}
    refused = {
        row.ray_node_type_name: answers.get(row.ray_node_type_name, row.details or "no reason given")
        for row in status.failed_launches
    }
    return Machines(there=there, coming=coming, wanted=wanted, refused=refused)


REFUSAL = re.compile(r"Failed to launch \d+ nodes? of type ([^\s:]+): (?:Node Launch Exception )?(.+)")


def refusals(text: str) -> dict[str, str]:
    """The cloud's last answer by node type, in the autoscaler's log: Ray's status of failed launches lacks it."""
    return {
        name: re.sub(r"^\((\w+)\)", r"\1", why).strip()[:160].rstrip(".")
        for name, why in REFUSAL.findall(text)
    }


def _log() -> str:
    """End of the autoscaler's log on this machine."""
    import ray

    node: Any = ray._private.worker.global_worker.node
    try:
        folder = Path(node.get_logs_dir_path())
        with (folder / "monitor.log").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 100_000))
            return file.read().decode(errors="replace")
    except (OSError, AttributeError):
        return ""


@contextmanager
def watched(wait_s: float, say: Callable[[str], None]) -> Iterator[None]:
    """Watch the machines of an autoscaled cluster for the duration of the block: say each minute what is missing, and
    request on-demand machines after `wait_s` seconds without a spot machine."""
    over = threading.Event()
    fallback = FullPrice(types_of(), wait_s, _ask, _leave, say) if types_of().full else None

    def keep() -> None:
        told, line = time.monotonic(), ""
        while not over.wait(LOOK_S):
            try:
                seen = look()
                if fallback:
                    fallback.step(seen, time.monotonic())
            except Exception as error:  # of Ray's head, which answers late at times
                log.debug("the autoscaler did not answer: %s", error)
                continue
            if time.monotonic() - told >= TELL_S:
                told, before, line = time.monotonic(), line, describe(seen)
                if seen.wanted or line != before:
                    say(line)

    thread = threading.Thread(target=keep, name="machines", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)
        with suppress(Exception):
            _ask(0, 0)


def too_late(wait_s: float) -> str:
    """One line when no machine has come in time: what was asked for, the cloud's answer, what to do."""
    try:
        answer = describe(look())
    except Exception as error:  # of Ray's head, and without an autoscaler
        answer = f"the autoscaler does not answer: {words(error)}"
    return (
        f"No machine joined within {duration(wait_s)} ({answer}). Give the cluster file other zones, another region or "
        "machine type, or wait longer with --machine-wait."
    )


def _ask(full: int, spot: int) -> None:
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[{FULL_PRICE: 1}] * full + [{SPOT: 1}] * spot)


def _leave(node: str) -> None:
    import ray
    from ray.core.generated import autoscaler_pb2

    messages: Any = autoscaler_pb2
    gcs: Any = ray._raylet.GcsClient(address=ray.get_runtime_context().gcs_address)  # type: ignore[attr-defined]
    reason = messages.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = time.time_ns() // 1_000_000 + 600_000
    taken, why = gcs.drain_node(node, reason, "spot machines are available again", deadline)
    if not taken:
        log.warning("an on-demand machine was not returned: %s", why)
