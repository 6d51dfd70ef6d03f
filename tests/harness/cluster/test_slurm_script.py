"""clusters/slurm.sbatch with stand-ins for Slurm's programs, Ray and Apptainer; tests/integration/test_slurm.py has a
real Slurm."""

import os
import pwd
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from harness.cli.options import settings
from harness.config.benchmark import DECLARED
from harness.config.build import build

CLUSTERS = Path(__file__).resolve().parents[3] / "clusters"
ADDRESS = 'case "$*" in *ahostsv4*) echo 127.0.1.1; echo 192.0.2.7; exit ;; esac'
SAID = 'printf "%s\\n" "$@"; stat -c %a "$RAY_AUTH_TOKEN_PATH"; env | grep -E "^(RAY|LINGO)_"'
SRUN = f"{ADDRESS}\n{{{{ {SAID}; }}}} >{{said}}"


@pytest.fixture
def script(tmp_path):
    """Runs the script with options and variables; its exit code, what srun was given, and what was printed."""
    bin, home, said = tmp_path / "bin", tmp_path / "home", tmp_path / "said"
    (tmp_path / "work/.venv/bin").mkdir(parents=True)
    (tmp_path / "work/.venv/bin/activate").write_text("")
    bin.mkdir()
    home.mkdir()
    for name, text in {"scontrol": "echo node-a; echo node-b", "srun": SRUN.format(said=said)}.items():
        (bin / name).write_text(f"#!/bin/sh\n{text}\n")
        (bin / name).chmod(0o755)
    usual = {
        "PATH": f"{bin}:/usr/bin:/bin",
        "SLURM_JOB_NODELIST": "node-[a-b]",
        "SLURM_JOB_ID": "1234567",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_SUBMIT_DIR": str(tmp_path / "work"),
        "SLURM_CPUS_PER_TASK": "16",
        "HOME": str(home),
    }

    def run(*options, **more):
        done = subprocess.run(
            ["bash", str(CLUSTERS / "slurm.sbatch"), *options],
            env={**usual, **more},
            capture_output=True,
            text=True,
        )
        assert list((home / ".ray").glob("*")) == []  # the token goes with the job
        return (
            done.returncode,
            said.read_text().splitlines() if said.exists() else [],
            done.stdout + done.stderr,
        )

    return run


def after(lines, word):
    return lines[lines.index(word) + 1 :]


def test_one_ray_on_each_machine_with_a_token_of_its_own(script):
    code, lines, printed = script("--suite", "paper", "--out", "my run")
    assert code == 0, printed
    asked = lines[: lines.index("600")]
    assert asked[: asked.index("--")] == [
        *(
            "--kill-on-bad-exit=1",
            "--cpus-per-task=16",
            "ray",
            "symmetric-run",
            "--address",
            "192.0.2.7:34567",
        ),
        *("--min-nodes", "2", "--num-cpus", "16"),
    ]
    assert after(asked, "lingo") == [
        *("python", "run_benchmark.py", "run", "--cluster", "auto", "--suite", "paper", "--out", "my run")
    ]
    assert (
        "RAY_AUTH_MODE=token" in lines
        and f"RAY_TMPDIR=/tmp/ray-{pwd.getpwuid(os.geteuid()).pw_name}-1234567" in lines
    )
    assert not any("RAY_AUTH_TOKEN=" in text for text in lines)
    told = [
        line for line in (CLUSTERS / "slurm.sbatch").read_text().splitlines() if line.startswith("#SBATCH")
    ]
    assert all("#" in text[1:] or "=lingo" in text for text in told)


def test_an_array_has_one_task_and_one_folder_each(script):
    tasks = {"LINGO_TASKS": "EMP/H3,mouse/2", "LINGO_OUT": "my runs", "SLURM_ARRAY_TASK_ID": "1"}
    code, lines, _ = script("--models", "opt-125m", **tasks)
    assert code == 0
    last = ["--models", "opt-125m", "--tasks", "mouse/2", "--out", "my runs/mouse-2"]
    assert after(lines[: lines.index("600")], "auto") == last
    code, _, printed = script(**{**tasks, "SLURM_ARRAY_TASK_ID": "2"})
    assert code == 1 and "--array must be 0-1" in printed
    code, _, printed = script(SLURM_ARRAY_TASK_ID="0")
    assert code == 1 and "LINGO_TASKS: must name the tasks of the array" in printed


def test_modules_and_an_image(script, tmp_path):
    loaded = tmp_path / "loaded"
    module = f"() {{  echo $* >>{loaded}\n}}"
    code, lines, printed = script(
        LINGO_MODULES="python/3.11 cuda/12.4",
        LINGO_IMAGE="/images/lingo.sif",
        LINGO_BIND="/data",
        **{"BASH_FUNC_module%%": module},
    )
    assert code == 0, printed
    assert loaded.read_text().split() == ["load", "python/3.11", "load", "cuda/12.4"]
    work = str(tmp_path / "work")
    start = [
        "apptainer",
        "exec",
        "--nv",
        "--bind",
        f"{work},/data",
        "--pwd",
        work,
        "/images/lingo.sif",
        "ray",
    ]
    assert lines[2 : 2 + len(start)] == start


@pytest.mark.parametrize(("restarts", "again"), [("0", True), ("20", False)])
def test_near_the_limit_the_state_is_saved_and_the_job_requeued(script, tmp_path, restarts, again):
    """The signal arrives while srun runs; the benchmark is interrupted by its process id on the first machine."""
    (tmp_path / "bin" / "srun").write_text(
        f"""#!/bin/bash
# Slurm starts tasks with SIGINT as usual; bash starts what is in its background with SIGINT ignored
[[ -n ${{AGAIN:-}} ]] || AGAIN=1 exec env --default-signal=INT bash "$0" "$@"
echo "$*" >>{tmp_path}/calls
case "$*" in
  *ahostsv4*) exit ;;
  *--overlap*) HOME={tmp_path}/home; eval "${{@: -1}}"; exit ;;
esac
trap 'exit 130' INT
echo $$ >"$LINGO_PID"
kill -USR1 $PPID
for n in $(seq 300); do sleep 0.1; done
"""
    )
    (tmp_path / "bin" / "scontrol").write_text(
        f"#!/bin/sh\n[ $1 = show ] && echo node-a || echo $* >>{tmp_path}/requeued\n"
    )
    code, _, printed = script(SLURM_RESTART_COUNT=restarts)
    assert "Saving the state of the benchmark: the time limit is near" in printed
    assert "--overlap --nodes=1 --ntasks=1 --nodelist=node-a" in (tmp_path / "calls").read_text()
    if again:
        assert code == 0 and (tmp_path / "requeued").read_text().strip() == "requeue 1234567"
    else:
        assert code != 0 and "submit the same line again" in printed and not (tmp_path / "requeued").exists()


def test_the_time_to_save_is_asked_of_slurm():
    text = (CLUSTERS / "slurm.sbatch").read_text()
    assert re.search(r"^#SBATCH --signal=B:USR1@300 ", text, re.MULTILINE) and "--requeue" in text
    assert "trap 'stop limit" in text


def test_skypilots_file_runs_what_this_program_takes():
    """Its own parser takes it too (SkyPilot 0.14.1, `sky.Task.from_yaml`); it is not installed here."""
    task = yaml.safe_load((CLUSTERS / "skypilot.yaml").read_text())
    known = {"name", "workdir", "resources", "num_nodes", "envs", "setup", "run"}
    assert set(task) == known and task["workdir"] == "."
    assert "clusters/requirements.txt" in task["setup"]
    assert re.search(r"--exclude-newer (\S+)", task["setup"])[1] in (CLUSTERS / "aws.yaml").read_text()
    words = (
        task["run"]
        .replace("$STORAGE", "s3://bucket/x")
        .replace('"', "")
        .split("run_benchmark.py run ")[1]
        .split()
    )
    given = {
        word.removeprefix("--").replace("-", "_"): value
        for word, value in zip(words[::2], words[1::2], strict=True)
    }
    assert (
        build(settings({**dict.fromkeys(DECLARED), **given, "out": Path(given["out"])})).suite == "paper-gue"
    )
