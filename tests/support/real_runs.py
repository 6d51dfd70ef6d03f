"""The real command as a process that tests kill, fill the disk of, and let go on."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from harness.runs.store import load

ROOT = Path(__file__).resolve().parents[2]


def start(*words, prefix=(), **changed):
    """The command, below the words of `prefix`; a variable that is `None` is taken out of its environment."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **changed}
    return subprocess.Popen(
        [*prefix, sys.executable, str(ROOT / "run_benchmark.py"), *words],
        env={name: value for name, value in environment.items() if value is not None},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=bool(prefix),
    )


def finish(*words, seconds=400):
    process = start(*words)
    try:
        printed, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert process.returncode == 0, printed
    return printed


def table(out):
    """What must not depend on kills."""
    return {
        record.id: (record.status, record.dev, record.test, record.facts.get("kept_ranks"))
        for record in load(out)
    }


def workers(driver):
    found = []
    for child in psutil.Process(driver.pid).children(recursive=True):
        try:
            found += [child] if "RayTrainWorker" in " ".join(child.cmdline()) else []
        except psutil.Error:
            continue
    return found


def generations(out):
    return {path.parent.name for path in out.glob("checkpoints/*/step-*/job.json")}


def until(holds, process, seconds=200):
    deadline = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
