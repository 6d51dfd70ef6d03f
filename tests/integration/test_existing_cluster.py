"""A Ray cluster that is there already, on this machine: its Jobs address, `auto` and `ray://`, with a token."""

import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from harness.runs.store import load

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "planted0ray0token0" + "7" * 46
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "planted/aws/secret/0123456789",
    "HF_TOKEN": "hf_plantedHubToken0123456789",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-password-0123456789",
}
STORE = ("plantedStore0half", "plantedStore1half")
"""Both halves of the password of a store."""

PORTS = (
    "port",
    "ray-client-server-port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "metrics-export-port",
    "node-manager-port",
    "object-manager-port",
    "runtime-env-agent-port",
)
SMALL = ["--tasks", "quickstart/promoter", "--models", "quickstart-opt", "--methods", "lora"]
SIZE = ["--num-samples", "2", "--epochs", "1", "--seeds", "0", "--limit", "64", "--pack", "1"]
pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]


def free_ports(count):
    """Ports that nobody has, all at once."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@dataclass
class Running:
    """A head of a cluster of one node, and the environment of who uses it."""

    ports: dict[str, int]
    folder: Path
    environment: dict[str, str]
    process: subprocess.Popen
    temporary: Path

    @property
    def jobs(self):
        return f"http://127.0.0.1:{self.ports['dashboard-port']}"

    def command(self, *arguments):
        return [sys.executable, str(ROOT / "run_benchmark.py"), *map(str, arguments)]

    def do(self, *arguments, timeout=280, **changes):
        """A command to its end: exit code, what it printed."""
        done = subprocess.run(
            self.command(*arguments),
            env={**self.environment, **changes},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        return done.returncode, done.stdout + done.stderr


def start(folder, mode):
    """`ray start --head` in the foreground, on ports of its own; nothing of it outlives its process."""
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    home = folder / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text(TOKEN)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    environment = {
        **kept,
        **SECRETS,
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": mode,
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    temporary = tempfile.mkdtemp(prefix="r", dir="/tmp")  # sockets have short paths
    options = [f"--{name}={port}" for name, port in ports.items()]
    size = ["--num-cpus=1", "--object-store-memory=100000000", f"--temp-dir={temporary}"]
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", *options, *size],
        env=environment,
        stdout=(folder / "ray.log").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    running = Running(ports, folder, environment, process, Path(temporary))
    deadline = time.monotonic() + 120
    while True:
        try:
            with socket.create_connection(("127.0.0.1", ports["dashboard-port"]), timeout=1):
                break
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, (folder / "ray.log").read_text()
            time.sleep(0.3)
    return running


def end(running):
    """End the head, and every process that it began."""
    everything = psutil.Process(running.process.pid).children(recursive=True)
    running.process.terminate()
    with suppress(subprocess.TimeoutExpired):
        running.process.wait(5)
    for process in everything:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    running.process.kill()
    running.process.wait(10)
    shutil.rmtree(running.temporary, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    running = start(tmp_path_factory.mktemp("cluster"), "token")
    try:
        yield running
    finally:
        end(running)


@pytest.fixture(scope="module")
def story(cluster):
    """A benchmark through the Jobs address: watched on a terminal, left by Ctrl-C, looked at, followed to its end."""
    told, out = {}, cluster.folder / "run"
    (cluster.folder / "best.yaml").write_text(
        "configurations: [{method: lora, config: {method: lora, learning_rate: 0.0031}}]"
    )
    (cluster.folder / "space.yaml").write_text(
        "method: lora\nspace:\n  learning_rate: {type: float, low: 1.0e-5, high: 1.0e-2, log: true}\n  rank: 3\n"
    )
    size = [*SIZE, "--epochs", "60", "--config", "best.yaml", "--search-space", "space.yaml"]
    command = ["run", "--cluster", cluster.jobs, *SMALL, *size, "--out", out, "--yes"]
    told["terminal"], told["left"] = watched(cluster, command, until=r"promoter lora\W+\d/2\s")
    told["status"] = cluster.do("status", out)
    told["attached"] = cluster.do("attach", out)
    told["logs"] = cluster.do("logs", out)
    return out, told


def watched(cluster, command, until):
    """Run on a terminal of its own until a pattern shows, then press Ctrl-C; what was shown, and the exit code."""
    inside, outside = pty.openpty()
    process = subprocess.Popen(
        cluster.command(*command),
        env={**cluster.environment, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
        cwd=cluster.folder,
        stdin=outside,
        stdout=outside,
        stderr=outside,
        start_new_session=True,
    )
    os.close(outside)
    shown, pressed, deadline = "", False, time.monotonic() + 250
    while time.monotonic() < deadline:
        if select.select([inside], [], [], 0.5)[0]:
            try:
                piece = os.read(inside, 65536)
            except OSError:
                break
            if not piece:
                break
            shown += piece.decode(errors="replace")
        if not pressed and re.search(until, shown):
            time.sleep(2)
            process.send_signal(signal.SIGINT)
            pressed = True
        if process.poll() is not None and not select.select([inside], [], [], 0.5)[0]:
            break
    process.kill()
    os.close(inside)
    return shown, process.wait()


def test_a_terminal_shows_the_live_table_of_the_head(story):
    _, told = story
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", told["terminal"])
    for text in ("Submitted as", "study", "best dev", "quickstart/promoter lora", "Training on"):
        assert text in shown, shown
    assert "#progress" not in shown


def test_ctrl_c_leaves_and_says_how_to_come_back(story):
    out, told = story
    assert told["left"] == 130, told["terminal"]
    for command in ("attach", "status", "stop"):
        assert f"python run_benchmark.py {command} {out}" in told["terminal"].replace("\r", "")
    code, printed = told["status"]
    assert code == 0 and printed.startswith("RUNNING") and "quickstart/promoter lora" in printed, printed


def test_attached_it_ends_with_its_own_exit_code_and_leaderboard(story):
    out, told = story
    code, printed = told["attached"]
    assert code == 0 and "1 of 1 searches and 1 of 1 final runs are complete" in printed, printed
    assert "files downloaded to" in printed and "digests verified" in printed
    assert sorted(record.stage for record in load(out)) == ["final", "search", "search"]
    first = next(record for record in load(out) if record.stage == "search" and record.trial == 0)
    drawn = first.config["learning_rate"], first.config["rank"]
    assert drawn == (0.0031, 3)  # of the files that went with the job
    assert (out / "results.parquet").is_file() and list((out / "adapters").rglob("*.safetensors"))
    code, printed = told["logs"]
    assert code == 0 and "#progress" not in printed and "search" in printed and "final stage" in printed, (
        printed
    )


def jobs_listed(cluster):
    """What everybody sees who may list the cluster's jobs, drivers of their own included."""
    request = urllib.request.Request(
        f"{cluster.jobs}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()


def test_planted_secrets_are_nowhere(cluster, story):
    out, told = story
    listing = jobs_listed(cluster)
    assert "run_benchmark.py" in listing
    texts = {"the listing of jobs": listing, "what was shown": json.dumps(told, default=str)}
    kept = cluster.folder / "home" / "lingo" / "runs"
    files = [
        file for folder in (out, kept, cluster.temporary) for file in folder.rglob("*") if file.is_file()
    ]
    assert any(file.name == "mlflow.db" for file in files) and any(file.suffix == ".log" for file in files)
    for name, secret in {**SECRETS, "the token of Ray": TOKEN}.items():
        for where, text in texts.items():
            assert secret not in text, f"{name} in {where}"
        for file in files:
            assert secret.encode() not in file.read_bytes(), f"{name} in {file}"


def test_machines_and_their_hours_can_be_asked_for(cluster):
    """In a process of its own: Ray keeps the first token that a process has used."""
    program = (
        "import sys; from harness.cluster.jobs_api import Jobs; (node,) = Jobs(sys.argv[1]).nodes(); "
        "print(node.head, node.ended, node.started)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, cluster.jobs],
        env={**cluster.environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    head, ended, started = done.stdout.split()
    assert head == "True" and ended == "None" and abs(time.time() - float(started)) < 900


def test_a_wrong_token_is_told_in_one_line(cluster, tmp_path):
    (tmp_path / "token").write_text("8" * 64)
    (tmp_path / "token").chmod(0o600)
    out = tmp_path / "out"
    command = ["--cluster", cluster.jobs, *SMALL, *SIZE, "--out", out, "--yes"]
    code, printed = cluster.do(*command, RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"))
    assert code == 2 and "Traceback" not in printed and "token" in printed, printed
    assert not out.exists()


@pytest.mark.parametrize("way", ["auto", "ray://"])
def test_joined_from_beside(cluster, way, tmp_path):
    address = way if way == "auto" else f"ray://127.0.0.1:{cluster.ports['ray-client-server-port']}"
    gcs = f"127.0.0.1:{cluster.ports['port']}"
    changes = {"RAY_ADDRESS": gcs} if way == "auto" else {}
    out, store = tmp_path / "out", f"postgresql+absent://user:{STORE[0]}/{STORE[1]}@db.example/bench"
    command = ["--cluster", address, *SMALL, *SIZE, "--out", out, "--tracking-uri", store]
    code, printed = cluster.do(*command, **changes)
    assert code == 0 and "Training on a cluster of 1 node" in printed, printed
    assert "MLflow at postgresql+absent://*** fails" in printed, printed
    listing = jobs_listed(cluster)
    assert way != "auto" or f"--out {out} --tracking-uri postgresql+absent://***" in listing, listing
    files = [file for folder in (out, cluster.temporary) for file in folder.rglob("*") if file.is_file()]
    for secret in STORE:
        assert secret not in printed and secret not in listing
        assert not [file for file in files if secret.encode() in file.read_bytes()]
    assert sorted(record.stage for record in load(tmp_path / "out")) == ["final", "search", "search"]


def test_an_open_dashboard_is_refused_with_the_reason(tmp_path):
    running = start(tmp_path, "disabled")
    try:
        command = ["--cluster", running.jobs, *SMALL, *SIZE, "--out", tmp_path / "out", "--yes"]
        code, printed = running.do(*command, RAY_AUTH_MODE="token")
        assert code == 2 and "requires no token" in printed and "CVE-2023-48022" in printed, printed
        assert not (tmp_path / "out").exists()
    finally:
        end(running)
