"""A disk that fills up while the real command runs, and has room again when the run goes on."""

import subprocess

import pytest

from harness.runs.store import load
from tests.support.real_runs import finish, generations, start, until

OPTIONS = [
    *("--tasks", "quickstart/promoter", "--models", "quickstart-opt", "--methods", "ars", "--epochs", "8"),
    *("--num-samples", "3", "--seeds", "0", "--limit", "160", "--pack", "2", "--scheduler", "none"),
]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 100 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder):
    """Leave no room at all."""
    with (folder / "filler").open("wb", buffering=0) as filler:
        for size in (1 << 20, 4096, 1):
            try:
                while filler.write(b"x" * size) == size:
                    pass
            except OSError:
                continue


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_full_disk_stops_the_command_and_resume_goes_on(small_disk):
    out = small_disk / "out"
    driver = start(*OPTIONS, "--out", str(out))
    try:
        until(lambda: generations(out), driver)
        fill(small_disk)
        printed, _ = driver.communicate(timeout=200)
    finally:
        driver.kill()
    assert driver.returncode == 1, printed
    words = " ".join(printed.split())
    assert "No space left on device" in words and "resume" in words and "Traceback" not in words
    before = {record.id: record for record in load(out)}
    (small_disk / "filler").unlink()
    finish("resume", str(out))
    after = {record.id: record for record in load(out)}
    assert len(after) == 4 and {record.status for record in after.values()} == {"finished"}
    assert all(after[name] == record for name, record in before.items())  # what had ended is not run again
