"""The cluster files in `clusters/`, and what is refused in others."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from harness.cli.main import app
from harness.cluster.download import differing
from harness.cluster.file import read_cluster, read_prices
from harness.cluster.file_checks import placeholders, schema_problems, unsafe
from harness.cluster.providers.aws_checks import quota_code
from harness.cluster.upload import PROGRAM, program, program_problems, shipment
from harness.config.build import build
from harness.core.cluster_address import joins
from harness.core.errors import InputError
from harness.pool.resources import GROUP_GIB, NodeResources, coming_nodes, layout_on
from harness.runs.environment import git_state

CLUSTERS = Path(__file__).resolve().parents[3] / "clusters"
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


@pytest.mark.parametrize("name", [*LAUNCHED, "kuberay"])
def test_every_line_of_a_file_is_explained(name):
    """By a comment behind it or above it; what only holds others needs none."""
    above, bare = "", []
    for line in (CLUSTERS / f"{name}.yaml").read_text().splitlines():
        text = line.strip()
        said = not text or "#" in line or above.startswith("#")
        if not said and text not in ("spec:", "template:", "containers:"):
            bare.append(text)
        above = text
    assert bare == []
    text = (CLUSTERS / f"{name}.yaml").read_text()
    assert "# Cost: " in text and "Requirements: " in text


def test_machines_of_one_cluster_get_the_same_versions_whenever_they_come():
    days = set()
    for name in LAUNCHED:
        commands = yaml.safe_load((CLUSTERS / f"{name}.yaml").read_text())["setup_commands"]
        (line,) = [command for command in commands if "requirements.txt" in command]
        days |= set(re.findall(r"uv pip install .*--exclude-newer (\d{4}-\d\d-\d\d) ", line))
        assert len(days) == 1, name


def extra(name):
    return tomllib.loads((CLUSTERS.parent / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ][name]


@pytest.mark.parametrize("name", ["aws", "gcp", "azure"])
def test_the_head_has_the_libraries_that_this_machine_is_asked_for(name):
    (line,) = [
        row
        for row in yaml.safe_load((CLUSTERS / f"{name}.yaml").read_text())["setup_commands"]
        if "install" in row and "requirements" in row
    ]
    there = {word.strip("'") for word in line.split("requirements.txt")[1].split()}
    here = {re.split(r"[<>=]", row)[0] for row in extra(name)}
    assert {re.split(r"[<>=]", word)[0] for word in there} <= here
    assert all(word in extra(name) for word in there if re.search(r"[<>=]", word))
    text = "".join(path.read_text() for path in (CLUSTERS / "README.md", CLUSTERS / f"{name}.yaml"))
    assert text.count(f"lingo-bench[{name}]") >= 1


@pytest.mark.parametrize(
    "name,module,needs",
    [
        ("gcp", "ray.autoscaler._private.gcp.node_provider", "googleapiclient"),
        ("azure", "ray.autoscaler._private._azure.node_provider", "azure.mgmt.compute"),
        ("aws", "ray.autoscaler._private.aws.node_provider", "boto3"),
    ],
)
def test_rays_provider_is_there_with_the_extra(name, module, needs):
    pytest.importorskip(needs, reason=f"needs lingo-bench[{name}]", exc_type=ImportError)
    importlib.import_module(module)
    importlib.import_module(module.replace("node_provider", "config"))


def test_nodes_install_what_the_project_asks_for():
    wanted = tomllib.loads((CLUSTERS.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    lines = (CLUSTERS / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == wanted


KUBERAY = {
    "": "apiVersion kind metadata spec",
    "spec": """activeDeadlineSeconds backoffLimit clusterSelector deletionStrategy entrypoint entrypointNumCpus
        entrypointNumGpus entrypointResources jobId managedBy metadata preRunningDeadlineSeconds rayClusterSpec
        runtimeEnvYAML shutdownAfterJobFinishes submissionMode submitterConfig submitterPodTemplate suspend
        ttlSecondsAfterFinished""",
    "spec.rayClusterSpec": """authOptions autoscalerOptions enableInTreeAutoscaling gcsFaultToleranceOptions
        headGroupSpec headServiceAnnotations managedBy rayVersion suspend upgradeStrategy workerGroupSpecs""",
    "spec.rayClusterSpec.autoscalerOptions": """env envFrom idleTimeoutSeconds image imagePullPolicy resources
        securityContext upscalingMode version volumeMounts""",
    "spec.rayClusterSpec.authOptions": "enableK8sTokenAuth mode secretName",
    "head": "enableIngress headService labels rayStartParams resources serviceType template",
    "worker": """groupName idleTimeoutSeconds labels maxReplicas minReplicas numOfHosts rayStartParams replicas
        resources scaleStrategy suspend template""",
}
"""Settings that KubeRay has: https://docs.ray.io/en/master/cluster/kubernetes/references/api.html, KubeRay 1.6."""


def test_kuberay_is_a_rayjob_with_a_token():
    job = yaml.safe_load((CLUSTERS / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]["rayClusterSpec"]
    (workers,) = spec["workerGroupSpecs"]
    for where, names in KUBERAY.items():
        there = {"head": spec["headGroupSpec"], "worker": workers}.get(where, job)
        for part in where.split(".") if "spec" in where else ():
            there = there[part]
        assert set(there) <= set(names.split()), where
    installed = tomllib.loads((CLUSTERS.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    assert any(
        row.endswith("==" + spec["rayVersion"][:-1] + "*") for row in installed if row.startswith("ray[")
    )
    assert spec["authOptions"] == {"mode": "token"}
    assert job["spec"]["shutdownAfterJobFinishes"] and spec["autoscalerOptions"]["idleTimeoutSeconds"] <= 600
    assert job["spec"]["submissionMode"] in ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0" and workers["minReplicas"] == 0
    for group in (spec["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert [row["name"] for row in container["volumeMounts"]] == [row["name"] for row in pod["volumes"]]
    assert joins("auto") and "--cluster auto" in job["spec"]["entrypoint"]


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
    "text,says",
    [("a: [", "c.yaml:1: is not valid YAML"), ("a: 1", "a `provider`"), ("provider: {type: gpc}", "gcp")],
)
def test_what_is_no_cluster_file(tmp_path, text, says):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(says)):
        read_cluster(path)


def test_words_to_fill_in_are_named_with_their_line(tmp_path):
    assert [line.split(": ")[0].rsplit(":", 1)[1] for line in placeholders(CLUSTERS / "on-premises.yaml")]
    with pytest.raises(InputError, match=r"on-premises.yaml:\d+: .* 192.0.2.10"):
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
        '"cluster": "auto"',
        "python run_benchmark.py run --settings settings.json",
        "ray down",
    ):
        assert part in result.output, result.output
    assert not (tmp_path / ".ray").exists()  # not even a token is made


def test_a_dry_run_here_starts_nothing():
    result = CliRunner().invoke(app, ["--dry-run"])
    assert result.exit_code == 2


def test_a_program_that_is_not_whole_is_not_sent(tmp_path):
    assert program_problems() == []
    (tmp_path / "harness").mkdir()
    (line,) = program_problems(tmp_path, ("harness", "pyproject.toml"))
    assert f"{tmp_path} lacks pyproject.toml: run it in a checkout" in line


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
    head, gpus = NodeResources(cpus=0, gpus=0), NodeResources(cpus=8, gpus=2)
    lay = layout_on([head, gpus, gpus], workers=1)
    assert (lay.groups, lay.cpus, lay.gpus) == (4, 4, 1)
    assert layout_on([gpus, gpus], workers=2).groups == 2
    assert layout_on([gpus, gpus], workers=1, at_most=3).groups == 3
    plain = layout_on(
        [NodeResources(cpus=4, gpus=0), NodeResources(cpus=4, gpus=0, gibibytes=2 * GROUP_GIB)], workers=1
    )
    assert (plain.groups, plain.cpus, plain.gpus) == (6, 1, 0)


def test_nodes_that_the_autoscaler_may_still_start(tmp_path):
    config = yaml.safe_load((CLUSTERS / "aws.yaml").read_text())
    path = tmp_path / "ray_bootstrap_config.yaml"
    path.write_text(yaml.safe_dump(config))
    head, worker = NodeResources(cpus=0, gpus=0), NodeResources(cpus=8, gpus=1)
    assert len(coming_nodes([head], path)) == 8
    assert coming_nodes([head, worker, worker], path) == [NodeResources(cpus=8, gpus=1)] * 6
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
