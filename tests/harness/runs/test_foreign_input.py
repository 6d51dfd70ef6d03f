"""What others put in: files that are edited, cut, or no files at all, odd surroundings, secrets in the wrong place."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli import main
from harness.cli.main import app
from harness.config.initial_points import read_configurations
from harness.core import home
from harness.core.errors import InputError
from harness.runs.environment import git_state
from harness.runs.record import Record
from harness.tracking.database import look
from harness.tracking.sync import read_setting, sync
from lingo.text_files import read_json, read_text
from tests.support.planted import SECRETS
from tests.support.tracked import benchmark as make_benchmark
from tests.support.tracked import keep, story

ROOT = Path(__file__).resolve().parents[3]
SECRET = "".join(SECRETS)


def command(*words):
    """(exit code, output) of the command."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


# --- files -------------------------------------------------------------------------------------------------


def test_a_pipe_is_read_and_one_without_a_writer_is_empty(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert read_text(tmp_path / "pipe") == ""
    reading, writing = os.pipe()
    os.write(writing, b'{"a": 1}')
    os.close(writing)
    assert read_json(f"/dev/fd/{reading}") == {"a": 1}
    os.close(reading)
    with pytest.raises(IsADirectoryError, match=re.escape(str(tmp_path))):
        read_text(tmp_path)


def test_json_that_is_nested_too_deeply_is_no_json(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(tmp_path / "deep.json")
    for option in ("--settings", "--config", "--search-space"):
        code, output = command("plan", "--no-measure", option, tmp_path / "deep.json")
        assert code == 2 and "deep.json" in output, output


@pytest.mark.parametrize("option", ["--settings", "--config", "--search-space"])
def test_a_pipe_to_which_nobody_writes_is_not_waited_for(tmp_path, option):
    os.mkfifo(tmp_path / "pipe")
    code, output = command("plan", "--no-measure", option, tmp_path / "pipe")
    assert code == 2 and "pipe" in output


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: Path(path).symlink_to("/dev/null")])
def test_what_is_no_file_is_no_database(tmp_path, make):
    make(tmp_path / "mlflow.db")
    assert look(tmp_path / "mlflow.db") == ("damaged", None)
    make_benchmark(tmp_path / "run")
    keep(tmp_path / "run", story()[0])
    code, output = command("sync", tmp_path / "run", "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db")
    assert code == 2 and "no longer a valid database" in output
    assert Path("/dev/null").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("study", "a|b"),
        ("study", None),
        ("task", []),
        ("seed", "x"),
        ("trial", "1"),
        ("stage", "later"),
        ("status", "lost"),
        ("dev", {"mcc": None}),
        ("dev", {"mcc": "high"}),
        ("dev", []),
        ("config", []),
        ("facts", "x"),
        ("history", [1]),
        ("history", [{"epoch": 1, "step": 8, "seconds": 1.0, "train_loss": 0.5, "dev": {"mcc": []}}]),
        ("history", [{"epoch": 1, "step": 8, "seconds": 1.0, "train_loss": 0.5}]),
        ("history", [{"epoch": 1, "seconds": 1.0, "train_loss": 0.5, "dev": {}}]),
        ("marks", [1]),
        ("ended", 3),
        ("seconds", True),
    ],
)
def test_a_record_with_a_value_of_another_kind_is_none(tmp_path, field, value):
    text = json.dumps({**json.loads(story()[0].to_json()), field: value})
    with pytest.raises(ValueError, match=f"`{field}` must not be"):
        Record.from_json(text)
    make_benchmark(tmp_path)
    keep(tmp_path, story()[0])
    (file,) = (tmp_path / "records").iterdir()
    file.write_text(text)
    for name in ("best", "sync"):
        code, output = command(name, tmp_path)
        assert code == 2 and "is not a valid record" in output and str(file) in output


def test_every_record_is_read_as_it_was_written():
    for record in story():
        assert Record.from_json(record.to_json()).to_json() == record.to_json()


@pytest.mark.parametrize("file", ["benchmark.json", "plan.json"])
@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        "3",
        '{"config": [], "identity": "x"}',
        '{"config": {"suite": 3}, "identity": "x"}',
        '{"config": {"suite": "\\ud800"}, "identity": "x"}',
        '{"studies": [1]}',
        '{"settings": []}',
        '{"settings": {"seeds": ["x"]}}',
        '{"settings": {"tracking_uri": 3}}',
        '{"studies": [{"key": "k", "source": null, "space": {"notes": []}}]}',
    ],
)
def test_a_folder_whose_files_say_something_else_is_refused_or_read_without_them(tmp_path, file, text):
    make_benchmark(tmp_path)
    (tmp_path / file).write_text(text)
    try:
        assert read_setting(tmp_path).experiment == "bench"
    except InputError as refused:
        assert "has no readable benchmark.json" in str(refused)


def test_a_file_where_a_folder_belongs_is_told_in_one_line(tmp_path):
    make_benchmark(tmp_path)
    keep(tmp_path, story()[0])
    (tmp_path / "tracked").write_text("")
    code, output = command("sync", tmp_path)
    assert code == 1 and output.startswith("Stopped: ") and output.count("\n") == 1


def test_a_record_that_leads_nowhere_is_told_in_one_line(tmp_path):
    make_benchmark(tmp_path)
    (tmp_path / "records").mkdir()
    for name, make in (
        ("gone.json", lambda path: path.symlink_to("nowhere")),
        ("loop.json", lambda path: path.symlink_to(path.name)),
        ("socket.json", lambda path: socket.socket(socket.AF_UNIX).bind(str(path))),
    ):
        make(tmp_path / "records" / name)
        code, output = command("best", tmp_path)
        assert code == 1 and output.startswith("Stopped: ") and name in output, output
        (tmp_path / "records" / name).unlink()


def test_a_method_that_is_no_name_is_refused(tmp_path):
    (tmp_path / "c.json").write_text('{"configurations": [{"method": [], "config": {"rank": 4}}]}')
    with pytest.raises(InputError, match="`method` must be a known method"):
        read_configurations(tmp_path / "c.json")


# --- surroundings ------------------------------------------------------------------------------------------


def test_a_home_that_cannot_be_entered_is_no_home(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    for name in (*home.FOLDERS, "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != os.environ["HOME"] or mode == os.F_OK)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.setattr(Path, "stat", refuse)
    home.provide.cache_clear()
    assert "is not writable" in home.provide()
    home.provide.cache_clear()


@pytest.mark.parametrize("name", ["COLUMNS", "LINES"])
@pytest.mark.parametrize("value", ["²", "99999999999999", "junk", "-3"])
def test_a_size_of_the_terminal_that_is_none_is_not_used(monkeypatch, name, value, capsys):
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as left:
        main.main(["best", "/nowhere/at/all"])
    assert left.value.code == 2 and "must be the output folder" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["epochs", "num-samples", "batch-size", "patience", "max-length"])
def test_a_number_beyond_all_use_is_refused(option):
    code, output = command("plan", "--no-measure", f"--{option}", "9" * 400)
    assert code == 2 and f"`--{option}` must be" in output and "2147483648" in output


def test_a_store_may_have_a_name_that_is_no_text(tmp_path):
    make_benchmark(tmp_path / "run")
    keep(tmp_path / "run", story()[0])
    done = sync(tmp_path / "run", uri=f"sqlite:///{tmp_path}/x\udcff.db")
    assert (done.written, done.refused) == (1, [])


def test_a_umask_leaves_the_program_its_own_files(tmp_path):
    before = os.umask(0o777)
    try:
        with pytest.raises(SystemExit):
            main.main(["best", "/nowhere/at/all"])
        assert os.umask(0o777) == 0o077
    finally:
        os.umask(before)


def test_git_may_say_what_is_no_text(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    (tmp_path / "git").write_text("#!/bin/sh\nprintf '\\377'\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) == ("\ufffd", True)


def test_text_is_utf_8_whatever_the_locale():
    """Of all text that is read or written; what is decoded as a whole says so where it is decoded."""
    bare = re.compile(r"\.read_text\(\)|text=True(?!.*encoding)")
    for path in [*(ROOT / "harness").rglob("*.py"), *(ROOT / "lingo").rglob("*.py")]:
        for found in bare.finditer(text := path.read_text(encoding="utf-8")):
            assert "encoding=" in text[found.end() : found.end() + 80] or "**text" in text[found.end() :], (
                path
            )


@pytest.mark.parametrize("query", ["mode=ro", "timeout=3/x"])
def test_a_file_in_whose_path_a_query_would_begin_is_refused_and_no_other_is_made(tmp_path, query):
    address = f"sqlite:///{tmp_path}/a?{query}/mlflow.db"
    code, output = command("best", "--tracking-uri", address, "--experiment", "bench")
    assert code == 2 and "without `?`" in output and not list(tmp_path.iterdir())


# --- secrets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["sync", f"postgresql://u:{SECRET}@h/db"],
        ["sync", "/nowhere", f"postgresql://u:{SECRET}@h/db"],
        ["best", f"https://u:{SECRET}@h/"],
        ["best", "/nowhere", f"mysql://u:{SECRET}/x@h/db"],
        ["best", "/nowhere", f"--tracking-url=postgresql://u:{SECRET}@h/db"],
        ["best", f"u:{SECRET}@h/db"],
        ["sync", "/nowhere", f"env:{SECRET}/"],
        ["best", "--register", "x", "--tracking-uri", f"http://\udcff:{SECRET}@h"],
        [f"postgresql://u:{SECRET}@h/db"],
        ["plan", f"--epochs=postgresql://u:{SECRET}@h/db"],
        ["plan", "--tasks", f"postgresql://u:{SECRET}@h/db"],
        ["plan", "--models", f"postgresql://u:{SECRET}@h/db"],
        ["plan", "--data-dir", f"postgresql://u:{SECRET}@h/db"],
        ["plan", "--out", f"s3://u:{SECRET}@bucket/x"],
        ["doctor", "--no-ray", "--out", f"s3://u:{SECRET}@bucket/x"],
        ["doctor", "--no-ray", "--data-dir", f"postgresql://u:{SECRET}@h/db"],
    ],
)
def test_an_address_in_the_wrong_place_is_not_quoted_with_its_secret(words):
    code, output = command(*words)
    assert code == 2 and output and not any(secret in output for secret in SECRETS), output


def test_no_earlier_address_stays_on_the_command_line(tmp_path):
    program = (
        "import os, sys, harness.cli.main as cli\n"
        "os.execve = lambda program, words, environment: (print(words[1:]), os._exit(0))\n"
        "cli._hide_secrets(); print('kept')\n"
    )

    def seen(*words):
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        return done.stdout.strip()

    first, last = f"postgresql://u:{SECRET}@h/a", f"postgresql://u:{SECRET}@h/b"
    shown = seen("sync", "--tracking-uri", first, f"--tracking-uri={last}")
    assert SECRET not in shown and shown.count("***@h/") == 2
    assert SECRET not in seen("sync", first, "--tracking-uri", last)
    assert seen("sync", "--tracking-uri", first, "--tracking-uri", f"u:{SECRET}@h") == "kept"
