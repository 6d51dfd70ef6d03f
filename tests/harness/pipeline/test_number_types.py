"""The number type of frozen weights: chosen once for an output folder on a worker, recorded everywhere, and kept."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from harness.cli.main import app
from harness.config.build import build
from harness.config.plan import plan
from harness.config.studies import PreparedStudy
from harness.core.errors import InputError, RunStopped
from harness.pipeline import forecast_time, number_types
from harness.pipeline.number_types import settle
from harness.pipeline.resume import stored_benchmark, take_over
from harness.pool.resources import WorkerLayout
from harness.report.content import Table
from harness.report.outcomes import outcomes_of
from harness.report.run_results import RunResults
from harness.report.sections import overview, provenance
from harness.runs.info import Setting
from harness.runs.jobs import Report
from harness.runs.store import ResultStore, frozen_in, load, precision_in
from harness.tracking.tags import record_tags, texts
from harness.workers import calibration
from harness.workers.engines import make_engine
from harness.workers.packed_engine import LingoEngine
from harness.workers.packs import Room
from lingo.quantized import native_bf16, usual_type
from tests.support import engine_runs
from tests.support.paper_like import records
from tests.support.studies import recording

CPU = WorkerLayout(groups=1, workers=1, cpus=1, gpus=0)
GPU = replace(CPU, gpus=1)
T4, A100 = ("Tesla T4", False), ("NVIDIA A100", True)


def asked(out=None, **options):
    methods = {"methods": ("fmft", "lora", "kmer_logreg")} | options
    return build({"suite": "quickstart", "out": out, **methods})


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Begins a run in a folder whose workers are on some device: the settled plan, and what the user was told."""

    def run(device=None, out=tmp_path / "out", **options):
        checked, told = plan(asked(out, **options)), []
        store = ResultStore(out, checked.identity)
        monkeypatch.setattr(number_types, "asked", lambda cpus, gpus, wait_s: device)
        held = settle(checked, store, GPU if device else CPU, told.append)
        held.write()
        return held, told

    return run


def has_bf16(monkeypatch, *, native):
    """A CUDA device of this kind, as PyTorch tells of it: an older one says yes where emulation counts."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native
    )


def test_emulation_is_no_bf16(monkeypatch):
    has_bf16(monkeypatch, native=False)
    assert usual_type("cuda") == "fp32" and not native_bf16("cuda")
    has_bf16(monkeypatch, native=True)
    assert usual_type("cuda") == "bf16" and usual_type("cpu") == "fp32"


@pytest.mark.parametrize(("device", "frozen"), [(None, "fp32"), (T4, "fp32"), (A100, "bf16")])
def test_a_worker_decides_and_full_fine_tuning_and_baselines_do_not_follow(begin, tmp_path, device, frozen):
    held, told = begin(device)
    types = {study.method: study.backbone_type for study in held.studies}
    full = "fp32, bf16 autocast" if frozen == "bf16" else "fp32"
    assert types == {"lora": frozen, "fmft": full, "kmer_logreg": None}
    assert told[0] == f"Frozen weights are {frozen} ({device[0] if device else 'CPU'}), trained weights fp32."
    assert told[1:] == ["Full fine-tuning computes in bf16 (autocast), its weights are fp32."] * (
        device == A100
    )
    assert precision_in(tmp_path / "out") == frozen_in(tmp_path / "out") == frozen
    assert frozen_in(tmp_path / "out") == frozen
    written = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert written["weights"] == {"frozen": frozen, "trained": "fp32", "precision": frozen}
    assert {s["method"]: s["backbone_type"] for s in written["studies"]} == types
    assert written["settings"]["frozen"] is None  # as it was asked


def test_later_runs_of_the_folder_keep_the_type_on_other_machines(begin, tmp_path):
    begin(A100)
    held, told = begin(T4)
    assert held.frozen == "bf16" and "as in this folder" in told[0]
    assert "Tesla T4 does not support bf16" in told[1]
    assert plan(stored_benchmark(tmp_path / "out", {"num_samples": 9})).frozen == "bf16"


def test_bf16_is_used_where_it_is_asked_for_and_emulation_is_told(begin, tmp_path):
    held, told = begin(T4, frozen="bf16")
    assert held.frozen == "bf16" and len(told) == 2 and "emulates it" in told[1]
    held, told = begin(out=tmp_path / "cpu", frozen="bf16")
    assert held.frozen == "bf16" and told == ["Frozen weights are bf16 (--frozen), trained weights fp32."]


@pytest.mark.parametrize("first", [{}, {"frozen": "bf16"}])
def test_another_type_is_refused_in_a_line_with_both(begin, tmp_path, first):
    begin(A100, **first)
    for same in (None, "bf16"):
        assert plan(asked(tmp_path / "out", frozen=same)).frozen == "bf16"
    with pytest.raises(InputError) as refused:
        plan(asked(tmp_path / "out", frozen="fp32"))
    (line,) = refused.value.problems
    assert "it differs in frozen: its weights are bf16, but fp32 is requested" in line


def test_a_folder_without_a_type_is_as_before(tmp_path):
    checked = plan(asked(tmp_path / "out"))
    store = ResultStore(tmp_path / "out", checked.identity)
    assert frozen_in(store.out) is None and plan(asked(tmp_path / "out")).frozen is None
    with pytest.raises(InputError, match="its weights are chosen by the device, but bf16 is requested"):
        plan(asked(tmp_path / "out", frozen="bf16"))


def test_full_fine_tuning_alone_keeps_how_it_computes(begin, tmp_path):
    held, told = begin(A100, methods=("fmft",))
    assert held.frozen is None and {study.backbone_type for study in held.studies} == {"fp32, bf16 autocast"}
    assert told == ["Full fine-tuning computes in bf16 (autocast), its weights are fp32."]
    held, _ = begin(T4, methods=("fmft",))
    assert held.precision == "bf16" and frozen_in(tmp_path / "out") is None
    with pytest.raises(InputError, match="precision: it computes in bf16, but fp32 is requested"):
        plan(asked(tmp_path / "out", methods=("fmft",), precision="fp32"))
    assert plan(asked(tmp_path / "out", methods=("fmft",), precision="bf16")).precision == "bf16"


def test_a_folder_of_an_earlier_version_goes_on_in_float32(begin, tmp_path):
    checked = plan(asked(tmp_path / "out"))
    ResultStore(tmp_path / "out", checked.identity).hold(frozen="bf16")  # all that those folders hold
    assert "precision" not in checked.identity
    held, _ = begin(A100)
    types = {study.method: study.backbone_type for study in held.studies}
    assert held.precision == "fp32" and types == {"lora": "bf16", "fmft": "fp32", "kmer_logreg": None}
    with pytest.raises(InputError, match="precision: it computes in fp32, but bf16 is requested"):
        plan(asked(tmp_path / "out", precision="bf16"))
    assert plan(asked(tmp_path / "out", precision="fp32")).precision == "fp32"


def test_a_fork_has_the_type_of_the_run_whose_trials_it_takes_over(begin, tmp_path):
    begin(A100)
    checked = plan(asked(tmp_path / "fork"))
    store = ResultStore(tmp_path / "fork", checked.identity)
    assert take_over(tmp_path / "out", store, [], checked.benchmark) == []
    held, _ = begin(T4, out=tmp_path / "fork")
    assert held.frozen == "bf16"


@pytest.mark.ray
def test_a_worker_whose_gpu_cannot_be_used_is_told_and_decides_nothing(tmp_path, monkeypatch):
    from harness.pool.local_ray import local_ray

    checked = plan(asked(tmp_path / "out"))
    store = ResultStore(tmp_path / "out", checked.identity)
    with local_ray(1, 1), pytest.raises(RunStopped, match="GPU must be usable by torch"):
        settle(checked, store, GPU, print)
    assert frozen_in(store.out) is None


# --- in training ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return engine_runs.make(tmp_path_factory.mktemp("types"))


def worker(frozen):
    return LingoEngine(room=Room(frozen=frozen))


@pytest.mark.parametrize("method", ["lora", "fmft"])
def test_reports_say_the_types_that_were_used(made, tmp_path, method):
    settings = {"rank": 2} if method == "lora" else {}
    job = engine_runs.make_job(made, tmp_path, method=method, epochs=1, **settings)
    facts = engine_runs.train(worker("bf16"), job)[-1].facts
    assert (facts["backbone_type"], facts["trained_type"]) == ("bf16" if method == "lora" else "fp32", "fp32")


def test_a_checkpoint_beside_other_weights_is_refused_and_not_begun_anew(made, tmp_path):
    job = engine_runs.make_job(made, tmp_path)
    engine_runs.evaluations(worker("bf16"), job, 2)
    other = worker("fp32")
    with pytest.raises(ValueError, match="another backbone_type 'bf16', here 'fp32'") as refused:
        other.admit(job)
    assert "\n" not in str(refused.value) and other.free_slots(job) == 1
    again = worker("bf16")
    again.admit(job)
    assert [report.number for report in again.advance()] == [1, 2]


def test_full_fine_tuning_in_bf16_is_reported_and_not_resumed_in_fp32(made, tmp_path):
    job = engine_runs.make_job(made, tmp_path, method="fmft")
    reports = engine_runs.evaluations(LingoEngine(room=Room(precision="bf16")), job, 2)
    assert reports[-1].facts["backbone_type"] == "fp32, bf16 autocast"
    with pytest.raises(ValueError, match="another backbone_type 'fp32, bf16 autocast', here 'fp32'"):
        LingoEngine(room=Room()).admit(job)
    again = LingoEngine(room=Room(precision="bf16"))
    again.admit(job)
    assert [report.number for report in again.advance()] == [1, 2]


def test_every_worker_has_the_type_that_was_chosen_whatever_its_device(made, tmp_path, monkeypatch):
    has_bf16(monkeypatch, native=False)
    engine = make_engine(0, 1, frozen="bf16")
    job = engine_runs.make_job(made, tmp_path, method="lora", epochs=1, rank=2)
    assert engine_runs.train(engine, job)[-1].facts["backbone_type"] == "bf16"


def test_the_export_says_both_types(made, tmp_path):
    job = engine_runs.make_job(made, tmp_path, "final-0", "lora", epochs=1, rank=2)
    engine_runs.train(worker("bf16"), replace(job, adapter=str(tmp_path / "adapter")))
    told = json.loads((tmp_path / "adapter" / "lingo.json").read_text())
    assert told["backbone"]["dtype"] == "bfloat16"
    assert told["training"]["type of trained parameters"] == "fp32"
    assert "type of trained parameters" in (tmp_path / "adapter" / "README.md").read_text()


def test_methods_of_peft_say_their_types(made, tmp_path):
    pytest.importorskip("peft")
    from harness.workers.peft_engine import PeftEngine

    job = engine_runs.make_job(made, tmp_path, method="lokr", epochs=1, rank=2)
    facts = engine_runs.train(PeftEngine(frozen="bf16"), job)[-1].facts
    assert (facts["backbone_type"], facts["trained_type"]) == ("bf16", "fp32")


# --- in what is kept ------------------------------------------------------------------------------------------


def test_a_record_has_the_type_even_of_a_trial_that_never_reported(begin, tmp_path):
    held, _ = begin(A100)
    study = next(study for study in held.studies if study.method == "lora")
    study = PreparedStudy(
        **vars(study), data=tmp_path, data_digest="d", backbone_digest="b", marks=[], tokens=9
    )
    store = ResultStore(tmp_path / "out", held.identity)
    take = recording(store, [study])
    job = replace(
        engine_runs.make_job((tmp_path, tmp_path), tmp_path, f"{study.key}/trial-0000", "lora"),
        study=study.key,
        checkpoints=None,
    )
    take(job, Report(job=job.id, number=1, status="failed", error="out of memory"), "failed")
    (record,) = load(tmp_path / "out")
    assert record.facts["backbone_type"] == "bf16"


def paper_run(tmp_path, types):
    """A report's run with final records whose facts have these types, by method."""
    finals = [
        replace(record, facts={**record.facts, **types[record.method]})
        for record in records(["EMP/H3"], {"opt-125m": "OPT-125M"}, seeds=3, trials=1)
        if record.stage == "final" and record.method in types
    ]
    return RunResults(folder=tmp_path, trials=list(finals))


FP32, BF16 = ({"backbone_type": name, "trained_type": "fp32"} for name in ("fp32", "bf16"))


def test_the_report_has_the_types_and_warns_of_several_in_one_table(tmp_path):
    runs = [paper_run(tmp_path, {"fmft": FP32, "lora": BF16, "ars": BF16, "kmer_logreg": {}})]
    outcomes = outcomes_of(runs)
    tables = {
        block.name: block for block in provenance.section(runs, outcomes).blocks if isinstance(block, Table)
    }
    assert sorted(row[:2] for row in tables["number_types"].rows) == [["bf16", "fp32"], ["fp32", "fp32"]]
    (line,) = [line for line in overview.distrust(runs, outcomes) if "number types" in line]
    assert line.startswith("Backbone weights had several number types: fp32 (")
    assert "bf16 (LoRA, " in line and "not recorded" not in line


def test_the_report_of_one_type_or_of_an_older_run_warns_of_nothing(tmp_path):
    for types in (FP32, {}):
        runs = [paper_run(tmp_path, {"fmft": types, "lora": types})]
        outcomes = outcomes_of(runs)
        assert provenance.mixed_types(outcomes) is None
        assert "several number types" not in " ".join(overview.distrust(runs, outcomes))
    both = [paper_run(tmp_path, {"lora": {}}), paper_run(tmp_path, {"ars": BF16})]
    assert "not recorded (LoRA)" in str(provenance.mixed_types(outcomes_of(both)))


def test_mlflow_has_the_types_as_tags():
    (record, *_) = records(["EMP/H3"], {"opt-125m": "OPT-125M"}, seeds=1, trials=1)
    setting = Setting(experiment="paper", identity="x")
    tags = texts(record_tags(replace(record, facts={**record.facts, **BF16}), setting))
    assert (tags["backbone_type"], tags["trained_type"]) == ("bf16", "fp32")
    assert "backbone_type" not in texts(record_tags(record, setting))


# --- plan -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "frozen", "why"),
    [
        ([], "fp32", "for the device of this machine; a run determines it once, on a worker"),
        (["--out", "held"], "bf16", "as in held"),
    ],
)
def test_plan_shows_and_measures_the_type(tmp_path, monkeypatch, options, frozen, why):
    monkeypatch.chdir(tmp_path)
    ResultStore("held", {"suite": "quickstart"}).hold(frozen="bf16")
    measured, real = [], forecast_time.calibrate

    def calibrate(*given, **more):
        measured.append(more["frozen"])
        return real(*given, **more)

    monkeypatch.setattr(forecast_time, "calibrate", calibrate)
    monkeypatch.setattr(calibration, "SECONDS", 0.0)
    command = ["plan", "--methods", "lora", "--tasks", "quickstart/promoter", "--models", "quickstart-opt"]
    ended = CliRunner().invoke(app, [*command, "--pack", "1", *options])
    assert ended.exit_code == 0 and measured == [frozen], ended.output
    assert f"Number types: frozen weights {frozen} ({why}); trained weights fp32" in ended.output
    assert f"measured on this machine (cpu, backbones in {frozen})" in ended.output
