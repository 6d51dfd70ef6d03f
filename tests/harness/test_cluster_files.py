"""The cluster files in `clusters/`, and what is refused in others."""

import itertools
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from harness.cli import app
from harness.cluster import coming_nodes, joins
from harness.cluster_aws_checks import quota_code
from harness.cluster_checks import placeholders, schema_problems, unsafe
from harness.cluster_files import read_cluster, read_prices
from harness.cluster_home import differing, rehome
from harness.cluster_inputs import PROGRAM, program, shipment
from harness.config import build
from harness.environment import git_state
from harness.errors import InputError
from harness.machine import GROUP_GIB, Node, lay_out

CLUSTERS = Path(__file__).resolve().parents[2] / "clusters"
LAUNCHED = ["aws", "gcp", "azure", "on-premises", "local"]


def changed(tmp_path, name, change):
    config = yaml.safe_load((CLUSTERS / f"{name}.yaml").read_text())
    change(config)
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_takes_each_file_as_it_is(name):
    file = read_cluster(CLUSTERS / f"{name}.yaml", filled_in=False)
    assert list(schema_problems(file.path, file.config)) == []
    assert list(unsafe(file.path, file.config)) == []


@pytest.mark.parametrize("name", ["aws", "gcp", "azure"])
def test_clouds_have_a_head_that_stays_spot_workers_and_a_fallback(name):
    file = read_cluster(CLUSTERS / f"{name}.yaml", filled_in=False)
    head, *workers = file.kinds
    assert not head.spot and head.most == 1
    assert [kind.spot for kind in workers] == [True, False]
    assert len({kind.instance for kind in workers}) == 1
    assert file.config["idle_timeout_minutes"] <= 10
    assert file.config["provider"]["cache_stopped_nodes"] is False
    assert all(kind.price is not None for kind in file.kinds)
    dearest = max(kind.price for kind in workers)
    assert file.ceiling() == pytest.approx(head.price + 8 * dearest)


@pytest.mark.parametrize("name", LAUNCHED)
def test_every_block_of_a_file_is_explained(name):
    text = (CLUSTERS / f"{name}.yaml").read_text()
    assert "costs" in text and "needs" in text and text.count("#") > 12


def test_nodes_install_what_the_project_asks_for():
    wanted = tomllib.loads((CLUSTERS.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    lines = (CLUSTERS / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == wanted


def test_kuberay_is_a_rayjob_with_a_token_from_a_secret():
    job = yaml.safe_load((CLUSTERS / "kuberay.yaml").read_text())
    assert (job["kind"], job["spec"]["rayClusterSpec"]["rayVersion"]) == ("RayJob", "2.60.0")
    spec = job["spec"]["rayClusterSpec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        environment = {row["name"]: row for row in container["env"]}
        assert environment["RAY_AUTH_MODE"]["value"] == "token"
        assert "secretKeyRef" in environment["RAY_AUTH_TOKEN"]["valueFrom"]
        assert container["resources"]["limits"] == container["resources"]["requests"]


def test_slurm_is_a_shell_script():
    path = CLUSTERS / "slurm.sbatch"
    assert subprocess.run(["bash", "-n", str(path)]).returncode == 0
    assert "RAY_AUTH_MODE=token" in path.read_text()


def test_every_problem_of_a_file_at_once(tmp_path):
    def spoil(config):
        config["idle_timeout_minutes"] = "soon"
        config["head_start_ray_commands"][1] = "ray start --head --dashboard-host=0.0.0.0"
        rule = {"FromPort": 22, "ToPort": 8265, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
        config["provider"]["security_group"]["IpPermissions"] = [rule]

    with pytest.raises(InputError) as refused:
        read_cluster(changed(tmp_path, "aws", spoil))
    text = "\n".join(refused.value.problems)
    for part in (
        "idle_timeout_minutes",
        "--dashboard-host=0.0.0.0",
        "RAY_AUTH_MODE=token",
        "22-8265",
        "world",
    ):
        assert part in text, text
    assert all("aws.yaml" in line for line in refused.value.problems)


@pytest.mark.parametrize(
    "text,says", [("a: [", "no YAML"), ("a: 1", "a `provider`"), ("provider: {type: gpc}", "gcp")]
)
def test_what_is_no_cluster_file(tmp_path, text, says):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(says)):
        read_cluster(path)


def test_words_to_fill_in_are_named_with_their_line(tmp_path):
    assert [line.split(": ")[0].rsplit(":", 1)[1] for line in placeholders(CLUSTERS / "on-premises.yaml")]
    with pytest.raises(InputError, match=r"on-premises.yaml:\d+: 192.0.2.10"):
        read_cluster(CLUSTERS / "on-premises.yaml")


def test_prices_are_numbers(tmp_path):
    assert read_prices()["m6i.2xlarge"] > 0
    (tmp_path / "p.yaml").write_text("dollars_per_hour: {x: cheap}")
    with pytest.raises(InputError, match="price of x"):
        read_prices(tmp_path / "p.yaml")


@pytest.mark.parametrize("name", LAUNCHED)
def test_dry_run_says_everything_and_needs_no_credentials(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(variable, raising=False)
    result = CliRunner().invoke(app, ["--cluster", str(CLUSTERS / f"{name}.yaml"), "--dry-run"])
    assert result.exit_code == 0, result.output
    for part in (
        "Cost",
        "ray up",
        "requirements.txt",
        "python run_benchmark.py run --cluster auto",
        "ray down",
    ):
        assert part in result.output, result.output
    assert not (tmp_path / ".ray").exists()  # not even a token is made


def test_a_dry_run_here_starts_nothing():
    result = CliRunner().invoke(app, ["--dry-run"])
    assert result.exit_code == 2


def test_the_job_runs_what_was_asked_for_here(tmp_path):
    model, data = tmp_path / "opt", tmp_path / "GUE"
    model.mkdir()
    (data / "mouse" / "2").mkdir(parents=True)
    options = {"tasks": ("mouse/2",), "models": (str(model),), "data_dir": data, "seeds": (3, 4)}
    benchmark = build({**options, "drop_leaks": True, "batch_size": 4, "max_cost": 5.0, "cluster": "c.yaml"})
    sent = shipment(benchmark, "/home/me/lingo/inputs", "/home/me/lingo/runs/x")
    words = list(sent.arguments)
    assert words[:5] == ["run", "--cluster", "auto", "--out", "/home/me/lingo/runs/x"]
    value = dict(itertools.pairwise(words))
    assert value["--seeds"] == "3,4" and value["--batch-size"] == "4" and "--drop-leaks" in words
    assert value["--models"].endswith("/opt") and value["--models"].startswith("/home/me/lingo/inputs/")
    assert {item.local.name for item in sent.sent} == {"opt", "2"}
    assert sorted(item.folder for item in sent.sent) == sorted(
        [value["--models"], f"{value['--data-dir']}/mouse/2"]
    )


def test_the_program_that_is_sent_is_small_and_knows_its_commit(tmp_path):
    (tmp_path / "program").mkdir()
    folder = program(tmp_path / "program")
    names = {path.name for path in folder.iterdir()}
    assert names == {*PROGRAM, "commit.json"} and not list(folder.rglob("__pycache__"))
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 5e6
    assert git_state(folder) == git_state(CLUSTERS.parent)
    (folder / "commit.json").write_text("[]")
    assert git_state(folder) == (None, None)


def test_a_password_in_an_address_is_refused():
    benchmark = build({"tracking_uri": "postgresql://me:secret@db.example/x", "cluster": "c.yaml"})
    with pytest.raises(InputError, match="--tracking-uri") as refused:
        shipment(benchmark, "~/lingo/inputs", "x")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "cluster,driven_here",
    [(None, True), ("auto", True), ("ray://head:10001", True), ("c.yaml", False), ("http://h:8265", False)],
)
def test_who_drives(cluster, driven_here):
    assert joins(cluster) is driven_here


def test_groups_on_the_nodes_of_a_cluster():
    head, gpus = Node(cpus=0, gpus=0), Node(cpus=8, gpus=2)
    lay = lay_out([head, gpus, gpus], workers=1)
    assert (lay.groups, lay.cpus, lay.gpus) == (4, 4, 1)
    assert lay_out([gpus, gpus], workers=2).groups == 2
    assert lay_out([gpus, gpus], workers=1, at_most=3).groups == 3
    plain = lay_out([Node(cpus=4, gpus=0), Node(cpus=4, gpus=0, gibibytes=2 * GROUP_GIB)], workers=1)
    assert (plain.groups, plain.cpus, plain.gpus) == (6, 1, 0)


def test_nodes_that_the_autoscaler_may_still_start(tmp_path):
    config = yaml.safe_load((CLUSTERS / "aws.yaml").read_text())
    path = tmp_path / "ray_bootstrap_config.yaml"
    path.write_text(yaml.safe_dump(config))
    head, worker = Node(cpus=0, gpus=0), Node(cpus=8, gpus=1)
    assert len(coming_nodes([head], path)) == 8
    assert coming_nodes([head, worker, worker], path) == [Node(cpus=8, gpus=1)] * 6
    assert coming_nodes([head], tmp_path / "none.yaml") == []


def test_quota_codes():
    assert quota_code("g6.2xlarge", True) == "L-3819A6DF"
    assert quota_code("p4d.24xlarge", False) == "L-417A185B"
    assert quota_code("m6i.2xlarge", False) == "L-1216C47A"


def test_files_that_did_not_come_home_are_named(tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    one = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    assert differing({"a": one, "b": one, "c": one}, tmp_path) == ["b", "c"]


def test_mlflow_finds_its_artifacts_at_home(tmp_path):
    import sqlite3

    database = tmp_path / "mlflow.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE runs (artifact_uri TEXT)")
        connection.execute("INSERT INTO runs VALUES ('file:///root/lingo/runs/x/mlartifacts/1')")
    assert rehome(database, "/root/lingo/runs/x", "/home/me/x") == 1
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT * FROM runs").fetchall() == [("file:///home/me/x/mlartifacts/1",)]
