"""Tune's controller, modified so that clients can start while others end.

Tune starts a few clients at a time. When a trial ends meanwhile, Tune assigns the free client to a trial whose own
client is starting, and kills the latter. If trials are shorter than the total start time of the clients, a search kills
clients as fast as it starts them and never reaches its maximum number of running trials. Here a free client is assigned
to a new trial, and only if there is none to a waiting one.
"""

from typing import Any

from ray.tune import tune
from ray.tune.execution.tune_controller import TuneController

from harness.search.seats import SeatManager

__all__ = ["install"]


class Controller(TuneController):
    """Relies on internals of Tune in Ray 2.60, which are only partly public. `call` is that of `SeatManager`."""

    call: Any = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        if self.call is not None:
            self._actor_manager = SeatManager(self.call)

    def _maybe_update_trial_queue(self) -> None:
        super()._maybe_update_trial_queue()  # type: ignore[no-untyped-call]
        free = self._actor_cache.num_cached_objects - len(self._without_client())
        while free > 0 and not self._search_alg.is_finished() and self._update_trial_queue(blocking=False):
            free -= 1

    def _maybe_add_actors(self) -> None:
        for trial in self._without_client():
            if self._actor_cache.has_cached_object(trial.placement_group_factory):
                self._staged_trials.add(trial)
                self._actor_cache.increase_max(trial.placement_group_factory)
                self._schedule_trial_actor(trial)
        super()._maybe_add_actors()

    def _without_client(self) -> list[Any]:
        """Trials without a requested client, in order."""
        return [
            trial
            for trial in self._pending_trials_list
            if trial in self._pending_trials
            and trial not in self._staged_trials
            and trial not in self._trial_to_actor
        ]


def install(call: Any = None) -> None:
    """Make Tune in this process use `Controller`, with clients behind `call` instead of an actor each."""
    Controller.call = call
    tune.TuneController = Controller  # type: ignore[attr-defined]
