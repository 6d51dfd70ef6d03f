"""The checks on a pretend device (`pretend_device.py`), in a process of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = Path(__file__).with_name("pretend_device.py")


@pytest.mark.parametrize("marked", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_devices_never_mix_and_steps_read_nothing_back(marked: str) -> None:
    options = ["-q", "-m", marked, "-p", "no:cacheprovider", str(CHECKS)]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *options], capture_output=True, text=True, cwd=CHECKS.parents[2]
    )
    assert not ended.returncode, ended.stdout[-6000:]
