"""The command line: every command, in the order of the help."""

import io
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from harness.cli.commands import COMMANDS, HELP, OF_THE_PROGRAM, load, short_help, version
from harness.core import home
from harness.core.errors import program
from harness.core.store_address import kept, shown


def __getattr__(name: str) -> Any:
    """`app` with all commands, on request; `main` imports only the command that is called."""
    if name != "app":
        raise AttributeError(name)
    load()
    from harness.cli.app import app

    return globals().setdefault("app", app)


COMPLETE = "_LINGO_BENCH_COMPLETE"
"""Environment variable by which a shell requests completions."""


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
        except ValueError:  # the command refuses it
            return
    if words != sys.argv[1:]:
        words = [  # a misplaced address is refused later
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
            stream.reconfigure(errors="replace")  # a terminal may lack characters of names and of frames
    os.umask(os.umask(0o077) & 0o077)  # else the program could not use its own files and folders
    for name in ("COLUMNS", "LINES"):  # rich accepts ² as a number, and prints nothing at width 0
        if not re.fullmatch(r"[1-9][0-9]{0,4}", os.environ.get(name, "80")):
            del os.environ[name]
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0] in (*HELP, "--version"):
        print(version() if words[0] == "--version" else short_help())
        sys.exit(0)
    if line := home.provide():
        print(line, file=sys.stderr)
    if "app" not in globals():
        load(None if COMPLETE in os.environ else words[0] if words and words[0] in COMMANDS else "run")
        from harness.cli.app import app as application
    else:
        application = globals()["app"]
    completing = COMPLETE in os.environ or (words and words[0] in OF_THE_PROGRAM)
    name = (
        "lingo-bench" if completing else program()
    )  # else bash would offer these completions after `python`
    application(args=None if arguments is None else words, prog_name=name, complete_var=COMPLETE)
