"""Tracking against real MLflow servers, which come late, are killed, and ask for a password."""

import contextlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
from mlflow.tracking import MlflowClient
from typer.testing import CliRunner

from harness.cli.ui import server
from harness.core.errors import InputError
from harness.core.store_address import PASSWORD, USER, default_uri
from harness.runs.store import load
from harness.tracking.mirror import Mirror
from harness.tracking.spool import Spool, only_writer
from harness.tracking.store import Store
from harness.tracking.sync import sync
from harness.tracking.tracker import Tracker
from tests.support.tracked import (
    SETTING,
    STUDY,
    TITLE,
    benchmark,
    by_name,
    follow,
    keep,
    record,
    snapshot,
    story,
)

from tests.harness.tracking.test_tracker import free_port, tracker_of  # isort: skip


@contextlib.contextmanager
def serving(command, port, environment, folder, timeout=120):
    """A server process in a folder of its own, until it is killed at the end."""
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        end = time.monotonic() + timeout
        while True:
            assert process.poll() is None and time.monotonic() < end, (folder / "server.log").read_text()[
                -2000:
            ]
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def plain_server(folder, port):
    """`mlflow server` as the documentation has it."""
    command, environment = server(default_uri(folder), port)
    command = [*command, "--artifacts-destination", str(folder / "served")]
    return serving(command, port, environment, folder)


def expected(folder, empty_store):
    """What a store has that was there all the time."""
    import shutil

    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    tracker = Tracker(folder, SETTING)
    follow(tracker, folder)
    assert tracker.close(60)
    return snapshot(default_uri(folder))


def test_a_store_that_is_down_for_the_whole_run_loses_nothing(tmp_path, uri, empty_store):
    """`uri` is the server's empty database."""
    port, out, warnings = free_port(), tmp_path / "out", []
    address = f"http://127.0.0.1:{port}"
    tracker = tracker_of(out, warnings, uri=address)
    follow(tracker, out)
    assert not tracker.close(60)
    assert len(warnings) == 2
    benchmark(out, uri=address)
    with pytest.raises(InputError, match="must be a store that answers"):
        sync(out)
    with plain_server(tmp_path, port):
        done = sync(out)
        assert (done.written, done.records, done.refused) == (6, 6, [])
        seen = snapshot(address)
        assert seen == expected(tmp_path / "other", empty_store)
        assert sync(out).written == 0
        assert snapshot(address) == seen


@pytest.mark.slow
def test_a_server_that_is_killed_during_the_run_and_comes_back(tmp_path, uri, empty_store):
    port, out, warnings = free_port(), tmp_path / "out", []
    benchmark(out)
    with plain_server(tmp_path, port) as address:
        tracker = tracker_of(out, warnings, uri=address, retry_s=0.0)
        follow(tracker, out, story()[:2])
        while len(MlflowClient(address).search_experiments()) < 2:
            time.sleep(0.1)
    follow(tracker, out, story()[2:4])
    with plain_server(tmp_path, port):
        follow(tracker, out, story()[4:])
        assert tracker.close(120)
        assert snapshot(address) == expected(tmp_path / "other", empty_store)
        assert sync(out, uri=address).written == 0


def test_sync_ends_what_a_dead_driver_left_running(tmp_path, uri):
    from tests.support.tracked import job, reports

    out = tmp_path
    benchmark(out)
    dead = Mirror(Store(uri, experiment="bench", identity="one"), SETTING)
    dead.report(job("trial-0007"), reports(job("trial-0007"))[0])
    keep(out, record(job()))
    assert sync(out).written == 1
    assert {name: run.info.status for name, run in by_name(uri).items() if "trial" in name} == {
        "trial-0000": "FINISHED",
        "trial-0007": "KILLED",
    }


def test_sync_again_writes_what_somebody_deleted(tmp_path, uri):
    benchmark(tmp_path)
    keep(tmp_path, *story())
    sync(tmp_path)
    before = snapshot(uri)
    MlflowClient(uri).delete_run(by_name(uri)["trial-0001"].info.run_id)
    done = sync(tmp_path)
    assert (done.written, list(done.deleted)) == (0, [story()[1].id])
    assert sync(tmp_path, again=True).written == 6
    assert snapshot(uri) == before


def test_sync_says_that_its_experiment_was_deleted_and_how_it_comes_back(tmp_path, uri):
    from harness.cli.main import app
    from harness.tracking.read import records_from_store

    benchmark(tmp_path)
    keep(tmp_path, *story()[:2])
    sync(tmp_path)
    before, client = snapshot(uri), MlflowClient(uri)
    number = client.get_experiment_by_name("bench").experiment_id
    client.delete_experiment(number)
    result = CliRunner().invoke(app, ["sync", str(tmp_path)])
    assert result.exit_code == 2 and "everything" not in result.stdout + result.stderr
    cure = f"MLFLOW_TRACKING_URI={uri} mlflow experiments restore --experiment-id {number}"
    assert "'bench' has been deleted in the store" in result.stderr and cure in result.stderr
    with pytest.raises(InputError, match="mlflow experiments restore"):
        records_from_store(uri, "bench")
    warnings = []
    tracker = tracker_of(tmp_path, warnings, uri=uri)
    assert not tracker.close(60)
    assert cure in warnings[0]
    client.restore_experiment(number)
    assert CliRunner().invoke(app, ["sync", str(tmp_path)]).exit_code == 0
    assert snapshot(uri) == before


def test_sync_says_which_runs_were_deleted(tmp_path, uri):
    from harness.cli.main import app

    benchmark(tmp_path)
    keep(tmp_path, *story()[:2])
    sync(tmp_path)
    before, client = snapshot(uri), MlflowClient(uri)
    gone = by_name(uri)["trial-0001"].info.run_id
    client.delete_run(gone)
    result = CliRunner().invoke(app, ["sync", str(tmp_path)])
    assert result.exit_code == 1 and "the store lacks deleted runs" in result.stdout
    assert f"EMP/H3|tiny|lora/trial-0001 (run {gone})" in result.stdout
    assert f"MLFLOW_TRACKING_URI={uri} mlflow runs restore --run-id ID" in result.stdout
    client.restore_run(gone)
    assert CliRunner().invoke(app, ["sync", str(tmp_path)]).exit_code == 0
    assert snapshot(uri) == before


@pytest.mark.parametrize("again", [True, False])
def test_a_study_that_was_deleted_gets_its_trials_back(tmp_path, uri, again):
    """Its run is made again by `--again`, or for a new record of it: all of its trials lie below it then."""
    benchmark(tmp_path)
    keep(tmp_path, *story()[:2])
    sync(tmp_path)
    before, client = set(by_name(uri)), MlflowClient(uri)
    client.delete_run(by_name(uri)[TITLE].info.run_id)
    assert list(sync(tmp_path).deleted) == [STUDY]
    if again:
        assert sync(tmp_path, again=True).written == 2
    else:
        keep(tmp_path, story()[-1])
        before.add("final/seed-1")
        assert sync(tmp_path).written == 1
    found = by_name(uri)
    assert set(found) == before
    parents = {run.data.tags.get("mlflow.parentRunId") for run in found.values()}
    assert parents == {None, found[TITLE].info.run_id}
    assert sync(tmp_path).deleted == {}


def test_sync_waits_for_the_process_that_writes(tmp_path):
    benchmark(tmp_path)
    with only_writer(tmp_path, give_up=lambda: True) as ours:
        assert ours
        with pytest.raises(InputError, match="must wait until the benchmark"):
            sync(tmp_path)


@pytest.mark.parametrize("given", [[], ["--tracking-uri", "http://127.0.0.1:9"]])
def test_bad_input_of_the_commands_is_one_line(tmp_path, given):
    from harness.cli.main import app

    result = CliRunner().invoke(app, ["sync", str(tmp_path), *given])
    assert result.exit_code == 2
    assert "has no readable benchmark.json" in result.stderr
    benchmark(tmp_path)
    result = CliRunner().invoke(app, ["ui", str(tmp_path)])
    assert (result.exit_code, "sync" in result.stderr) == (2, True)
    if given:
        result = CliRunner().invoke(app, ["sync", str(tmp_path), *given])
        assert result.exit_code == 2
        assert "must be a store that answers" in result.stderr


def test_the_ui_of_a_store_that_is_no_database_any_more(tmp_path):
    from harness.cli.main import app

    benchmark(tmp_path)
    (tmp_path / "mlflow.db").write_text("no database")
    result = CliRunner().invoke(app, ["ui", str(tmp_path)])
    assert result.exit_code == 2
    assert (
        f"mlflow.db: is no longer a valid database; `lingo-bench sync {tmp_path}` keeps it" in result.stderr
    )


@pytest.mark.parametrize("code", [401, 403])
def test_a_server_that_refuses_an_account_is_told_with_the_variables_to_set(tmp_path, code):
    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(code)

        do_POST, log_message = do_GET, lambda *_: None

    benchmark(tmp_path)
    with http.server.HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address, warnings = f"http://127.0.0.1:{server.server_port}", []
        with pytest.raises(InputError, match=f"must be a store that answers.* Set {USER} and {PASSWORD} to"):
            sync(tmp_path, uri=address)
        assert not tracker_of(tmp_path, warnings, uri=address).close(60)
        server.shutdown()
    assert f"Set {USER} and {PASSWORD} to" in warnings[0]


def test_the_ui_is_for_this_machine_alone_and_its_store_not_on_the_command_line():
    command, environment = server("postgresql://me:secret@host/db", 5001)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert "secret" not in " ".join(command)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:secret@host/db"


@pytest.mark.slow
def test_a_server_with_basic_authentication(tmp_path, uri, monkeypatch):
    """As docs/mlflow.md describes it: refused without a password, written with it, and the password nowhere."""
    pytest.importorskip("flask_wtf", reason="needs mlflow[auth]")
    port, secret = free_port(), "correct-horse-battery"
    (tmp_path / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\nadmin_username = admin\n"
        "auth_cache_ttl_seconds = 60\n"  # otherwise every request hashes the password
        f"database_uri = sqlite:///{tmp_path}/auth.db\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    environment = os.environ | {
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": secret,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "for this test",
        "MLFLOW_BACKEND_STORE_URI": uri,
    }
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--artifacts-destination", str(tmp_path / "served"), "--workers", "1"]
    out = tmp_path / "out"
    benchmark(out)
    keep(out, story()[0], story()[-1])
    for name in (USER, PASSWORD):
        monkeypatch.delenv(name, raising=False)
    with serving(command, port, environment, tmp_path) as address:
        with pytest.raises(InputError, match="must be a store that answers"):
            sync(out, uri=address)
        with pytest.raises(InputError) as refused:
            sync(out, uri=address.replace("//", "//admin:wrong-password@"))
        assert "wrong-password" not in str(refused.value)
        monkeypatch.setenv(USER, "admin")
        monkeypatch.setenv(PASSWORD, secret)
        assert sync(out, uri=address).written == 2
        assert len(snapshot(address)) == 3
        store = Store(address, experiment="bench", identity="one")
        assert not [s for s in Mirror(store, SETTING).send(load(out), Spool(out, "x")) if s.error]
        monkeypatch.delenv(USER), monkeypatch.delenv(PASSWORD)
        done = sync(out, uri=address.replace("//", f"//admin:{secret}@"), again=True)
        assert done.written == 2
        assert secret not in repr(done)
        seen = repr(snapshot(address))
    assert secret not in seen
    for path in [*out.rglob("*"), tmp_path / "mlflow.db", tmp_path / "server.log"]:
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path
