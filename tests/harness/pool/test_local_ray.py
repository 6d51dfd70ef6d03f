"""Homes, temporary folders and full disks: what a run needs of them, and what it says when it does not get it."""

import io
import os
import stat
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from ray.exceptions import RayError
from rich.console import Console

from harness.core import disk_space, home
from harness.core.wording import last_line
from harness.pipeline import run  # noqa: F401 - what leaves a run at once imports it
from harness.pipeline.interrupts import outlived
from harness.pool import local_ray
from harness.pool.ray_causes import (
    HOME,
    MEMORY,
    PATH,
    SLOW_START,
    STORE,
    Cause,
    PoolError,
    RayTrouble,
    cause_of,
    tails,
)

ROOT = Path(__file__).resolve().parents[3]


# --- causes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "logged", "cause"),
    [
        (
            "OSError: validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /x",
            "",
            PATH,
        ),
        ("RuntimeError: Could not determine home directory.", "", HOME),
        ("Exception: The current node timed out during startup. This could happen because", "", SLOW_START),
        ("RuntimeError: Timed out waiting for file /tmp/x/gcs_server_port", "", SLOW_START),
        ("PoolError: No worker group started within 300 s.", "", SLOW_START),
        ("The current node timed out during startup.", "terminate called: std::bad_alloc", MEMORY),
        ("ValueError: Attempting to cap object store memory usage at 1 bytes, but the minimum", "", STORE),
        ("KeyError: 'x'", "", None),
    ],
)
def test_a_failure_is_told_by_its_cause(said, logged, cause):
    assert cause_of(said, logged) == cause


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("RuntimeError: can't start new thread", "ulimit -u"),
        ("BlockingIOError: [Errno 11] Resource temporarily unavailable", "--max-concurrent 1"),
        ("OSError: [Errno 24] Too many open files: '/dev/null'", "ulimit -n 4096"),
        ("PermissionError: [Errno 13] Permission denied: '/tmp/a/b'", "/tmp/a/b (Permission denied)"),
        ("OSError: [Errno 30] Read-only file system: '/x/.ray'", "/x/.ray (Read-only file system)"),
        ("OSError: [Errno 28] No space left on device: '/tmp/x'", "RAY_TMPDIR"),
        ("OSError: [Errno 8] Exec format error: 'gcs_server'", "noexec"),
    ],
)
def test_every_cause_has_its_cure(said, words):
    found = cause_of(said)
    assert found is not None and words in str(found)
    assert found.what.endswith(".") and (not found.cure or found.cure.endswith("."))
    assert "\n" not in str(found)


def test_a_full_disk_explains_whatever_else_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_space, "free", lambda folder: (4096, None))
    found = cause_of("The current node timed out during startup.", "", [disk_space.ray_place(tmp_path)])
    assert found is not None and found != SLOW_START
    assert str(tmp_path) in found.what and "4.1 kB free" in found.what and "RAY_TMPDIR" in found.what


def test_an_error_is_told_by_its_last_line():
    assert (
        last_line("Traceback:\n\n  \x1b[31mValueError:  too   long\x1b[0m\n---\n") == "ValueError: too long"
    )
    assert last_line("") == "no reason given"


def test_the_ends_of_rays_logs_are_read(tmp_path):
    (tmp_path / "session_latest" / "logs").mkdir(parents=True)
    (tmp_path / "session_latest" / "logs" / "raylet.err").write_bytes(b"\xff" * 9000 + b"Too many open files")
    assert tails(tmp_path).endswith("Too many open files") and len(tails(tmp_path)) < 9000


def test_a_trouble_survives_its_way_between_processes():
    import pickle

    again = pickle.loads(pickle.dumps(RayTrouble(Cause("It is so.", "Do this."))))  # noqa: S301 - made here
    assert (str(again), again.cause.cure) == ("It is so. Do this.", "Do this.")


# --- homes and temporary folders ---------------------------------------------------------------------------


@pytest.fixture
def surroundings(tmp_path, monkeypatch):
    """An environment with nothing of the libraries' folders, and a temporary folder of its own."""
    for name in (*home.FOLDERS, "HF_HOME", "HF_DATASETS_CACHE", "RAY_TMPDIR", "TEMP", "TMP", "LOGNAME"):
        monkeypatch.delenv(name, raising=False)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    home.provide.cache_clear()
    yield monkeypatch
    home.provide.cache_clear()


def test_a_home_that_can_be_written_to_is_left_alone(surroundings, tmp_path):
    surroundings.setenv("HOME", str(tmp_path))
    assert home.provide() == ""
    assert "MPLCONFIGDIR" not in os.environ and os.environ["HOME"] == str(tmp_path)


@pytest.mark.parametrize("value", ["", "/nowhere/at/all"])
def test_without_a_home_a_private_folder_stands_in(surroundings, tmp_path, value):
    surroundings.setenv("HOME", value)
    line = home.provide()
    ours = tmp_path / "tmp" / f"lingo-{os.geteuid()}"
    assert str(ours) in line and "Set HOME" in line and "\n" not in line
    assert os.environ["HOME"] == str(ours) and Path.home() == ours
    assert stat.S_IMODE(ours.stat().st_mode) == 0o700
    assert os.environ["HF_HOME"] == str(ours / "huggingface")
    assert home.provide() == line  # though there is a home by now


def test_a_read_only_home_keeps_its_name_and_its_models(surroundings, tmp_path):
    models = tmp_path / "home" / ".cache" / "huggingface"
    models.mkdir(parents=True)
    surroundings.setenv("HOME", str(tmp_path / "home"))
    surroundings.setattr(os, "access", lambda path, mode: not str(path).startswith(str(tmp_path / "home")))
    assert "is not writable" in home.provide()
    assert os.environ["HOME"] == str(tmp_path / "home") and os.environ["HF_HOME"] == str(models)
    assert os.environ["HF_DATASETS_CACHE"].startswith(str(tmp_path / "tmp"))
    assert os.environ["MPLCONFIGDIR"].startswith(str(tmp_path / "tmp"))


def test_somebody_elses_folder_is_not_used(surroundings, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tmp" / f"lingo-{os.geteuid()}").symlink_to(tmp_path / "elsewhere")
    made = home.private_folder()
    assert made.name.startswith("lingo-home-") and not list((tmp_path / "elsewhere").iterdir())


def test_rays_folder_is_where_it_was_asked_for_if_its_path_is_short(surroundings, tmp_path):
    short = Path("/tmp/ray-here") if not Path("/tmp/ray-here").exists() else tmp_path
    short.mkdir(exist_ok=True)
    surroundings.setenv("RAY_TMPDIR", str(short))
    try:
        assert local_ray.ray_folder() == short
    finally:
        short.rmdir()
    surroundings.setenv("RAY_TMPDIR", str(tmp_path / "a file" / "below"))
    (tmp_path / "a file").write_text("")
    with pytest.raises(RayTrouble, match=r"RAY_TMPDIR must be a writable folder.*a file/below is not"):
        local_ray.ray_folder()
    surroundings.delenv("RAY_TMPDIR")
    surroundings.setenv("TMPDIR", "/tmp/" + "x" * 100)
    assert local_ray.ray_folder() == Path("/tmp")


def test_no_short_folder_is_told_with_its_cure(surroundings):
    surroundings.setattr(local_ray, "temporary_folders", lambda *_: ["/" + "x" * 60])
    with pytest.raises(RayTrouble, match=r"limited to \d+ bytes.*short one with RAY_TMPDIR"):
        local_ray.ray_folder()
    surroundings.setattr(home, "_usable", lambda folder: False)
    surroundings.setattr(local_ray, "temporary_folders", home.temporary_folders)
    with pytest.raises(RayTrouble, match="TMPDIR"):
        local_ray.ray_folder()


def test_the_private_folder_is_private_and_goes(surroundings, tmp_path):
    surroundings.setattr(local_ray, "ray_folder", lambda: tmp_path)
    with local_ray._private_folder() as folder:
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700 and folder.parent.parent == tmp_path
        with local_ray._private_folder() as second:  # another run: neither sweeps the other's
            assert folder.is_dir() and second.is_dir()
    assert not list(tmp_path.glob("*lingo-ray*"))


def test_what_a_killed_run_has_left_is_swept_and_what_an_unknown_failure_has_left_stays_until_then(
    surroundings, tmp_path
):
    surroundings.setattr(local_ray, "ray_folder", lambda: tmp_path)
    with pytest.raises(RayTrouble), local_ray._private_folder() as folder:
        raise RayTrouble(local_ray._unknown("strange", folder))
    assert folder.is_dir()
    with pytest.raises(RayTrouble), local_ray._private_folder():
        assert not folder.exists()
        raise RayTrouble(SLOW_START)
    assert not list(tmp_path.glob("lingo-ray*"))


def test_rays_token_is_its_own_and_the_users_is_put_back(surroundings, tmp_path):
    (tmp_path / "r").mkdir()
    surroundings.setenv("RAY_AUTH_TOKEN", "the user's")
    with local_ray._environment(tmp_path / "r"):
        token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
        assert "RAY_AUTH_TOKEN" not in os.environ and len(token.read_text()) == 64
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert os.environ["RAY_AUTH_TOKEN"] == "the user's" and "RAY_AUTH_TOKEN_PATH" not in os.environ


# --- starts ------------------------------------------------------------------------------------------------


def refusing(errors):
    """`ray.init` that raises one error after the other, and the number of its calls."""
    calls = []

    def init(**options):
        calls.append(options)
        if len(calls) <= len(errors):
            raise errors[len(calls) - 1]

    return init, calls


SLOW = Exception("The current node timed out during startup.")


def test_a_slow_start_is_tried_once_more(monkeypatch, tmp_path):
    init, calls = refusing([SLOW])
    monkeypatch.setattr("ray.init", init)
    local_ray._start(tmp_path, 1, None)
    assert len(calls) == 2 and calls[0]["_temp_dir"] == str(tmp_path)


@pytest.mark.parametrize(
    ("errors", "tries", "words"),
    [
        ([SLOW, SLOW], 2, "overloaded"),
        ([OSError("AF_UNIX path length cannot exceed 107 bytes")], 1, "RAY_TMPDIR"),
        ([KeyError("strange")], 1, "Its logs are in"),
    ],
)
def test_a_start_that_fails_is_one_line(monkeypatch, tmp_path, errors, tries, words):
    init, calls = refusing(errors)
    monkeypatch.setattr("ray.init", init)
    with pytest.raises(RayTrouble, match=words):
        local_ray._start(tmp_path, 1, None)
    assert len(calls) == tries


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PoolError("The search process died 6 times: x."), "The search process died 6 times: x."),
        (
            PoolError("No worker group started within 300 s."),
            f"No worker group started within 300 s. {SLOW_START.cure}",
        ),
        (RayError("one\nand the last"), "Ray cannot continue: and the last."),
        (RayError("ray.exceptions.OutOfMemoryError: killed"), str(MEMORY)),
    ],
)
def test_what_the_pool_cannot_go_on_from_is_one_line(error, line):
    with pytest.raises(RayTrouble) as told, local_ray.troubles_told(None):
        raise error
    assert str(told.value) == line


def test_a_full_disk_ends_a_run_and_is_the_cause_of_what_it_ended_with(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_space, "free", lambda folder: (0, None))
    (tmp_path / "lingo-ray-x" / "r" / "scratch").mkdir(parents=True)
    scratch = tmp_path / "lingo-ray-x" / "r" / "scratch"
    line = f"Ray's temporary folder, {tmp_path}, has 0 bytes free"
    with pytest.raises(RayTrouble, match=line), local_ray.troubles_told(scratch):
        raise PoolError("The search process died 6 times: OOM killer.")
    left, gone = [], threading.Event()
    monkeypatch.setattr("os._exit", lambda code: (left.append(code), gone.set()))
    text = io.StringIO()
    full = partial(local_ray.full_disk, scratch)
    with outlived({}, Console(file=text, width=400), tmp_path, full=full, every=0.01):
        assert gone.wait(60)
    assert left == [1] and f"Stopped: {line}" in text.getvalue() and "resume" in text.getvalue()


def test_a_machine_that_cannot_reach_itself_is_told_at_once(monkeypatch):
    def refuse(*_, **__):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr("socket.create_connection", refuse)
    with pytest.raises(RayTrouble, match=r"cannot reach itself at 127.0.0.1 \(Network is unreachable\)"):
        local_ray.refuse_without_loopback()


# --- the program's own modules -----------------------------------------------------------------------------


def test_workers_get_the_programs_folder_as_this_process_has_it(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(ROOT), "/usr/lib"])
    assert local_ray.own_modules(tmp_path / "links") == [str(ROOT)]
    monkeypatch.setattr(sys, "path", ["/usr/lib", str(ROOT)])
    assert local_ray.own_modules(tmp_path / "links") == [str(tmp_path / "links")]
    assert {"harness", "lingo"} <= {each.name for each in (tmp_path / "links").iterdir()}
    monkeypatch.setattr(sys, "path", ["/usr/lib"])
    assert local_ray.own_modules() == []


def test_rays_own_way_to_leave_out_the_working_folder_is_still_there():
    from ray.job_config import JobConfig

    assert JobConfig()._runtime_env_has_working_dir() is False  # what `OwnModulesFirst` overrides
    config = local_ray.OwnModulesFirst(["/here"])
    assert config._runtime_env_has_working_dir() is True and config._py_driver_sys_path == ["/here"]


@pytest.mark.parametrize("name", ["random", "harness", "ray", "data"])
def test_the_command_imports_nothing_from_where_it_is_given(tmp_path, name):
    (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    bare = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "run_benchmark.py"), "best"],
        cwd=tmp_path,
        env=bare,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "needs RUN" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("option", ["--models", "--tasks", "--storage-path"])
def test_a_home_of_nobody_is_a_path_that_does_not_exist(option, tmp_path):
    from typer.testing import CliRunner

    from harness.cli.main import app

    words = [
        "run",
        "--models",
        "quickstart-opt",
        option,
        "~nosuchaccount/x.csv",
        "--out",
        str(tmp_path / "out"),
    ]
    result = CliRunner().invoke(app, [*words, *([] if option != "--storage-path" else ["--seeds", "x"])])
    assert result.exit_code == 2 and "Traceback" not in result.output, result.output
    assert isinstance(result.exception, SystemExit)


# --- room --------------------------------------------------------------------------------------------------


def test_a_disk_without_room_is_told_with_bytes_and_cure(tmp_path, monkeypatch):
    place = disk_space.out_place(tmp_path / "new" / "out")
    assert disk_space.shortages([place]) == [] and disk_space.full([place]) == ""
    monkeypatch.setattr(disk_space, "free", lambda folder: (2_000_000, 10))
    (line,) = disk_space.shortages([place, place])
    assert f"{tmp_path}/new/out" in line and "2.0 MB free and needs 33.6 MB" in line and "--out" in line
    assert disk_space.full([place]) == ""
    monkeypatch.setattr(disk_space, "free", lambda folder: (10**12, 0))
    assert "0 inodes free" in disk_space.full([place])


def test_a_quota_is_a_shortage_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    (line,) = disk_space.shortages([disk_space.scratch_place(tmp_path)])
    assert "quota" in line and "TMPDIR" in line


def test_rays_folder_needs_more_where_shared_memory_has_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_space, "free", lambda folder: (10**12, None))
    assert disk_space.ray_place(tmp_path).needs == disk_space.RAY_NEEDS
    monkeypatch.setattr(disk_space, "free", lambda folder: (10**7, None))
    assert disk_space.ray_place(tmp_path).needs == disk_space.RAY_NEEDS + disk_space.STORE_NEEDS
