"""The end of a run: its report, and the lines that name what comes next."""

import logging
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from harness.core.errors import InputError, command
from harness.core.wording import one_line
from harness.runs.layout import RunFolder

log = logging.getLogger(__name__)


def write_report(out: Path, console: Console) -> bool:
    """Write the report of a run. What goes wrong there is told in a line: the results are written already."""
    from harness.report.build import make_report

    try:
        with console.status("writing the report"):
            make_report([out])
    except Exception as error:
        log.debug("no report of %s", out, exc_info=True)
        why = "; ".join(error.problems) if isinstance(error, InputError) else one_line(error)
        again = command("report", out)
        console.print(
            f"[yellow]The report was not written ({escape(why)}); again: {escape(again)}[/]", soft_wrap=True
        )
        return False
    return True


def last_lines(out: Path, console: Console, *, report: bool, finished: bool) -> None:
    """Print where the results lie and the commands that come next.

    Args:
        report: Whether the report has been written.
        finished: Whether any final run has ended, so that there is something to export.
    """
    folder = RunFolder(out)
    lines = [
        ("results", str(folder.table)),
        ("report", str(folder.report.resolve()) if report else command("report", out)),
        ("best", command("best", out)),
        ("MLflow", command("ui", out, "--open")),
    ]
    if finished:
        lines.append(("export", f"{command('export', out)} --task TASK --method METHOD"))
    for name, what in lines:
        console.print(f"{name:8} {escape(what)}", soft_wrap=True)
