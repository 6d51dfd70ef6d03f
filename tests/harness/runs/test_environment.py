"""Facts of the environment: plain data, and honest about changed checkouts."""

import json
import subprocess

import torch

from harness.runs.environment import capture, git_state


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_versions_and_device():
    found = capture()
    assert torch.__version__.startswith(found.versions["torch"].partition("+")[0])
    assert {"python", "ray", "mlflow", "optuna"} <= set(found.versions)
    assert found.device["cores"] >= 1
    assert found.device["memory_gib"] > 0
    assert set(found.device) == {"system", "machine", "processor", "cores", "memory_gib", "accelerators"}
    json.dumps(found.to_dict())


def test_a_clean_then_changed_checkout(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("one")
    assert git_state(tmp_path) == (None, False)
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "one")
    sha, dirty = git_state(tmp_path)
    assert (len(sha), dirty) == (40, False)
    (tmp_path / "untracked").write_text("")
    assert git_state(tmp_path) == (sha, False)
    (tmp_path / "file").write_text("two")
    assert git_state(tmp_path) == (sha, True)


def test_no_checkout(tmp_path):
    assert git_state(tmp_path) == (None, None)
