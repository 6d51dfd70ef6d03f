"""clusters/slurm.sbatch on a real Slurm: a controller here, and one of its daemons on each of two hosts.

Ray and the benchmark are stand-ins, except in the last test.
"""

import os
import pty
import re
import select
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.hosts import ROOT, Hosts, skip_unless_possible
from tests.support.slurm import Slurm, lacking

WAIT_S = 120
RAY = """#!/bin/bash
while [[ $1 != -- ]]; do shift; done; shift
echo "$SLURM_PROCID $(hostname) $SLURM_CPUS_PER_TASK" >>steps
if [[ $SLURM_PROCID == 0 ]]; then "$@"; code=$?; touch "ended-$SLURM_JOB_ID"; exit $code; fi
until [[ -e ended-$SLURM_JOB_ID ]]; do sleep 0.1; done
"""
"""`ray symmetric-run`: the command runs on the first machine, the others wait for its end."""

BENCHMARK = """import signal, sys, time
from pathlib import Path

out = Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir(parents=True, exist_ok=True)


def save(*_):
    (out / "state").write_text("saved")
    sys.exit(130)


signal.signal(signal.SIGINT, save)
if "--wait" in sys.argv and not (out / "state").exists():
    (out / "running").touch()
    time.sleep(600)
(out / "complete").write_text(" ".join(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def slurm():
    skip_unless_possible()
    if why := lacking():
        pytest.skip(f"a Slurm on this machine: {why}")
    with Hosts(2) as hosts, Slurm(hosts) as slurm:
        work = slurm.base / "work"
        for folder in (".venv/bin", "bin"):
            (work / folder).mkdir(parents=True)
        (work / ".venv" / "bin" / "activate").write_text(f"export PATH={work}/bin:$PATH\n")
        (work / "bin" / "python").symlink_to(sys.executable)
        (work / "bin" / "ray").write_text(RAY)
        (work / "bin" / "ray").chmod(0o755)
        (work / "run_benchmark.py").write_text(BENCHMARK)
        (work / "real" / ".venv" / "bin").mkdir(parents=True)
        (work / "real" / ".venv" / "bin" / "activate").write_text(
            f"export PATH={Path(sys.executable).parent}:$PATH\n"
        )
        (work / "real" / "run_benchmark.py").symlink_to(ROOT / "run_benchmark.py")
        text = (
            (ROOT / "clusters" / "slurm.sbatch")
            .read_text()
            .replace("--cpus-per-task=16", "--cpus-per-task=1")
        )
        (work / "slurm.sbatch").write_text(re.sub(r"#SBATCH --gpus-per-node=4.*\n", "", text))
        yield slurm


def until(slurm, what, job, seconds=WAIT_S):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        logs = "\n".join(path.read_text()[-2000:] for path in (slurm.base / "work").glob("lingo-*.log"))
        assert time.monotonic() < deadline, f"{slurm.state(job)}\n{logs}"
        time.sleep(0.2)
    return found


def submitted(slurm, *words, folder=".", **environment):
    said = slurm.said("env", f"--chdir={folder}", "sbatch", *words, **environment)
    found = re.search(r"Submitted batch job (\d+)", said)
    assert found, said
    return found[1]


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_job_near_its_limit_saves_its_state_is_requeued_and_goes_on(slurm):
    job = submitted(slurm, "slurm.sbatch", "--out", "my out", "--wait", "1")
    work = slurm.base / "work"
    until(slurm, (work / "my out" / "running").exists, job)
    token = slurm.base / "home" / ".ray" / f"auth_token-{job}"
    assert token.stat().st_mode & 0o777 == 0o600
    slurm.said("scancel", "--batch", "--signal=USR1", job)
    until(slurm, lambda: slurm.state(job).get("Restarts") == "1", job)
    assert (work / "my out" / "state").read_text() == "saved"
    until(slurm, lambda: slurm.state(job)["JobState"] == "PENDING", job)
    time.sleep(3)  # Slurm itself waits two minutes, until the nodes have ended what was there
    (work / f"ended-{job}").unlink(missing_ok=True)
    slurm.said("scontrol", "update", f"JobId={job}", "StartTime=now")
    until(slurm, (work / "my out" / "complete").exists, job)
    until(slurm, lambda: slurm.state(job)["JobState"] == "COMPLETED", job)
    assert (work / "my out" / "complete").read_text() == "run --cluster auto --out my out --wait 1"
    text = (work / f"lingo-{job}.log").read_text()
    assert "the time limit is near" in text and "Put into the queue again" in text, text
    assert sorted((work / "steps").read_text().splitlines()) == [
        "0 host0 1",
        "0 host0 1",
        "1 host1 1",
        "1 host1 1",
    ]
    assert list((slurm.base / "home" / ".ray").iterdir()) == []  # token and process id go with the job


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_an_array_is_one_benchmark_each(slurm):
    job = submitted(
        slurm, "--nodes=1", "--array=0-1", "slurm.sbatch", "--seed", "1", LINGO_TASKS="EMP/H3,mouse/2"
    )
    folder = slurm.base / "work" / "results" / "array"
    for name, task in (("EMP-H3", "EMP/H3"), ("mouse-2", "mouse/2")):
        until(slurm, (folder / name / "complete").exists, job)
        words = f"run --cluster auto --seed 1 --tasks {task} --out results/array/{name}"
        assert (folder / name / "complete").read_text() == words


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_real_benchmark_on_the_nodes_of_a_job(slurm):
    """No server of names knows the nodes here: gRPC waits for one until it gives up, where it is given a name."""
    words = ["--tasks", "quickstart/promoter", "--models", "quickstart-opt", "--methods", "lora"]
    words += ["--num-samples", "2", "--epochs", "1", "--seeds", "0", "--limit", "64", "--out", "out"]
    own = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    job = submitted(slurm, "../slurm.sbatch", *words, folder="real", **own)
    out = slurm.base / "work" / "real"
    going = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")
    until(slurm, lambda: slurm.state(job)["JobState"] not in going, job, seconds=400)
    text = (out / f"lingo-{job}.log").read_text()
    assert slurm.state(job)["JobState"] == "COMPLETED", text
    assert "a cluster of 2 nodes: 2 worker groups" in text, text
    assert "1 of 1 searches and 1 of 1 final runs are complete" in text, text
    assert len(list((out / "out" / "records").iterdir())) == 3


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_an_allocation_of_ones_own_runs_at_once_and_ctrl_c_saves_the_state(slurm):
    work, words = slurm.base / "work", ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1")
    command = ("salloc", *words, "bash", "slurm.sbatch", "--out", "at once", "--wait", "1")
    process, terminal = pty.fork()  # Ctrl-C reaches what a terminal has in its foreground
    if process == 0:
        os.chdir(work)
        os.execvpe(command[0], command, slurm.environment_of())
    said = b""
    pressed = False
    deadline = time.monotonic() + WAIT_S
    while os.waitpid(process, os.WNOHANG) == (0, 0):
        assert time.monotonic() < deadline, said.decode()
        if not pressed and (work / "at once" / "running").exists():
            os.write(terminal, b"\x03")
            pressed = True
        if select.select([terminal], [], [], 0.2)[0]:
            with suppress(OSError):  # its other end is closed
                said += os.read(terminal, 1 << 16)
    text = said.decode()
    assert "Saving the state of the benchmark: interrupted." in text, text
    assert (work / "at once" / "state").read_text() == "saved", text
    text = slurm.said(*command)
    assert (work / "at once" / "complete").exists(), text
    assert list((slurm.base / "home" / ".ray").iterdir()) == []
