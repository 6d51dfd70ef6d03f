"""The command line: every command, in the order of the help."""

import inspect
import io
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module

from harness.cli.app import app
from harness.core import home
from harness.core.store_address import kept, shown

COMMANDS = (
    "run",
    "plan",
    "resume",
    "prepare",
    "audit",
    "report",
    "best",
    "sync",
    "ui",
    "doctor",
    "list",
    "export",
    "predict",
    "cluster",
)
"""Modules of `harness.cli`."""

for _name in COMMANDS:
    import_module(f"harness.cli.{_name}")


GLOSSARY = "Terms: docs/glossary.md."


def _others() -> str:
    """One line for each command except `run`, whose help is that of the whole program."""
    rows = [
        (c.name or c.callback.__name__, inspect.getdoc(c.callback) or "")
        for c in app.registered_commands
        if c.callback
    ]
    lines = [f"- **{name}**: {text.partition(chr(10))[0]}" for name, text in rows if name != "run"]
    return "\n".join(["Other commands (details: `COMMAND --help`):", "", *lines, "", GLOSSARY])


for _command in app.registered_commands:
    if _command.callback and _command.callback.__name__ == "run":
        _command.epilog = _others()


def _hide_secrets() -> None:
    """Restart the process if the command line contains a password, which other users of the machine and Ray's job list
    could show. It is moved into the environment, see `harness.core.store_address.kept`; the last
    of several addresses counts."""
    words, environment = sys.argv[1:], dict(os.environ)
    places = [
        number
        for number, word in enumerate(words)
        if word.startswith("--tracking-uri=") or (number and words[number - 1] == "--tracking-uri")
    ]
    for number in places:
        option, equals, address = (
            words[number].partition("=") if words[number].startswith("--") else ("", "", words[number])
        )
        if number != places[-1]:
            words[number] = f"{option}{equals}{shown(address)}"
            continue
        try:
            words[number] = f"{option}{equals}{kept(address, environment)}"
        except ValueError:  # the command refuses it at once
            return
    if words != sys.argv[1:]:
        words = [  # an address where none belongs is refused, but stays until then
            shown(word) if "://" in word and not before.startswith("-") and not word.startswith("-") else word
            for before, word in zip(["", *words], words, strict=False)
        ]
        program = sys.orig_argv[1 : len(sys.orig_argv) - len(words)]
        os.execve(sys.executable, [sys.executable, *program, *words], environment)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    if arguments is None:
        _hide_secrets()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may lack letters of names and of frames
    os.umask(os.umask(0o077) & 0o077)  # else the program could not use the files and folders that it makes
    for name in ("COLUMNS", "LINES"):  # rich takes ² for a number, and prints nothing on 0 columns
        if not re.fullmatch(r"[1-9][0-9]{0,4}", os.environ.get(name, "80")):
            del os.environ[name]
    if line := home.provide():
        print(line, file=sys.stderr)
    app(args=None if arguments is None else list(arguments), prog_name="run_benchmark.py")


__all__ = ["app", "main"]
