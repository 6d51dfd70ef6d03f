"""clusters/slurm.sbatch on a real Slurm: a controller here, and one of its daemons on each of two hosts.

Ray and the benchmark are stand-ins; test_symmetric_run.py has the real ones on two hosts.
"""

import re
import sys
import time

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
        text = (
            (ROOT / "clusters" / "slurm.sbatch")
            .read_text()
            .replace("--cpus-per-task=16", "--cpus-per-task=1")
        )
        (work / "slurm.sbatch").write_text(re.sub(r"#SBATCH --gpus-per-node=4.*\n", "", text))
        yield slurm


def until(slurm, what, job):
    deadline = time.monotonic() + WAIT_S
    while not (found := what()):
        logs = "\n".join(path.read_text()[-2000:] for path in (slurm.base / "work").glob("lingo-*.log"))
        assert time.monotonic() < deadline, f"{slurm.state(job)}\n{logs}"
        time.sleep(0.2)
    return found


def submitted(slurm, *words, **environment):
    said = slurm.said("sbatch", *words, **environment)
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
