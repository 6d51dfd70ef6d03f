"""The engine under injected faults: lost workers, damaged files, full disks, too little memory, divergence."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.runs.jobs import Job, Report
from harness.runs.layout import checkpoint_folder
from harness.workers import checkpoints
from harness.workers import packed_engine as engine_module
from harness.workers.engines import Dispatch
from harness.workers.packed_engine import LOSS_STEPS, LingoEngine, make_engine
from lingo.pack import Pack
from tests.support.engine_runs import STEPS, engine, evaluations, make, make_job, numbers, train, until


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def job(made: tuple[Path, Path], tmp_path: Path) -> Callable[..., Job]:
    return partial(make_job, made, tmp_path)


def generations(job: Job) -> list[Path]:
    return sorted(checkpoint_folder(job.checkpoints, job.id).iterdir())


@pytest.mark.parametrize("method", ["ars", "lora", "fmft"])
def test_a_job_goes_on_from_its_checkpoint_in_another_engine(job: Callable[..., Job], method: str) -> None:
    undisturbed = train(engine(), replace(job(method=method), checkpoints=None))
    one = job(method=method)
    evaluations(engine(), one, 2)  # and the worker is gone
    assert [path.name for path in generations(one)] == ["step-00000006", "step-00000012"]
    resumed = train(engine(), one)
    assert numbers(resumed) == numbers(undisturbed)  # the first two told again
    facts, expected = resumed[-1].facts, undisturbed[-1].facts
    for name in ("kept_ranks", "rank_trajectory", "samples", "flops"):
        assert facts.get(name) == expected.get(name), name
    assert facts["device_seconds"] > 0


@pytest.mark.parametrize("method", ["ars", "fmft"])
def test_jobs_that_take_turns_in_a_slot_end_as_if_alone(job: Callable[..., Job], method: str) -> None:
    """As the tasks of a wide trial do where they have fewer slots than they are."""
    names = ("x/trial-0000", "y/trial-0000")
    jobs = {f"study/{name}": job(f"study/{name}", method, seed=seed) for seed, name in enumerate(names)}
    told: dict[str, list[Report]] = {name: [] for name in jobs}
    worker = engine()
    while any(len(reports) < 4 for reports in told.values()):
        for name, one in jobs.items():
            seen = len(told[name])
            told[name] += evaluations(worker, one, seen + 1)[seen:]  # those before are told again
            if told[name][-1].status == "running":
                worker.release(name)
    for name, one in jobs.items():
        alone = train(engine(), replace(one, checkpoints=None))
        assert numbers(told[name]) == numbers(alone)
        assert told[name][-1].facts["samples"] == alone[-1].facts["samples"]


def test_a_flipped_byte_is_found_and_the_checkpoint_before_is_used(
    job: Callable[..., Job], caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed = train(engine(), replace(job(), checkpoints=None))
    for spoil in ("*.safetensors", "slot.json", "job.json", None):
        one = job(f"study/trial-{spoil}")
        evaluations(engine(), one, 3)
        newest = generations(one)[-1]
        if spoil is None:
            (newest / "job.json").unlink()
        else:
            (path,) = newest.glob(spoil)
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        caplog.clear()
        second = engine()
        second.admit(one)
        assert [report.number for report in second.advance()] == [1, 2]
        assert "the checkpoint before it is used" in caplog.text
        assert numbers(until(second, lambda r: len(r) >= 2)) == numbers(undisturbed[2:])


def test_a_full_disk_costs_the_checkpoint_and_not_the_trial(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, worker = job(), engine()
    evaluations(worker, one, 1)
    before = generations(one)

    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_slot", full)
    reports = until(worker, lambda reports: reports[-1:] != [] and reports[-1].status != "running")
    assert reports[-1].status == "finished"
    assert generations(one) == before and "No space left on device" in caplog.text
    monkeypatch.undo()
    resumed = engine()
    resumed.admit(one)
    assert [report.number for report in resumed.advance()] == [1]


def test_another_configuration_under_the_same_name_starts_anew(job: Callable[..., Job]) -> None:
    evaluations(engine(), job("study/final/seed-1"), 2)
    other = job("study/final/seed-1", learning_rate=1e-3)
    assert numbers(train(engine(), other)) == numbers(train(engine(), replace(other, checkpoints=None)))


# --- memory -------------------------------------------------------------------------------------------------


def small_memory(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """A step of more than so many sequences at once runs out of memory, as a GPU does: in the forward pass."""
    real = Pack._logits

    def logits(self: Pack, ids: torch.Tensor, lengths: torch.Tensor, at: slice, **more: Any) -> torch.Tensor:
        if torch.is_grad_enabled() and len(ids) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(self, ids, lengths, at, **more)

    monkeypatch.setattr(Pack, "_logits", logits)


def test_out_of_memory_hands_the_newest_trials_back(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [job(f"study/trial-{number}", "lora", seed=number) for number in range(4)]
    alone = {one.id: train(engine(), replace(one, checkpoints=None)) for one in jobs}
    small_memory(monkeypatch, rows=32)  # two trials' batches
    worker = engine(4)
    for one in jobs:
        worker.admit(one)
    reports = until(worker, lambda reports: sum(r.status == "finished" for r in reports) == 2)
    returned = [report.job for report in reports if report.status == "returned"]
    assert returned == [jobs[2].id, jobs[3].id] and "continuing with 2" in caplog.text
    reports += train(worker, jobs[2], jobs[3])  # free_slots still says 2
    assert worker.free_slots(jobs[0]) == 2
    for one in jobs:
        mine = [r for r in reports if r.job == one.id and r.status != "returned"]
        assert [r.dev for r in mine] == [pytest.approx(r.dev, abs=1e-4, nan_ok=True) for r in alone[one.id]]
        assert [r.train_loss for r in mine] == pytest.approx([r.train_loss for r in alone[one.id]], abs=1e-4)


def test_a_trial_handed_back_in_mid_epoch_loses_no_step(job: Callable[..., Job]) -> None:
    one, worker = job(), engine(2)
    undisturbed = train(engine(), replace(one, checkpoints=None))
    worker.admit(one)
    assert worker._pack
    for _ in range(STEPS + 3):
        worker._step(worker._pack)
        if worker._jobs[one.id].probe.steps_per_epoch == worker._pack.slots[0].step:
            worker._report(worker._pack, worker._jobs[one.id])
    worker._hand_back(worker._pack, worker._jobs[one.id])
    (back,) = [r for r in worker.advance() if r.status == "returned"]
    assert back.job == one.id and generations(one)[-1].name == f"step-{STEPS + 3:08d}"
    assert numbers(train(engine(2), one)) == numbers(undisturbed)


def test_a_worker_that_must_leave_saves_every_job_as_far_as_it_is(job: Callable[..., Job]) -> None:
    jobs = [job(f"study/trial-{number}", seed=number) for number in range(2)]
    undisturbed = [train(engine(), replace(one, checkpoints=None)) for one in jobs]
    worker = Dispatch({"pack": lambda: engine(2)})
    worker.admit(jobs[0])
    (packed,) = worker._engines.values()
    assert isinstance(packed, LingoEngine) and packed._pack
    packed._step(packed._pack)
    worker.admit(jobs[1])
    packed._step(packed._pack)
    worker.save()
    assert [generations(one)[-1].name for one in jobs] == ["step-00000002", "step-00000001"]
    for one, told in zip(jobs, undisturbed, strict=True):
        resumed = train(engine(), one)
        assert [row[:4] for row in numbers(resumed)] == [row[:4] for row in numbers(told)]
        for ours, theirs in zip(resumed, told, strict=True):  # its first steps were those of a pack of two
            assert ours.train_loss == pytest.approx(theirs.train_loss, abs=1e-4)
            assert ours.dev == pytest.approx(theirs.dev, abs=1e-4)


def test_a_pack_too_large_for_the_memory_is_built_smaller(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Pack.__init__

    def build(self: Pack, *args: Any, capacity: int, **options: Any) -> None:
        if capacity > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        real(self, *args, capacity=capacity, **options)

    monkeypatch.setattr(Pack, "__init__", build)
    worker = engine(8)
    assert worker.free_slots(job()) == 8
    worker.admit(job())
    assert worker.free_slots(job()) == 1


def test_a_lone_trial_gets_smaller_micro_batches_of_the_same_batch(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = train(engine(), job("study/trial-1"))
    small_memory(monkeypatch, rows=5)
    reports = train(engine(), job("study/trial-2"))
    assert reports[-1].facts["micro_batches"] == 4
    for ours, theirs in zip(reports, undisturbed, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, abs=1e-4)
        assert ours.dev == pytest.approx(theirs.dev, abs=1e-4, nan_ok=True)
    small_memory(monkeypatch, rows=0)
    (failed,) = train(engine(), job("study/trial-3"))
    assert failed.status == "failed" and "one trial and batches of one sequence" in str(failed.error)


def test_memory_that_ends_while_parameters_change_is_a_crash(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a step cannot be taken again: the trial goes on from its checkpoint."""
    worker = engine()
    worker.admit(job())

    def parts(*_: object) -> list[object]:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    assert worker._pack
    monkeypatch.setattr(worker._pack.bank, "parts", parts)
    with pytest.raises(torch.OutOfMemoryError):
        worker.advance()


def test_evaluation_out_of_memory_takes_smaller_batches(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = train(engine(), job("study/trial-1"))
    real = Pack.predict

    def predict(self: Pack, *args: Any, **options: Any) -> Any:
        if self.eval_tokens > 2048:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, *args, **options)

    monkeypatch.setattr(Pack, "predict", predict)
    reports = train(engine(), job("study/trial-2"))
    assert [r.dev["loss"] for r in reports] == pytest.approx([r.dev["loss"] for r in undisturbed], abs=1e-5)


# --- divergence and the rest --------------------------------------------------------------------------------


def test_divergence_leaves_the_last_good_checkpoint(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, worker = job(), engine()
    undisturbed = train(engine(), replace(one, checkpoints=None))
    evaluations(worker, one, 2)
    assert worker._pack
    worker._pack.bank.theta.fill_(float("nan"))
    (failed,) = until(worker, lambda reports: bool(reports))
    why = "diverged: the training loss is not finite since step 13 of 24 (learning rate 0.003)."
    assert (failed.status, failed.error, failed.step) == ("failed", why, 13)
    assert not failed.hopeless and worker.free_slots(one) == 1
    assert numbers(train(engine(), one)) == numbers(undisturbed)


def test_divergence_is_noticed_within_some_steps_and_disturbs_no_neighbour(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One epoch of 96 steps, in which nothing is evaluated."""
    long = {"batch_size": 1, "epochs": 1}
    bad, good = job("study/trial-1", "lora", **long), job("study/trial-2", "lora", seed=2, **long)
    alone = train(engine(), replace(good, checkpoints=None))
    worker, at = engine(2), []
    monkeypatch.setattr(engine_module, "SLICE_S", 1e9)
    real = Pack.step

    def step(self: Pack) -> None:
        slots = {slot.config.seed: slot for slot in self.slots}
        if 1 in slots and slots[1].step == 9:
            self.bank.theta[slots[1].row] = float("nan")
        real(self)
        at.append(len(self.slots))

    monkeypatch.setattr(Pack, "step", step)
    for one in (bad, good):
        worker.admit(one)
    failed, *others = until(worker, lambda reports: len(reports) == 2)
    assert (
        failed.error == "diverged: the training loss is not finite since step 10 of 96 (learning rate 0.003)."
    )
    assert (failed.job, failed.step, failed.epoch) == (bad.id, 10, 0)
    assert at.count(2) == LOSS_STEPS  # noticed at the first look
    assert [(report.job, report.status) for report in others] == [(good.id, "finished")]
    assert others[-1].dev == pytest.approx(alone[-1].dev, abs=1e-4, nan_ok=True)
    assert others[-1].train_loss == pytest.approx(alone[-1].train_loss, abs=1e-4)


def test_bf16_backbones_train_float32_adapters(made: tuple[Path, Path], job: Callable[..., Job]) -> None:
    worker = make_engine(0, 1, pack=2, frozen="bf16", max_rank=20, max_labels=5)
    reports = train(worker, job("study/trial-1"), job("study/trial-2", "lora", rank=20))
    assert worker._pack and worker._pack.max_rank == 20 and worker._pack.layout.labels == 5
    assert next(worker._pack.backbone.model.parameters()).dtype == torch.bfloat16
    assert worker._pack.bank.theta.dtype == torch.float32
    plain = train(engine(), replace(job("study/trial-1"), checkpoints=None))
    bf16 = [r for r in reports if r.job == "study/trial-1"]
    assert [r.dev["loss"] for r in bf16] == pytest.approx([r.dev["loss"] for r in plain], abs=0.05)
