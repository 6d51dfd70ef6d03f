"""The real command where a machine lacks something: a home, a short temporary path, a network, room; and beside
files of the user's that have the names of modules."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.runs.store import load
from tests.integration.test_full_disk import OPTIONS as LONGER
from tests.integration.test_full_disk import fill
from tests.support.real_runs import ROOT, generations, start, until

OPTIONS = [
    *("--tasks", "quickstart/promoter", "--models", "quickstart-opt", "--methods", "lora", "--epochs", "1"),
    *("--num-samples", "1", "--seeds", "0", "--limit", "64", "--max-concurrent", "1"),
]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def command(*words, prefix=(), cwd=None, seconds=600, **environment):
    """(exit code, output) of the command; a variable that is `None` is taken out."""
    bare = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    bare = {name: value for name, value in bare.items() if value is not None and name != "PYTHONPATH"}
    done = subprocess.run(
        [*prefix, sys.executable, str(ROOT / "run_benchmark.py"), *map(str, words)],
        cwd=cwd,
        env=bare,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )
    assert "Traceback" not in done.stdout, done.stdout
    return done.returncode, " ".join(done.stdout.split())


@pytest.fixture
def open_folder(tmp_path):
    """A folder that every account can reach and write to."""
    for parent in (tmp_path, *tmp_path.parents):
        if parent.owner() == Path.home().owner() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    tmp_path.chmod(0o1777)
    return tmp_path


@pytest.fixture
def small_temporary(tmp_path):
    """A temporary folder with a file system of its own, of 160 MiB; its path is short enough for Ray."""
    folder = Path("/tmp") / f"small-{os.getpid()}"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        folder.rmdir()
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
    folder.rmdir()


def stranger():
    """What runs a command as an account that has a number alone, and may read what the tests' account reads."""
    if os.geteuid() or shutil.which("setpriv") is None:
        pytest.skip("another account needs root and setpriv")
    capability = "-all,+dac_read_search"
    ids = ["--reuid", "12345", "--regid", "12345", "--clear-groups"]
    return ["setpriv", *ids, "--inh-caps", capability, "--ambient-caps", capability]


@pytest.mark.ray
def test_an_account_without_a_home_and_with_a_long_temporary_path_beside_files_named_as_modules(open_folder):
    temporary, work, out = open_folder / ("x" * 100), open_folder / "work", open_folder / "out"
    for folder in (temporary, work):
        folder.mkdir()
        folder.chmod(0o1777)
    for name in ("harness", "lingo", "data", "random", "ray", "torch", "numpy"):
        (work / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    none = dict.fromkeys(("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "HF_HOME", "XDG_CACHE_HOME"))
    before = set(Path("/tmp").glob("lingo-ray-*"))
    code, printed = command(
        *OPTIONS, "--out", out, prefix=stranger(), cwd=work, TMPDIR=str(temporary), RAY_TMPDIR=None, **none
    )
    assert code == 0, printed
    assert "HOME is not set" in printed and f"{temporary}/lingo-12345" in printed, printed
    assert {record.status for record in load(out)} == {"finished"}
    left = [folder for folder in set(Path("/tmp").glob("lingo-ray-*")) - before if folder.owner() == "12345"]
    assert left == []


def test_a_machine_that_cannot_reach_itself_says_so_at_once_and_so_does_doctor(tmp_path):
    alone = ["unshare", "--net"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("a network of one's own needs root")
    line = "This machine cannot reach itself at 127.0.0.1 (Network is unreachable)."
    for words in ([*OPTIONS, "--out", tmp_path / "out"], ["doctor", "--out", tmp_path / "out"]):
        code, printed = command(*words, prefix=alone, seconds=300)
        assert code == 1 and line in printed and "ip link set lo up" in printed, printed


def test_a_full_temporary_folder_is_told_before_anything_starts_and_so_does_doctor(small_temporary, tmp_path):
    fill(small_temporary)
    settings = {"TMPDIR": str(small_temporary), "RAY_TMPDIR": None}
    code, printed = command(*OPTIONS, "--out", tmp_path / "out", seconds=200, **settings)
    line = f"Ray's temporary folder, {small_temporary}, has 0 bytes free and needs 67.1 MB"
    assert code == 2 and line in printed and "RAY_TMPDIR" in printed, printed
    assert not (tmp_path / "out").exists()
    code, printed = command("doctor", "--out", tmp_path / "out", seconds=200, **settings)
    assert code == 1 and line in printed, printed


@pytest.mark.ray
def test_a_temporary_folder_that_fills_up_ends_the_run_with_its_name_and_resume_goes_on(
    small_temporary, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    monkeypatch.setenv("RAY_TMPDIR", str(small_temporary))
    driver = start(*LONGER, "--out", str(out))
    try:
        until(lambda: generations(out), driver, seconds=400)
        fill(small_temporary)
        printed, _ = driver.communicate(timeout=200)
    finally:
        driver.kill()
    words = " ".join(printed.split())
    assert driver.returncode == 1 and "Traceback" not in words, printed
    told = (
        rf"Stopped: Ray's temporary folder, {small_temporary}, has [\d.]+ \w+ free and needs .* resume {out}$"
    )
    assert re.search(told, words), printed
    (small_temporary / "filler").unlink()
    code, printed = command("resume", out)
    assert code == 0, printed
    assert {record.status for record in load(out)} == {"finished"}
    assert not list(
        small_temporary.glob("lingo-ray-*")
    )  # the stopped run's is swept, the other's goes with it
