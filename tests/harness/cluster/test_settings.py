"""What was asked for here is what the head of a cluster runs, setting by setting, and is refused here if it would be
refused there."""

import json
import subprocess
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import pytest
import yaml
from typer.testing import CliRunner

from harness.cli.main import app
from harness.cli.options import settings
from harness.cluster.upload import INPUTS, UNPACK, add_inputs, shipment
from harness.config.benchmark import DECLARED, SETTINGS, Benchmark
from harness.config.build import build
from harness.config.values import Learned
from harness.core.errors import InputError
from harness.data.find_tasks import find_tasks
from harness.data.tasks import SUITES
from harness.pipeline.resume import stored_benchmark

CLUSTERS = Path(__file__).resolve().parents[3] / "clusters"
RUN = "~/lingo/runs/x"
CONFIGURATION = {
    "task": "mouse/2",
    "method": "ars",
    "config": {"method": "ars", "p": 0.1, "bT": 2, "b0": 4, "targets": ["W_q", "W_v"]},
}
NAMED = {
    "suite": "quickstart",
    "name": "my run",
    "methods": ("ars", "kmer_logreg"),
    "objectives": ("score", "parameters"),
    "seeds": (7, 5),
    "shots": ("3", "all"),
    "similarity": 0.85,
    "target_modules": ("W_q", "W_v"),
    "configurations": (CONFIGURATION,),
    "learn_from": (
        Learned(
            backbone="opt-125m", method="ars", runs=("a",), tasks=("mouse/2",), points=({"p": 0.1, "bT": 2},)
        ),
    ),
    "time_budget": "1h30m",
    "study_time_budget": "45m",
    "ssh_from": "198.51.100.0/24",
    "keep_head": "30m",
    "machine_wait": "3h",
    "spot_wait": "5m",
    "cluster": "http://127.0.0.1:8265",
    "notify": "https://hooks.example/lingo",
    "storage_path": "s3://bucket/my folder",
    "out": Path("results/mine"),
    "tracking_uri": "https://mlflow.example:5000/x",
}
"""Values of settings whose type does not give one."""


def other(name):
    """A value of a setting that is not its default; a setting that is added later has one by its type, or fails."""
    if name in NAMED:
        return NAMED[name]
    field = Benchmark.model_fields[name]
    for one in (field.annotation, *get_args(field.annotation)):
        one = get_args(one)[0] if get_origin(one) is Annotated else one
        if get_origin(one) is Literal:
            return next(value for value in reversed(get_args(one)) if value != field.default)
        if one in (bool, int, float):
            return {bool: not field.default, int: 9, float: 0.5}[one]
    raise AssertionError(f"{name}: give it a value in NAMED")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, with a model, data, a task of one's own and a search space."""
    folder = tmp_path / "here"
    (folder / "my opt").mkdir(parents=True)
    (folder / "my opt" / "config.json").write_text("{}")
    (folder / "GUE" / "mouse" / "2").mkdir(parents=True)
    (folder / "GUE" / "mouse" / "2" / "train.csv").write_text("sequence,label\nACGT,0\n")
    (folder / "own.csv").write_text(
        "sequence,label\n" + "".join(f"{'ACGT'[n % 4] * n},{n % 2}\n" for n in range(9, 60))
    )
    (folder / "space.yaml").write_text("method: ars\nspace:\n  p: 0.1\n")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def head(tmp_path, monkeypatch):
    """What the head makes of a shipment, as a job does: files unpacked by its shell, settings read by its command."""

    def run(sent):
        job, home = tmp_path / "job", tmp_path / "head"
        home.mkdir()
        job.mkdir()
        monkeypatch.setenv("HOME", str(home))
        add_inputs(job, sent.sent)
        (job / SETTINGS).write_text(json.dumps(sent.settings))
        if sent.sent:
            subprocess.run(["bash", "-c", f"{UNPACK} true"], cwd=job, check=True)
        monkeypatch.chdir(job)
        command, _, option, file = sent.arguments
        assert (command, option) == ("run_benchmark.py", "--settings")
        return build(settings({**dict.fromkeys(DECLARED), "settings": Path(file)}))

    return run


@pytest.mark.parametrize("name", list(Benchmark.model_fields))
def test_each_setting_arrives_as_it_was_given(here, head, tmp_path, name):
    paths = {
        "tasks": (str(here / "own.csv"), "quickstart/promoter"),
        "models": (str(here / "my opt"), "opt-125m"),
        "data_dir": Path("GUE"),
        "search_spaces": (Path("space.yaml"),),
    }
    usual = {"tasks": ("mouse/2",), "models": ("opt-125m",), "cluster": "c.yaml", "price_per_hour": 2.5}
    needed = {"similarity": {"split": "homology"}, "data_seed": {"shots": ("3",)}}.get(name, {})
    asked = build(
        {
            **usual,
            **needed,
            name: paths.get(name) or other(name),
            **({"tasks": None} if name == "suite" else {}),
        }
    )
    default = Benchmark.model_fields[name].default
    assert getattr(asked, name) != default
    found = head(shipment(asked, INPUTS, RUN))
    home = tmp_path / "head" / "lingo"
    assert found.cluster == "auto" and found.out == home / "runs" / "x"
    for setting in set(Benchmark.model_fields) - {"cluster", "out", *paths}:
        assert getattr(found, setting) == getattr(asked, setting), setting
    assert len(found.tasks) == len(asked.tasks) and len(found.models) == len(asked.models)
    for mine, theirs in zip(asked.tasks + asked.models, found.tasks + found.models, strict=True):
        if mine.startswith("/"):
            assert Path(theirs).is_relative_to(home / "inputs") and Path(theirs).name == Path(mine).name
            assert Path(theirs).is_dir() or Path(theirs).read_text() == Path(mine).read_text()
        else:
            assert theirs == mine
    assert [file.read_text() for file in found.search_spaces] == [
        (here / file).read_text() for file in asked.search_spaces
    ]
    assert (found.data_dir is None) == (asked.data_dir is None)
    if found.data_dir is not None:
        assert (found.data_dir / "mouse" / "2" / "train.csv").read_text().startswith("sequence,label")


def test_a_file_of_configurations_goes_along(here, head):
    (here / "best.yaml").write_text(yaml.safe_dump({"configurations": [CONFIGURATION]}))
    options = {"tasks": "mouse/2", "models": "opt-125m", "methods": "ars", "cluster": "c.yaml"}
    asked = build(settings({**options, "configurations": here / "best.yaml"}))
    assert head(shipment(asked, INPUTS, RUN)).configurations == asked.configurations == (CONFIGURATION,)


def test_inputs_of_a_job_lie_where_the_next_job_finds_them(here, head):
    """A run folder goes on under the same names, though each job has a working directory of its own."""
    asked = build({"tasks": ("mouse/2",), "models": (str(here / "my opt"),), "cluster": "http://h:1"})
    more = asked.model_copy(update={"num_samples": 99})
    first, second = shipment(asked, INPUTS, RUN), shipment(more, INPUTS, RUN)
    assert first.settings["models"] == second.settings["models"]
    assert (
        head(first).identity() == build(settings({"settings": Path(SETTINGS), "num_samples": 99})).identity()
    )


def test_what_the_head_would_refuse_is_refused_before_anything_is_started(here):
    """A budget of money, and machines of one's own, which have no price."""
    command = ["--cluster", CLUSTERS / "on-premises.yaml", "--max-cost", "5", "--dry-run"]
    ended = CliRunner().invoke(app, [str(one) for one in command])
    assert ended.exit_code == 2 and "`--price-per-hour` is needed with `--max-cost`" in ended.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--search-space", "none.yaml"], "`--search-space` must be a file, but there is none at none.yaml"),
        (["--models", "opt-125n"], "opt-125m"),
        (["--config", "best.yaml"], "`--config` must have a configuration for one of the studies"),
    ],
)
def test_data_on_the_hub_hides_no_other_problem(here, options, says):
    other = {**CONFIGURATION, "task": "EMP/H3"}
    (here / "best.yaml").write_text(yaml.safe_dump({"configurations": [other]}))
    command = ["--cluster", CLUSTERS / "aws.yaml", "--tasks", "mouse/2", "--dry-run", *options]
    command += [] if "--models" in options else ["--models", "opt-125m"]
    ended = CliRunner().invoke(app, [str(one) for one in command])
    assert ended.exit_code == 2 and says in ended.stderr, ended.output


def test_a_dry_run_shows_every_setting_that_is_sent(here):
    (here / "best.yaml").write_text(yaml.safe_dump({"configurations": [CONFIGURATION]}))
    command = ["--cluster", CLUSTERS / "aws.yaml", "--tasks", "mouse/2", "--models", "opt-125m", "--dry-run"]
    command += ["--config", "best.yaml"]
    ended = CliRunner().invoke(app, [str(one) for one in command])
    assert ended.exit_code == 0, ended.output
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("Settings ")]
    said = json.loads(line.removeprefix("Settings"))
    assert said["configurations"] == [CONFIGURATION] and said["patience"] == 10
    assert not any(here.glob("results*"))


def test_a_run_goes_to_a_cluster_again_from_the_paths_of_this_machine(here, tmp_path):
    asked = build({"tasks": ("mouse/2",), "models": (str(here / "my opt"),), "data_dir": Path("GUE")})
    run = tmp_path / "run"
    (run / "cluster").mkdir(parents=True)
    there = asked.stored(Path("/head/x")) | {"models": ["/head/inputs/opt"], "data_dir": "/head/inputs/data"}
    (run / "plan.json").write_text(json.dumps({"settings": there}))
    (run / "cluster" / SETTINGS).write_text(json.dumps({"settings": asked.stored(run)}))
    again = stored_benchmark(run, {"cluster": "c.yaml", "num_samples": 99})
    assert again.models == asked.models and again.data_dir == here / "GUE" and again.num_samples == 99
    assert again.cluster == "c.yaml" and again.out == run
    assert stored_benchmark(run, {}).models == ("/head/inputs/opt",)


@pytest.mark.parametrize("text", ['{"suite": "quickstart", "epochs": 7}', "suite: quickstart\nepochs: 7\n"])
def test_a_file_of_settings_may_have_some_of_them(tmp_path, text):
    file = tmp_path / "s"
    file.write_text(text)
    benchmark = build(settings({"settings": file, "num_samples": 99}))
    assert (benchmark.epochs, benchmark.num_samples) == (7, 99)
    assert benchmark == build({"suite": "quickstart", "epochs": 7, "num_samples": 99})


@pytest.mark.parametrize("suite", list(SUITES))
def test_suites_name_tasks_as_settings_do(suite):
    assert tuple(row.name for row in find_tasks(SUITES[suite])) == SUITES[suite]


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        (None, {}, "`--settings` must be a file of text"),
        ("{", {}, "must be settings in JSON or YAML"),
        ("[]", {}, "must be settings in JSON or YAML"),
        ("a: [", {}, "must be settings in JSON or YAML"),
        ("epochs: 2026-01-01", {}, "`--epochs` must be valid"),
        ('{"epoch": 3}', {}, "unknown setting `epoch`. Nearest known: epochs"),
        ('{"epochs": 0}', {}, "`--epochs` must be at least 1, but got 0."),
        ('{"epochs": "3"}', {}, "`--epochs` must be valid"),
        ('{"tasks": ["EMP/H33"], "models": ["opt-125m"]}', {}, "'EMP/H33'. Nearest known: EMP/H3"),
        (
            '{"suite": "gue", "tasks": ["EMP/H3"], "models": ["opt-125m"]}',
            {},
            "`--suite` and `--tasks` exclude each other",
        ),
        ('{"epochs": 3}', {"epochs": 4}, "leave out `--epochs`, or write it into"),
        ('{"epochs": 3}', {"siblings": 4}, "leave out `--share-prefix`, or write it into"),
    ],
)
def test_a_file_of_settings_that_cannot_be_used(tmp_path, text, options, says):
    file = tmp_path / "s.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError) as refused:
        build(settings({"settings": file, **options}))
    assert len(refused.value.problems) == 1 and says in refused.value.problems[0]
