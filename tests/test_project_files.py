"""What is around the code: citation, container, public CI, issue forms, and the packages that pip installs."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def done(*words, **options):
    """A command's output; its output is the message if it fails."""
    ended = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=600, **options)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.citation-file-format", ["CITATION.cff"]),
        ("vendor.github-workflows", [".github/workflows/ci.yml"]),
        ("vendor.github-issue-config", [".github/ISSUE_TEMPLATE/config.yml"]),
        (
            "vendor.github-issue-forms",
            [".github/ISSUE_TEMPLATE/bug_report.yml", ".github/ISSUE_TEMPLATE/feature_request.yml"],
        ),
    ],
)
def test_files_of_public_formats_follow_their_schema(schema, files):
    pytest.importorskip("check_jsonschema")
    done(sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *files, cwd=ROOT)


def test_a_file_that_does_not_follow_its_schema_is_found(tmp_path):
    pytest.importorskip("check_jsonschema")
    (tmp_path / "CITATION.cff").write_text(yaml.safe_dump({**CITATION, "type": "telescope"}))
    with pytest.raises(AssertionError, match="telescope"):
        done(
            sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.citation-file-format",
            tmp_path / "CITATION.cff",
        )  # fmt: skip


def test_citation_package_and_readme_name_the_same():
    assert CITATION["version"] == PROJECT["version"] and CITATION["title"] == PROJECT["name"]
    assert CITATION["license"] == PROJECT["license"]
    assert CITATION["authors"] == PROJECT["authors"]
    paper = CITATION["preferred-citation"]
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert paper["title"] in readme and paper["url"] in readme and paper["url"] == PROJECT["urls"]["Paper"]
    assert all(one["family-names"] in readme for one in paper["authors"])


def test_public_ci_runs_the_script_and_the_python_versions_of_the_package():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    assert "bash .ci/run" in [step.get("run") for step in job["steps"]]
    versions = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert job["strategy"]["matrix"]["python-version"] == versions
    assert PROJECT["requires-python"] == f">={versions[0]},<3.{int(versions[-1].split('.')[1]) + 1}"


def test_the_container_file_passes_its_linter_and_installs_the_torch_of_the_package(tmp_path):
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint has no program for this kind of machine")
    done(hadolint, "--failure-threshold", "info", ROOT / "Dockerfile")
    torch = next(name for name in PROJECT["dependencies"] if name.startswith("torch=="))
    assert torch.replace(".*", ".0") in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN pip install torch\n")
    with pytest.raises(AssertionError, match="DL3013"):
        done(hadolint, tmp_path / "Dockerfile")


@pytest.mark.slow
def test_wheel_and_sdist_pass_twine_and_the_wheel_works_without_the_checkout(tmp_path):
    source, dist, installed = tmp_path / "source", tmp_path / "dist", tmp_path / "installed"
    for name in ("harness", "lingo", "search_spaces", "clusters"):  # building leaves files beside the sources
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "run_benchmark.py"):
        shutil.copy(ROOT / name, source)
    done(sys.executable, "-m", "build", "--outdir", dist, source)
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    assert done(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist).count("PASSED") == 2
    held = set(zipfile.ZipFile(wheel).namelist())
    for package in ("harness", "lingo", "search_spaces", "clusters"):
        for path in (ROOT / package).rglob("*"):
            name = path.relative_to(ROOT).as_posix()
            assert path.is_dir() or "__pycache__" in name or name in held, name
    with tarfile.open(sdist) as packed:
        assert {"README.md", "LICENSE", "pyproject.toml"} <= {Path(name).name for name in packed.getnames()}
    done(sys.executable, "-m", "pip", "install", "--no-deps", "--target", installed, wheel)
    elsewhere = {**os.environ, "PYTHONPATH": str(installed)}
    run = (sys.executable, installed / "bin" / "lingo-bench")
    assert PROJECT["version"] in done(*run, "--version", env=elsewhere, cwd=tmp_path)
    assert "ars" in done(*run, "list", "methods", env=elsewhere, cwd=tmp_path)
