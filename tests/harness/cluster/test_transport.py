"""Files and addresses on their way to a head: what arrives there by rsync, and what cannot mean the same there."""

import io
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from harness.cli.main import app
from harness.cli.options import settings
from harness.cluster import addresses, finish, launch, run, ssh
from harness.cluster.addresses import loopback
from harness.cluster.file import read_cluster
from harness.cluster.follow import Screen
from harness.cluster.jobs_api import JobLost, Jobs
from harness.cluster.preview import inspect_cluster
from harness.cluster.session import Session
from harness.cluster.ssh import ShellError
from harness.cluster.upload import Sent, link_problems
from harness.config.benchmark import DECLARED, Benchmark
from harness.config.build import build
from harness.core.errors import InputError
from harness.data.find_tasks import find_tasks
from harness.progress.wire import SETTING

CLUSTERS = Path(__file__).resolve().parents[3] / "clusters"
CONFIGURATION = {"task": "mouse/2", "method": "ars", "config": {"method": "ars", "p": 0.1, "bT": 2, "b0": 4}}
SSH = """#!/bin/bash
while [[ $1 == -* ]]; do [[ $1 == -[il] ]] && shift; shift; done
shift
export HOME={home}
cd "$HOME" && exec bash -c "$*"
"""
"""In place of ssh: the command line runs here, as the remote shell would take it, in another home folder."""

SCALARS = {
    "num_samples": 9,
    "scope": "family",
    "searcher": "random",
    "scheduler": "hyperband",
    "time_budget": "1h30m",
    "max_gpu_hours": 2.5,
    "max_cost": 12.5,
    "study_time_budget": "45m",
    "price_per_hour": 3.25,
    "tracking_uri": "https://mlflow.example:5000/x",
    "storage_path": "s3://bucket/my folder",
    "seeds": [3, 1],
}


@pytest.fixture
def head(tmp_path, monkeypatch):
    """A head behind a stand-in for ssh; its session, and the home folder there."""
    if shutil.which("rsync") is None:
        pytest.skip("rsync is not installed")
    home, programs = tmp_path / "head", tmp_path / "bin"
    home.mkdir()
    programs.mkdir()
    (programs / "ssh").write_text(SSH.format(home=home))
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    return Session(out=tmp_path / "my rün", host="h", user="me").save(), home


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Models, data and files under names with spaces, quotes and letters beyond ASCII; the model as the hub's cache
    has it, by links."""
    folder = tmp_path / "Ma  thèse – it's 1 $HOME"
    cache = folder / "hub" / "models--a--opt"
    (cache / "blobs").mkdir(parents=True)
    (cache / "blobs" / "0f").write_text("{}")
    (cache / "snapshots" / "Größe").mkdir(parents=True)
    (cache / "snapshots" / "Größe" / "config.json").symlink_to("../../blobs/0f")
    (folder / "GUE" / "mouse").mkdir(parents=True)
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "train.csv").write_text("sequence,label\nACGT,0\n")
    (folder / "GUE" / "mouse" / "2").symlink_to(folder / "elsewhere")
    rows = "".join(f"{'ACGT'[n % 4] * n},{n}\n" for n in range(9, 60))
    (folder / "données.csv").write_text("sequence,nr\n" + rows)
    (folder / "étiquettes.csv").write_text("nr,label\n" + "".join(f"{n},{n % 2}\n" for n in range(9, 60)))
    for name, text in (("a", "method: ars\nspace:\n  p: 0.1\n"), ("ß b", "method: lora\nspace:\n  r: 4\n")):
        (folder / name).mkdir()
        (folder / name / "real.yaml").write_text(text)
        (folder / name / "space.yaml").symlink_to("real.yaml")
    (folder / "best.yaml").write_text(yaml.safe_dump({"configurations": [CONFIGURATION]}))
    monkeypatch.chdir(folder)
    return folder


def arrived(session, home, benchmark, tmp_path, monkeypatch):
    """The benchmark as the head's command reads it."""
    sent = run._ship(session, benchmark, Console(file=io.StringIO()))
    (tmp_path / "settings.json").write_text(json.dumps(sent.settings))
    monkeypatch.setenv("HOME", str(home))
    return build(settings({**dict.fromkeys(DECLARED), "settings": tmp_path / "settings.json"}))


def asked(folder):
    """The benchmark of a file of settings."""
    options = {
        **SCALARS,
        "tasks": ["mouse/2", f"{folder / 'données.csv'}?id=nr&labels={folder / 'étiquettes.csv'}"],
        "models": [str(folder / "hub" / "models--a--opt" / "snapshots" / "Größe"), "opt-125m"],
        "methods": ["ars", "lora"],
        "data_dir": "GUE",
        "search_spaces": ["a/space.yaml", str(folder / "ß b" / "space.yaml")],
        "configurations": [CONFIGURATION],
        "cluster": "c.yaml",
    }
    (folder / "settings.json").write_text(json.dumps(options))
    return build(settings({**dict.fromkeys(DECLARED), "settings": folder / "settings.json"}))


def test_all_settings_and_files_arrive_under_any_name(head, here, tmp_path, monkeypatch):
    session, home = head
    benchmark = asked(here)
    assert benchmark.configurations == (CONFIGURATION,) and benchmark.data_dir == Path("GUE")
    found = arrived(session, home, benchmark, tmp_path, monkeypatch)
    for name in set(Benchmark.model_fields) - {
        "cluster",
        "out",
        "tasks",
        "models",
        "data_dir",
        "search_spaces",
    }:
        assert getattr(found, name) == getattr(benchmark, name), name
    assert [file.read_text() for file in found.search_spaces] == [
        file.read_text() for file in benchmark.search_spaces
    ]
    model = Path(found.models[0])
    assert model.is_relative_to(home) and model.name == "Größe" and found.models[1] == "opt-125m"
    assert not (model / "config.json").is_symlink() and (model / "config.json").read_text() == "{}"
    assert (found.data_dir / "mouse" / "2" / "train.csv").read_text().startswith("sequence,label")
    own = find_tasks(found.tasks)[1]
    assert str(home) in own.source and own.kind == "classification" and own.num_labels == 2


def test_the_files_are_the_same_afterwards(head, here):
    """A shard, or a split, of an earlier time does not stay, and a copy that differs is told."""
    session, home = head
    there = home / "lingo" / "x"
    (here / "GUE" / "old.csv").write_text("stale")
    session.remote.push(here / "GUE", str(there), exact=True)
    (here / "GUE" / "old.csv").unlink()
    session.remote.push(here / "GUE", str(there), exact=True)
    assert sorted(path.name for path in there.rglob("*.csv")) == ["train.csv"]
    spoil = f"sleep 0; echo spoilt >{there}/mouse/2/train.csv"
    real = ssh.run

    def spoiling(command, **how):
        text = real(command, **how)
        if command[0] == "rsync" and "--checksum" not in command:
            subprocess.run(["bash", "-c", spoil], check=True)
        return text

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(ShellError, match=r"mouse/2/train\.csv differs on h"),
    ):
        patch.setattr(ssh, "run", spoiling)
        session.remote.push(here / "GUE", str(there), exact=True)


def test_links_that_cannot_be_sent_are_told_before_anything_is_started(here):
    (here / "GUE" / "lost").symlink_to("nowhere")
    (here / "GUE" / "up").symlink_to("..")
    lines = link_problems([Sent(here / "GUE", "x")])
    assert len(lines) == 2 and "lost: points to nowhere" in lines[0] and "up: points to a folder" in lines[1]
    options = ["--cluster", CLUSTERS / "aws.yaml", "--dry-run", "--models", here / "GUE", "--tasks", "EMP/H3"]
    ended = CliRunner().invoke(app, list(map(str, options)))
    assert ended.exit_code == 2 and "points to nowhere" in ended.stderr


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("http://127.0.0.1:5000", True),
        ("http://me:x@LOCALHOST/a", True),
        ("https://[::1]:5000", True),
        ("http://0.0.0.0:5000", True),
        ("postgresql://127.9.9.9/db", True),
        ("https://mlflow.example:5000", False),
        ("http://10.0.0.7:5000", False),
        ("databricks", False),
    ],
)
def test_what_loopback_is(address, own):
    assert loopback(address) is own


def cluster_of(tmp_path, name, **changes):
    """A cluster file without placeholders."""
    config = yaml.safe_load((CLUSTERS / name).read_text())
    for where, value in changes.items():
        config["provider" if where in ("head_ip", "worker_ips") else where] = (
            {**config["provider"], where: value} if where in ("head_ip", "worker_ips") else value
        )
    file = tmp_path / name
    file.write_text(yaml.safe_dump(config))
    return str(file)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"storage_path": "/home/me/results"},
            "would lie on the head's disk, which is deleted with it: use s3://",
        ),
        ({"storage_path": "file:///home/me/results"}, "would lie on the head's disk"),
        ({"storage_path": "~/results"}, "would lie on the head's disk"),
        ({"storage_path": "results"}, "must be a bucket or an absolute path"),
        ({"tracking_uri": "http://127.0.0.1:5000"}, "means this machine, and on the cluster's head another"),
        ({"tracking_uri": "sqlite:////home/me/mlflow.db"}, "means a file of this machine"),
    ],
)
def test_what_means_this_machine_is_refused_first(tmp_path, options, says):
    place = inspect_cluster(cluster_of(tmp_path, "aws.yaml"), dry_run=True, **options)
    assert len(place.problems) == 1 and says in place.problems[0], place.problems


def test_where_an_address_came_from_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    options = ["--cluster", str(CLUSTERS / "aws.yaml"), "--dry-run", "--storage-path", "/home/me/x"]
    ended = CliRunner().invoke(app, options)
    assert ended.exit_code == 2 and ended.stderr.startswith("2 problems") and "head's disk" in ended.stderr
    assert "(from MLFLOW_TRACKING_URI)" in ended.stderr
    assert "unset MLFLOW_TRACKING_URI" in ended.stderr


@pytest.mark.parametrize(
    ("name", "changes", "options"),
    [
        ("aws.yaml", {"setup_commands": ["sudo mount -t nfs4 fs-1:/ /efs"]}, {"storage_path": "/efs/runs"}),
        ("aws.yaml", {}, {"storage_path": "s3://bucket/x", "tracking_uri": "https://mlflow.example"}),
        ("on-premises.yaml", {"head_ip": "10.0.0.1", "worker_ips": []}, {"storage_path": "/nfs/runs"}),
        ("local.yaml", {}, {"storage_path": "/tmp/x", "tracking_uri": "http://127.0.0.1:5000"}),
    ],
)
def test_what_means_the_same_there_is_not(tmp_path, name, changes, options):
    place = inspect_cluster(cluster_of(tmp_path, name, **changes), dry_run=True, **options)
    assert place.problems == []
    assert ("is a folder of the cluster's head" in " ".join(place.notes)) is (name == "on-premises.yaml")


def test_a_folder_of_the_head_is_tried_there(head, tmp_path):
    _session, home = head
    file = read_cluster(Path(cluster_of(tmp_path, "on-premises.yaml", head_ip="10.0.0.1", worker_ips=[])))
    assert list(addresses.head_folder_problems("~/my runs", file)) == []
    assert (home / "my runs").is_dir() and not list((home / "my runs").iterdir())
    (home / "file").write_text("")
    (line,) = addresses.head_folder_problems("~/file/x", file)
    assert "lingo@10.0.0.1 cannot write there" in line and "Not a directory" in line


def test_the_reason_of_a_failed_start_is_shown():
    lines = [
        "  [4/7] Running setup commands",
        "    (0/2) chmod 600 ~/.ray/auth_token",
        "    (1/2) curl -LsSf https://astral.sh/uv/install.sh | sh",
        "curl: (6) Could not resolve host: astral.sh",
        "Shared connection to 10.0.0.1 closed.",
        "  New status: update-failed",
        "  !!!",
        "  Full traceback: Traceback (most recent call last):",
        "  Error message: SSH command failed.",
        "  !!!",
        "  Failed to setup head node.",
    ]
    assert launch.last_words(lines) == (
        "curl: (6) Could not resolve host: astral.sh (in the command "
        "`curl -LsSf https://astral.sh/uv/install.sh | sh`)"
    )
    assert launch.last_words([*lines[:3], *lines[5:]]) == "Error message: SSH command failed."


def test_the_end_names_this_machines_folders():
    text = io.StringIO()
    screen = Screen(Console(file=text, width=300), {"/home/ubuntu/lingo/runs/x-1f": "'/me/my run'"})
    screen.take("python run_benchmark.py report /home/ubuntu/lingo/runs/x-1f")
    assert text.getvalue().strip() == "python run_benchmark.py report '/me/my run'"


def test_no_results_are_not_called_results(head, monkeypatch):
    session, text = replace(head[0], folder="/r"), io.StringIO()
    monkeypatch.setattr(finish, "bring_home", lambda _: 0)
    assert finish._home(session, Console(file=text, width=300))
    assert text.getvalue().strip() == "The head has no results yet."


def test_what_root_brings_home_is_not_the_heads(head, tmp_path, monkeypatch):
    session, home = head
    (home / "x").mkdir()
    (home / "x" / "a").write_text("a")
    calls = []
    real = ssh.run
    monkeypatch.setattr(ssh, "run", lambda command, **how: calls.append(command) or real(command, **how))
    session.remote.pull(str(home / "x"), tmp_path / "mine")
    assert (tmp_path / "mine" / "a").read_text() == "a"
    assert {"--no-owner", "--no-group"} <= set(calls[-1])


def test_words_on_the_head_and_of_an_earlier_run(monkeypatch, tmp_path):
    monkeypatch.setenv(SETTING, "1")
    ended = CliRunner().invoke(app, ["--epochs", "0"])
    assert ended.exit_code == 2 and ended.stderr.startswith("1 problem; nothing was trained:")
    monkeypatch.delenv(SETTING)
    ended = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert ended.exit_code == 2 and ended.stderr.startswith("1 problem; nothing was changed:")


@pytest.mark.parametrize("ask", ["status", "logs", "ending"])
def test_a_job_of_an_earlier_ray_is_told_so(ask):
    class Client:
        def __getattr__(self, _):
            def refuse(job):
                raise RuntimeError("Request failed with status code 404: Job j does not exist.")

            return refuse

    jobs = Jobs.__new__(Jobs)
    jobs._client = Client()
    with pytest.raises(JobLost, match="no longer has the job j, because Ray was restarted there"):
        getattr(jobs, ask)("j")
    assert issubclass(JobLost, InputError)
