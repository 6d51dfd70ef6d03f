"""The Tuner's process: all studies of a search in one Ray Tune run, which accepts calls while running."""

import logging
import os
import threading
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.search.study import SearchStudy

TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # never: a new Tuner receives the current state
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "600",
    "TUNE_MAX_PENDING_TRIALS_PG": "8",  # clients starting at the same time
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "1",
}


SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")
"""Variables that Tune would pass to its trials in their runtime environment, which Ray logs in plain text. Neither this
process nor the trials need them."""

CLIENT = {"CPU": 0.001}
"""Resources of a client: Tune requires some. As threads (`harness.search.seats`) they reserve none."""

AT_HOME = {"node:__internal_head__": 0.001}
"""Resources of a client on an autoscaled cluster: on the head, because a machine with a client would not count as idle,
and clients would be lost with reclaimed machines."""

CLIENT_GIB = 0.12
"""Memory of a client in bytes (measured: 114 MB)."""

CLIENT_LOSSES = 50
"""Number of times that a trial may lose its client, usually with a spot machine; its jobs keep training meanwhile, and
the pool counts their own failures."""


CONTROLLER_RAY = "2.60."
"""Versions of Ray whose internals `harness.search.tune_controller` relies on."""


def knows_ray() -> bool:
    """Whether the installed Ray is one for which this search has its own controller of Tune."""
    return metadata.version("ray").startswith(CONTROLLER_RAY)


def install_controller(call: Any = None) -> None:
    """Let Tune in this process use `harness.search.tune_controller`; with another version of Ray it keeps its own.

    Args:
        call: Of `harness.search.seats.SeatManager`.
    """
    if knows_ray():
        from harness.search import tune_controller

        tune_controller.install(call)


class Tuner:
    """Runs as an actor of `harness.search.driver`, with a thread for `fit`, one for `close` and two for each client.

    Args:
        studies: The studies, with their history.
        rules: Arguments of `harness.search.searcher.GroupSearcher`.
    """

    def __init__(self, studies: Sequence[SearchStudy], rules: dict[str, Any]) -> None:
        os.environ.update(TUNE_SETTINGS)
        for name in SECRETS:
            os.environ.pop(name, None)
        from harness.search.searcher import GroupSearcher

        self._searcher = GroupSearcher(studies, **rules)
        self._ended = threading.Event()
        self._seats: Any = None

    def call(self, seat: int, method: str, arguments: Sequence[Any], named: dict[str, Any]) -> Any:
        """See `harness.search.seats.Seats`."""
        return self._seats.call(seat, method, arguments, named)

    def close(self, groups: set[str]) -> None:
        """Propose no further trials of these groups."""
        self._searcher.close(groups)

    def steer(self, studies: Sequence[SearchStudy], paused: set[str]) -> None:
        """See `harness.search.searcher.GroupSearcher.steer`."""
        self._searcher.steer(studies, paused)

    def fit(self, source: Any, scratch: str, client_asks: dict[str, float]) -> None:
        """Search until nothing is left.

        Args:
            source: The pool's handle.
            scratch: Folder for Tune's own files.
            client_asks: `CLIENT` or `AT_HOME`.
        """
        if not self._searcher.left:
            return
        from ray import tune
        from ray.runtime_context import get_runtime_context

        self._searcher.release = lambda name: source.release.remote(name)
        from harness.search.ordered_halving import InOrder
        from harness.search.schedulers import GroupSchedulers
        from harness.search.seats import Seats
        from harness.search.trial_client import METRIC, Client, StopWhenInterrupted

        self._seats = Seats(source)
        install_controller(get_runtime_context().current_actor.call)
        logging.getLogger("ray.tune").setLevel(logging.ERROR)
        members = self._searcher.members
        history = {key: proposals.history for key, proposals in self._searcher.proposals.items()}
        scheduler: Any
        if any(studies[0].deterministic for studies in members.values()):
            scheduler = InOrder(
                members, history, lambda epochs: source.proceed.remote(epochs), self._searcher.release
            )
            threading.Thread(target=scheduler.tell_until, args=(self._ended,), daemon=True).start()
        else:
            scheduler = GroupSchedulers({key: studies[0] for key, studies in members.items()}, history)
        client = tune.with_parameters(Client, source=source)
        tuner = tune.Tuner(
            tune.with_resources(client, dict(client_asks)),
            tune_config=tune.TuneConfig(
                metric=METRIC,
                mode="max",
                search_alg=self._searcher,
                scheduler=scheduler,
                num_samples=-1,  # as many as the searcher proposes: users may add some
                reuse_actors=True,
                trial_name_creator=str,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=f"search-{time.time_ns():x}",
                storage_path=scratch,
                stop=StopWhenInterrupted(),
                failure_config=tune.FailureConfig(max_failures=CLIENT_LOSSES),
                # a client stores nothing, and other hosts cannot access the scratch folder
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )
        with Path(os.devnull).open("w") as silence, redirect_stdout(silence):  # verbose=0 still prints
            tuner.fit()
        self._ended.set()
