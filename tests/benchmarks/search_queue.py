"""What the search itself costs: trials a second, its processes' memory, and how long slots wait for it."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import ray

from harness.pool.local_ray import local_ray
from harness.pool.pool import Pool
from harness.runs.jobs import Event
from harness.search.driver import run_search
from tests.benchmarks.search_rows import Row, Say, child, resident, toy_study
from tests.support import toy_engine

CLIENTS = 8
CPUS = 2


@contextmanager
def toy_pool(slots: int) -> Iterator[Pool]:
    """One worker group whose jobs cost nothing."""
    ray.cloudpickle.register_pickle_by_value(toy_engine)  # type: ignore[no-untyped-call]
    with local_ray(CPUS), Pool.start(partial(toy_engine.make, slots), slots=slots) as pool:
        yield pool


def queue_rows(say: Say, trials: int = 1000) -> list[Row]:
    """Queued trivial trials: how many a second, from the first one's start on, and memory on the way.

    Six slots and two waiting jobs make eight clients.
    """
    say(f"{trials} trivial trials, {CLIENTS} clients …")
    early = trials // 10
    ends: list[float] = []
    memory: dict[str, list[float]] = {"driver": [], "Tuner": [], "job source": []}

    def on_event(event: Event) -> None:
        status = event.status
        if status != "finished":
            return
        ends.append(time.perf_counter())
        if len(ends) in (early, trials - CLIENTS):
            pids = (os.getpid(), child("ray::Tuner"), child("ray::JobSource"))
            for name, pid in zip(memory, pids, strict=True):
                memory[name].append(resident(pid) if pid else float("nan"))

    with toy_pool(CLIENTS - 2) as pool:
        start = time.perf_counter()
        run_search([toy_study("queue", trials, scheduler="none")], pool, on_event=on_event)
        whole = time.perf_counter() - start
    rate = (trials - 1) / (ends[-1] - ends[0])
    rows = [
        Row("queue: trials a second", rate, "1/s", ">= 10", rate >= 10),
        Row("queue: trials a second with the Tuner's start and end", trials / whole, "1/s"),
    ]
    for name, (before, after) in memory.items():
        growth = after - before
        reach = 0.02 * (trials - early)  # MiB
        rows.append(Row(f"queue: {name} at trial {early}", before, "MiB"))
        rows.append(
            Row(f"queue: {name}, growth to the end", growth, "MiB", f"<= {reach:.0f}", growth <= reach)
        )
    return rows


def idle_rows(say: Say, trials: int = 96, slots: int = 8, seconds: float = 0.5, epochs: int = 4) -> list[Row]:
    """Share of the slots' time without training while trials are queued; a trial takes two seconds."""
    say(f"{trials} trials of {epochs * seconds:g} s on {slots} slots …")
    begun: dict[str, float] = {}
    ended: dict[str, float] = {}

    def on_event(event: Event) -> None:
        job, status = event.job, event.status
        if status == "started":
            begun[job.id] = time.perf_counter()
        elif status == "finished":
            ended[job.id] = time.perf_counter()

    with toy_pool(slots) as pool:
        plans = [
            toy_study(f"idle/{n}", trials // 2, epochs=epochs, seconds=seconds, scheduler="none")
            for n in range(2)
        ]

        run_search(plans, pool, on_event=on_event)
    first, last = min(begun.values()), max(begun.values())  # from then on nothing is queued
    after = sorted(begun.values())[slots - 1]  # the clients of the first trials are still being started
    shares = [_idle(begun, ended, slots, epochs * seconds, at, last) for at in (first, after)]
    return [
        Row(
            "idle share of the slots while trials are queued", shares[1] * 100, "%", "<= 5", shares[1] <= 0.05
        ),
        Row("the same, the start of the clients included", shares[0] * 100, "%"),
    ]


def _idle(
    begun: dict[str, float], ended: dict[str, float], slots: int, work: float, first: float, last: float
) -> float:
    """1 - (work done between `first` and `last`) / (slots x that time); a trial's work ends with its report."""
    done = 0.0
    for name, end in ended.items():
        done += max(0.0, min(end, last) - max(end - work, begun[name], first))
    return 1 - done / (slots * (last - first))
