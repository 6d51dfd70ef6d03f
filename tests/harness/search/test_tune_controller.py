"""Tune's controller: a client that becomes free goes to a new trial, not to one whose own client is starting."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune import tune
from ray.tune.utils.object_cache import _ObjectCache

from harness.search import tune_controller, tuner


class Trial:
    """What the controller looks at."""

    placement_group_factory = "a client"
    trial_id = "trial"


class Bare(tune_controller.Controller):
    """The controller's own bookkeeping, without Ray: one client may start at a time, `new` trials are to come."""

    def __init__(self, new: list[Trial]) -> None:
        self._new = new
        self._actor_cache = _ObjectCache(may_keep_one=True)
        self._pending_trials: set[Any] = set()
        self._pending_trials_list: list[Any] = []
        self._resources_to_pending_trials: dict[str, set[Any]] = defaultdict(set)
        self._running_trials: set[Any] = {"another"}
        self._paused_trials: set[Any] = set()
        self._staged_trials: set[Any] = set()
        self._trial_to_actor: dict[Any, Any] = {}
        self._max_pending_trials = 1
        self._search_alg = SimpleNamespace(is_finished=lambda: False, next_trial=self._next)
        self._scheduler_alg = SimpleNamespace(choose_trial_to_run=lambda _: None)
        self._actor_manager = SimpleNamespace(num_pending_actors=0)
        self.killed: list[Any] = []

    def _wrapped(self) -> Any:
        return self

    def _next(self) -> Trial | None:
        return self._new.pop(0) if self._new else None

    def add_trial(self, trial: Trial) -> None:
        self._pending_trials.add(trial)
        self._pending_trials_list.append(trial)
        self._resources_to_pending_trials[trial.placement_group_factory].add(trial)

    def _schedule_trial_actor(self, trial: Any) -> None:
        if not self._maybe_reuse_cached_actor(trial):
            self._trial_to_actor[trial] = "starting"
            self._actor_manager.num_pending_actors += 1

    def _maybe_reuse_cached_actor(self, trial: Any) -> bool:
        client = self._actor_cache.pop_cached_object(trial.placement_group_factory)
        if client is None:
            return False
        if trial in self._trial_to_actor:
            self.killed.append(self._trial_to_actor[trial])
        self._trial_to_actor[trial] = client
        return True

    def turn(self) -> None:
        """What a turn of Tune's loop does first."""
        self._maybe_update_trial_queue()
        self._maybe_add_actors()


def bare(trials: int) -> tuple[Bare, list[Trial]]:
    made = [Trial() for _ in range(trials)]
    return Bare(list(made)), made


def test_a_free_client_takes_a_new_trial_while_another_client_starts() -> None:
    control, (first, second) = bare(2)
    control.turn()
    assert control._trial_to_actor == {first: "starting"}
    assert control._actor_cache.cache_object("a client", "free")
    control.turn()
    assert control._trial_to_actor == {first: "starting", second: "free"} and not control.killed


def test_with_no_new_trial_a_free_client_takes_the_one_that_waits() -> None:
    """Else a client for which there is no room would hold the search up for ever."""
    control, (first,) = bare(1)
    control.turn()
    assert control._actor_cache.cache_object("a client", "free")
    control.turn()
    assert control._trial_to_actor == {first: "free"} and control.killed == ["starting"]


def test_tune_uses_it_with_the_version_of_ray_that_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    before = tune.TuneController
    monkeypatch.setattr(tune, "TuneController", before)  # as it was, at the end
    monkeypatch.setattr(tuner.metadata, "version", lambda name: "2.61.0")
    tuner.install_controller()
    assert not tuner.knows_ray() and tune.TuneController is before
    monkeypatch.undo()
    monkeypatch.setattr(tune, "TuneController", before)
    tuner.install_controller()
    assert tuner.knows_ray() and tune.TuneController is tune_controller.Controller
