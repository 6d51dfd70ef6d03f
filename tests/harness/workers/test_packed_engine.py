"""The engine that trains the pool's jobs on `lingo.pack`."""

import json
import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed as dist
from transformers import AutoModel

from harness.data.prepared import open_test
from harness.runs.jobs import Job, Report
from harness.workers.packed_engine import LingoEngine
from harness.workers.packs import Room
from lingo.metrics import score
from tests.support import engine_runs

ROOT = Path(__file__).resolve().parents[3]
SETTINGS: dict[str, Any] = {"seed": 1, "epochs": 2, "batch_size": 16, "learning_rate": 3e-3, "delta_T": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a prepared task, a backbone), both tiny."""
    return engine_runs.make(tmp_path_factory.mktemp("engine"))


def job(made: tuple[Path, Path], name: str = "study/trial-0000", method: str = "ars", **settings: Any) -> Job:
    data, model = made
    stage = "final" if "final" in name else "search"
    config = {"method": method, **SETTINGS, **settings}
    return Job(id=name, study="study", stage=stage, backbone=str(model), data=str(data), config=config)


def train(engine: LingoEngine, *jobs: Job) -> list[Report]:
    """Admit the jobs and go on until each has ended."""
    reports: list[Report] = []
    for one in jobs:
        engine.admit(one)
    for _ in range(1000):
        reports += engine.advance()
        if sum(report.status != "running" for report in reports) == len(jobs):
            return reports
    raise AssertionError(f"not all jobs ended: {reports}")


@pytest.mark.parametrize("method", ["fmft", "lora", "ars"])
def test_a_job_reports_each_epoch_and_leaves_its_slot(made: tuple[Path, Path], method: str) -> None:
    engine = LingoEngine()
    reports = train(engine, job(made, method=method))
    assert [(r.number, r.epoch, r.status) for r in reports] == [(1, 1, "running"), (2, 2, "finished")]
    assert [r.step for r in reports] == [6, 12]
    assert all(r.test is None and 0 < r.dev["loss"] < 2 and 0 < r.train_loss < 2 for r in reports)
    facts = reports[-1].facts
    if method == "ars":
        kept = facts["kept_ranks"]
        assert sum(kept.values()) == 6 * len(kept)
        assert facts["used_parameters"] < facts["trained_parameters"] < facts["total_parameters"]
    if method == "fmft":
        assert facts["trained_parameters"] > facts["total_parameters"]  # the head comes on top
    assert engine.free_slots(job(made)) == 1
    assert engine.advance() == []
    engine.close()


def test_only_the_last_report_of_a_final_job_opens_the_test_split(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    data = tmp_path / "task"
    shutil.copytree(made[0], data)
    (data / "test.arrow").unlink()
    train(LingoEngine(), job((data, made[1])))  # a search job needs no test split
    with pytest.raises(Exception, match="test split"):
        train(LingoEngine(), job((data, made[1]), "study/final/seed-1"))
    first, last = train(LingoEngine(), job(made, "study/final/seed-1"))
    assert first.test is None and last.test is not None and last.test["mcc"] <= 1


def test_jobs_of_one_pack_do_not_disturb_each_other(made: tuple[Path, Path]) -> None:
    one, two = job(made, "study/trial-0001"), job(made, "study/trial-0002", "lora", seed=2, epochs=3)
    packed = train(LingoEngine(capacity=2), one, two)
    for single in (one, two):
        assert_close([r for r in packed if r.job == single.id], train(LingoEngine(), single))


def test_trials_of_several_studies_share_a_pack(made: tuple[Path, Path], tmp_path: Path) -> None:
    """Two methods on two tasks, one pack on their backbone, each as if alone."""
    other = engine_runs.prepared("quickstart/motif_pair", tmp_path, made[1], rows=64)
    jobs = [
        job((data, made[1]), f"{task}|opt|{method}/trial-0000", method, seed=seed)
        for task, data in (("promoter", made[0]), ("motif_pair", other))
        for seed, method in enumerate(("lora", "adalora"))
    ]
    worker = LingoEngine(room=Room(pack=4, max_labels=4))
    for one in jobs:
        assert worker.free_slots(one) >= 1
        worker.admit(one)
    assert worker._pack is not None and len(worker._pack.running) == 4
    reports: list[Report] = []
    while sum(report.status != "running" for report in reports) < 4:
        reports += worker.advance()
    for one in jobs:
        alone = train(LingoEngine(room=Room(max_labels=4)), one)
        assert_close([report for report in reports if report.job == one.id], alone)


def test_an_engine_goes_from_one_kind_of_job_to_the_next(made: tuple[Path, Path]) -> None:
    engine = LingoEngine(capacity=2)
    adapters, full = job(made, method="lora"), job(made, "study/trial-0003", "fmft")
    before = train(engine, adapters)
    engine.admit(adapters)
    assert engine.free_slots(full) == 0 and engine.free_slots(job(made)) == 1
    engine.release(adapters.id)
    engine.release("never heard of")
    train(engine, full)
    assert_close(train(engine, adapters), before)  # full fine-tuning left the backbone as it was


@pytest.mark.parametrize("method", ["lora", "ars", "pissa", "dora", "vera"])
def test_a_final_job_leaves_an_adapter_that_peft_loads(
    made: tuple[Path, Path], tmp_path: Path, method: str
) -> None:
    peft = pytest.importorskip("peft")
    folder = tmp_path / "adapters" / "seed-1"
    final = replace(job(made, "study/final/seed-1", method), adapter=str(folder))
    *_, last = train(LingoEngine(), final)
    assert last.facts["adapter"] == str(folder)
    base = AutoModel.from_pretrained(made[1])
    model = peft.PeftModel.from_pretrained(base, folder).eval()
    test = open_test(made[0])
    ids, lengths = test.padded(range(len(test)), base.config.pad_token_id)
    mask = torch.arange(ids.shape[1]) < torch.from_numpy(lengths)[:, None]
    with torch.no_grad():
        hidden = model(input_ids=torch.from_numpy(ids), attention_mask=mask).last_hidden_state
    head = load_file(folder / "head.safetensors")
    logits = hidden[torch.arange(len(ids)), torch.from_numpy(lengths) - 1] @ head["weight"].T + head["bias"]
    assert last.test == pytest.approx(score("classification", logits.numpy(), test.labels), abs=1e-4)


def test_a_diverged_job_fails_with_one_line(made: tuple[Path, Path]) -> None:
    (report,) = train(
        LingoEngine(), job(made, method="lora", learning_rate=9.0, alpha=1e38, max_grad_norm=None)
    )
    assert (
        report.status == "failed"
        and "diverged" in str(report.error)
        and "learning rate 9" in str(report.error)
    )
    assert math.isnan(report.train_loss) or math.isnan(report.dev["loss"])


def test_a_bad_job_is_refused_with_its_reasons(made: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="`b0` must be at least `bT`, but got b0=2, bT=6"):
        LingoEngine().admit(job(made, b0=2))
    with pytest.raises(ValueError, match="delta_T=100"):
        LingoEngine().admit(job(made, delta_T=100))


def assert_close(ours: list[Report], theirs: list[Report]) -> None:
    assert [(r.number, r.step, r.status) for r in ours] == [(r.number, r.step, r.status) for r in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, abs=1e-4)
        assert a.dev == pytest.approx(b.dev, abs=1e-4, nan_ok=True)
        assert a.facts.get("kept_ranks") == b.facts.get("kept_ranks")


def worker(rank: int, store: str, jobs: list[dict[str, Any]], out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    engine = LingoEngine(rank=rank, world=2, capacity=2)
    reports = train(engine, *(Job(**one) for one in jobs))
    dist.barrier()
    dist.destroy_process_group()
    Path(f"{out}-{rank}").write_text(json.dumps([asdict(report) for report in reports]))


def test_two_workers_give_what_one_gives(made: tuple[Path, Path], tmp_path: Path) -> None:
    jobs = [job(made), job(made, "study/final/seed-2", "lora", seed=2, batch_size=7)]
    single = train(LingoEngine(capacity=2), *jobs)
    plain = [asdict(one) for one in jobs]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)  # for the workers, which import this module
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        torch.multiprocessing.spawn(
            worker, (str(tmp_path / "store"), plain, str(tmp_path / "half")), nprocs=2
        )
    halves = [
        [Report(**one) for one in json.loads((tmp_path / f"half-{rank}").read_text())] for rank in range(2)
    ]
    for one in jobs:
        alone = [r for r in single if r.job == one.id]
        for half in halves:
            assert_close([r for r in half if r.job == one.id], alone)
