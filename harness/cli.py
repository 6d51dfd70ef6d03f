"""The command line: every command, in the order of the help."""

import inspect
import io
import sys
from collections.abc import Sequence
from importlib import import_module

from harness.commands import app

COMMANDS = (
    "run",
    "plan",
    "resume",
    "prepare",
    "report",
    "best",
    "sync",
    "ui",
    "doctor",
    "export",
    "predict",
    "attach",
    "status",
    "logs",
    "stop",
)
"""Modules of `harness.commands`."""

for _name in COMMANDS:
    import_module(f"harness.commands.{_name}")


def _others() -> str:
    """One line for each command beside `run`, whose help is that of the whole program."""
    rows = [
        (c.callback.__name__, inspect.getdoc(c.callback) or "") for c in app.registered_commands if c.callback
    ]
    lines = [f"- **{name}**: {text.partition(chr(10))[0]}" for name, text in rows if name != "run"]
    return "\n".join(["Other commands (`COMMAND --help` tells more):", "", *lines])


for _command in app.registered_commands:
    if _command.callback and _command.callback.__name__ == "run":
        _command.epilog = _others()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may lack letters of names and of frames
    app(args=None if arguments is None else list(arguments), prog_name="run_benchmark.py")


__all__ = ["app", "main"]
