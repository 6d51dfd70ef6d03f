"""Conversions as the command line shows them: a progress bar, and what came of it."""

import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from harness.deepsea import TASK, convert
from harness.errors import typed


def convert_deepsea(
    source: Path, out: Path, *, names: Path | None, order: str | None, console: Console
) -> None:
    """Convert DeepSEA's files and say what is there now.

    Raises:
        InputError: with every problem of the files.
    """
    begun = time.monotonic()
    columns = (TextColumn("{task.description:5}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars: dict[str, object] = {}
    with Progress(*columns, console=console) as progress:

        def show(split: str, done: int, total: int) -> None:
            if split not in bars:
                bars[split] = progress.add_task(split, total=total)
            progress.update(bars[split], completed=done)  # type: ignore[arg-type]

        made = convert(source, out, names=names, order=order, progress=show)
    for split, rows in made.rows.items():
        strands = f", {rows // 2:,} on both strands" if made.strands[split] == "both" else ""
        console.print(f"{split:5} {rows:,} sequences{strands}; {made.unknown[split]:,} unknown bases")
    console.print(
        f"{made.bytes / 1e9:.3f} GB in {escape(str(made.folder))} after {time.monotonic() - begun:.0f} s; "
        f"use it with {escape(typed('--tasks', TASK, '--data-dir', out))}",
        soft_wrap=True,
    )
