"""The end of a run: its report, and the commands that may follow."""

import logging
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from harness.core.errors import InputError, command
from harness.core.wording import one_line
from harness.runs.controls import is_control
from harness.runs.layout import RunFolder
from harness.runs.record import Record
from harness.runs.selection import best_on_dev

log = logging.getLogger(__name__)


def write_report(out: Path, console: Console) -> bool:
    """Write the report of a run. Errors are reported in one line, since the results are already written."""
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


def last_lines(out: Path, console: Console, *, report: bool, records: Sequence[Record]) -> None:
    """Print the location of the results and the commands that may follow, ready to be copied.

    Args:
        report: Whether the report has been written.
        records: Records of the run. `export` is shown for the best adapter on dev of the first task that has one.
    """
    folder = RunFolder(out)
    lines = [
        ("results", str(folder.table)),
        ("report", str(folder.report.resolve()) if report else command("report", out)),
        ("best", command("best", out)),
        ("MLflow", command("ui", out, "--open")),
    ]
    kept = [
        r for r in records if r.stage == "final" and r.facts.get("adapter") and not is_control(r.backbone)
    ]
    if best := best_on_dev(one for one in kept if one.task == kept[0].task):
        words = ["--task", best.task, "--method", best.method]
        words += ["--backbone", best.backbone] if len({one.backbone for one in kept}) > 1 else []
        lines.append(("export", command("export", out, *words)))
    for name, what in lines:
        console.print(f"{name:8} {escape(what)}", soft_wrap=True)
