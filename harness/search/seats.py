"""Trial clients as threads of one process instead of an actor each: a client takes 114 MB as a process, and waits.

Tune's controller asks an actor manager for actors and calls their methods. Here it gets a `_Seat` for each, whose calls
go to one actor, `harness.search.tuner.Tuner`, which has a client for each seat. This relies on internals of Tune in Ray
2.60.
"""

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from ray.air.execution import AcquiredResources, ResourceManager, ResourceRequest
from ray.air.execution._internal import RayActorManager

from harness.search.trial_client import Client

__all__ = ["SeatManager", "Seats"]


class Seats:
    """Clients by their seats, in the process that calls them; the calls of one client follow each other."""

    def __init__(self, source: Any) -> None:
        class Seated(Client):
            def setup(self, config: dict[str, Any]) -> None:  # type: ignore[override]
                super().setup(config, source)

        self._make = Seated
        self._clients: dict[int, Any] = {}
        self._locks: dict[int, threading.Lock] = {}
        self._lock = threading.Lock()

    def call(self, seat: int, method: str, arguments: Sequence[Any], named: dict[str, Any]) -> Any:
        """Call a method of a client. `__ray_ready__` makes it from its arguments, `stop` removes it."""
        if method == "get_auto_filled_metrics":  # Tune waits for them, also while the client waits in `train`
            return {}
        with self._lock:
            lock = self._locks.setdefault(seat, threading.Lock())
        with lock:
            if method == "__ray_ready__":
                self._clients[seat] = self._make(**named)
                return True
            client = self._clients[seat]
            try:
                return getattr(client, method)(*arguments, **named)
            finally:
                if method == "stop":
                    del self._clients[seat], self._locks[seat]


class _Seat:
    """In place of an actor's handle."""

    def __init__(self, call: Any, number: int, named: dict[str, Any]) -> None:
        self._call, self._number, self._named = call, number, named

    def __getattr__(self, method: str) -> Any:
        made = self._named if method == "__ray_ready__" else None

        def remote(*arguments: Any, **named: Any) -> Any:
            return self._call.remote(self._number, method, arguments, named if made is None else made)

        return SimpleNamespace(remote=remote)


@dataclass
class _Granted(AcquiredResources):
    make: Any

    def annotate_remote_entities(self, entities: Sequence[Any]) -> list[Any]:
        return [SimpleNamespace(remote=self.make) for _ in entities]


class _Anything(ResourceManager):
    """Grants every request at once: clients take no place on the cluster."""

    def __init__(self, call: Any) -> None:
        self._call, self._numbers = call, itertools.count()

    def request_resources(self, resource_request: ResourceRequest) -> None:
        """Nothing to ask for."""

    def cancel_resource_request(self, resource_request: ResourceRequest) -> None:
        """See above."""

    def has_resources_ready(self, resource_request: ResourceRequest) -> bool:
        return True

    def acquire_resources(self, resource_request: ResourceRequest) -> AcquiredResources:
        return _Granted(resource_request, lambda **named: _Seat(self._call, next(self._numbers), named))

    def free_resources(self, acquired_resource: AcquiredResources) -> None:
        """See above."""

    def clear(self) -> None:
        """See above."""


class SeatManager(RayActorManager):
    """Tune's manager of actors, with seats.

    Args:
        call: The method of an actor that calls `Seats.call`.
    """

    def __init__(self, call: Any = None, resource_manager: Any = None) -> None:
        super().__init__(resource_manager or _Anything(call))

    def _try_kill_actor(self) -> bool:
        if not self._live_actors_to_kill:
            return False
        tracked = self._live_actors_to_kill.pop()
        self._cleanup_actor_futures(tracked)
        self._actor_stop_resolved(tracked)
        return True

    def cleanup(self) -> None:
        self._live_actors_to_ray_actors_resources.clear()  # there is no process to be killed
        super().cleanup()  # type: ignore[no-untyped-call]
