"""The head ends its cluster when nobody needs it."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from harness.cluster import head_keeper
from harness.runs.layout import COPIED
from harness.runs.mirror import copied

SSH = "  0: 0100007F:0016 0200007F:C350 {} 00000000:00000000 00:00000000 00000000     0        0 1"


@pytest.mark.parametrize(
    "settings,stored,seconds",
    [
        ({}, False, 7200.0),
        ({"keep_s": 60.0}, False, 60.0),
        ({"keep_s": 3600.0}, True, head_keeper.AT_ONCE_S),
        ({"keep_s": 60.0}, True, 60.0),
        ({"keep_s": 3600.0, "wait": True}, True, 3600.0),
    ],
)
def test_how_long_it_stays(settings, stored, seconds):
    assert head_keeper.limit(settings, stored) == seconds


def test_somebody_connected_by_ssh():
    head = "  sl  local_address rem_address   st tx_queue rx_queue"
    assert head_keeper.connected(f"{head}\n{SSH.format('01')}")
    for other in (SSH.format("0A"), SSH.format("01").replace(":0016", ":C351").replace(":C350", ":0016"), ""):
        assert not head_keeper.connected(f"{head}\n{other}")


def test_results_are_stored_once_the_copy_is_newer_than_they_are(tmp_path):
    runs, storage = tmp_path / "runs", tmp_path / "storage"
    assert not head_keeper.stored(runs)
    run = runs / "one"
    (run / "records").mkdir(parents=True)
    assert not head_keeper.stored(runs)
    with copied(run, str(storage)):
        (run / "benchmark.json").write_text("{}")
    assert head_keeper.COPIED == COPIED and head_keeper.stored(runs)
    assert (storage / "one" / "benchmark.json").is_file() and not (storage / "one" / COPIED).exists()
    late = (run / COPIED).stat().st_mtime + 1
    os.utime(run / "records", (late, late))
    assert not head_keeper.stored(runs)


def test_a_copy_that_failed_marks_nothing(tmp_path):
    run, storage, said = tmp_path / "one", tmp_path / "storage", []
    run.mkdir()
    with copied(run, str(storage), said.append):
        (run / "benchmark.json").write_text("{}")
        storage.write_text("a file where a folder should be")
    assert said and not (run / COPIED).exists()


@pytest.mark.parametrize(
    "rows,busy",
    [
        ([{"type": "SUBMISSION", "status": "RUNNING"}], True),
        ([{"type": "SUBMISSION", "status": "PENDING"}, {"type": "SUBMISSION", "status": "FAILED"}], True),
        ([{"type": "SUBMISSION", "status": "SUCCEEDED"}, {"type": "DRIVER", "status": "RUNNING"}], False),
        ([], False),
    ],
)
def test_a_job_keeps_it(tmp_path, monkeypatch, rows, busy):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.headers["Authorization"] == "Bearer secret" else 401)
            self.end_headers()
            self.wfile.write(json.dumps(rows).encode())

        def log_message(self, *_):
            pass

    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret\n")
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(head_keeper, "HOME", tmp_path)
    monkeypatch.setattr(head_keeper, "JOBS", f"http://127.0.0.1:{server.server_port}/api/jobs/")
    try:
        assert head_keeper.busy() is busy
    finally:
        server.shutdown()
    monkeypatch.setattr(head_keeper, "JOBS", "http://127.0.0.1:9/api/jobs/")
    assert not head_keeper.busy()
