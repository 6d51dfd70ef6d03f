"""What each cloud provider's checks before a start must do: one line for each thing that the cloud refuses."""

import copy
import json
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from harness.cluster.file import ClusterFile, read_cluster

CLUSTERS = Path(__file__).resolve().parents[2] / "clusters"


@dataclass
class Account:
    """What an account at a cloud has, in the words that all clouds share.

    Attributes:
        login: Whether the credentials are accepted.
        lacking: Machine types that the place does not have.
        image: Whether the image is there.
        free: Machines of a kind that the quota has room for, by price (spot or not).
    """

    login: bool = True
    lacking: tuple[str, ...] = ()
    image: bool = True
    free: dict[bool, int] = field(default_factory=lambda: {True: 1000, False: 1000})


class CloudContract:
    """Every provider inherits these; it only says how its cloud answers for an account."""

    name: str
    gpu_machine: str
    login_cure: str

    @pytest.fixture
    def problems(self, tmp_path, monkeypatch) -> Callable[[Account], tuple[list[str], list[str]]]:
        """(problems, notes) for an account."""

        def look(account: Account) -> tuple[list[str], list[str]]:
            notes: list[str] = []
            found = list(self.look(self.file(), account, notes.append, tmp_path, monkeypatch))
            assert all("\n" not in line and "Traceback" not in line for line in [*found, *notes])
            return found, notes

        return look

    def provider(self) -> dict[str, Any]:
        """What a user fills in of `provider` in the cluster file."""
        return {}

    def file(self) -> ClusterFile:
        read = read_cluster(CLUSTERS / f"{self.name}.yaml", filled_in=False)
        config = copy.deepcopy(read.config)
        config["provider"].update(self.provider())
        return ClusterFile(path=read.path, config=config, kinds=read.kinds)

    def look(self, file, account, note, folder, monkeypatch):
        raise NotImplementedError

    def test_an_account_with_everything_has_no_problem(self, problems):
        assert problems(Account()) == ([], [])

    def test_without_credentials_one_line_names_the_cure(self, problems):
        (line,), _ = problems(Account(login=False))
        assert self.login_cure in line

    def test_a_machine_type_that_the_place_lacks_is_named_with_the_file(self, problems):
        found, _ = problems(Account(lacking=(self.gpu_machine,)))
        assert any(self.gpu_machine in line and f"{self.name}.yaml" in line for line in found)

    def test_an_image_that_is_not_there_is_told_beside_the_rest(self, problems):
        found, _ = problems(Account(image=False, lacking=(self.gpu_machine,)))
        assert any("image" in line for line in found) and any("image" not in line for line in found)

    def test_no_quota_for_one_machine_is_a_problem_with_the_way_to_ask(self, problems):
        found, _ = problems(Account(free={True: 0, False: 1000}))
        assert found and all("spot" in line and "quota" in line and "request more" in line for line in found)

    def test_a_quota_for_some_machines_is_a_note_with_their_number(self, problems):
        found, notes = problems(Account(free={True: 2, False: 1000}))
        assert found == [] and len(notes) == 1 and "2 of 8 gpu-spot" in notes[0]


class TestAws(CloudContract):
    name, gpu_machine, login_cure = "aws", "g6.2xlarge", "aws configure"
    cpus = 8

    def look(self, file, account, note, folder, monkeypatch):
        botocore = pytest.importorskip("botocore.exceptions")
        from harness.cluster.providers import aws_checks

        def refused(*_: Any, **__: Any) -> None:
            raise botocore.NoCredentialsError

        def quota(ServiceCode: str, QuotaCode: str) -> dict[str, Any]:
            spot = QuotaCode in {codes[1] for codes in aws_checks.QUOTAS.values()}
            return {"Quota": {"Value": float(account.free[spot] * self.cpus)}}

        zones = [{"ZoneName": f"us-west-2{letter}"} for letter in "abcd"]
        kinds = {kind.instance for kind in file.kinds} - set(account.lacking)
        ec2 = SimpleNamespace(
            describe_availability_zones=lambda: {"AvailabilityZones": zones},
            describe_vpcs=lambda **_: {"Vpcs": [{"VpcId": "vpc-1"}]},
            describe_images=lambda **_: {"Images": [{}] if account.image else []},
            describe_instance_type_offerings=lambda **_: {
                "InstanceTypeOfferings": [{"InstanceType": kind} for kind in kinds]
            },
            describe_instance_types=lambda **_: {
                "InstanceTypes": [{"VCpuInfo": {"DefaultVCpus": self.cpus}}]
            },
        )
        services = {
            "sts": SimpleNamespace(get_caller_identity=(lambda: {}) if account.login else refused),
            "ec2": ec2,
            "service-quotas": SimpleNamespace(get_service_quota=quota),
        }
        monkeypatch.setattr(aws_checks, "clients", lambda config: services.__getitem__)
        monkeypatch.setattr(aws_checks, "image_id", lambda image, client: "ami-1")
        return aws_checks.aws_problems(file, note)


class TestGoogle(CloudContract):
    name, gpu_machine, login_cure = "gcp", "g2-standard-8", "gcloud auth application-default login"

    def provider(self):
        return {"project_id": "my-project"}

    def look(self, file, account, note, folder, monkeypatch):
        from harness.cluster.providers import gcp

        class GoogleAuthError(Exception):
            """Of the library that stands in here."""

        def login(**_: Any) -> tuple[Any, str]:
            if not account.login:
                raise GoogleAuthError("none were found")
            return object(), "my-project"

        def request(kind: str, words: dict[str, str]) -> SimpleNamespace:
            there = words.get("machineType") not in account.lacking and (kind != "images" or account.image)

            def execute() -> dict[str, Any]:
                if not there:
                    error = Exception("HTTP")
                    error.resp = SimpleNamespace(status=404)  # type: ignore[attr-defined]
                    raise error
                quotas = [
                    {"metric": f"{'PREEMPTIBLE_' if spot else ''}{metric}", "limit": float(free)}
                    for metric in gcp.GPUS.values()
                    for spot, free in account.free.items()
                ]
                return {"quotas": quotas}

            return SimpleNamespace(execute=execute)

        class Compute:
            def __getattr__(self, kind: str) -> Callable[[], Any]:
                def ask(**words: str) -> Any:
                    return request(kind, words)

                return lambda: SimpleNamespace(get=ask, getFromFamily=ask)

        discovery = SimpleNamespace(build=lambda *_, **__: Compute())
        for module, content in {  # Google's libraries are optional
            "google": {},
            "google.auth": {"default": login},
            "google.auth.exceptions": {"GoogleAuthError": GoogleAuthError},
            "googleapiclient": {"discovery": discovery},
            "httplib2": {"HttpLib2Error": GoogleAuthError},
        }.items():
            stand_in = ModuleType(module)
            vars(stand_in).update(content)
            monkeypatch.setitem(sys.modules, module, stand_in)
        monkeypatch.setattr(sys.modules["google"], "auth", sys.modules["google.auth"], raising=False)
        return gcp.google_problems(file, note)


class TestAzure(CloudContract):
    name, gpu_machine, login_cure = "azure", "Standard_NC8as_T4_v3", "az login"
    cpus = 8

    def provider(self):
        return {"subscription_id": "0000-1111", "location": "westus2"}

    def look(self, file, account, note, folder, monkeypatch):
        from harness.cluster.providers.azure import azure_problems

        families = {kind.instance: f"family{number}" for number, kind in enumerate(file.kinds)}
        skus = [
            {"name": name, "family": family, "capabilities": [{"name": "vCPUs", "value": str(self.cpus)}]}
            for name, family in families.items()
            if name not in account.lacking
        ]
        limits = dict.fromkeys(families.values(), account.free[False])
        limits["lowPriorityCores"] = account.free[True]
        usage = [
            {"name": {"value": name}, "limit": free * self.cpus, "currentValue": 0}
            for name, free in limits.items()
        ]
        answers: dict[str, Any] = {
            "account show": {} if account.login else None,
            "account list-locations": [{"name": "westus2"}],
            "vm image": {} if account.image else None,
            "vm list-skus": skus,
            "vm list-usage": usage,
        }
        lines = ["#!/bin/sh", 'case "$1 $2" in']
        for number, (words, answer) in enumerate(answers.items()):
            (folder / f"answer{number}").write_text(json.dumps(answer))
            refusal = 'echo "ERROR: not allowed" >&2; exit 1'
            lines.append(f'"{words}") {refusal if answer is None else f"cat {folder}/answer{number}"};;')
        script = folder / "az"
        script.write_text("\n".join([*lines, "esac"]) + "\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        return azure_problems(file, note)
