"""Addresses of stores: no secret of one is shown or kept, whatever its form."""

import json
import os
import pickle
import re
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, example, given, settings
from sqlalchemy.dialects import registry
from sqlalchemy.engine.default import DefaultDialect
from typer.testing import CliRunner

from harness.cli.main import app
from harness.config.build import build, restore
from harness.config.plan import plan
from harness.core.errors import InputError, command, typed
from harness.core.store_address import (
    ADDRESS,
    PASSWORD,
    USER,
    cluster_problems,
    kept,
    masked,
    opened,
    place_without_secret,
    shown,
    store_command,
    ui_command,
)
from harness.runs.info import Setting
from harness.tracking.tracker import Tracker
from tests.support.planted import SECRETS, addresses, leaks
from tests.support.tracked import benchmark as make_benchmark
from tests.support.tracked import keep, story

ROOT = Path(__file__).resolve().parents[3]


class Quoting(DefaultDialect):
    """A database whose driver quotes all that it was given, as drivers do."""

    name = "postgresql"

    @classmethod
    def import_dbapi(cls):
        return SimpleNamespace(paramstyle="pyformat")

    def create_connect_args(self, url):
        whole = url.render_as_string(hide_password=False)
        parts = (url.host, url.username, url.password, url.database, dict(url.query))
        raise RuntimeError(f"cannot reach {parts!r} of {whole}, {whole!r}")


@pytest.fixture(autouse=True, scope="module")
def quoting_driver():
    registry.impls["postgresql.quoting"] = lambda: Quoting
    yield
    del registry.impls["postgresql.quoting"]


def test_a_login_moves_into_the_environment():
    environment = {}
    assert opened("https://me:p%40ss@host:5000/x", environment) == "https://host:5000/x"
    assert environment == {USER: "me", PASSWORD: "p@ss"}
    assert kept("https://me:p%40ss@host:5000/x", environment) == "https://***@host:5000/x"
    assert opened("https://***@host:5000/x", environment) == "https://host:5000/x"
    with pytest.raises(ValueError, match=f"set {USER} and {PASSWORD} for"):
        opened("https://***@host:5000/x", {})


def test_the_address_of_a_database_with_a_secret_moves_into_the_environment():
    environment, address = {}, "postgresql://me:secret@host/db"
    assert kept(address, environment) == "postgresql://***@host/db"
    assert environment == {ADDRESS: address}
    assert opened("postgresql://***@host/db", environment) == address
    for other in ({}, {ADDRESS: "postgresql://me:pw@host/other"}, {ADDRESS: "postgresql://***@host/db"}):
        with pytest.raises(ValueError, match=f"must be given again: .* set {ADDRESS}"):
            opened("postgresql://***@host/db", other)


def test_an_address_may_be_that_of_a_variable():
    environment = {"STORE": "postgresql://me:secret@host/db", "SERVER": "http://me:pw@host"}
    assert kept("env:STORE", environment) == shown("env:STORE") == "env:STORE"
    assert opened("env:STORE", environment) == environment["STORE"]
    assert opened("env:SERVER", environment) == "http://host" and environment[PASSWORD] == "pw"
    with pytest.raises(ValueError, match="must name a variable that is set, but ELSE is not"):
        opened("env:ELSE", environment)
    with pytest.raises(ValueError, match="must have the name of an environment variable") as refused:
        kept(f"env:{SECRETS[0]}/", environment)
    assert SECRETS[0] not in str(refused.value)


HARMLESS = [
    "sqlite:///a@b.db",
    "sqlite:////home/me and you/mlflow.db",
    "http://host:5000",
    "https://host/prefix/",
    "http://[::1]:5000",
    "postgresql://host:5432/db?sslmode=require",
    "mssql+pyodbc://host/db?driver=ODBC+Driver+18+for+SQL+Server",
    "databricks",
    "databricks://profile",
    "databricks://scope:prefix",
]


@pytest.mark.parametrize("uri", HARMLESS)
def test_harmless_addresses_stay_as_they_are(uri):
    environment = {}
    assert opened(uri, environment) == kept(uri, environment) == shown(uri) == uri
    assert environment == {} and cluster_problems(uri) == []


@pytest.mark.parametrize("uri", ["http://me@host", "http://me:@host", "postgresql://***@host/db"])
def test_half_a_login_is_refused_without_being_shown(uri):
    with pytest.raises(ValueError, match="must"):
        opened(uri, {})


@pytest.mark.parametrize(
    "uri", ["mlruns", "./mlruns", "file:///runs", "foo://bar", "", "sqlite:x.db", "sqlite://u:p@/x.db"]
)
def test_what_is_no_address_of_a_store(uri):
    for read in (kept, opened):
        with pytest.raises(ValueError, match="must be an address of an MLflow store"):
            read(uri, {})


@pytest.mark.parametrize(
    "uri", ["http://h:5000/#/experiments/3", "http://h?x=1", "http://h:port", "http://h/a@b", "http://"]
)
def test_what_is_no_address_of_a_server(uri):
    with pytest.raises(ValueError, match="must be http://HOST:PORT without"):
        opened(uri, {})


@pytest.mark.parametrize("uri", ["sqlite:///x.db?password=secret", "sqlite:////a?b/mlflow.db"])
def test_what_sqlite_would_take_for_a_query(uri):
    with pytest.raises(ValueError, match=r"must be sqlite:///FILE .* but got sqlite:\S+\?\*\*\*"):
        opened(uri, {})


@pytest.mark.parametrize("uri", ["postgresql://u:p@ss@h/db", "mysql://h:port/db"])
def test_what_sqlalchemy_would_misread(uri):
    with pytest.raises(ValueError, match="must be DIALECT://USER:PASSWORD@HOST"):
        opened(uri, {})


@pytest.mark.parametrize(
    "text, seen",
    [
        ("fails at http://me:pw@host/x (why)", "fails at http://***@host/x (why)"),
        ("a postgresql://me:p:w@host/db, b https://x:y@z.", "a postgresql://***@host/db, b https://***@z."),
        ("sqlite:////home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
        ("put to https://b.s3.org/k?X-Amz-Signature=abc failed", "put to https://b.s3.org/k?*** failed"),
    ],
)
def test_addresses_in_a_text_are_masked(text, seen):
    assert masked(text) == seen


def test_parts_of_an_address_that_a_driver_quotes_are_masked():
    address = "postgresql://me:S3cret/Pass%C3%A4@host/db"
    text = 'cannot translate "pass%c3%a4@host" or "Passä" for user me of db'
    assert masked(text, address) == 'cannot translate "***@host" or "***" for user *** of ***'
    address = "postgresql://me:S3cret@host/db"
    assert masked("user me of db at host: S3cret? time", address) == "user *** of db at host: ***? time"


# --- whatever the form ------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None, derandomize=True)
@given(addresses())
def test_no_form_of_an_address_shows_its_password(address):
    environment = {}
    assert not leaks(shown(address), masked(f"x {address} y", address))
    assert not leaks(ui_command(address), store_command(address, "mlflow"))
    assert shown(shown(address)) == shown(address)
    try:
        settled = kept(address, environment)
    except ValueError as refused:
        assert not leaks(refused)
        return
    assert not leaks(
        settled, *cluster_problems(settled), ui_command(settled), store_command(settled, "mlflow")
    )
    assert cluster_problems(settled) and cluster_problems(address)
    opened(settled, environment)


def files_of(folder):
    return [path.read_bytes().decode("utf-8", "replace") for path in folder.rglob("*") if path.is_file()]


def check_commands(address, folder, capfd, log):
    out, address = folder / "out", address.replace("{out}", str(folder))
    if not out.exists():
        make_benchmark(out)
        keep(out, story()[0])
    seen = []
    elsewhere = ["--cluster", "http://127.0.0.1:9", "--dry-run", "--tasks", "quickstart/promoter"]
    for arguments in (
        ["sync", out, "--tracking-uri", address],
        ["ui", out, f"--tracking-uri={address}", "--port", "1"],
        ["best", "--experiment", "bench", "--tracking-uri", address],
        [*elsewhere, "--tracking-uri", address],
        [*elsewhere, "--storage-path", address if "://" in address else f"s3://{address}"],
    ):
        result = CliRunner().invoke(app, list(map(str, arguments)))
        code = 0 if arguments[0] == "ui" and "open http://127.0.0.1:9" in result.stdout else 2
        assert result.exit_code == code and (not code or isinstance(result.exception, SystemExit)), (
            result.output
        )
        seen += [result.stdout, result.stderr]
        os.environ.pop(ADDRESS, None)
    assert not leaks(*seen, log.text, *capfd.readouterr(), *files_of(folder))


def check_run(address, folder, log):
    try:
        benchmark = build({"tracking_uri": address.replace("{out}", str(folder)), "out": folder})
    except InputError as refused:
        assert not leaks(refused)
        return
    planned = plan(benchmark).to_dict()
    assert not leaks(repr(benchmark), pickle.dumps(benchmark), json.dumps(planned), repr(planned))
    if not address.startswith(("http", "sqlite")):
        warnings = []
        tracker = Tracker(folder, Setting(experiment="e", identity="i"), uri=benchmark.tracking_uri)
        tracker._warn = warnings.append
        assert not tracker.close(60)
        assert not leaks(*warnings, log.text)


def cases(count):
    fixtures = [HealthCheck.function_scoped_fixture]
    return settings(max_examples=count, deadline=None, derandomize=True, suppress_health_check=fixtures)


@cases(6)
@given(addresses())
@example("postgresql+quoting://u:Qx7vKplanted/w9Zplanted@h/db")
@example("postgresql+quoting://h/db?user=u&password=Qx7vKplanted+w9Zplanted")
def test_no_command_shows_or_keeps_the_password_of_its_store(tmp_path, caplog, capfd, address):
    check_commands(address, tmp_path, capfd, caplog)


@cases(6)
@given(addresses())
@example("postgresql+quoting://u:Qx7vKplanted/w9Zplanted@h/db")
def test_a_run_keeps_and_warns_of_no_password(tmp_path, caplog, address):
    check_run(address, tmp_path, caplog)


@pytest.mark.slow
@cases(100)
@given(addresses())
def test_no_command_and_no_run_shows_the_password_of_many_addresses(tmp_path, caplog, capfd, address):
    check_commands(address, tmp_path, capfd, caplog)
    check_run(address, tmp_path / "run", caplog)


# --- runs that go on --------------------------------------------------------------------------------------


def test_a_run_goes_on_where_the_variable_has_its_address(tmp_path, monkeypatch):
    address = "postgresql://me:secret@host/db"
    stored = plan(build({"tracking_uri": address, "out": tmp_path})).to_dict()["settings"]
    assert stored["tracking_uri"] == "postgresql://***@host/db"
    assert plan(restore(stored, {})).benchmark.tracking_uri == "postgresql://***@host/db"
    monkeypatch.delenv(ADDRESS)
    with pytest.raises(InputError, match=f"`--tracking-uri` must be given again: .*set {ADDRESS} to"):
        plan(restore(stored, {}))
    assert restore(stored, {"tracking_uri": "http://host"}).tracking_uri == "http://host"
    make_benchmark(tmp_path, uri="postgresql://***@host/db")
    for name in ("sync", "ui"):
        result = CliRunner().invoke(app, [name, str(tmp_path)])
        assert result.exit_code == 2 and f"set {ADDRESS} to the full address" in result.stderr


def test_a_password_that_an_older_version_kept_is_not_kept_again():
    stored = build({}).model_dump(mode="json") | {"tracking_uri": "postgresql://h/db?password=secret"}
    assert restore(stored, {}).model_dump(mode="json")["tracking_uri"] == "postgresql://h/db?***"


def test_a_variable_is_looked_up_where_the_run_is_driven(tmp_path):
    benchmark = build({"tracking_uri": "env:STORE", "out": tmp_path})
    with pytest.raises(InputError, match="must name a variable that is set, but STORE is not"):
        plan(benchmark)
    assert plan(benchmark.model_copy(update={"cluster": "c.yaml"})).benchmark.tracking_uri == "env:STORE"
    assert cluster_problems("env:STORE") == []


def test_files_that_could_hold_a_password_are_for_their_owner_alone(tmp_path):
    from harness.cluster.session import Session

    Session(out=tmp_path).save()
    assert stat.S_IMODE((tmp_path / "cluster.json").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "address",
    [
        "s3://key:sec/ret@bucket/x",
        "s3://bucket/x?secret_key=secret",
        "s3:/key:secret@bucket",
        "gs://u:secret@bucket",
        "http://u:secret@host:8265",
        "ray://u:secret@host:10001",
    ],
)
def test_a_storage_or_cluster_with_a_secret_is_refused(address):
    option = "cluster" if "host" in address else "storage_path"
    with pytest.raises(InputError, match="must not contain a key or password") as refused:
        build({option: address})
    assert "secret" not in str(refused.value) and "sec/ret" not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/a b/c=d",
        "gs://anonymous@bucket/x",
        "file:///a@b",
        "/home/a@b?c",
        "auto",
        "http://h:8265/",
    ],
)
def test_a_storage_or_cluster_without_a_secret_is_taken(address):
    assert place_without_secret(address) == address


# --- the environment and the command line -----------------------------------------------------------------


def tracked_plan(*arguments):
    return CliRunner().invoke(app, ["plan", "--no-measure", "--methods", "lora", *arguments])


def test_the_store_of_the_environment_is_used_and_said(monkeypatch, tmp_path):
    monkeypatch.setenv(ADDRESS, "http://me:secret@tracking.example:5000")
    result = tracked_plan()
    assert f"{ADDRESS} is set: MLflow's runs go to http://***@tracking.example:5000" in result.stdout
    result = tracked_plan("--tracking-uri", "http://other.example")
    assert result.exit_code == 0 and ADDRESS not in result.stdout
    monkeypatch.setenv(ADDRESS, "file:///mlruns")
    result = tracked_plan()
    assert result.exit_code == 2 and "`--tracking-uri` must be an address of an MLflow store" in result.stderr


def test_a_run_with_another_store_says_that_the_environment_is_not_used(monkeypatch, tmp_path):
    make_benchmark(tmp_path, uri="http://127.0.0.1:9")
    monkeypatch.setenv(ADDRESS, "http://other.example")
    result = CliRunner().invoke(app, ["ui", str(tmp_path)])
    assert result.exit_code == 0
    assert f"{ADDRESS} is set and not used: this run has its store at http://127.0.0.1:9" in result.stdout


def test_best_reads_the_store_of_the_environment(monkeypatch):
    monkeypatch.setenv(ADDRESS, "http://127.0.0.1:9")
    result = CliRunner().invoke(app, ["best", "--experiment", "bench"])
    assert "must be a store that answers, but http://127.0.0.1:9 fails" in result.stderr


def test_a_password_leaves_the_command_line_before_anything_starts():
    """Ray keeps the command line of a driver in its list of jobs, and `ps` shows it."""
    program = (
        "import os, sys, psutil; sys.path.insert(0, sys.argv.pop(1));\n"
        "import harness.cli.main as cli\n"
        "cli.app = lambda **_: print(psutil.Process().cmdline(), os.environ['MLFLOW_TRACKING_URI'])\n"
        "cli.main()"
    )
    address = "postgresql://u:S3cret/Pass@h/db"
    words = ["--tracking-uri", address, f"--tracking-uri={address}"]
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOT), "run", *words, "--yes"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    line, _, variable = done.stdout.strip().rpartition(" ")
    assert variable == address
    assert "S3cret" not in line and line.count("postgresql://***") == 2 and "--yes" in line


def test_commands_are_printed_as_a_shell_takes_them():
    assert command("resume", Path("/a b/it's")) == """lingo-bench resume '/a b/it'"'"'s'"""
    assert typed("ray", "up", Path("x$y")) == "ray up 'x$y'"


def test_every_command_that_is_printed_with_a_path_is_quoted(tmp_path):
    out = tmp_path / "my runs [1]"
    make_benchmark(out)
    result = CliRunner().invoke(app, ["ui", str(out)])
    assert f"`lingo-bench sync '{out}'` creates it" in result.stderr
    program = r"python run_benchmark\.py|ray (up|down)|sbatch|pip install|--out|--data-dir|`(resume|prepare)"
    unquoted = re.compile(rf"({program}) [^`\"]*\{{(?!typed|command|extra|row.family)")
    for path in [*(ROOT / "harness").rglob("*.py"), *(ROOT / "lingo").rglob("*.py")]:
        found = [line for line in path.read_text(encoding="utf-8").splitlines() if unquoted.search(line)]
        assert not found, (path, found)
