"""Runs the command line many times for the price of one import: each case in a fork of this process.

Reads cases from the standard input, a line of JSON each, and answers each with a line of JSON: exit code (negative
for a signal, `null` where it was ended after `SECONDS`) and seconds. What it prints goes to the case's own files.
The fork has the case's environment, working folder, umask, terminal settings and file descriptors; what the
interpreter settles at its start, the encodings of files and of the console, is that of this process.
"""

import ctypes
import gc
import importlib
import json
import os
import resource
import selectors
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

SECONDS = 60
MODULES = (
    "harness.cli.main",
    "harness.pipeline.best",
    "harness.doctor.checks",
    "harness.pipeline.forecast",
    "harness.pipeline.forecast_text",
    "harness.pipeline.forecast_time",
    "harness.cluster.file",
    "harness.tracking.sync",
    "harness.tracking.spool",
    "harness.tracking.registry",
    "harness.core.disk_space",
    "lingo.backbones",
    "lingo.foreign",
    "lingo.quantized",
    "torch",
    "transformers",
    "datasets",
    "huggingface_hub",
    "pyarrow.parquet",
    "alembic.script",
    "alembic.command",
    "sqlalchemy.dialects.sqlite",
    "mlflow.tracking",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.db.utils",
    "rich.table",
    "rich.progress",
    "rich.markdown",
    "rich.traceback",
    "typer.rich_utils",
    "yaml",
)
STARTS = {"subprocess.Popen": 1, "os.exec": 1, "os.posix_spawn": 1, "os.spawn": 2, "os.system": 0}
"""Events of the interpreter that start another program, and which of their arguments has its words."""


class _Again(BaseException):
    """The command has begun anew with other words and another environment."""


def serve() -> None:
    """Answer every case until the input ends."""
    from harness.core import home

    home.provide()  # as the command does before it imports libraries
    for name in MODULES:
        importlib.import_module(name)
    home.provide.cache_clear()
    gc.collect()
    gc.freeze()
    answers = os.fdopen(os.dup(1), "w")
    print(json.dumps({"filesystem": sys.getfilesystemencoding()}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), file=answers, flush=True)


def _answer(case: dict) -> dict:
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = _in_child(case)
        finally:
            os._exit(code)
    with selectors.DefaultSelector() as ended:
        handle = os.pidfd_open(child)
        ended.register(handle, selectors.EVENT_READ)
        late = not ended.select(case.get("limit", SECONDS))
        os.close(handle)
    for group in (child,):
        try:
            os.killpg(group, signal.SIGKILL)  # and what it has started
        except (ProcessLookupError, PermissionError):
            if late:
                os.kill(child, signal.SIGKILL)
    _, status, used = os.wait4(child, 0)
    return {
        "code": None if late else os.waitstatus_to_exitcode(status),
        "seconds": round(time.monotonic() - begun, 3),
        "cpu": round(used.ru_utime + used.ru_stime, 3),
    }


def _in_child(case: dict) -> int:
    os.setsid()
    signal.set_wakeup_fd(-1)
    words = [os.fsdecode(word.encode("latin-1")) for word in case["words"]]
    started = os.open(case["started"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.environ.clear()
    for name, value in case["environment"].items():
        os.environb[name.encode("latin-1")] = value.encode("latin-1")
    os.chdir(case["folder"].encode("latin-1"))
    os.umask(case["umask"])
    if case.get("files"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (case["files"], case["files"]))
    for number, name in ((1, "stdout"), (2, "stderr")):
        handle = os.open(case[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(handle, number)
        os.close(handle)
    if case["input"] == "closed":
        os.close(0)
        sys.stdin = None  # type: ignore[assignment] - as the interpreter leaves it
    else:
        handle = os.open(os.devnull, os.O_RDONLY)
        os.dup2(handle, 0)
        os.close(handle)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    encoding, _, errors = (os.environ.get("PYTHONIOENCODING") or "").partition(":")
    for number, name in ((1, "stdout"), (2, "stderr")):
        usual = {"errors": errors or ("strict" if number == 1 else "backslashreplace")}
        setattr(sys, name, open(number, "w", encoding=encoding or None, closefd=False, **usual))  # noqa: SIM115
    tempfile.tempdir = None
    if case["ordinary"]:
        _give_up_roots_powers()

    def seen(event: str, arguments: tuple) -> None:
        if event in STARTS:
            os.write(started, (repr(arguments[STARTS[event]]) + "\n").encode("utf-8", "backslashreplace"))

    sys.addaudithook(seen)
    return _command(words)


def _give_up_roots_powers() -> None:
    """Let the permissions of files hold for this process though it is root's: without CAP_DAC_OVERRIDE and
    CAP_DAC_READ_SEARCH."""
    if os.geteuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for number in range(3):
        sets[number] &= ~0b110
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def _command(words: list[str]) -> int:
    """The program, as `run_benchmark.py` starts it; where it begins anew, again in this process."""
    from harness.cli.main import main

    def anew(program: str, arguments: list[str], environment: dict) -> None:
        raise _Again(arguments[2:], environment)

    os.execve = anew  # type: ignore[assignment]
    program = str(Path(__file__).resolve().parents[2] / "run_benchmark.py")
    code: object = 0
    for _ in range(2):
        sys.argv, sys.orig_argv = [program, *words], [sys.executable, program, *words]
        try:
            main()
        except _Again as again:
            words, environment = again.args
            os.environ.clear()
            os.environ.update(environment)
            sys.audit("os.exec", program, words, None)
            continue
        except SystemExit as left:
            code = left.code
        except BaseException:
            traceback.print_exc()
            code = 1
        break
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            traceback.print_exc()
            return 120
    return int(code or 0)  # type: ignore[call-overload]


if __name__ == "__main__":
    serve()
