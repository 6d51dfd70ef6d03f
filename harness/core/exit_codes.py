"""Exit codes of a run, and the command that continues one."""

from pathlib import Path

from harness.core.errors import command

COMPLETE, INCOMPLETE, INTERRUPTED = 0, 1, 130


def resume_command(out: Path) -> str:
    """The command that continues a run."""
    return command("resume", out)
