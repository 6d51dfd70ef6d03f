"""The command line: every command, in the order of the help."""

from collections.abc import Sequence
from importlib import import_module

from harness.commands import app

COMMANDS = ("run", "prepare", "doctor")
"""Modules of `harness.commands`."""

for _name in COMMANDS:
    import_module(f"harness.commands.{_name}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    app(args=None if arguments is None else list(arguments), prog_name="run_benchmark.py")


__all__ = ["app", "main"]
