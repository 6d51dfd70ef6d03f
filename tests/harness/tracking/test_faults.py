"""Servers that are no MLflow server, refuse, fail or hang: one line that says so, and nothing is lost."""

import contextlib
import http.server
import shutil
import socket
import threading

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.core.store_address import PASSWORD, USER, login_cure, one_line
from harness.tracking.sync import sync
from tests.support.tracked import benchmark, follow, keep, story

from tests.harness.tracking.test_tracker import tracker_of  # isort: skip

PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Welcome</body></html>"
HOST = b"Invalid Host header - possible DNS rebinding attack detected"
ALLOWED = f"Set {USER} and {PASSWORD} to an account that has permission."
NO_MLFLOW = "it answers, but is not an MLflow server"

FAULTS = {
    "401": (401, b"", f"(it answers with status 401, access denied). {ALLOWED}"),
    "403": (403, PAGE, f"(it answers with status 403, access denied). {ALLOWED}"),
    "a host that is not allowed": (403, HOST, "its option --allowed-hosts)."),
    "404": (404, PAGE, "(it answers with status 404, which an MLflow server never does)."),
    "500": (500, PAGE, "(it repeatedly answers with status 500; see its log)."),
    "a web page": (200, PAGE, f"({NO_MLFLOW})."),
    "an empty object": (200, b"{}", f"({NO_MLFLOW})."),
    "hangs": (None, b"", "(no answer within 1 s)."),
    "hangs up": (0, b"", "(it closes the connection without an answer)."),
}


@contextlib.contextmanager
def answering(code, body):
    """Address of a server that answers so to everything; with code 0 it hangs up, and with `None` it never answers."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if not code:
                return
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST, do_PATCH, log_message = do_GET, do_GET, lambda *_: None

    if code is None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen(50)
            yield f"http://127.0.0.1:{silent.getsockname()[1]}"
        return
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_cannot_be_used_is_one_line_and_nothing_is_lost(
    tmp_path, empty_store, monkeypatch, fault
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.chdir(tmp_path)  # a database's artifacts go into `mlruns` of the current folder
    code, body, said = FAULTS[fault]
    out, good, warnings = tmp_path / "out", tmp_path / "good.db", []
    shutil.copy(empty_store, good)
    benchmark(out)
    keep(out, *story()[:2])
    with answering(code, body) as address:
        before = {path: text for path, text in files(out).items() if "tracked" not in path.parts}
        for words in (["sync", str(out), "--tracking-uri", address], ["best", "--tracking-uri", address]):
            experiment = ["--experiment", "bench"] if words[0] == "best" else []
            result = CliRunner().invoke(app, [*words, *experiment])
            told = " ".join(result.stderr.split())
            assert result.exit_code == 2 and "Traceback" not in result.output, result.output
            expected = f"`--tracking-uri` must be a store that answers, but {address} fails "
            assert expected in told and told.endswith(said), told
        assert {path: text for path, text in files(out).items() if "tracked" not in path.parts} == before
        tracker = tracker_of(out, warnings, uri=address)
        follow(tracker, out)  # returns, though nobody has answered yet
        assert not tracker.close(60)
    assert len(warnings) == 2 and "continues without it." in warnings[0] and "sync" in warnings[1], warnings
    assert said.partition(")")[0] in warnings[0], warnings[0]
    assert sync(out, uri=f"sqlite:///{good}").written == len(story())


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        ("[Errno 111] Connection refused", "no server listens at this address"),
        ("NameResolutionError(… [Errno -2] Name or service not known)", "unknown host name"),
        ("[Errno 101] Network is unreachable", "network unreachable"),
        ("Connection to h timed out. (connect timeout=20)", "connection timed out; a firewall may block it"),
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] unable to get local issuer",
            "its certificate is not trusted by this machine",
        ),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number", "it does not support https"),
    ],
)
def test_the_reason_is_told_and_not_the_class_of_a_library(cause, said):
    begin = "API request to http://h/api failed with exception HTTPConnectionPool(host='h', port=80): "
    error = Exception(f"{begin}Max retries exceeded with url: /api (Caused by X({cause!r}))")
    assert one_line(error, "https://h") == said
    assert login_cure(error, "https://h") == ""


def test_what_a_server_says_itself_stays():
    error = Exception("INVALID_PARAMETER_VALUE: name is empty\nmore")
    assert one_line(error, "http://h") == "INVALID_PARAMETER_VALUE: name is empty"
