"""What every implementation of `harness.pool.engine.Engine` must do, the stand-ins of the pool's tests included."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.data.prepared import prepare
from harness.data.quickstart import make_backbone, make_data
from harness.data.tasks import TASKS
from harness.pool.engine import Engine
from harness.runs.jobs import Job, Report
from harness.workers.engines import make_engine
from harness.workers.packed_engine import LingoEngine
from harness.workers.packs import Room
from harness.workers.peft_engine import PeftEngine
from harness.workers.single_engine import SimpleEngine
from lingo.backbones import load_backbone
from lingo.nucleotides import bare_bases
from tests.support.chaos_engine import ChainEngine
from tests.support.toy_engine import ToyEngine

EPOCHS = 2
SETTINGS: dict[str, Any] = {"seed": 1, "epochs": EPOCHS, "batch_size": 16}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny backbone, and a task prepared for it (`tokens`) and for baselines (`bases`)."""
    folder = tmp_path_factory.mktemp("engines")
    model = make_backbone(folder / "model")
    backbone, data = load_backbone(model), make_data(folder / "data")
    readers = {"tokens": (backbone.tokenizer, backbone.pad_id), "bases": (bare_bases(), 0)}
    task = TASKS["quickstart/promoter"]
    return {"model": str(model)} | {
        name: str(prepare(task, data, folder / "p", tokenizer=read, pad_id=pad, limit=64).folder)
        for name, (read, pad) in readers.items()
    }


class EngineContract:
    """Every engine inherits these."""

    config: dict[str, Any]
    data = "tokens"
    slots = 1
    bad: dict[str, Any] = {"epochs": 0}  # noqa: RUF012
    """What makes the configuration one that cannot be trained."""

    def make(self) -> Engine:
        raise NotImplementedError

    @pytest.fixture
    def engine(self) -> Engine:
        engine = self.make()
        yield engine
        engine.close()

    @pytest.fixture
    def job(self, made: dict[str, str], tmp_path: Path) -> Callable[..., Job]:
        def make(name: str = "trial-0000", **changes: Any) -> Job:
            one = Job(
                id=f"study/{name}",
                study="study",
                stage="final" if name.startswith("final") else "search",
                backbone=made["model"] if self.data == "tokens" else "none",
                data=made[self.data],
                config={**SETTINGS, **self.config},
                checkpoints=str(tmp_path / "checkpoints"),
            )
            return replace(one, **changes)

        return make

    def test_a_job_reports_each_evaluation_in_order_and_ends_once(self, engine, job):
        reports = end(engine, job())
        assert [report.number for report in reports] == list(range(1, len(reports) + 1))
        assert [report.status for report in reports] == ["running"] * (len(reports) - 1) + ["finished"]
        assert reports[-1].epoch == EPOCHS and all(
            report.dev and report.job == job().id for report in reports
        )
        assert engine.advance() == []

    def test_a_slot_is_taken_at_admission_and_free_with_the_last_report(self, engine, job):
        assert engine.free_slots(job()) == self.slots
        engine.admit(job())
        assert engine.free_slots(job("trial-0001")) == self.slots - 1
        until_end(engine, [job()])
        assert engine.free_slots(job("trial-0001")) == self.slots

    def test_a_job_that_is_released_says_nothing_more(self, engine, job):
        engine.admit(job())
        engine.release(job().id)
        engine.release("never admitted")
        assert engine.free_slots(job("trial-0001")) == self.slots
        assert [report for _ in range(3) for report in engine.advance()] == []

    def test_jobs_together_report_what_they_report_alone(self, engine, job):
        both = [job(f"trial-{number:04d}", checkpoints=None) for number in range(self.slots)]
        for one in both:
            engine.admit(one)
        together = until_end(engine, both)
        for one in both:
            alone = end(self.make(), one)
            assert scores([report for report in together if report.job == one.id]) == [
                pytest.approx(score, rel=1e-5, abs=1e-6, nan_ok=True) for score in scores(alone)
            ]

    def test_the_test_split_is_read_by_final_jobs_alone_and_once(self, engine, job):
        assert all(report.test is None for report in end(engine, job()))
        *before, last = end(engine, job("final/seed-1"))
        assert all(report.test is None for report in before)
        assert last.test

    def test_a_configuration_that_cannot_be_trained_takes_no_slot(self, engine, job):
        wrong = job()
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            engine.admit(replace(wrong, config={**wrong.config, **self.bad}))
        assert engine.free_slots(job()) == self.slots
        assert end(engine, job())[-1].status == "finished"

    def test_another_engine_goes_on_or_begins_again_with_the_same_numbers(self, engine, job):
        undisturbed = end(self.make(), job(checkpoints=None))
        engine.admit(job())
        for _ in range(3):
            seen = engine.advance()
            if any(report.status != "running" for report in seen):
                return  # too short to be disturbed
        engine.save()
        engine.close()
        again = end(self.make(), job())
        known = {report.number: report for report in undisturbed}
        assert again[-1].number == undisturbed[-1].number
        for report in again:
            assert report.dev == pytest.approx(known[report.number].dev, rel=1e-5, nan_ok=True)

    def test_evaluations_amid_an_epoch_change_none_at_its_end(self, engine, job):
        whole = {report.epoch: report.dev for report in end(self.make(), job(checkpoints=None))}
        often = {report.epoch: report.dev for report in end(engine, job(evaluations=2))}
        assert len(often) in (len(whole), 2 * len(whole)) and set(whole) <= set(often)
        assert all(often[epoch] == pytest.approx(dev, nan_ok=True) for epoch, dev in whole.items())

    def test_it_may_be_saved_and_closed_with_nothing_to_do_and_closed_twice(self, engine):
        assert engine.advance() == []
        engine.save()
        engine.close()
        engine.close()


def end(engine: Engine, one: Job) -> list[Report]:
    engine.admit(one)
    return until_end(engine, [one])


def until_end(engine: Engine, jobs: list[Job]) -> list[Report]:
    reports: list[Report] = []
    for _ in range(3000):
        reports += engine.advance()
        ended = {report.job for report in reports if report.status != "running"}
        if ended == {one.id for one in jobs}:
            return reports
    raise AssertionError(f"not every job ended: {reports}")


def scores(reports: list[Report]) -> list[dict[str, float]]:
    return [report.dev for report in reports]


class TestPacks(EngineContract):
    config = {"method": "ars", "rank": 4, "learning_rate": 3e-3, "delta_T": 2}  # noqa: RUF012
    slots = 2

    def make(self):
        return LingoEngine(room=Room(pack=2))


class TestOfEachMethod(EngineContract):
    """The engine of a worker, which hands jobs on."""

    config = {"method": "lora", "rank": 4, "learning_rate": 3e-3}  # noqa: RUF012
    slots = 2

    def make(self):
        return make_engine(0, 1, pack=2)


class TestNetworkBaseline(EngineContract):
    config = {"method": "onehot_cnn", "filters": 8, "kernel_width": 9, "learning_rate": 3e-3}  # noqa: RUF012
    data = "bases"

    def make(self):
        return SimpleEngine()


class TestLogisticBaseline(EngineContract):
    config = {"method": "kmer_logreg", "k": 4, "C": 1e-3}  # noqa: RUF012
    data = "bases"

    def make(self):
        return SimpleEngine()


class TestPeft(EngineContract):
    config = {"method": "lokr", "rank": 4, "learning_rate": 3e-3}  # noqa: RUF012
    bad = {"rank": 0}  # noqa: RUF012

    def make(self):
        pytest.importorskip("peft")
        return PeftEngine()


class StandIn(EngineContract):
    """Without a model; a score follows from the configuration."""

    config = {"method": "toy"}  # noqa: RUF012

    @pytest.fixture
    def made(self) -> dict[str, str]:
        return {"model": "none", "tokens": "none"}


class TestToyEngine(StandIn):
    slots = 2
    bad = {"refuse": True}  # noqa: RUF012

    def make(self):
        return ToyEngine(2)


class TestChainEngine(StandIn):
    slots = 2

    def make(self):
        return ChainEngine(2, 0.0, None)
