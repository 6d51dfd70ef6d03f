"""MLflow's SQLite files: whole or not there, told apart, set aside, and at home in a folder that has moved."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from typer.testing import CliRunner

from harness.cli.main import app
from harness.core.errors import InputError
from harness.core.store_address import default_uri
from harness.runs.mlflow_paths import rehome
from harness.tracking.database import look, make, prepare, set_aside
from harness.tracking.store import client_of
from harness.tracking.sync import sync
from harness.tracking.tracker import Tracker
from tests.support.tracked import SETTING, benchmark, by_name, follow, keep, snapshot, story


def command(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "1000"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def change(path, *statements):
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)


def half_made(path):
    """As MLflow leaves it that is killed after the tables of its first version and some steps."""
    change(
        path,
        "UPDATE alembic_version SET version_num = '451aebb31d03'",
        "CREATE TABLE _alembic_tmp_metrics (x TEXT)",
        "DELETE FROM experiments",
    )


def of_an_older_version(path):
    change(
        path,
        "UPDATE alembic_version SET version_num = '451aebb31d03'",
        "INSERT INTO runs (run_uuid, experiment_id) VALUES ('1', 0)",
    )


def of_a_newer_version(path):
    change(path, "UPDATE alembic_version SET version_num = 'ffffffffffff'")


def no_database(path):
    path.write_text("no database")


def a_torn_page(path):
    content = bytearray(path.read_bytes())
    content[8192:20000] = os.urandom(20000 - 8192)
    path.write_bytes(content)


BROKEN = {"half": half_made, "damaged": no_database, "torn": a_torn_page}
OTHER = {"older": of_an_older_version, "newer": of_a_newer_version}


@pytest.mark.parametrize("how, writer", [*((how, "sync") for how in BROKEN), ("half", "run")])
def test_an_own_store_that_cannot_be_opened_is_set_aside_and_written_anew(tmp_path, uri, how, writer):
    path = tmp_path / "mlflow.db"
    benchmark(tmp_path)
    BROKEN[how](path)
    broken, records = path.read_bytes(), story()
    for end in ("-journal", "-wal"):
        path.with_name(path.name + end).write_text("of the broken one")
    if how == "half":  # SQLite plays back what belongs to a database that it can read
        path.with_name("mlflow.db-journal").unlink(), path.with_name("mlflow.db-wal").unlink()
    if writer == "sync":
        keep(tmp_path, *records)
        code, text = command("sync", tmp_path)
        assert code == 0 and "6 of 6 runs written; the store is complete." in text
        assert text.count("it is kept as mlflow.db.unusable-1") == 1
    else:
        warnings = []
        tracker = Tracker(tmp_path, SETTING, warn=warnings.append)
        follow(tracker, tmp_path, records)
        assert tracker.close(120)
        assert len(warnings) == 1 and "it is kept as mlflow.db.unusable-1" in warnings[0]
    assert (tmp_path / "mlflow.db.unusable-1").read_bytes() == broken
    assert len(by_name(uri)) == 7
    assert not list(tmp_path.glob("mlflow.db-*")) and not list(tmp_path.glob(".mlflow-*"))
    assert command("sync", tmp_path)[1].startswith("0 of 6 runs written; the store is complete.")


@pytest.mark.parametrize("how", OTHER)
@pytest.mark.parametrize("name", ["ui", "sync", "best"])
def test_a_store_of_another_version_is_one_line_with_what_to_do(tmp_path, uri, how, name):
    path = tmp_path / "mlflow.db"
    benchmark(tmp_path)
    keep(tmp_path, *story())
    OTHER[how](path)
    before = path.read_bytes()
    arguments = (
        ["best", "--tracking-uri", uri, "--experiment", "bench"] if name == "best" else [name, tmp_path]
    )
    code, text = command(*arguments)
    assert code == 2 and text.count("\n") == 2, text
    cure = f"mlflow db upgrade sqlite:///{path}" if how == "older" else "pip install --upgrade mlflow"
    assert cure in text and how in text
    assert path.read_bytes() == before and not list(tmp_path.glob("*.unusable*"))


def test_a_broken_store_of_somebody_else_is_left_alone(tmp_path, uri):
    out, path = tmp_path / "out", tmp_path / "mlflow.db"
    benchmark(out)
    keep(out, *story())
    half_made(path)
    before = path.read_bytes()
    for arguments in (["sync", out, "--tracking-uri", uri], ["ui", out, "--tracking-uri", uri]):
        code, text = command(*arguments)
        assert code == 2 and "creation was interrupted" in text and "move it away" in text
    assert path.read_bytes() == before


def test_a_folder_whose_path_is_no_text_gets_no_store(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xed\xa0\x80"))
    with pytest.raises(InputError, match=r"^[^\n]*path that is text[^\n]*$"):
        prepare(None, f"sqlite:///{folder}/mlflow.db", writer=True)


def test_looking_makes_nothing(tmp_path):
    absent = tmp_path / "none.db"
    code, text = command("best", "--tracking-uri", f"sqlite:///{absent}", "--experiment", "x")
    assert code == 2 and "there is none" in text and not absent.exists()
    benchmark(tmp_path)
    assert command("ui", tmp_path)[0] == 2 and not (tmp_path / "mlflow.db").exists()


def test_a_journal_of_an_earlier_store_is_not_played_into_a_new_one(tmp_path):
    path = tmp_path / "mlflow.db"
    path.with_name("mlflow.db-journal").write_bytes(os.urandom(4096))
    make(path, tmp_path / "mlartifacts")
    assert look(path)[0] == "whole"
    assert sorted(found.name for found in tmp_path.iterdir()) == ["mlflow.db"]
    made = path.read_bytes()
    make(path, tmp_path / "mlartifacts")
    assert path.read_bytes() == made  # what is there is left
    assert set_aside(path).name == "mlflow.db.unusable-1" and not path.exists()


def test_a_store_that_refuses_now_is_not_set_aside(tmp_path, uri):
    """Locked for good, that is, not broken."""
    benchmark(tmp_path)
    keep(tmp_path, *story())
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("harness.tracking.database.BUSY_S", 0.1)
            with pytest.raises(InputError, match=r"is not \(database is locked\)"):
                sync(tmp_path)
    assert not list(tmp_path.glob("*.unusable*"))
    assert sync(tmp_path).written == 6


OURS = "prepare(out, 'sqlite:///' + sys.argv[1] + '/mlflow.db', writer=True)"
MLFLOWS = "SqlAlchemyStore('sqlite:///' + sys.argv[1] + '/mlflow.db', sys.argv[1])"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("making", [OURS, MLFLOWS], ids=["ours", "mlflow's"])
def test_a_process_that_is_killed_at_any_moment_of_making_a_store(tmp_path, making):
    """Moments from the first file that the making leaves on the disk. Ours leaves no half store; what earlier
    versions left, or MLflow by itself, is set aside."""
    code = "import sys, pathlib; from harness.tracking.database import prepare; out = pathlib.Path(sys.argv[1]); "
    code += f"from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore; {making}"
    states = []
    for moment in [0.0, 0.05, 0.15, 0.3, 0.5, 0.8, 1.5]:
        out = tmp_path / f"at-{moment}"
        out.mkdir()
        process = subprocess.Popen([sys.executable, "-c", code, str(out)], stderr=subprocess.DEVNULL)
        while process.poll() is None and not list(out.iterdir()):
            time.sleep(0.002)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        states.append(look(out / "mlflow.db")[0])
        if states.count(states[-1]) > 2:
            continue  # what follows takes seconds, and goes by the state
        benchmark(out)
        keep(out, *story())
        assert sync(out, say=lambda line: None).written == 6
        assert not list(out.glob(".mlflow-*"))
        assert bool(list(out.glob("*.unusable-1"))) == (states[-1] == "half")
    print(states)
    assert set(states) <= ({"absent", "whole"} if making == OURS else {"absent", "whole", "half"}), states
    assert ("absent" if making == OURS else "half") in states, states


def artifacts_of(out: Path):
    client = MlflowClient(default_uri(out))
    run = by_name(default_uri(out))["final/seed-1"].info
    return run.artifact_uri, [item.path for item in client.list_artifacts(run.run_id)]


@pytest.mark.parametrize("name", ["moved", "with space, 100 % é"])
def test_a_moved_or_copied_folder_has_its_artifacts_at_home(tmp_path, empty_store, name):
    out, copy, moved = tmp_path / "run", tmp_path / "copy", tmp_path / "deep" / name
    benchmark(out)
    shutil.copy(empty_store, out / "mlflow.db")
    keep(out, *story())
    assert sync(out).written == 6
    before, seen = artifacts_of(out), snapshot(default_uri(out))
    shutil.copytree(out, copy)
    held = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert sync(copy).written == 0  # the copy has everything, and it is told so
    assert sync(copy, again=True).written == 6
    assert artifacts_of(copy)[0].startswith((copy / "mlartifacts").as_uri())
    assert snapshot(default_uri(copy)) == seen
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == held  # untouched
    moved.parent.mkdir()
    out.rename(moved)
    assert sync(moved).written == 0
    assert artifacts_of(moved) == (
        before[0].replace((out / "mlartifacts").as_uri(), (moved / "mlartifacts").as_uri()),
        before[1],
    )
    assert snapshot(default_uri(moved)) == seen
    assert not out.exists()


def test_opening_the_ui_brings_a_moved_store_home(tmp_path, empty_store):
    out, moved = tmp_path / "run", tmp_path / "moved"
    benchmark(out)
    shutil.copy(empty_store, out / "mlflow.db")
    keep(out, *story())
    sync(out)
    out.rename(moved)
    prepare(moved, default_uri(moved), writer=False)
    assert artifacts_of(moved)[1]
    assert rehome(moved / "mlflow.db", moved) == 0


def test_an_own_store_that_was_named_by_its_address_is_the_folders_own(tmp_path, empty_store):
    out, copy = tmp_path / "run", tmp_path / "copy"
    benchmark(out, uri=default_uri(out))
    shutil.copy(empty_store, out / "mlflow.db")
    plan = (out / "plan.json").read_text()
    (out / "plan.json").write_text(plan.replace('"settings": {', f'"settings": {{"out": "{out}", '))
    keep(out, *story())
    sync(out)
    shutil.copytree(out, copy)
    assert sync(copy).uri == default_uri(copy)


def test_artifacts_elsewhere_are_left_where_they_are(tmp_path):
    database = tmp_path / "mlflow.db"
    change(
        database,
        "CREATE TABLE experiments (artifact_location TEXT)",
        "CREATE TABLE runs (artifact_uri TEXT)",
        "INSERT INTO experiments VALUES ('file:///root/lingo/runs/x/mlartifacts'), ('s3://bucket/mlartifacts')",
        "INSERT INTO experiments VALUES ('/srv/mlruns/0'), ('file:///other/mlartifacts/folder')",
        "INSERT INTO runs VALUES ('file:///root/lingo/runs/x/mlartifacts/1'), ('s3://bucket/mlartifacts/2')",
        "INSERT INTO runs VALUES ('file:///root/lingo/runs/x/mlartifacts-other/3')",
    )
    assert rehome(database, "/home/me/my x") == 2
    with closing(sqlite3.connect(database)) as connection:
        assert [row[0] for row in connection.execute("SELECT * FROM runs")] == [
            "file:///home/me/my%20x/mlartifacts/1",
            "s3://bucket/mlartifacts/2",
            "file:///root/lingo/runs/x/mlartifacts-other/3",
        ]
        assert ("file:///home/me/my%20x/mlartifacts",) in connection.execute("SELECT * FROM experiments")


@pytest.mark.parametrize("name", ["a%2Fb", "50%", "a b+c"])
def test_a_folder_with_a_percent_sign_has_its_store_inside(tmp_path, name):
    """SQLAlchemy decodes `%` in addresses from version 2.1 on; MLflow then waits for a file elsewhere."""
    out = tmp_path / name
    out.mkdir()
    prepare(out, default_uri(out), writer=True)
    assert look(out / "mlflow.db")[0] == "whole"
    client_of(default_uri(out)).create_experiment("there")
    with closing(sqlite3.connect(out / "mlflow.db")) as database:
        assert ("there",) in database.execute("SELECT name FROM experiments").fetchall()


def test_a_link_to_nowhere_is_kept_aside(tmp_path):
    (tmp_path / "mlflow.db").symlink_to(tmp_path / "gone" / "x.db")
    said = []
    prepare(tmp_path, default_uri(tmp_path), writer=True, say=said.append)
    assert look(tmp_path / "mlflow.db")[0] == "whole" and "kept as" in said[0]
