"""The benchmark's settings: strict, frozen, and an identity that says what is measured."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from harness.cluster.file import read_cluster, with_price
from harness.config.benchmark import DECLARED, FIRST, MACHINE, Benchmark
from harness.config.build import build, read_settings, restore
from harness.config.plan import plan
from harness.config.values import seconds_of
from harness.core.errors import InputError, nearest
from harness.data.tasks import SUITES
from lingo.methods import DEFAULT_METHODS, METHODS
from tests.support.task_files import write_task

ROOT = Path(__file__).resolve().parents[3]
OPTIONS = {"tasks": ("H3", "prom/prom_300_tata"), "models": ("opt-125m",)}


def problems(**options):
    with pytest.raises(InputError) as caught:
        build(OPTIONS | options)
    return caught.value.problems


def test_defaults_and_full_names():
    benchmark = build(OPTIONS)
    assert benchmark.tasks == ("EMP/H3", "prom/prom_300_tata")
    assert benchmark.suite == "custom" and benchmark.methods == DEFAULT_METHODS
    assert (benchmark.epochs, benchmark.batch_size, benchmark.seeds) == (5, 8, (0, 1, 2, 3, 4))
    assert benchmark.marks == []


def test_without_options_it_is_the_quickstart():
    benchmark = build({})
    assert benchmark.suite == "quickstart"
    assert benchmark.tasks and all(task.startswith("quickstart/") for task in benchmark.tasks)
    assert build({"epochs": 9}).epochs == 9


def test_limited_benchmarks_are_marked():
    assert build(OPTIONS | {"limit": 3}).marks == ["smoke"]


def test_every_problem_is_told():
    found = problems(tasks=("H33", "mose/2"), methods=("lor",), epochs=0, seeds=(-1,), colour="red")
    assert len(found) == 6
    assert "unknown setting `colour`." in found[-1] or any("`colour`" in line for line in found)


def test_several_objectives_stop_no_trial_early():
    both = build(OPTIONS | {"objectives": ("parameters", "score")})
    assert both.objectives == ("score", "parameters") and both.has_front and both.scheduler == "none"
    assert both.most_winners == 4 and build(OPTIONS).most_winners == 1
    assert build(OPTIONS).scheduler == build(OPTIONS | {"objectives": ("score",)}).scheduler == "asha"
    assert both.identity() != build(OPTIONS | {"scheduler": "none"}).identity()
    assert "objectives" not in build(OPTIONS).identity()
    assert restore(json.loads(both.model_dump_json()), {"num_samples": 40}).has_front


def test_what_several_objectives_do_not_go_with_is_told_at_once():
    beside = {"scheduler": "asha", "scope": "family", "siblings": 3}
    found = problems(objectives=("score", "parameters"), **beside, epochs=0)
    for option, got in (("--scheduler none", "asha"), ("--scope task", "family"), ("--share-prefix 1", "3")):
        assert any(f"needs `{option}`, but got {got}: " in line for line in found), option
    assert len(found) == 4
    (line,) = problems(objectives=("score", "size", "score"))
    assert (
        "must be score or score,parameters, but got score,size,score (unknown 'size', score twice)." in line
    )
    (line,) = problems(objectives=("parameters",))
    assert line.endswith("must be score or score,parameters, but got parameters.")
    assert len(problems(objectives=("score", "size"), scheduler="median")) == 2
    stored = json.loads(build(OPTIONS | {"objectives": ("score", "parameters")}).model_dump_json())
    with pytest.raises(InputError, match="needs `--scheduler none`, but got asha"):
        restore(stored, {"scheduler": "asha"})


def test_settings_are_frozen_and_strict():
    benchmark = build(OPTIONS)
    with pytest.raises(ValidationError):
        benchmark.epochs = 3
    assert "`--epochs`" in problems(epochs="3")[0]
    assert "`--num-samples`" in problems(num_samples=True)[0]


def test_identity_leaves_out_only_where_and_how_fast():
    benchmark = build(OPTIONS)
    changed = {
        "data_dir": Path("elsewhere"),
        "audit": False,
        "max_concurrent": 7,
        "workers_per_trial": 2,
        "out": Path("there"),
        "name": "mine",
        "tracking_uri": "http://127.0.0.1:5000",
        "search_spaces": (Path("x.yaml"),),
        "pack": 3,
        "max_failures": 0,
        "cluster": "auto",
        "storage_path": "s3://bucket/x",
        "ssh_from": "198.51.100.7",
        "keep_head": "1h",
        "machine_wait": "3h",
        "skip_missing": True,
        "spot_wait": "1m",
        "notify": "env:HOOK",
    }
    assert set(changed) == MACHINE
    more = {"num_samples": 99, "seeds": (7,), "time_budget": "2h", "max_cost": 5.0, "price_per_hour": 2.0}
    assert build(OPTIONS | changed | more).identity() == benchmark.identity()
    others = {"epochs": 2, "seed": 1, "limit": 5, "max_length": 64, "scope": "family", "searcher": "grid"}
    others |= {"scheduler": "none", "siblings": 2, "prompt": "off", "frozen": "bf16", "patience": 3}
    for name, value in others.items():
        assert build(OPTIONS | {name: value}).identity() != benchmark.identity()


def test_settings_of_later_versions_are_not_in_the_identity_of_earlier_folders():
    given = {"tasks": ("mouse/2",), "methods": ("kmer_logreg",)}
    assert build(given).identity().keys() == FIRST | {"rules"}
    assert build(given | {"target_modules": ("W_q",)}).identity()["target_modules"] == ["W_q"]
    assert build(given).of_trials.keys() == {"seed", "epochs", "batch_size"}


def test_patience_acts_at_the_defaults():
    """The best evaluation's weights count also where no run can end early."""
    assert build(OPTIONS).patience_of(1) == 10 and build(OPTIONS | {"patience": 0}).patience_of(1) is None
    assert build(OPTIONS | {"patience": 4}).patience_of(1) == 4
    assert build(OPTIONS | {"patience": 7}).identity() == build(OPTIONS).identity()
    identities = [build(OPTIONS | {"patience": patience}).identity() for patience in (0, 3, 10)]
    assert identities[0] != identities[1] != identities[2] != identities[0]


def test_patience_counts_epochs_unless_evaluations_are_asked_for():
    """So that settings that are alike today are alike with every number of evaluations in an epoch."""
    usual, asked = build(OPTIONS), build(OPTIONS | {"eval_steps": 500})
    assert (usual.patience_of(1), usual.patience_of(17), asked.patience_of(17)) == (10, 170, 10)
    assert build(OPTIONS | {"patience": 0}).patience_of(17) is None
    assert "eval_steps" not in usual.identity() and asked.identity()["eval_steps"] == 500
    assert asked.identity() != build(OPTIONS | {"eval_steps": 500, "patience": 7}).identity()


def test_a_study_knows_its_evaluations_and_a_method_that_is_fitted_at_once_has_one(tmp_path):
    given = {"tasks": ("quickstart/promoter",), "methods": ("onehot_cnn", "kmer_logreg"), "out": tmp_path}
    for eval_steps in (None, 20):
        benchmark = build(given | {"eval_steps": eval_steps})
        network, logistic = plan(benchmark).to_dict()["studies"]
        steps = network["total_steps"] // benchmark.epochs
        assert network["evaluations"] == (-(-steps // 20) if eval_steps else 1) < steps
        assert logistic["evaluations"] == 1


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("90m", 5400), ("12h", 43200), ("1h30m", 5400), ("1.5d", 129600)]
)
def test_spans_of_time(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "h", "5 m", "-3h", "0s", "3w", "1h30", "1m2x", "inf"])
def test_spans_that_are_none(text):
    (line,) = problems(time_budget=text)
    assert line.startswith("`--time-budget` must be ") and line.endswith(f"but got {text!r}.")


def test_a_cost_needs_a_price():
    (line,) = problems(max_cost=3.0)
    assert line.startswith("`--price-per-hour` is needed with `--max-cost`")
    assert problems(max_cost=3.0, cluster="auto")[0].startswith("`--price-per-hour` is needed")
    assert with_price(build(OPTIONS)).price_per_hour is None
    aws = build(OPTIONS | {"max_cost": 3.0, "cluster": str(ROOT / "clusters" / "aws.yaml")})
    ceiling = read_cluster(Path(aws.cluster), filled_in=False).ceiling()
    assert with_price(aws).price_per_hour == pytest.approx(ceiling) and ceiling > 0
    assert with_price(aws.model_copy(update={"price_per_hour": 1.5})).price_per_hour == 1.5
    assert problems(max_gpu_hours=0.0) == ["`--max-gpu-hours` must be above 0, but got 0.0."]
    assert build(OPTIONS | {"max_cost": 3.0, "price_per_hour": 1.0}).max_cost == 3.0


def test_settings_are_documented():
    assert all(DECLARED[name].help or field.description for name, field in Benchmark.model_fields.items())


def test_nearest_names():
    assert nearest("loar", METHODS) == " Nearest known: lora, lokr, loha."
    assert nearest("zzz", ["a", "b"]) == " Known: a, b."
    assert nearest("zzz", map(str, range(50))) == ""


def test_input_errors_survive_pickling():
    import pickle

    error = pickle.loads(pickle.dumps(InputError(["a", "b"])))  # noqa: S301
    assert error.problems == ["a", "b"]


def test_a_cluster_alone_means_the_papers_tasks(tmp_path):
    alone = build({"cluster": "clusters/aws.yaml"})
    assert (alone.suite, alone.models) == ("paper-gue", ("opt-125m",))
    assert len(alone.tasks) == 13 and "deepsea/histone" not in alone.tasks
    (tmp_path / "deepsea").mkdir()
    assert build({"cluster": "clusters/aws.yaml", "data_dir": tmp_path}).suite == "paper"
    assert build({"cluster": "clusters/aws.yaml", "tasks": ("EMP/H3",), "models": ("m",)}).suite == "custom"
    assert build({}).suite == "quickstart"


@pytest.mark.parametrize(
    "options", [OPTIONS, {}, {"suite": "gue", "models": ("opt-125m",), "epochs": 2, "seeds": (3,)}]
)
def test_the_settings_of_a_run_repeat_it(options, tmp_path):
    benchmark = build({**options, "out": tmp_path})
    read = read_settings(benchmark.repeat(), "settings.yaml")
    again = build(read)
    assert again.identity() == benchmark.identity()
    assert (again.num_samples, again.seeds, again.out) == (benchmark.num_samples, benchmark.seeds, None)


def test_folders_of_a_suite_that_had_other_tasks_go_on(tmp_path):
    """`gue` was 29 tasks once, with DeepSEA."""
    new = build({"suite": "gue-deepsea", "models": ("opt-125m",)})
    old = {**new.stored(tmp_path), "suite": "gue"}
    resumed = restore(old, {})
    assert (resumed.suite, len(resumed.tasks)) == ("gue", 29)
    assert resumed.identity()["tasks"] == list(SUITES["gue-deepsea"])
    assert build(read_settings(json.dumps(old), "plan.json")).tasks == new.tasks
    assert build(read_settings(resumed.repeat(), "settings.yaml")).tasks == new.tasks
    assert build({"suite": "gue", "models": ("opt-125m",)}).identity() != resumed.identity()


def test_missing_data_is_left_out_where_that_is_asked_for(tmp_path):
    write_task(tmp_path / "gue")
    options = {"suite": "gue", "methods": ("kmer_logreg",), "data_dir": tmp_path / "gue"}
    with pytest.raises(InputError) as refused:
        plan(build(options))
    assert len(refused.value.problems) == 27
    found = plan(build({**options, "skip_missing": True}))
    assert [study.task.name for study in found.studies] == ["mouse/2"]
    left = [line for line in found.notes if line.startswith("--skip-missing leaves out ")]
    assert len(left) == 27 and any("EMP/H3:" in line for line in left)
    assert found.identity == plan(build({**options, "skip_missing": True, "suite": "gue"})).identity
    assert build({**options, "skip_missing": True}).identity() == build(options).identity()
    with pytest.raises(InputError, match="leaves no task"):
        plan(build({**options, "skip_missing": True, "data_dir": tmp_path}))
    (tmp_path / "gue" / "mouse" / "2" / "dev.csv").unlink()
    with pytest.raises(InputError, match=r"dev\.csv: missing"):
        plan(build({**options, "skip_missing": True}))


@pytest.mark.parametrize("name", ["", "/etc", "a\nb", "x.", "é" * 101, "-a"])
def test_a_name_that_is_no_folder_is_refused(name):
    with pytest.raises(InputError, match="`--name`"):
        build({**OPTIONS, "name": name})
