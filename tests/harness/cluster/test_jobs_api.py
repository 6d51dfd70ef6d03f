"""Doors and sessions of clusters: open dashboards, sick nodes, what is remembered."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from harness.cluster import control
from harness.cluster.file import read_cluster
from harness.cluster.jobs_api import refuse_open
from harness.cluster.launch import resolve
from harness.cluster.run import failures
from harness.cluster.session import Session, load_session, use_token
from harness.cluster.spending import spending
from harness.cluster.ssh import Remote, ShellError, free_port, quoted, run
from harness.core.errors import InputError
from harness.pool.ray_session import ray_for

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def answering():
    """A server on loopback that answers every question with one code; its address."""
    servers = []

    def serve(code):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(code)
                self.end_headers()
                self.wfile.write(b"[]")

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()


def test_a_dashboard_that_asks_for_no_token_is_refused_with_the_reason(answering):
    with pytest.raises(InputError, match=r"requires no token.*CVE-2023-48022"):
        refuse_open(answering(200))
    refuse_open(answering(401))
    with pytest.raises(InputError, match="HTTP 404"):
        refuse_open(answering(404))
    with pytest.raises(InputError, match="there is no answer"):
        refuse_open(f"http://127.0.0.1:{free_port(0)}")


def test_a_sick_node_stops_the_start():
    ok = {"state": "ok", "about": "python", "text": "3.11", "advice": ""}
    fail = {"state": "fail", "about": "packages", "text": "torch (missing)", "advice": "install it"}
    nodes = [
        {"address": "10.0.0.1", "findings": [ok]},
        {"address": "10.0.0.2", "findings": [ok, fail]},
        {"address": "10.0.0.3", "findings": [], "error": "timed out"},
    ]
    assert failures({"expected": 1, "nodes": nodes[:1]}) == []
    lines = failures({"expected": 4, "nodes": nodes})
    assert lines[0] == "10.0.0.2: torch (missing); install it"
    assert "10.0.0.3" in lines[1] and "timed out" in lines[1] and "4 nodes were expected" in lines[2]


def test_a_session_is_remembered_without_a_secret(tmp_path):
    session = Session(out=tmp_path / "run", host="10.0.0.1", user="me", job="raysubmit_1", hourly=2.0).save()
    assert load_session(tmp_path / "run") == session
    text = (tmp_path / "run" / "cluster.json").read_text()
    assert "token" not in text and set(json.loads(text)) == set(Session.__dataclass_fields__)
    (tmp_path / "run" / "cluster.json").write_text('{"x": 1}')
    with pytest.raises(InputError, match="cannot be read"):
        load_session(tmp_path / "run")
    with pytest.raises(InputError, match="not the output folder"):
        load_session(tmp_path)


def test_spending_is_an_upper_bound(monkeypatch, tmp_path):
    monkeypatch.setattr("time.time", lambda: 7200.0)
    session = Session(out=tmp_path, provider="aws", nodes=9, hourly=8.0, started=3600.0)
    assert "at most $8.00" in spending(session)


def test_coming_back_to_what_was_taken_down_or_never_sent(tmp_path, monkeypatch):
    monkeypatch.setattr(control, "use_token", lambda **_: None)
    console = Console(quiet=True)
    Session(out=tmp_path, job="raysubmit_1").save()
    with pytest.raises(InputError, match="terminated"):
        control.show_status(tmp_path, console)
    with pytest.raises(InputError, match="already terminated"):
        control.stop_run(tmp_path, control.TeardownOptions(), console)
    Session(out=tmp_path, host="10.0.0.1").save()
    with pytest.raises(InputError, match="not submitted"):
        control.show_logs(tmp_path, 0, console)


def test_a_program_that_fails_is_told_in_one_line(tmp_path):
    with pytest.raises(ShellError, match=r"said: no word \(exit code 3\)"):
        run(["sh", "-c", "exit 3"], timeout=10, what="said")
    with pytest.raises(ShellError, match=r"said: oh dear \(exit code 1\)"):
        run(["sh", "-c", "echo first >&2; echo oh dear >&2; exit 1"], timeout=10, what="said")
    with pytest.raises(ShellError, match=r"No such file"):
        run([str(tmp_path / "none")], timeout=10)
    with pytest.raises(ShellError, match=r"no end within"):
        run(["sleep", "5"], timeout=0.1)


def test_ssh_asks_nothing_and_keeps_host_keys(tmp_path):
    remote = Remote(host="h", user="me", key="~/k", known_hosts=tmp_path / "known")
    command = remote.command("echo it's")
    assert "-oBatchMode=yes" in command and f"-oUserKnownHostsFile={tmp_path / 'known'}" in command
    assert "-oStrictHostKeyChecking=accept-new" in command and command[-2] == "me@h"


def test_no_cluster_to_join(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="must be auto or ray://"), ray_for("c.yaml"):
        pass


def test_words_for_the_heads_shell(tmp_path):
    assert [quoted(text) for text in ("~/lingo/runs/x", "a b", "~/a b")] == [
        "~/lingo/runs/x",
        "'a b'",
        "~/'a b'",
    ]


def test_machines_get_the_token_that_this_account_shows(tmp_path, monkeypatch):
    file = read_cluster(ROOT / "clusters" / "on-premises.yaml", filled_in=False)
    (tmp_path / "token").write_text("1" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "2" * 64)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    use_token(of_its_own=True)
    assert os.environ["RAY_AUTH_TOKEN"] == "2" * 64  # of a cluster that was there already
    use_token()
    assert "RAY_AUTH_TOKEN" not in os.environ and os.environ["RAY_AUTH_MODE"] == "token"
    mounts = resolve(file, lambda line: None)["file_mounts"]
    assert mounts["~/.ray/auth_token"] == str(tmp_path / "token")
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600


def test_a_gpu_that_torch_cannot_use_is_no_reason_to_train_on_the_processor(monkeypatch):
    import torch

    from harness.workers.engines import make_engine

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ValueError, match=r"GPU must be usable by torch .*nvidia-smi.*newer image in the cluster file"
    ):
        make_engine(0, 1, gpus=1)
    assert make_engine(0, 1) is not None
