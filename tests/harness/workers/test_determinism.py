"""A job that is trained alone gives the same numbers to the bit, whatever the worker has done and has room for."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info

from harness.runs.jobs import Job, Report
from harness.workers.determinism import Exact
from harness.workers.engines import make_engine
from tests.support import engine_runs
from tests.support.repeated import repeated


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a prepared task, a backbone), both tiny."""
    return engine_runs.make(tmp_path_factory.mktemp("exact"))


def exact(reports: list[Report]) -> list[Any]:
    """Everything that must repeat, the facts included that are no times and no places."""
    return [engine_runs.numbers(reports), [repeated(report.facts) for report in reports]]


def final(made: tuple[Path, Path], out: Path, method: str, **settings: Any) -> Job:
    job = engine_runs.make_job(made, out, "study/final/seed-1", method, **settings)
    return replace(job, alone=True, adapter=str(out / "adapter"), predictions=str(out / "predictions"))


@pytest.mark.parametrize("method", ["fmft", "lora", "ars"])
def test_room_threads_and_earlier_jobs_change_no_bit(made, tmp_path, method):
    fresh = make_engine(0, 1, pack=1, max_rank=16)
    here = exact(engine_runs.train(fresh, final(made, tmp_path / "a", method)))
    fresh.close()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        used = make_engine(0, 1, pack=4, max_rank=40, max_labels=7)
        others = [
            engine_runs.make_job(made, tmp_path, f"study/trial-000{n}", "lora", seed=n) for n in range(3)
        ]
        engine_runs.train(used, *others)
        there = exact(engine_runs.train(used, final(made, tmp_path / "b", method)))
        used.close()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert there == here
    assert here[1][-1]["threads"] == 1 and here[1][-1]["alone"] and "inexact_operations" not in here[1][-1]
    predictions = [sorted((tmp_path / x / "predictions").iterdir()) for x in "ab"]
    assert predictions[0][0].read_bytes() == predictions[1][0].read_bytes()


def test_it_has_no_neighbours_and_is_none(made, tmp_path):
    engine = make_engine(0, 1, pack=4)
    job = engine_runs.make_job(made, tmp_path, "study/trial-0000", "lora")
    alone = final(made, tmp_path, "lora")
    engine.admit(job)
    assert (engine.free_slots(replace(job, id="study/trial-0001")), engine.free_slots(alone)) == (3, 0)
    engine.release(job.id)
    assert engine.free_slots(alone) == 1
    engine.admit(alone)
    assert engine.free_slots(job) == 0
    engine.close()


def test_one_thread_below_numpy_and_torch_and_back():
    before = [library["num_threads"] for library in threadpool_info()], torch.get_num_threads()
    arithmetic = Exact()
    arithmetic.set(True)
    arithmetic.set(True)
    try:
        assert torch.are_deterministic_algorithms_enabled() and torch.get_num_threads() == 1
        assert all(library["num_threads"] == 1 for library in threadpool_info())
        warnings.warn("sum_cuda does not have a deterministic implementation, but you set …", stacklevel=1)
        noted = arithmetic.noted(Report(job="a", number=1, status="running", facts={"samples": 3}))
        assert noted.facts == {"samples": 3, "alone": True, "threads": 1, "inexact_operations": ["sum_cuda"]}
    finally:
        arithmetic.set(False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert ([library["num_threads"] for library in threadpool_info()], torch.get_num_threads()) == before
