"""A trial's client: when its jobs begin, whose they are, what it tells of them."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from harness.runs.jobs import Job
from harness.search.trial_client import Client, objective
from lingo.metrics import LOWER_IS_BETTER


class Source:
    """Notes the calls of a client that nobody answers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.places: list[dict[str, Any]] = []

    def __getattr__(self, method: str) -> "_Call":
        return _Call(self, method)


class _Call:
    def __init__(self, source: Source, method: str) -> None:
        self._source, self._method = source, method

    def remote(self, job: Any, **place: Any) -> None:
        self._source.places += [place] if place else []
        self._source.calls.append((self._method, job.id if isinstance(job, Job) else job))


def job(study: str, number: int) -> Job:
    return Job(
        id=f"{study}/trial-{number:04d}", study=study, stage="search", backbone="none", data="", config={}
    )


def config(number: int, studies: Sequence[str] = ("x", "y"), **more: Any) -> dict[str, Any]:
    """Of a Tune trial, as `harness.search.proposals.as_config` makes it."""
    return {
        "group": "suite",
        "number": number,
        "order": number,
        "jobs": [asdict(job(study, number)) for study in studies],
        "metrics": ["mcc"] * len(studies),
        "seen": {},
        "sync_epochs": [1, 2],
        **more,
    }


def begun(number: int, **more: Any) -> tuple[Client, Source]:
    client, source = Client.__new__(Client), Source()
    client.setup(config(number, **more), source)
    return client, source


def test_a_client_that_has_not_stepped_owns_nothing() -> None:
    """Tune starts a client for a trial, then gives the trial to an older one that has become free, and stops the
    new one: that must not stop the trial's jobs."""
    client, source = begun(7)
    client.cleanup()
    client.reset_config(config(8))
    client.cleanup()
    assert source.calls == []


def test_a_client_submits_with_its_first_step_and_releases_when_it_goes_on() -> None:
    client, source = begun(7, seen={"x": [[1, 0.5]]})  # x had ended in an earlier run
    client._submit()
    assert source.calls == [("submit", "y/trial-0007")]
    assert source.places == [{"priority": 7, "trial": "suite/7", "sync_epochs": [1, 2]}]
    source.calls.clear()
    client.reset_config(config(8))
    assert source.calls == [("release", "x/trial-0007"), ("release", "y/trial-0007")]


def test_an_objective_is_larger_for_a_better_score_and_least_where_there_is_none() -> None:
    undefined = objective("mcc", math.nan)
    assert objective("mcc", 0.4) == 0.4 and undefined == objective("nll", math.nan) == objective(
        "nll", math.inf
    )
    errors = [0.0, 0.01, 0.25, 0.7, 3.0, 1e4, 1e9]
    for metric in sorted(LOWER_IS_BETTER):
        found = [objective(metric, error) for error in errors]
        assert found == sorted(found, reverse=True) and len(set(found)) == len(errors)
        assert undefined <= min(found)
    client, _ = begun(3, studies=("x", "y"), metrics=["brier", "brier"], seen={"x": [[1, 0.3]]})
    assert client._members[0].values == {1: objective("brier", 0.3)} and client._members[0].values[1] < 0
