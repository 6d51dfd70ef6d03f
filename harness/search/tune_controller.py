"""Tune's controller, made to let clients start while others end.

Tune starts a few clients at a time. When a trial ends meanwhile, it gives the client that has become free to a trial
whose own client is starting, and kills that one. With trials shorter than the clients together need to start, a search
so kills clients as fast as it starts them, and never has as many trials under way as it may. Here a free client goes
to a new trial, and only if there is none to one that waits.
"""

from typing import Any

from ray.tune import tune
from ray.tune.execution.tune_controller import TuneController

__all__ = ["install"]


class Controller(TuneController):
    """Relies on Tune's own bookkeeping of Ray 2.60, of which Tune's trials and clients are public only in part."""

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
        """Trials for which no client was asked for yet, in their order."""
        return [
            trial
            for trial in self._pending_trials_list
            if trial in self._pending_trials
            and trial not in self._staged_trials
            and trial not in self._trial_to_actor
        ]


def install() -> None:
    """Let Tune in this process use `Controller`."""
    tune.TuneController = Controller  # type: ignore[attr-defined]
