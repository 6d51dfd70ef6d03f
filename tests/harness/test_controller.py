"""Tune's controller: clients that start are let alone."""

import os
import threading
from functools import partial

import psutil
import pytest
import toy_engine
from ray import cloudpickle

from harness.jobs import Job, Report
from harness.pool import Pool, local_ray
from harness.search import run_search
from tests.benchmarks.search_rows import toy_study

SLOTS, TRIALS = 6, 60
cloudpickle.register_pickle_by_value(toy_engine)


class Started:
    """Processes of Ray that were seen while the block lasted, by their ids."""

    def __enter__(self) -> "Started":
        self.seen: set[int] = set()
        self._end = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._watch.join()

    def _look(self) -> None:
        me = psutil.Process(os.getpid())
        while not self._end.wait(0.05):
            self.seen |= {child.pid for child in me.children(recursive=True)}


@pytest.mark.ray
def test_short_trials_do_not_stop_clients_from_starting() -> None:
    """Trials shorter than the clients' start take one client after the other; none is begun anew for them."""
    ended = []

    def count(job: Job, report: Report, status: str) -> None:
        ended.extend([job.id] if status == "finished" else [])

    with local_ray(4), Pool.start(partial(toy_engine.make, SLOTS), slots=SLOTS) as pool:
        with Started() as started:
            before = {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}
            study = toy_study("short", TRIALS, seconds=0.3, scheduler="none", searcher="random")
            run_search([study], pool, on_report=count)
        assert len(ended) == len(set(ended)) == TRIALS
        clients = SLOTS + 2  # and those that wait, so that no slot does
        others = 8  # the Tuner, its placement groups' and Ray's own helpers
        assert len(started.seen - before) <= clients + others, f"{len(started.seen - before)} processes"
