"""What Google Cloud and Azure refuse, told before a machine is started: their answers are played here."""

import copy
import json
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.cluster.file import ClusterFile, read_cluster
from harness.cluster.providers.azure import azure_problems
from harness.cluster.providers.gcp import compute_problems
from harness.cluster.providers.installed import cloud_problems

CLUSTERS = Path(__file__).resolve().parents[3] / "clusters"


def cluster(name, **provider):
    read = read_cluster(CLUSTERS / f"{name}.yaml", filled_in=False)
    config = copy.deepcopy(read.config)
    config["provider"].update(provider)
    return ClusterFile(path=read.path, config=config, kinds=read.kinds)


class HttpError(Exception):
    def __init__(self, status):
        super().__init__("HTTP")
        self.resp = SimpleNamespace(status=status)


class Compute:
    """Compute Engine as its client library shows it; `refused` maps a kind of question to the code it gets."""

    def __init__(self, limits=None, **refused):
        self.limits, self.refused, self.asked = limits or {}, refused, []

    def __getattr__(self, kind):
        def ask(**words):
            self.asked.append((kind, words))
            return SimpleNamespace(execute=lambda: self.answer(kind))

        return lambda: SimpleNamespace(get=ask, getFromFamily=ask)

    def answer(self, kind):
        if kind in self.refused:
            raise HttpError(self.refused[kind])
        return {"quotas": [{"metric": name, "limit": limit} for name, limit in self.limits.items()]}


ENOUGH = {"NVIDIA_L4_GPUS": 8.0, "PREEMPTIBLE_NVIDIA_L4_GPUS": 8.0}


def google(compute, **provider):
    notes = []
    file = cluster("gcp", **{"project_id": "my-project", **provider})
    return list(compute_problems(file, compute, notes.append)), notes


def test_a_google_project_that_has_everything():
    compute = Compute(ENOUGH)
    assert google(compute) == ([], [])
    asked = dict(compute.asked)
    assert asked["regions"] == {"project": "my-project", "region": "us-central1"}
    image = {"project": "deeplearning-platform-release", "family": "common-cu129-ubuntu-2204-nvidia-580"}
    assert asked["images"] == image
    machines = [words["machineType"] for kind, words in compute.asked if kind == "machineTypes"]
    assert machines == ["e2-standard-8", "g2-standard-8"]


def test_what_google_does_not_have_is_told_at_once():
    limits = {"NVIDIA_L4_GPUS": 0.0, "PREEMPTIBLE_NVIDIA_L4_GPUS": 3.0}
    problems, notes = google(Compute(limits, machineTypes=404, images=403))
    text = "\n".join(problems)
    for part in (
        "has no machine type e2-standard-8 in us-central1-a",
        "has no machine type g2-standard-8 in us-central1-a",
        "access denied",
        "gpu-on-demand needs 1 GPU of g2-standard-8, but the quota NVIDIA_L4_GPUS is 0",
    ):
        assert part in text, text
    assert len(problems) == 4 and notes == [
        "the quota PREEMPTIBLE_NVIDIA_L4_GPUS is 3: 3 of 8 gpu-spot at most."
    ]


@pytest.mark.parametrize(
    "status,says", [(404, "has no region nowhere"), (403, "access denied"), (500, "HTTP 500")]
)
def test_a_google_region_that_does_not_answer_is_all_that_is_told(status, says):
    ((line,), _) = google(Compute(regions=status), region="nowhere")
    assert says in line


def test_a_google_zone_of_another_region():
    ((line,), _) = google(Compute(ENOUGH), availability_zone="europe-west4-a")
    assert "must be a zone of us-central1, but got europe-west4-a" in line


def test_google_disks_lie_in_the_zone_of_their_machines():
    ((line,), _) = google(Compute(ENOUGH), availability_zone="us-central1-b")
    assert "`diskType` must be in us-central1-b" in line and "us-central1-a" in line


def test_libraries_that_are_missing_are_named_with_their_extra(monkeypatch):
    monkeypatch.setattr("harness.cluster.providers.installed._there", lambda module: module == "google.auth")
    (line,) = cloud_problems(cluster("gcp", project_id="x"), lambda line: None)
    assert "googleapiclient, google_auth_httplib2" in line and "pip install 'lingo-bench[gcp]'" in line


SKUS = [
    {"name": name, "family": family, "capabilities": [{"name": "vCPUs", "value": "8"}]}
    for name, family in (
        ("Standard_D8s_v5", "standardDSv5Family"),
        ("Standard_NC8as_T4_v3", "StandardNCASv3_T4Family"),
    )
]


@pytest.fixture
def azure(tmp_path, monkeypatch):
    """`az`, played: each answer by its first words; `None` is a refusal. What it was asked is in a file."""

    def play(**changes):
        answers = {
            "account show": {},
            "account list-locations": [{"name": "westus2"}, {"name": "westus3"}],
            "vm image": {},
            "vm list-skus": SKUS,
            "vm list-usage": [
                {"name": {"value": name}, "limit": limit, "currentValue": "0"}
                for name, limit in (
                    ("standardDSv5Family", 100),
                    ("StandardNCASv3_T4Family", 64),
                    ("lowPriorityCores", 64),
                )
            ],
        } | {key.replace("_", " ", 1).replace("_", "-"): value for key, value in changes.items()}
        lines = ["#!/bin/sh", f'echo "$@" >>{tmp_path}/asked', 'case "$1 $2" in']
        for number, (words, answer) in enumerate(answers.items()):
            (tmp_path / f"answer{number}").write_text(json.dumps(answer))
            refusal = f'echo "ERROR: {words} is not allowed" >&2; exit 1'
            lines.append(f'"{words}") {refusal if answer is None else f"cat {tmp_path}/answer{number}"};;')
        script = tmp_path / "az"
        script.write_text("\n".join([*lines, "esac"]) + "\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        notes = []
        provider = {"subscription_id": "0000-1111", "location": changes.pop("location", "westus2")}
        return list(azure_problems(cluster("azure", **provider), notes.append)), notes, tmp_path / "asked"

    return play


def test_an_azure_subscription_that_has_everything(azure):
    problems, notes, asked = azure()
    assert (problems, notes) == ([], [])
    urn = "--urn microsoft-dsvm:ubuntu-hpc:2204:latest --location westus2 --subscription 0000-1111"
    assert urn in asked.read_text()


def test_what_azure_does_not_have_is_told_at_once(azure):
    usage = [
        {"name": {"value": "lowPriorityCores"}, "limit": 24, "currentValue": 8},
        {"name": {"value": "StandardNCASv3_T4Family"}, "limit": 8, "currentValue": 8},
    ]
    problems, notes, _ = azure(vm_image=None, vm_list_skus=SKUS[1:], vm_list_usage=usage)
    text = "\n".join(problems)
    for part in (
        "westus2 shows no image microsoft-dsvm:ubuntu-hpc:2204:latest",
        "westus2 does not offer machine type Standard_D8s_v5",
        "gpu-on-demand needs 8 vCPUs of Standard_NC8as_T4_v3, but of the quota StandardNCASv3_T4Family 0 are free",
    ):
        assert part in text, text
    assert len(problems) == 3 and notes == [
        "of the quota lowPriorityCores 16 vCPUs are free: 2 of 8 gpu-spot at most."
    ]


def test_no_azure_account_and_no_azure_place(azure, monkeypatch, tmp_path):
    ((line,), _, _) = azure(account_show=None)
    assert "subscription 0000-1111 is not accessible" in line and "az login" in line
    ((line,), _, _) = azure(location="westus")
    assert "westus is not an Azure location. Nearest known: westus" in line
    ((line,), _, _) = azure(vm_list_skus=None)
    assert "machine types and quota cannot be read" in line
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    (line,) = azure_problems(cluster("azure", subscription_id="x"), lambda line: None)
    assert "install `az`" in line
