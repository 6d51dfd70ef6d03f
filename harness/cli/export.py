"""`export`: the winner's adapter from a run's folder."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from harness.cli.app import app, conduct
from harness.core.errors import InputError, command
from harness.runs.layout import RunFolder


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of a run.")],
    task: Annotated[str, typer.Option(metavar="NAME", help="Task.")],
    method: Annotated[str, typer.Option(metavar="NAME", help="Method.")],
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="Backbone.", show_default="the only one")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Target: a new or empty folder, or an earlier export.",
            show_default="RUN/exports/TASK-BACKBONE-METHOD",
        ),
    ] = None,
    trial: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Point of a Pareto front (--objectives), by its trial.",
            show_default="the best on the dev split",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed.", show_default="the best on the dev split")
    ] = None,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge",
            help="Write a complete model for transformers, with the adapter merged into the backbone's weights.",
        ),
    ] = False,
) -> None:
    """Write the adapter of a study's winner in the layout of peft, with a model card.

    Its files are verified to be those that were evaluated. `predict`, peft and transformers can use it.

    Exit code: 0 if written, 2 for invalid input.
    """

    def work(console: Console) -> int:
        if not RunFolder(run).records.is_dir():  # reported before torch is imported
            raise InputError(f"{run}: must be the output folder of a run, but has no records.")
        from harness.inference.export import choose, default_out, export_choice

        choice = choose(run, task=task, method=method, backbone=backbone, trial=trial, seed=seed)
        folder = export_choice(choice, out or default_out(run, choice.record, merge=merge), merge=merge)
        record = choice.record
        console.print(f"{escape(record.study)}: {choice.reason}.", soft_wrap=True)
        if record.marks:
            console.print(f"[yellow]caveats: {escape(', '.join(record.marks))}[/]", soft_wrap=True)
        console.print(f"{'model  ' if merge else 'adapter'}  {escape(str(folder))}", soft_wrap=True)
        words = ("predict", "--adapter", folder, "--input", "sequences.fa")
        console.print(f"use      {escape(command(*words, '--output', 'predictions.csv'))}", soft_wrap=True)
        return 0

    conduct(work, interrupted="Interrupted; nothing was written.")
