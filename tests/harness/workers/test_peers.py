"""Workers that train together and fail apart: one runs out of memory, breaks or cannot read; all hear of it."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist

from harness.pool.engine import WorkerFailed
from harness.runs.jobs import Job, Report
from harness.workers.packed_engine import LingoEngine
from harness.workers.packs import Room
from lingo.pack import Pack
from tests.support.engine_runs import make, make_job, train, until

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make(tmp_path_factory.mktemp("peers"))


def out_of_memory(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def small_memory(patch: pytest.MonkeyPatch, rows: int) -> None:
    """A step of more than so many sequences on this worker runs out of memory, in the forward pass."""
    real = Pack._logits

    def logits(self: Pack, ids: torch.Tensor, lengths: torch.Tensor, at: slice, **more: Any) -> torch.Tensor:
        if torch.is_grad_enabled() and len(ids) > rows:
            out_of_memory()
        return real(self, ids, lengths, at, **more)

    patch.setattr(Pack, "_logits", logits)


def small_memory_in_evaluation(patch: pytest.MonkeyPatch) -> None:
    real = Pack.predict

    def predict(self: Pack, *args: Any, **options: Any) -> Any:
        return out_of_memory() if self.eval_tokens > 2048 else real(self, *args, **options)

    patch.setattr(Pack, "predict", predict)


def no_room(patch: pytest.MonkeyPatch) -> None:
    """A pack of more than two trials cannot be built on this worker."""
    real = Pack.__init__

    def build(self: Pack, *args: Any, capacity: int, **options: Any) -> None:
        out_of_memory() if capacity > 2 else real(self, *args, capacity=capacity, **options)

    patch.setattr(Pack, "__init__", build)


class Scenes:
    """What one of two workers goes through; the other one (rank 0) has no fault of its own."""

    def __init__(self, rank: int, jobs: list[Job]) -> None:
        self._rank, self._jobs = rank, jobs

    def play(self) -> dict[str, Any]:
        """Every scene's outcome, as plain data."""
        return {
            scene.__name__: scene()
            for scene in (
                self.smaller_pack,
                self.smaller_batches,
                self.no_memory_at_all,
                self.smaller_evaluation,
                self.no_room_for_the_pack,
                self.broken,
                self.broken_midway,
                self.unreadable,
            )
        }

    def _engine(self, pack: int = 1) -> LingoEngine:
        return LingoEngine(rank=self._rank, world=2, room=Room(pack=pack))

    def _faulty(self, fault: Callable[[pytest.MonkeyPatch], None], act: Callable[[], Any]) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            if self._rank == 1:
                fault(patch)
            return act()

    def smaller_pack(self) -> Any:
        worker = self._engine(4)
        for job in self._jobs:
            worker.admit(job)
        ended = ("finished", "returned")

        def act() -> list[Report]:
            return until(worker, lambda reports: sum(r.status in ended for r in reports) == 4)

        reports = self._faulty(lambda patch: small_memory(patch, 16), act)
        back = [report.job for report in reports if report.status == "returned"]
        again = train(worker, *(job for job in self._jobs if job.id in back))
        return [back, worker.free_slots(self._jobs[0]), [asdict(one) for one in (*reports, *again)]]

    def smaller_batches(self) -> Any:
        act = lambda: train(self._engine(), self._jobs[0])  # noqa: E731
        return [asdict(report) for report in self._faulty(lambda patch: small_memory(patch, 2), act)]

    def no_memory_at_all(self) -> Any:
        act = lambda: train(self._engine(), self._jobs[0])  # noqa: E731
        (report,) = self._faulty(lambda patch: small_memory(patch, 0), act)
        return [report.status, report.error]

    def smaller_evaluation(self) -> Any:
        act = lambda: train(self._engine(), self._jobs[0])  # noqa: E731
        return [asdict(report) for report in self._faulty(small_memory_in_evaluation, act)]

    def no_room_for_the_pack(self) -> Any:
        worker = self._engine(8)
        self._faulty(no_room, lambda: worker.admit(self._jobs[0]))
        return worker.free_slots(self._jobs[0])

    def broken(self) -> Any:
        def fault(patch: pytest.MonkeyPatch) -> None:
            patch.setattr(Pack, "_losses", lambda *_: 1 / 0)

        return self._falls(fault)

    def broken_midway(self) -> Any:
        from lingo.adapters import AdapterBank

        return self._falls(lambda patch: patch.setattr(AdapterBank, "parts", out_of_memory))

    def _falls(self, fault: Callable[[pytest.MonkeyPatch], None]) -> list[Any]:
        """What is raised, and whether the same engine trains the same job afterwards."""
        worker = self._engine()
        worker.admit(self._jobs[0])
        with pytest.raises(WorkerFailed) as raised:
            self._faulty(fault, worker.advance)
        worker.release(self._jobs[0].id)
        return [str(raised.value), train(worker, self._jobs[0])[-1].status]

    def unreadable(self) -> Any:
        """One worker has no such file."""
        worker = self._engine(2)
        missing = replace(self._jobs[0], data=self._jobs[0].data if self._rank == 0 else "/no/such/folder")
        with pytest.raises(Exception, match="no/such/folder") as raised:
            worker.admit(missing)
        worker.release(missing.id)
        return [type(raised.value).__name__, train(worker, self._jobs[0])[-1].status]


def one_of_two(rank: int, store: str, jobs: list[dict[str, Any]], out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found = Scenes(rank, [Job(**job) for job in jobs]).play()
    dist.barrier()
    dist.destroy_process_group()
    Path(f"{out}-{rank}").write_text(json.dumps(found))


def outcome(reports: list[dict[str, Any]], job: Job) -> list[Any]:
    mine = [one for one in reports if one["job"] == job.id and one["status"] != "returned"]
    return [(one["number"], one["status"], one["train_loss"], one["dev"]["loss"]) for one in mine]


@pytest.mark.slow
def test_what_befalls_one_worker_is_heard_by_the_other(made: tuple[Path, Path], tmp_path: Path) -> None:
    jobs = [make_job(made, tmp_path, f"study/trial-{n}", "lora", seed=n, epochs=2) for n in range(4)]
    jobs = [replace(job, checkpoints=None) for job in jobs]
    alone = [asdict(report) for job in jobs for report in train(LingoEngine(), job)]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)  # for the workers, which import this module
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        told = [str(tmp_path / "store"), [asdict(job) for job in jobs], str(tmp_path / "found")]
        torch.multiprocessing.spawn(one_of_two, tuple(told), nprocs=2)
    ours, theirs = (json.loads((tmp_path / f"found-{rank}").read_text()) for rank in range(2))
    for found in (ours, theirs):
        back, free, reports = found["smaller_pack"]
        assert back == [jobs[2].id, jobs[3].id] and free == 2
        for job in jobs:
            assert outcome(reports, job) == [pytest.approx(one, abs=1e-4) for one in outcome(alone, job)]
        for scene in ("smaller_batches", "smaller_evaluation"):
            expected = [pytest.approx(one, abs=1e-4) for one in outcome(alone, jobs[0])]
            assert outcome(found[scene], jobs[0]) == expected, scene
        assert found["smaller_batches"][-1]["facts"]["micro_batches"] == 4
        assert found["no_memory_at_all"][0] == "failed"
        assert "one trial and batches of one sequence" in found["no_memory_at_all"][1]
        assert found["no_room_for_the_pack"] == 1
        assert found["broken"] == ["ZeroDivisionError: division by zero", "finished"]
        assert found["broken_midway"][0].startswith("OutOfMemoryError: CUDA out of memory.")
        assert found["unreadable"][1] == found["broken_midway"][1] == "finished"
