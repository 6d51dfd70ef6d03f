"""The user's side of a cluster in tests: an account of its own, and the command."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Laptop:
    """The user's side: an account of its own, and the command."""

    def __init__(self, folder, file, *benchmark, **environment):
        self.out, self.file, self.benchmark = folder / "run", folder / file, benchmark
        (folder / "home").mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
        self.environment = {
            **kept,
            "HOME": str(folder / "home"),
            "PATH": path,
            "HF_HUB_OFFLINE": "1",
            **environment,
        }

    def command(self, *arguments):
        return [sys.executable, str(ROOT / "run_benchmark.py"), *map(str, arguments)]

    def begin(self, *more):
        """Start the benchmark; its process."""
        where = ["--cluster", self.file, "--out", self.out, "--yes"]
        return self.start("run", *self.benchmark, *where, *more)

    def start(self, *arguments, into=subprocess.PIPE):
        """Start a command; its process."""
        return subprocess.Popen(
            self.command(*arguments),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=into,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def do(self, *arguments, timeout=300):
        """A command to its end: exit code and what was printed."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        return done.returncode, done.stdout + done.stderr

    def session(self):
        return json.loads((self.out / "cluster.json").read_text())


def until(condition, seconds, process):
    """Wait for a condition while the process lives."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.5)


class Story(dict):
    """What was said, and after how many seconds it was heard."""

    def __init__(self, **values):
        super().__init__(**values)
        self.begun, self.times = time.monotonic(), {}

    def __setitem__(self, name, value):
        super().__setitem__(name, value)
        self.times[name] = round(time.monotonic() - self.begun)
